// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * new-file: a file that appears in its directory once it is whole
 *
 * Theory of operation. It has no name while it is written (O_TMPFILE), so that a process that is killed leaves nothing.
 * Where the file system can't do that it is called ".tmp-...", and its maker holds a flock on it, which the kernel drops
 * with the process: that is how new_file_sweep() tells a leftover from work. In the end it is synced, gets its name, and
 * the directory is synced.
 *
 * Use: struct new_file f = NEW_FILE_INIT with _cleanup_(new_file_drop); open, write to ->fd, keep.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#define NEW_FILE_PREFIX ".tmp-"

struct new_file {
        int dir_fd;    /* borrowed */
        int fd;        /* read and write; owned */
        char name[32]; /* ".tmp-..."; "": it has none */
};
#define NEW_FILE_INIT                                                                                                  \
        { .dir_fd = -EBADF, .fd = -EBADF }

/** new_file_open() - begin, with permissions @mode; @dir_fd must stay open as long. 0 or -errno. */
int new_file_open(struct new_file *f, int dir_fd, mode_t mode);

/**
 * new_file_keep() - sync it and let it be @name
 * @replace: it may take the place of a file of that name; else -EEXIST
 *
 * Return: 0: it is there, also after a power cut; -errno: try again or drop it. ->fd stays open.
 */
int new_file_keep(struct new_file *f, const char *name, bool replace);

/** new_file_drop() - close it, and remove it unless it was kept. */
void new_file_drop(struct new_file *f);

/** new_file_sweep() - remove what killed processes have left in a directory; returns how many, or -errno. */
int new_file_sweep(int dir_fd);
