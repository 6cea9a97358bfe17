// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lodge image commit, rebase: data moves between an image and the one below it
 *
 * Both may be stopped at any moment and started again: an image that was not closed in order is repaired then. Commit first copies everything down and makes that durable; only then the upper image
 * is emptied, and each part of it that is still there says the same as what lies below. Rebase first gives the image all that
 * would read differently above the new backing image, and only then records the new name.
 */
#include <stdio.h>
#include <string.h>

#include "cli/disk-work.h"

/* Copies what @top itself holds into the image below. */
static int copy_down(struct layer *top, struct disk_work *w, struct error *e) {
        struct layer *below = top->backing;
        uint64_t size = atomic_load(&top->size);

        for (uint64_t at = 0; at < size;) {
                struct layer *owner;
                struct extent extent;
                uint64_t n;
                int r = disk_work_step(w, at, e);

                if (r < 0)
                        return r;
                r = layer_status(top, NULL, below, at, size - at, &extent, &owner);
                if (r < 0)
                        return disk_read_failed(r, at, e);
                n = extent.length;
                if (extent.kind == EXTENT_ZERO) {
                        n = MIN(n, (uint64_t)1 << 30); /* so that it can be stopped */
                        r = layer_zero(below, at, n, true);
                } else if (extent.kind != EXTENT_UNALLOCATED) {
                        n = MIN(n, (uint64_t)DISK_WORK_BUFFER);
                        r = disk_read(top, w->buf, at, n, e);
                        if (r == 0)
                                r = layer_write(below, w->buf, at, n);
                }
                if (r < 0)
                        return disk_write_failed(r, e);
                at += n;
        }
        return 0;
}

static int commit(struct layer *top, struct error *e) {
        uint64_t size = atomic_load(&top->size);
        struct disk_work w;
        int r = 0;

        if (atomic_load(&top->backing->size) < size)
                r = top->backing->ops->resize(top->backing, size, e);
        if (r < 0)
                return r;
        r = disk_work_begin(&w, size, e);
        if (r == 0)
                r = copy_down(top, &w, e);
        disk_work_end(&w);
        if (r < 0)
                return r;
        r = layer_flush(top->backing);
        if (r == 0)
                r = qcow2_make_empty(top);
        return r < 0 ? disk_write_failed(r, e) : 0;
}

static int do_commit(const struct disk_file_options *o, bool json, struct error *e) {
        _cleanup_(chain_freep) struct chain *c = NULL;
        struct chain_options options = { .n_writable = 2, .repair = true };
        int r = disk_open_chain(o->file, MACHINE_DISK_FORMAT_QCOW2, &options, &c, e);

        if (r < 0)
                return r;
        if (c->n < 2)
                return error_set(e, -EINVAL, "chain-none", "see what it stands on: lodge image info",
                                 "there is no image below %s", o->file);
        r = commit(chain_top(c), e);
        if (r == 0)
                r = chain_finish(c, e);
        if (r < 0)
                return r;
        if (json)
                disk_json_print(json_pack("{s:s, s:o, s:o}", "result", "committed", "file", disk_json_name(o->file),
                                          "into", disk_json_name(c->images[1].path)));
        else
                disk_print_done("Moved into ", c->images[1].path, ".");
        return 0;
}

/* Does [@at, ...) read as zeroes from @layer without looking at data? So long the answer holds is at most *@length. */
static int reads_as_zeroes(struct layer *layer, uint64_t at, uint64_t *length, bool *ret_zero, struct error *e) {
        uint64_t size = layer ? atomic_load(&layer->size) : 0;
        struct extent extent;
        struct layer *owner;
        int r;

        *ret_zero = true;
        if (at >= size)
                return 0;
        *length = MIN(*length, size - at);
        r = layer_status(layer, NULL, NULL, at, *length, &extent, &owner);
        if (r < 0)
                return disk_read_failed(r, at, e);
        *length = extent.length;
        *ret_zero = extent.kind == EXTENT_ZERO || extent.kind == EXTENT_UNALLOCATED;
        return 0;
}

/* [@at, @at + @n) lies in one cluster of @top. It gets what it read as above @old, where that is something else above @new. */
static int keep_cluster(struct layer *top, struct layer *old, struct layer *new, uint64_t at, uint64_t n,
                        struct disk_work *w, struct error *e) {
        uint64_t cluster = top->cluster, start = at - at % cluster;
        uint64_t length = MIN(cluster, atomic_load(&top->size) - start);
        int r = disk_read(old, w->buf, at, n, e);

        if (r == 0)
                r = disk_read(new, w->other, at, n, e);
        if (r < 0 || memcmp(w->buf, w->other, n) == 0)
                return r;
        /* The whole cluster, so that nothing has to be filled up from below; its other parts read as they did. */
        r = disk_read(top, w->buf, start, length, e);
        if (r < 0)
                return r;
        if (disk_is_zero(w->buf, length)) {
                top->backing = new; /* where that has nothing, nothing has to be said */
                r = layer_zero(top, start, length, true);
                top->backing = old;
        } else {
                /* Above @old: where the cluster reads as zeroes, a write links one before its data is there, and a write that fails leaves it. */
                r = layer_write(top, w->buf, start, length);
        }
        return r < 0 ? disk_write_failed(r, e) : 0;
}

