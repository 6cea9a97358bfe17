// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chain: see chain.h
 *
 * The images are opened from the top down. The name and the format of the next one are read from the header of the one before, through
 * the same descriptor that was locked.
 */
#include "vmm/block/chain/chain.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "vmm/block/qcow2/qcow2.h"

static const char *const formats[] = { "raw", "qcow2" };

static const char *format_of(const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(formats); i++)
                if (streq(name, formats[i]))
                        return formats[i];
        return NULL;
}

static int no_memory(struct error *e) {
        return error_set(e, -ENOMEM, "memory", NULL, "no memory for a chain of images");
}

int chain_resolve(const char *image, const char *name, char **ret_path, struct error *e) {
        const char *slash = strrchr(image, '/');
        size_t directory = slash && name[0] != '/' ? (size_t)(slash + 1 - image) : 0;
        char *path;

        if (name[0] == '\0' || name[strcspn(name, ":/")] == ':')
                return error_set(e, -EINVAL, "chain-protocol",
                                 "only files and block devices are served; a path with a colon is written ./NAME",
                                 "image %s names the backing image '%s', which is no path of a file", image, name);
        if (asprintf(&path, "%.*s%s", (int)directory, image, name) < 0)
                return no_memory(e);
        *ret_path = path;
        return 0;
}

/* Neither the path itself nor what it leads to is known to be harmless: look before opening. */
int chain_open_file(const char *path, bool readonly, bool top, struct stat *ret_st, struct error *e) {
        _cleanup_close_ int fd = -EBADF;
        struct stat st;

        if (stat(path, &st) == 0) {
                if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
                        return error_set(e, -EINVAL, "disk-type", "name a disk image or a block device",
                                         "%s is neither a file nor a block device", path);
                fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        }
        if (fd < 0 || fstat(fd, &st) < 0)
                return top ? error_set(e, -errno, "disk-open",
                                       "check that the file exists and that you may open it: ls -l",
                                       "cannot open disk image %s", path)
                           : error_set(e, -errno, "chain-open",
                                       "if it was moved: lodge image rebase --unsafe --backing NEW --backing-format "
                                       "FORMAT FILE, where FILE is the image that names it",
                                       "cannot open backing image %s", path);
        *ret_st = st;
        return TAKE_FD(fd);
}

static int check_loop(const struct chain *c, const struct chain_image *above, const struct stat *st, const char *path,
                      struct error *e) {
        bool seen = above && above->device == st->st_dev && above->inode == st->st_ino;

        for (unsigned int i = 0; i < c->n; i++)
                seen |= c->images[i].device == st->st_dev && c->images[i].inode == st->st_ino;
        if (!seen)
                return 0;
        if (c->n == 0)
                return error_set(e, -ELOOP, "chain-loop", "name another image", "image %s can't stand on itself", path);
        return error_set(e, -ELOOP, "chain-loop",
                         above ? "name another image"
                               : "restore the image from a backup, or record the right one: lodge image rebase "
                                 "--unsafe --backing RIGHT --backing-format FORMAT FILE",
                         "image %s names %s, which is above it in the chain", c->images[c->n - 1].path, path);
}

int chain_open_layer(const struct file_options *options, const char *format, bool repair, struct layer **ret_layer,
                     struct error *e) {
        const struct qcow2_options qcow2 = { .readonly = options->readonly, .repair = repair };
        _cleanup_(file_freep) struct file *file = NULL;
        int r = file_open(options, &file, e);

        if (r == 0)
                r = streq(format, "raw") ? raw_open(file, ret_layer, e) : qcow2_open(file, &qcow2, ret_layer, e);
        if (r == 0)
                TAKE_PTR(file);
        return r;
}

static int open_layer(struct chain_image *image, const struct chain_options *o, bool readonly, struct error *e) {
        const struct file_options options = { .fd = image->fd, .readonly = readonly, .direct = o->direct };
        int r = chain_open_layer(&options, image->format, o->repair, &image->layer, e);

        if (r < 0)
                error_prefix(e, "%s", image->path);
        return r;
}

