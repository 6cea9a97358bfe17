// SPDX-License-Identifier: GPL-2.0-or-later
/* parts-roots: see parts-roots.h */
#include "daemon/engine/parts-roots.h"

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

/* What a person has to type; not where a link led that somebody else has named. */
static void suggest_dir(const char *path, const char *real, struct error *e) {
        const char *slash = strrchr(real, '/');
        size_t n = slash ? (size_t)(slash - real) : 0;
        _cleanup_free_ char *dir = strndup(real, n), *quoted = NULL;

        if (n > 0 && dir && strncmp(path, dir, n) == 0 && path[n] == '/')
                quoted = text_shell_quote(dir);
        if (quoted)
                error_set_fix(e, "let machines use what is in that directory: lodge path allow %s", quoted);
}

int parts_check_roots(const struct parts_options *o, int fd, const char *what, const char *path, struct error *e) {
        char real[PATH_MAX];
        int r;

        if (!o || o->n_roots == 0)
                return 0;
        r = real_path(fd, real);
        if (r < 0)
                return error_set(e, r, "path-check", NULL, "cannot find out where %s %s lies", what, path);
        /* By their names alone: a root that became a link since leads nowhere, and one that can't be reached holds nobody up. */
        for (size_t i = 0; i < o->n_roots && real[0] == '/'; i++)
                if (text_lies_below(real, o->roots[i]))
                        return 0;
        error_set(e, -EPERM, "path-outside", "let machines use its directory: lodge path allow DIR",
                  "%s %s lies outside of the directories that this machine may use", what, path);
        suggest_dir(path, real, e);
        return -EPERM;
}
