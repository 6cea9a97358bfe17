// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * upload: a disk image that a client of the API sends, as a new image
 *
 * It comes in two parts. First the bytes: upload_receive() writes them to ".upload-ID" in the store, and what is left of one that was broken off is removed
 * by whoever received it. Then the image: upload_import() makes it of that file, by lodge-fetch, which holds what came for hostile. In between an operation in the daemon's journal
 * knows the ID; a file that no operation knows is what a killed daemon has left, and upload_sweep() removes it.
 */
#pragma once

#include "daemon/image/image.h"

#define UPLOAD_ID_SIZE 17 /* 16 hexadecimal digits and a NUL */

/**
 * upload_check() - may an upload of @size bytes begin that is to become image @name? In a moment.
 * Return: 0; -EINVAL "image-name"; -EEXIST "image-exists"; -EROFS "image-store"; -ENOSPC "image-no-space"; -EINVAL "image-import" for no bytes at all.
 */
int upload_check(struct image_store *store, const char *name, uint64_t size, struct error *error);

/**
 * upload_receive() - take @size bytes from @from, a pipe
 * @sha256:     what they should be, NULL: anything
 * @progress:   hears one step, when the first byte may come
 * @ret_id:     what upload_import() knows it by; @ret_sha256: what they are
 *
 * They are on the disk when this returns 0; else nothing is. -EINVAL "upload-digest", -ENOSPC "image-no-space", -EINTR, -EPIPE "upload-short".
 */
int upload_receive(struct image_store *store, int from, uint64_t size, const char *sha256,
                   const struct image_progress *progress, char ret_id[static UPLOAD_ID_SIZE],
                   char ret_sha256[static SHA256_HEX_SIZE], struct error *error);

struct image_upload {
        const char *id;     /* of upload_receive(), checked: 16 hexadecimal digits */
        const char *sha256; /* of what came */
        const char *name;   /* of the new image */
        const char *format; /* raw, qcow2, vmdk, vhdx */
        const char *cmdline;
        bool agent;
};

/**
 * upload_import() - make the image, and remove what it was made of
 *
 * It can be done again after a kill: an image of that name that was made of the same bytes is what is asked for. On failure the upload stays, for the next try or upload_remove().
 */
int upload_import(struct image_store *store, const struct image_upload *upload, const struct image_progress *progress,
                  struct error *error);

/** upload_remove() - 0 also when it is gone. */
int upload_remove(struct image_store *store, const char *id);

/** upload_sweep() - remove all uploads but those with the IDs @keep, and stages without an owner; nobody receives an upload now. */
void upload_sweep(struct image_store *store, char *const *keep, size_t n_keep);
