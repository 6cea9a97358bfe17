// SPDX-License-Identifier: GPL-2.0-or-later
/* parts-roots: see parts-roots.h */
#include "daemon/engine/parts-roots.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

/* Return: 0, -ENAMETOOLONG, or -errno. */
static int real_path(int fd, char ret_path[static PATH_MAX]) {
        char link[64];
        ssize_t n;

        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        n = readlink(link, ret_path, PATH_MAX);
        if (n < 0)
                return -errno;
        if (n >= PATH_MAX)
                return -ENAMETOOLONG;
        ret_path[n] = '\0';
        return 0;
}

/* Return: 1, 0, or -errno. */
static int lies_below(const char *path, const char *root) {
        _cleanup_close_ int fd = open(root, O_PATH | O_CLOEXEC);
        char real[PATH_MAX];
        size_t n;
        int r;

        if (fd < 0)
                return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
        r = real_path(fd, real);
        if (r < 0)
                return r;
        n = strlen(real);
        if (n > 0 && real[n - 1] == '/') /* the root of all */
                n--;
        return strncmp(path, real, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* The file lies somewhere, and not in the root of all. */
static void suggest_dir(char *path, struct error *e) {
        char *slash = strrchr(path, '/');
        _cleanup_free_ char *quoted = NULL;

        if (path[0] != '/' || slash == path)
                return;
        *slash = '\0';
        quoted = text_shell_quote(path);
        if (quoted)
                error_set_fix(e, "let machines use what is in that directory: lodge path allow %s", quoted);
}

int parts_check_roots(const struct parts_options *o, int fd, const char *what, const char *path, struct error *e) {
        char real[PATH_MAX];
        int r;

        if (!o || o->n_roots == 0)
                return 0;
        r = real_path(fd, real);
        for (size_t i = 0; i < o->n_roots && r == 0 && real[0] == '/'; i++)
                r = lies_below(real, o->roots[i]);
        if (r < 0)
                return error_set(e, r, "path-check", NULL, "cannot find out where %s %s lies", what, path);
        if (r > 0)
                return 0;
        error_set(e, -EPERM, "path-outside", "move it to a directory for machines' files: lodge path list",
                  "%s %s lies outside of the directories that this machine may use", what, path);
        suggest_dir(real, e);
        return -EPERM;
}
