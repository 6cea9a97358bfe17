// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * image: the store of immutable bases that machines start from
 *
 * Theory of operation. The store is a directory; an image is a directory in it, named after the image with '/' written
 * as '@':
 *
 *      images/debian@12/image.json     what it is: see below; the last file to be written
 *                       disk.raw       GPT, ESP, ext4 root; absent in an image that lives in its initrd
 *                       vmlinuz initrd what a direct boot loads
 *                       vmlinux        the same kernel, unpacked: nothing is decompressed at start
 *      images/.tmp-XXXXXX/             an image being made, or one being deleted
 *      images/.lock                    held for the instant of a rename, and while leftovers are swept
 *      images/.build-debian@12.lock    held while that image is built, so that two builds don't do the work twice
 *      images/.log/debian@12.log       what the last failed build printed
 *      images/.part-SHA                what has come of a file that is pulled, named by its checksum; locked while somebody pulls it
 *      images/.upload-ID               what a client of the daemon sends (upload.h)
 *      images/.part-SHA.note           where from, and in which state the server had it (daemon/fetch/download.h)
 *
 * An image appears and disappears by one rename(2): a process that is killed, a full disk or a power cut leaves either
 * the old state or the new one, and a .tmp directory that the next image_store_open() removes. Whoever works in a .tmp
 * directory holds a flock on it, which the kernel drops with the process: that is how a leftover is told from work.
 *
 * image.json records the format, so that nothing is ever probed: a guest that writes a qcow2 header into its raw disk
 * gains nothing. Files are named in it by plain names, with their size and SHA-256. A size that no longer fits is found
 * when the image is opened (that costs a stat), a changed byte by image_verify() (that costs a read).
 *
 * Nobody writes to an image once it is there. A machine gets a disk of its own that stands on the image's, by
 * image_make_overlay(), and holds image_lock() while it runs: such an image can't be deleted or replaced.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "daemon/image/sha256.h"

struct sys;
struct image_store;

enum image_file_kind {
        IMAGE_FILE_DISK,    /* "disk": disk.raw */
        IMAGE_FILE_KERNEL,  /* "kernel": vmlinuz, as the distribution ships it */
        IMAGE_FILE_INITRD,  /* "initrd" */
        IMAGE_FILE_VMLINUX, /* "vmlinux": the unpacked kernel, an ELF file */
        _IMAGE_FILE_MAX
};

struct image_file {
        char *name;    /* inside the image's directory; NULL: the image has no such file */
        uint64_t size; /* bytes */
        char sha256[SHA256_HEX_SIZE];
};

/* One image. Strings are owned; those that are not known are NULL. */
struct image {
        char *name;      /* "debian/12" */
        char *dir;       /* absolute path of its directory */
        char *broken;    /* not NULL: why it can't be used (bad metadata, missing or truncated file) */
        char *version;   /* of what is inside: "12.12", "6.1.192-2" */
        char *created;   /* RFC 3339, UTC */
        char *arch;      /* "x86_64" */
        char *format;    /* of the disk: "raw" always, today; NULL without a disk */
        char *recipe;    /* digest of all that went into a build; NULL for an import */
        char *source;    /* what was imported: file name and format, or "an upload"; NULL for a build */
        char *catalogue; /* where it was pulled from: "ubuntu:ubuntu/24.04"; else NULL; so the next two */
        char *checksum;  /* of the file that was pulled, as its index says, or uploaded: "sha256:..." */
        char *trust;     /* what that rests on: "signed", "checksums-only" */
        char *cmdline;   /* the kernel's default command line */
        char *user;      /* who logs in, for the person to read */
        char *login;     /* how, one sentence */
        bool agent;      /* answers on the port org.qemu.guest_agent.0 */
        struct image_file files[_IMAGE_FILE_MAX];
};

/** image_free() - release. NULL is fine. */
void image_free(struct image *image);
DEFINE_CLEANUP(image, image_free);

/** image_file_kind_name() - "disk", "kernel", "initrd", "vmlinux". */
const char *image_file_kind_name(enum image_file_kind kind);

/** image_name_check() - may an image be called that? Parts of [a-z0-9][a-z0-9._-]*, at most three, joined by '/'. */
bool image_name_is_valid(const char *name);

/**
 * image_store_open() - open the store, make it when it is missing, and sweep leftovers of processes that died
 * @root: the directory; NULL: /var/lib/lodge/images for root where that exists and is writable, else
 *        ${XDG_DATA_HOME:-~/.local/share}/lodge/images
 * @sys:  NULL: the real calls
 *
 * A store that this user may read but not write (another's, or in a read-only file system) is opened for reading.
 */
int image_store_open(const char *root, const struct sys *sys, struct image_store **ret_store, struct error *error);

/** image_store_free() - release. NULL is fine. */
void image_store_free(struct image_store *store);
DEFINE_CLEANUP(image_store, image_store_free);

/** image_store_root() - the store's directory, absolute. */
const char *image_store_root(const struct image_store *store);

/**
 * image_find() - look up one image by name and check it
 * Return: 0; -ENOENT "image-not-found"; -EUCLEAN "image-metadata" when it is there but broken.
 */