/* Takes @path over, whatever happens. */
static int add(struct chain *c, char *path, const char *format, const struct chain_options *o, struct error *e) {
        bool readonly = c->n >= o->n_writable;
        struct chain_image *image = &c->images[c->n];
        struct stat st = { 0 };
        int r;

        if (c->n + (o->above ? 1 : 0) >= LAYER_CHAIN_MAX) {
                r = error_set(e, -ELOOP, "chain-depth", CHAIN_DEPTH_FIX, "there are more than %d images below %s",
                              LAYER_CHAIN_MAX - 1, o->above ? o->above->path : c->images[0].path);
                free(path);
                return r;
        }
        *image = (struct chain_image){ .path = path, .format = format, .fd = -EBADF };
        image->fd = chain_open_file(path, readonly, c->n == 0 && !o->above, &st, e);
        r = image->fd < 0 ? image->fd : check_loop(c, o->above, &st, path, e);
        if (image->fd < 0 && c->n > 0)
                error_prefix(e, "image %s", c->images[c->n - 1].path);
        if (r == 0 && o->lock)
                r = o->lock(image->fd, readonly, path, e);
        if (r == 0)
                r = open_layer(image, o, readonly, e);
        if (r < 0) {
                safe_close(image->fd);
                free(path);
                return r;
        }
        image->device = st.st_dev;
        image->inode = st.st_ino;
        if (c->n > 0)
                c->images[c->n - 1].layer->backing = image->layer;
        c->n++;
        return 0;
}

/* What the last image says of the next one; *@ret_path NULL: there is none. */
static int next(const struct chain *c, char **ret_path, const char **ret_format, struct error *e) {
        const struct chain_image *image = &c->images[c->n - 1];
        _cleanup_free_ char *strings = NULL;
        struct qcow2_info info = { 0 };
        int r;

        *ret_path = NULL;
        if (!streq(image->format, "qcow2"))
                return 0;
        r = qcow2_peek(image->layer->file, &info, &strings, e);
        if (r < 0)
                error_prefix(e, "%s", image->path);
        if (r < 0 || !info.backing_file)
                return r;
        *ret_format = info.backing_format ? format_of(info.backing_format) : NULL;
        /* What to do is said without the names that the image holds: they are not to be pasted into a shell. */
        if (!*ret_format && info.backing_format)
                return error_set(e, -ENOTSUP, "chain-format", "convert it: qemu-img convert -O qcow2 FILE NEW",
                                 "image %s has a backing image of format '%s', which is not known here", image->path,
                                 info.backing_format);
        if (!*ret_format)
                return error_set(e, -EUCLEAN, "chain-format",
                                 "record it, if you trust the image's origin: lodge image rebase --unsafe --backing "
                                 "NAME --backing-format FORMAT FILE",
                                 "image %s does not record the format of its backing image %s", image->path,
                                 info.backing_file);
        return chain_resolve(image->path, info.backing_file, ret_path, e);
}

int chain_open(const char *path, const char *format, const struct chain_options *options, struct chain **ret_chain,
               struct error *e) {
        _cleanup_(chain_freep) struct chain *c = calloc(1, sizeof(*c));
        char *name = strdup(path);
        int r;

        if (!c || !name) {
                free(name);
                return no_memory(e);
        }
        format = format_of(format);
        if (!format) {
                free(name);
                return error_set(e, -EINVAL, "chain-format", "use raw or qcow2", "the format of %s is not known", path);
        }
        while (name) {
                r = add(c, TAKE_PTR(name), format, options, e);
                if (r == 0 && !options->alone)
                        r = next(c, &name, &format, e);
                if (r < 0)
                        return r;
        }
        *ret_chain = TAKE_PTR(c);
        return 0;
}

int chain_finish(struct chain *chain, struct error *e) {
        for (unsigned int i = 0; i < chain->n; i++) {
                int r = layer_finish(chain->images[i].layer, e);

                if (r < 0) {
                        error_prefix(e, "%s", chain->images[i].path);
                        return r;
                }
        }
        return 0;
}

void chain_close(struct chain *chain) {
        if (!chain)
                return;
        if (chain->n > 0)
                layer_close(chain->images[0].layer);
        for (unsigned int i = 0; i < chain->n; i++) {
                safe_close(chain->images[i].fd);
                free(chain->images[i].path);
        }
        free(chain);
}
