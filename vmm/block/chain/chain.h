// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chain: an image and the images below it, opened by their names
 *
 *      web.qcow2 --"base.qcow2", "qcow2"--> base.qcow2 --"/srv/debian.raw", "raw"--> debian.raw
 *
 * Theory of operation. An image names the one that it stands on, and that name comes from whoever wrote the image. So:
 *
 *      - The format of a backing image is the one that is recorded beside its name, or there is none. Looking at the content instead would let
 *        a guest that owns a raw disk write a qcow2 header into it, with any file of the host as its backing image.
 *      - A name is a path of a file or a block device, relative to the directory of the image that holds it. Programs that also know
 *        addresses ("nbd://...", "json:...") would take it for something else: what could be one is refused, not taken for a path.
 *      - What is neither file nor block device isn't even opened: opening alone does something to a FIFO or a watchdog.
 *      - The same file twice is a loop, whatever its names are; LAYER_CHAIN_MAX images are enough.
 *
 * Backing images are opened read only, unless the caller asks for the upper ones (commit). Opening by path is for tools, which run with the
 * rights of whoever calls them; lodge-vmm gets descriptors. Each file is locked by the caller's function before anything is read from it.
 */
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include "vmm/block/layer/layer.h"

/* What to do about "chain-depth": only a lower part of such a chain can be opened. */
#define CHAIN_DEPTH_FIX                                                                                                \
        "make one file of the lower images: lodge image convert LOWER NEW; then put the one above LOWER on it: "       \
        "lodge image rebase --unsafe --backing NEW --backing-format qcow2 UPPER"

struct chain_image {
        struct layer *layer;
        char *path;
        const char *format; /* "raw" or "qcow2", a constant */
        int fd;
        dev_t device;
        ino_t inode;
};

struct chain {
        struct chain_image images[LAYER_CHAIN_MAX]; /* the top one first */
        unsigned int n;
};

struct chain_options {
        unsigned int n_writable;         /* images from the top that may be written: 0, 1, or 2 to commit */
        bool direct;                     /* bypass the host's page cache */
        bool alone;                      /* only the top image; reading what is not in it gives zeroes */
        bool repair;                     /* mend writable images that were not closed in order */
        const struct chain_image *above; /* the chain is to stand below this image; NULL: below nothing */
        int (*lock)(int fd, bool readonly, const char *path, struct error *e); /* NULL: nothing is locked */
};

/**
 * chain_open() - open @path and, by their recorded formats, the images below it
 * @format:    "raw" or "qcow2", of the first image
 * @ret_chain: chain_close() it
 *
 * Return: 0, or -errno with "chain-format" (a format is not recorded, or not known), "chain-protocol" (the name may be an address), "chain-loop",
 * "chain-depth", "chain-open" (a backing image is missing or can't be opened), "disk-open" (so is the first one), "disk-type", an error
 * of @lock, of raw_open() or of qcow2_open().
 */
int chain_open(const char *path, const char *format, const struct chain_options *options, struct chain **ret_chain,
               struct error *e);

/**
 * chain_open_file() - open the file of an image, after a look at what it is
 * @top:    somebody asked for it by its name; else an image did
 * @ret_st: of what was opened
 *
 * Return: the descriptor, or -errno with "disk-type" (neither file nor block device), "disk-open" (@top) or "chain-open".
 */
int chain_open_file(const char *path, bool readonly, bool top, struct stat *ret_st, struct error *e);

/**
 * chain_open_layer() - one image, by its descriptor, without what is below it
 * @options: of the image's file; the descriptor is borrowed
 * @format:  "raw" or "qcow2"
 * @repair:  mend it when it is to be written and was not closed in order
 */
int chain_open_layer(const struct file_options *options, const char *format, bool repair, struct layer **ret_layer,
                     struct error *e);

/**
 * chain_finish() - what closing does to the files that may be written, but it says whether it worked. Nothing but chain_close() may follow.
 * Return: 0, or as layer_finish(): the image's path stands in front.
 */
int chain_finish(struct chain *chain, struct error *e);

/** chain_close() - writes back what is cached, closes all. NULL is fine. */
void chain_close(struct chain *chain);
DEFINE_CLEANUP(chain, chain_close);

/** chain_top() - the layer through which all of it is read */
static inline struct layer *chain_top(const struct chain *chain) {
        return chain->images[0].layer;
}

/**
 * chain_resolve() - the path of a backing image from its recorded name
 * @image: path of the image that holds the name
 *
 * Return: 0, -EINVAL with "chain-protocol", -ENOMEM.
 */
int chain_resolve(const char *image, const char *name, char **ret_path, struct error *e);
