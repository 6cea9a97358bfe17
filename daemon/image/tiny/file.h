// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * file: the guest-file-* commands of the guest agent, for the image tiny
 *
 * Like qemu-ga's: files are opened without waiting (a FIFO would stop the agent otherwise), and are known to the host by small numbers.
 */
#pragma once

#include <jansson.h>

#define FILES_MAX 32

struct files {
        int fds[FILES_MAX]; /* -1: free */
};

void files_init(struct files *f);

/* All of them: the host that knew their numbers is gone. */
void files_close(struct files *f);

/*
 * Each takes a command's arguments. Return: what the host is told, a new reference; or NULL with @desc filled.
 */
#define FILE_DESC_SIZE 200
json_t *file_open(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]);
json_t *file_close(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]);
json_t *file_read(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]);
json_t *file_write(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]);
json_t *file_seek(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]);
json_t *file_flush(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]);
