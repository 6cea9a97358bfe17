// SPDX-License-Identifier: GPL-2.0-or-later
/* allow: see allow.h */
#include "daemon/allow/allow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "base/new-file.h"
#include "base/xdg.h"

#define SYSTEM_DIR "/etc/lodge"
#define FILE_NAME  "allow"
#define FILE_MAX   262144u

void allow_free(struct allow *allow) {
        if (!allow)
                return;
        for (size_t i = 0; i < allow->n; i++)
                free(allow->dirs[i]);
        free(allow->dirs);
        free(allow->path);
        free(allow);
}

static int fail_memory(struct error *e) {
        return error_set(e, -ENOMEM, "memory", NULL, "cannot handle the list of directories for machines' files");
}

static int config_dir(bool session, char **ret_dir, struct error *e) {
        int r = 0;

        if (!session)
                *ret_dir = strdup(SYSTEM_DIR);
        else
                r = xdg_path(XDG_CONFIG, "lodge", ret_dir);
        if (r == -ENOENT)
                return error_set(e, r, "allow-file", "set HOME",
                                 "cannot tell where the list of directories for machines' files is");
        return r < 0 || !*ret_dir ? fail_memory(e) : 0;
}

static int fail_file(const char *path, int r, struct error *e) {
        error_set(e, r, "allow-file", NULL, "cannot use %s, the list of directories for machines' files", path);
        if (r == -EPERM)
                error_set_fix(e, "it must belong to you or to root, and nobody else may write to it: ls -l %s", path);
        else if (r == -EACCES || r == -EROFS)
                error_set_fix(e, "say it as root, whose file that is");
        else if (r == -EFBIG)
                error_set_fix(e, "it has room for %u directories: lodge path list, lodge path forbid DIR", ALLOW_MAX);
        else if (r == -EINVAL)
                error_set_fix(e, "each line of it is a directory that begins with /, or a comment that begins with #");
        return r;
}

/* Return: 0, with *ret_text NULL when there is no such file; -EPERM, -EFBIG, -errno. */
static int read_file(int dir_fd, char **ret_text) {
        _cleanup_close_ int fd = openat(dir_fd, FILE_NAME, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        struct stat st;
        size_t n;

        *ret_text = NULL;
        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || (st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & 022))
                return -EPERM;
        return io_read_all(fd, FILE_MAX, ret_text, &n);
}

/* The line's bytes without blanks at its end; *@ret_all: with them, and with its end. */
static size_t line_length(const char *text, size_t *ret_all) {
        size_t n = strcspn(text, "\n");

        *ret_all = n + (text[n] == '\n');
        while (n > 0 && strchr(" \t\r", text[n - 1]))
                n--;
        return n;
}

static int take_line(struct allow *a, const char *line, size_t n) {
        char *dir;

        if (n == 0 || line[0] == '#')
                return 0;
        if (line[0] != '/')
                return -EINVAL;
        if (a->n == ALLOW_MAX)
                return -EFBIG;
        dir = strndup(line, n);
        if (!dir)
                return -ENOMEM;
        a->dirs[a->n++] = dir;
        return 0;
}

static int parse(struct allow *a, const char *text) {
        int r = 0;

        a->dirs = calloc(ALLOW_MAX + 1, sizeof(*a->dirs));
        if (!a->dirs)
                return -ENOMEM;
        for (size_t all; text && *text && r == 0; text += all)
                r = take_line(a, text, line_length(text, &all));
        return r;
}

/* @dir_fd: of the directory of the file, or negative: it is not there. */
static int load(const char *dir, int dir_fd, struct allow **ret_allow, char **ret_text, struct error *e) {
        _cleanup_(allow_freep) struct allow *a = calloc(1, sizeof(*a));
        int r = 0;

        if (!a || asprintf(&a->path, "%s/" FILE_NAME, dir) < 0) {
                if (a)
                        a->path = NULL;
                return fail_memory(e);
        }
        if (dir_fd >= 0)
                r = read_file(dir_fd, ret_text);
        if (r == 0)
                r = parse(a, *ret_text);
        if (r < 0)
                return fail_file(a->path, r, e);
        *ret_allow = TAKE_PTR(a);
        return 0;
}

