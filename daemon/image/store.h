// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store: what the parts of daemon/image share: the opened store, and the stage on which a new image is made
 */
#pragma once

#include "base/sys.h"
#include "daemon/image/image.h"

struct image_store {
        char *root;
        int fd; /* of the root directory */
        bool writable;
        const struct sys *sys;
};

/* A directory ".tmp-..." in the store, locked by this process, that becomes an image or goes away. */
struct stage {
        struct image_store *store;
        char *dir;  /* name inside the store; NULL once committed */
        char *path; /* absolute */
        int fd;
};

/** stage_new() - make an empty stage; sets "image-store" on failure. */
int stage_new(struct image_store *store, struct stage **ret_stage, struct error *error);

/** stage_free() - remove the stage and all in it, unless it was committed. NULL is fine. */
void stage_free(struct stage *stage);
DEFINE_CLEANUP(stage, stage_free);

/**
 * stage_commit() - make the stage's content the image @image->name
 * @image:   all but ->dir, ->created and the files' sizes and digests, which are filled in
 * @replace: may it take the place of an image of that name? Otherwise -EEXIST "image-exists"
 *
 * Hashes and syncs every file, writes image.json, and renames. Files in the stage that @image does not name are
 * removed.
 */
int stage_commit(struct stage *stage, struct image *image, bool replace, struct error *error);

/** store_require_writable() - -EROFS "image-store" with a fix when the store was opened for reading only. */
int store_require_writable(const struct image_store *store, struct error *error);

/* What pulls and imports leave free of the store's file system: others live there, too. */
#define STORE_RESERVE (256u << 20)

/** store_check_space() - -ENOSPC "image-no-space" unless @bytes are free in the file system of @path. */
int store_check_space(const char *path, uint64_t bytes, struct error *error);

/** store_check_free() - may a new image have that name? -EEXIST "image-exists", -EINVAL "image-name". */
int store_check_free(struct image_store *store, const char *name, struct error *error);

/** remove_tree() - unlink @name below @dir_fd and all in it, without following links or leaving its file system. */
int remove_tree(int dir_fd, const char *name);

/** store_sweep() - remove every stage whose owner is gone. */
void store_sweep(struct image_store *store);

/** part_sweep() - remove what is left of pulls that nobody has gone on with for a week. */
void part_sweep(struct image_store *store);
