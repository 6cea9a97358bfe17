// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lodge image convert: a disk, with all that lies below it, copied into one new file
 *
 * What no image of the chain holds is not read. What is read is looked at once more in pieces: zeroes are not written, so the copy may be
 * smaller than the original. A piece is what the new file can leave out: a cluster, or 4 KiB of a raw file.
 *
 * The file is new (nothing is ever overwritten), and it has its name only when all of it is on stable storage.
 */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "cli/disk-target.h"
#include "cli/disk-work.h"

struct convert {
        struct layer *from, *to;
        uint64_t piece; /* bytes */
        bool compress;
        struct disk_work work;
};

static int write_data(struct convert *c, uint64_t offset, uint64_t length, struct error *e) {
        const uint8_t *buf = c->work.buf;

        for (uint64_t done = 0; done < length;) {
                uint64_t start;
                int r;

                /* From the first piece with data to the next one without. */
                for (start = length; done < length;) {
                        uint64_t n = MIN(c->piece - (offset + done) % c->piece, length - done);
                        bool zero = disk_is_zero(buf + done, n);

                        if (zero && start < length)
                                break;
                        if (!zero && start == length)
                                start = done;
                        done += n;
                }
                r = start < length ? layer_write(c->to, buf + start, offset + start, done - start) : 0;
                if (r < 0)
                        return disk_write_failed(r, e);
        }
        return 0;
}

static int write_compressed(struct convert *c, uint64_t offset, uint64_t length, struct error *e) {
        for (uint64_t done = 0; done < length; done += c->to->cluster) {
                uint64_t n = MIN(length - done, (uint64_t)c->to->cluster);
                int r = 0;

                if (!disk_is_zero(c->work.buf + done, n))
                        r = c->to->ops->write_compressed(c->to, c->work.buf + done, offset + done, n);
                if (r < 0)
                        return disk_write_failed(r, e);
        }
        return 0;
}

static int copy(struct convert *c, struct error *e) {
        uint64_t size = atomic_load(&c->to->size), unit = c->compress ? c->to->cluster : 1;

        for (uint64_t at = 0; at < size;) {
                uint64_t n;
                struct layer *owner;
                struct extent extent;
                int r = disk_work_step(&c->work, at, e);

                if (r < 0)
                        return r;
                r = layer_status(c->from, NULL, NULL, at, size - at, &extent, &owner);
                if (r < 0)
                        return disk_read_failed(r, at, e);
                if (extent.kind != EXTENT_DATA && extent.kind != EXTENT_COMPRESSED) {
                        at += extent.length;
                        continue;
                }
                n = extent.length + at % unit;
                at -= at % unit; /* compressed clusters are written whole; the part before was zeroes */
                n = MIN(n, DISK_WORK_BUFFER - at % DISK_WORK_BUFFER);
                n = MIN((n + unit - 1) / unit * unit, size - at);
                r = disk_read(c->from, c->work.buf, at, n, e);
                if (r == 0)
                        r = c->compress ? write_compressed(c, at, n, e) : write_data(c, at, n, e);
                if (r < 0)
                        return r;
                at += n;
        }
        return 0;
}

/* The image in @file, which is taken over, gets all the data. */
static int fill(struct convert *c, const struct disk_file_options *o, struct file *file, struct error *e) {
        struct qcow2_options options = { 0 };
        bool qcow2 = o->to == MACHINE_DISK_FORMAT_QCOW2;
        int r = qcow2 ? qcow2_open(file, &options, &c->to, e) : raw_open(file, &c->to, e);

        if (r < 0) {
                file_close(file);
                return r;
        }
        c->compress = o->compress;
        c->piece = !qcow2 ? 4096 : o->extended_l2 ? c->to->cluster / 32 : c->to->cluster;
        r = copy(c, e);
        if (r == 0)
                r = layer_finish(c->to, e);
        layer_close(TAKE_PTR(c->to));
        return r;
}

static int make(struct convert *c, const struct disk_file_options *o, const struct qcow2_create *create,
                struct error *e) {
        _cleanup_disk_target_ struct disk_target target = DISK_TARGET_INIT;
        struct file *file;
        int r = disk_target_open(&target, o->target, o->to, create, &file, e);

        if (r == 0)
                r = fill(c, o, file, e);
        return r < 0 ? r : disk_target_keep(&target, e);
}

static int do_convert(const struct disk_file_options *o, bool json, struct error *e) {
        _cleanup_(chain_freep) struct chain *chain = NULL;
        struct chain_options options = { 0 };
        struct convert c = { 0 };
        struct qcow2_create create;
        int r;

        if (o->compress && o->to != MACHINE_DISK_FORMAT_QCOW2)
                return error_set(e, -EINVAL, "disk-compress", "leave out --compress, or use --to qcow2",
                                 "a raw file can't hold compressed data");
        r = disk_open_chain(o->file, o->disk_format, &options, &chain, e);
        if (r < 0)
                return r;
        c.from = chain_top(chain);
        create = disk_creation(o, atomic_load(&c.from->size));
        /* From here on a signal is an error like others: nothing is left. */
        r = disk_work_begin(&c.work, create.size, e);
        if (r == 0)
                r = make(&c, o, &create, e);
        disk_work_end(&c.work);
        if (r < 0)
                return r;
        if (json)
                disk_json_print(json_pack("{s:s, s:o, s:s, s:I}", "result", "converted", "file",
                                          disk_json_name(o->target), "format", machine_disk_format_to_string(o->to),
                                          "size", (json_int_t)create.size));
        else
                disk_print_done("Wrote ", o->target, ".");
        return 0;
}

static int do_resize(const struct disk_file_options *o, bool json, struct error *e) {
        _cleanup_(chain_freep) struct chain *c = NULL;
        struct chain_options options = { .n_writable = 1, .repair = true };
        char old_text[TEXT_SIZE_MAX], new_text[TEXT_SIZE_MAX];
        struct layer *top;
        uint64_t old;
        int r = disk_open_chain(o->file, o->disk_format, &options, &c, e);

        if (r < 0)
                return r;
        top = chain_top(c);
        old = atomic_load(&top->size);
        if (o->size < old && !o->shrink) {
                r = error_set(
                        e, -EINVAL, "disk-shrink", "make file systems and partitions smaller first; then add --shrink",
                        "disk %s has %ju bytes: what lies behind the new end would be lost", o->file, (uintmax_t)old);
                return r;
        }
        r = top->ops->resize(top, o->size, e);
        if (r < 0)
                return r;
        r = chain_finish(c, e);
        if (r < 0)
                return r;
        if (json)
                disk_json_print(json_pack("{s:s, s:o, s:I, s:I}", "result", "resized", "file", disk_json_name(o->file),
                                          "old_size", (json_int_t)old, "size", (json_int_t)o->size));
        else {
                fputs("Resized ", stdout);
                disk_print_text(o->file);
                printf(" from %s to %s.\n", text_format_size(old, old_text), text_format_size(o->size, new_text));
        }
        return 0;
}

int cli_image_convert(int argc, char **argv) {
        return disk_command(&schema_command_image_convert, argc, argv, do_convert);
}

int cli_image_resize(int argc, char **argv) {
        return disk_command(&schema_command_image_resize, argc, argv, do_resize);
}