int allow_load(bool session, struct allow **ret_allow, struct error *e) {
        _cleanup_free_ char *dir = NULL, *text = NULL;
        _cleanup_close_ int fd = -EBADF;
        int r = config_dir(session, &dir, e);

        if (r < 0)
                return r;
        fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 && errno != ENOENT)
                return fail_file(dir, -errno, e);
        return load(dir, fd, ret_allow, &text, e);
}

/* What may be taken in: a directory, and less than everything. */
static int real_dir(const char *dir, char **ret_real, struct error *e) {
        _cleanup_free_ char *real = realpath(dir, NULL);
        struct stat st;

        if (!real)
                return error_set(e, -errno, "allow-dir", "look for it: ls -ld", "cannot find directory %s", dir);
        if (stat(real, &st) < 0 || !S_ISDIR(st.st_mode)) {
                error_set(e, -EINVAL, "allow-dir", NULL, "%s is not a directory", dir);
                error_set_fix(e, "take in the directory that it is in, and all that is beside it there");
                return -EINVAL;
        }
        if (streq(real, "/") || strchr(real, '\n'))
                return error_set(e, -EINVAL, "allow-dir", "take in the directory with the disks, images or ISO files",
                                 real[1] ? "%s has a line break in its name" : "%s would be every file of this host",
                                 real);
        *ret_real = TAKE_PTR(real);
        return 0;
}

static bool has(const struct allow *a, const char *dir) {
        for (char **d = a->dirs; *d; d++)
                if (streq(*d, dir))
                        return true;
        return false;
}

/* The file's text without the lines that are @dir. */
static void drop_lines(char *text, const char *dir) {
        char *to = text;

        while (*text) {
                size_t all, n = line_length(text, &all);

                if (n != strlen(dir) || strncmp(text, dir, n) != 0) {
                        memmove(to, text, all);
                        to += all;
                }
                text += all;
        }
        *to = '\0';
}

static int write_file(int dir_fd, const char *text, const char *line) {
        _cleanup_(new_file_drop) struct new_file f = NEW_FILE_INIT;
        size_t n = strlen(text);
        int r = new_file_open(&f, dir_fd, 0644);

        if (r == 0)
                r = io_write_all(f.fd, text, n);
        if (r == 0 && line && n > 0 && text[n - 1] != '\n')
                r = io_write_all(f.fd, "\n", 1);
        if (r == 0 && line)
                r = io_write_all(f.fd, line, strlen(line));
        if (r == 0 && line)
                r = io_write_all(f.fd, "\n", 1);
        return r == 0 ? new_file_keep(&f, FILE_NAME, true) : r;
}

static int change(const char *dir, int dir_fd, char **name, bool in, struct error *e) {
        _cleanup_(allow_freep) struct allow *a = NULL;
        _cleanup_free_ char *text = NULL, *real = NULL;
        int r = load(dir, dir_fd, &a, &text, e);

        if (r < 0)
                return r;
        if (in && has(a, *name))
                return 0;
        if (in && a->n == ALLOW_MAX)
                return fail_file(a->path, -EFBIG, e);
        if (!in && !has(a, *name)) {
                real = realpath(*name, NULL);
                if (!real || !has(a, real))
                        return error_set(e, -ENOENT, "allow-unknown", "lodge path list shows them",
                                         "%s is none of the directories for machines' files", *name);
                free(*name);
                *name = TAKE_PTR(real);
        }
        if (!in)
                drop_lines(text, *name);
        r = write_file(dir_fd, text ?: "", in ? *name : NULL);
        return r < 0 ? fail_file(a->path, r, e) : 0;
}

int allow_change(bool session, const char *dir, bool in, char **ret_real, struct error *e) {
        _cleanup_free_ char *place = NULL, *name = NULL;
        _cleanup_close_ int fd = -EBADF;
        int r = config_dir(session, &place, e);

        if (r == 0 && in)
                r = real_dir(dir, &name, e);
        else if (r == 0)
                r = (name = strdup(dir)) ? 0 : fail_memory(e);
        if (r < 0 || !name)
                return r;
        r = io_make_dirs(place, 0755, session ? 0700 : 0755);
        fd = r < 0 ? r : open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0 && flock(fd, LOCK_EX) == 0) /* until it is closed: changes come one after the other */
                r = change(place, fd, &name, in, e);
        else
                r = fail_file(place, r < 0 ? r : -errno, e);
        if (r == 0)
                *ret_real = TAKE_PTR(name);
        return r;
}