static int keep_content(struct layer *top, struct layer *old, struct layer *new, struct disk_work *w, struct error *e) {
        uint64_t size = atomic_load(&top->size);

        for (uint64_t at = 0; at < size;) {
                uint64_t n = size - at, cluster = top->cluster;
                bool old_zero = false, new_zero = false;
                struct layer *owner;
                struct extent extent;
                int r = disk_work_step(w, at, e);

                if (r < 0)
                        return r;
                r = layer_status(top, NULL, old, at, n, &extent, &owner);
                if (r < 0)
                        return disk_read_failed(r, at, e);
                n = extent.length;
                if (extent.kind == EXTENT_UNALLOCATED) {
                        r = reads_as_zeroes(old, at, &n, &old_zero, e);
                        if (r == 0)
                                r = reads_as_zeroes(new, at, &n, &new_zero, e);
                        if (r == 0 && !(old_zero && new_zero)) {
                                n = MIN(n, cluster - at % cluster);
                                r = keep_cluster(top, old, new, at, n, w, e);
                        }
                        if (r < 0)
                                return r;
                }
                at += n;
        }
        return 0;
}

static int rebase_safely(const struct disk_file_options *o, struct chain *c, const char *path, const char *format,
                         struct error *e) {
        struct chain_options options = { .above = &c->images[0] };
        _cleanup_(chain_freep) struct chain *below = NULL;
        struct layer *top = chain_top(c), *old = top->backing;
        enum machine_disk_format f = MACHINE_DISK_FORMAT_RAW;
        struct disk_work w;
        int r = 0;

        if (path) {
                if (streq(format, "qcow2"))
                        f = MACHINE_DISK_FORMAT_QCOW2;
                r = disk_open_chain(path, f, &options, &below, e);
        }
        if (r < 0)
                return r;
        r = disk_work_begin(&w, atomic_load(&top->size), e);
        if (r == 0)
                r = keep_content(top, old, below ? chain_top(below) : NULL, &w, e);
        disk_work_end(&w);
        if (r == 0 && (r = layer_flush(top)) < 0)
                disk_write_failed(r, e);
        /* Both chains are open and locked until the name is recorded. */
        return r < 0 ? r : qcow2_set_backing(top, path ? o->backing : NULL, format, e);
}

static int do_rebase(const struct disk_file_options *o, bool json, struct error *e) {
        _cleanup_(chain_freep) struct chain *c = NULL;
        struct chain_options options = { .n_writable = 1, .alone = o->unsafe, .repair = true };
        bool none = !o->backing || !*o->backing;
        _cleanup_free_ char *path = NULL;
        const char *format = NULL;
        int r = 0;

        if (none && o->unsafe)
                return error_set(e, -EINVAL, "rebase-unsafe",
                                 "leave out --unsafe: what lies below is then copied first",
                                 "without a backing image, the content of %s would be lost", o->file);
        if (!none || o->backing_format != IMAGE_DISK_FORMAT_UNKNOWN) {
                format = disk_recorded_format(o, e);
                r = format ? chain_resolve(o->file, o->backing, &path, e) : -EINVAL;
        }
        if (r == 0)
                r = disk_open_chain(o->file, MACHINE_DISK_FORMAT_QCOW2, &options, &c, e);
        if (r < 0 && !o->unsafe && e->id && streq(e->id, "chain-open"))
                error_set_fix(e, none ? "if it was moved, record where it is first: add --unsafe --backing NEW "
                                        "--backing-format FORMAT"
                                      : "if it was moved, and nothing has changed in it: add --unsafe");
        if (r == 0)
                r = o->unsafe ? qcow2_set_backing(chain_top(c), o->backing, format, e)
                              : rebase_safely(o, c, path, format, e);
        if (r == 0)
                r = chain_finish(c, e);
        if (r < 0)
                return r;
        if (json)
                disk_json_print(json_pack("{s:s, s:o, s:o, s:s?}", "result", "rebased", "file", disk_json_name(o->file),
                                          "backing_file", disk_json_name(none ? NULL : o->backing), "backing_format",
                                          format));
        else if (none)
                disk_print_done("", o->file, " stands on no other image now.");
        else {
                disk_print_text(o->file);
                disk_print_done(" stands on ", o->backing, " now.");
        }
        return 0;
}

int cli_image_commit(int argc, char **argv) {
        return disk_command(&schema_command_image_commit, argc, argv, do_commit);
}

int cli_image_rebase(int argc, char **argv) {
        return disk_command(&schema_command_image_rebase, argc, argv, do_rebase);
}