int image_find(struct image_store *store, const char *name, struct image **ret_image, struct error *error);

/** image_list() - all images by name, broken ones too (their ->broken says why). Free with image_list_free(). */
int image_list(struct image_store *store, struct image ***ret_images, size_t *ret_n, struct error *error);

/** image_list_free() - release what image_list() returned. */
void image_list_free(struct image **images, size_t n);

/** image_file_path() - absolute path of one file; -ENOENT when the image has none of that kind. */
int image_file_path(const struct image *image, enum image_file_kind kind, char **ret_path);

/** image_verify() - read every file and compare its digest; -EUCLEAN "image-damaged" names the file. */
int image_verify(const struct image *image, struct error *error);

/**
 * image_lock() - say that the image is in use, until the descriptor is closed
 * @ret_fd: close-on-exec; a child that should hold the lock inherits it after io_set_cloexec(fd, 0)
 *
 * Return: 0, -EBUSY "image-busy" while it is being deleted or replaced, -ENOENT when it just was.
 */
int image_lock(const struct image *image, int *ret_fd, struct error *error);

/** image_delete() - remove an image, broken or not; -EBUSY "image-in-use" while someone holds image_lock(). */
int image_delete(struct image_store *store, const char *name, struct error *error);

/**
 * image_make_overlay() - a machine's own disk, made from an image's
 * @dir:      where to put "disk.qcow2"; must exist and have no such file
 * @ret_path: the new file, owned by the caller
 *
 * A qcow2 file with the image's disk as its backing image: made at once, and only what the machine writes takes space.
 * Nothing is left behind on failure. Hold image_lock() around it.
 */
int image_make_overlay(const struct image *image, const char *dir, char **ret_path, struct error *error);

/* How a build or an import tells its caller what it does, and how the caller stops it. */
struct image_progress {
        void (*step)(void *opaque, const char *text); /* a line for the person; may be NULL */
        void *opaque;
        int cancel_fd; /* readable: stop and clean up, the result is -EINTR; -EBADF: can't be stopped */
};

/** image_recipe_is() - is it the name of a recipe that image_build() knows? */
bool image_recipe_is(const char *name);

/** image_recipe_name() - name of the @i-th recipe that image_build() knows, NULL past the last. */
const char *image_recipe_name(size_t i);

/** image_recipe_summary() - one line about it. */
const char *image_recipe_summary(size_t i);

/**
 * image_build() - build an image from distribution packages, unless one from the same recipe and packages is there
 * @name:       a recipe
 * @force:      build even then
 * @ret_cached: true: nothing had to be done; may be NULL
 *
 * The digest that decides covers the recipe, the programs that it puts into the image and the version of every
 * package that it would install according to apt's indexes on this host.
 */
int image_build(struct image_store *store, const char *name, bool force, const struct image_progress *progress,
                bool *ret_cached, struct error *error);

/* A file on a server, as the server's index describes it. */
struct image_pull {
        const char *name;      /* what the image is to be called */
        const char *url;       /* http or https */
        uint64_t size;         /* bytes; 0: not known */
        const char *digest;    /* SHA-256 or SHA-512, in hexadecimal */
        const char *format;    /* by its name in the schema's pull_format */
        const char *version;   /* may be NULL */
        const char *catalogue; /* "SOURCE:NAME" */
        const char *trust;     /* "signed" or "checksums-only" */
};

/**
 * image_pull() - download a file and make it an image
 *
 * What lodge-fetch has got of it stays when this is interrupted, and the next pull of the same file goes on with that; cancelled, or with content that is not what the
 * index says, nothing stays. An image that was made from that very file is what is asked for: 0.
 */
int image_pull(struct image_store *store, const struct image_pull *how, const struct image_progress *progress,
               struct error *e);

struct image_import {
        const char *name;   /* NULL: made from the file's name */
        const char *format; /* "raw", "qcow2", "vmdk" or "vhdx". NULL: refused, with what the file looks like */
        const char *kernel; /* files to boot directly with; may be NULL */
        const char *initrd;
        const char *cmdline;
        bool agent; /* the person says that it runs the guest agent */
        int (*lock)(int fd, bool readonly, const char *path, struct error *e); /* the disk's file; NULL: isn't locked */
};

/** image_name_from_file() - what an import is called without a name: "Fedora 40.qcow2" becomes "fedora-40"; allocated, or NULL. */
char *image_name_from_file(const char *file);

/**
 * image_import_open() - open a disk for image_import() or for an upload, after the checks that need no more than a look at it
 * @ret_need: bytes that the copy will take, about
 */
int image_import_open(const char *file, const struct image_import *import, int *ret_fd, uint64_t *ret_need,
                      struct error *error);

/**
 * image_import() - copy a disk into the store as a new image
 * @ret_name: what it is called, owned by the caller; may be NULL
 *
 * Refuses what is missing, empty, truncated, no regular file, no whole number of sectors, in use, or refers to other files.
 */
int image_import(struct image_store *store, const char *file, const struct image_import *import,
                 const struct image_progress *progress, char **ret_name, struct error *error);
