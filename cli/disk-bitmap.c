// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lodge image bitmap list, add, remove, clear, enable, disable, dirty: what was written to a qcow2 disk since a moment, for backups
 *
 * The bitmaps are kept in the file itself, so one file is opened, and not what it stands on. Looking at them changes nothing in the file.
 * Their names come from the image and are shown with control characters replaced.
 */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/disk-work.h"
#include "vmm/block/qcow2/bitmap.h"

/* Advice for who has named a raw disk. */
static int refused(int r, const struct disk_file_options *o, struct error *e) {
        if (r < 0 && e->id && streq(e->id, "qcow2-magic"))
                error_set_fix(e,
                              "only qcow2 files hold bitmaps; to make one of a raw disk: lodge image convert "
                              "--disk-format raw %s NEW",
                              o->file);
        return r;
}

static int read_bitmaps(const struct disk_file_options *o, struct qcow2_bitmaps **ret, struct error *e) {
        _cleanup_(file_freep) struct file *file = NULL;
        _cleanup_close_ int fd = -EBADF;
        int r = disk_open_file(o->file, true, &fd, &file, e);

        return r < 0 ? r : refused(qcow2_bitmaps_read(file, ret, e), o, e);
}

static json_t *bitmap_json(const struct qcow2_bitmap_info *i) {
        json_t *o = json_pack("{s:o, s:I, s:b, s:b}", "name", disk_json_name(i->name), "granularity",
                              (json_int_t)i->granularity, "enabled", i->enabled, "inconsistent", i->inconsistent);

        if (!i->inconsistent)
                json_object_set_new(o, "dirty", json_integer((json_int_t)i->dirty));
        return o;
}

static void print_bitmap(const struct qcow2_bitmap_info *i) {
        char granularity[TEXT_SIZE_MAX];

        printf("%-12s ", text_format_size(i->granularity, granularity));
        if (i->inconsistent)
                printf("%18s  %-12s ", "-", "inconsistent");
        else
                printf("%18ju  %-12s ", (uintmax_t)i->dirty, i->enabled ? "enabled" : "disabled");
        disk_print_text(i->name);
        putchar('\n');
}

static int do_list(const struct disk_file_options *o, bool json, struct error *e) {
        _cleanup_(qcow2_bitmaps_freep) struct qcow2_bitmaps *b = NULL;
        json_t *all = NULL;
        unsigned int n;
        int r = read_bitmaps(o, &b, e);

        if (r < 0)
                return r;
        n = qcow2_bitmaps_count(b);
        if (json)
                all = json_array();
        else if (n == 0)
                disk_print_done("No bitmaps in ", o->file, " yet. Add one: lodge image bitmap add FILE NAME");
        else
                printf("%-12s %18s  %-12s %s\n", "GRANULARITY", "DIRTY", "STATE", "NAME");
        for (unsigned int i = 0; i < n; i++) {
                struct qcow2_bitmap_info info;

                qcow2_bitmaps_info(b, i, &info);
                if (json)
                        json_array_append_new(all, bitmap_json(&info));
                else
                        print_bitmap(&info);
        }
        if (json)
                disk_json_print(json_pack("{s:o, s:o}", "file", disk_json_name(o->file), "bitmaps", all));
        return 0;
}

static int do_dirty(const struct disk_file_options *o, bool json, struct error *e) {
        _cleanup_(qcow2_bitmaps_freep) struct qcow2_bitmaps *b = NULL;
        uint64_t start = 0, length = 0;
        bool first = true;
        int r = read_bitmaps(o, &b, e);

        if (r == 0)
                r = qcow2_bitmaps_good(b, o->bitmap, e);
        if (r < 0)
                return r;
        if (json)
                disk_json_begin(
                        json_pack("{s:o, s:o}", "file", disk_json_name(o->file), "bitmap", disk_json_name(o->bitmap)),
                        "dirty");
        else
                printf("%18s %18s\n", "START", "LENGTH");
        for (; qcow2_bitmaps_next(b, o->bitmap, start + length, &start, &length) > 0; first = false)
                if (json)
                        disk_json_item(
                                json_pack("{s:I, s:I}", "start", (json_int_t)start, "length", (json_int_t)length),
                                first);
                else
                        printf("%18ju %18ju\n", (uintmax_t)start, (uintmax_t)length);
        if (json)
                disk_json_end(!first);
        return 0;
}

/* The verbs that change one bitmap of a file. */
struct verb {
        const char *result, *said; /* what was done, for programs and for people */
        int (*edit)(struct qcow2_bitmaps *b, const void *opaque, struct error *e);
};

static int add(struct qcow2_bitmaps *b, const void *opaque, struct error *e) {
        const struct disk_file_options *o = opaque;

        return qcow2_bitmaps_add(b, o->bitmap, o->granularity, !o->disabled, e);
}

static int drop(struct qcow2_bitmaps *b, const void *opaque, struct error *e) {
        const struct disk_file_options *o = opaque;

        return qcow2_bitmaps_remove(b, o->bitmap, e);
}

static int clear(struct qcow2_bitmaps *b, const void *opaque, struct error *e) {
        const struct disk_file_options *o = opaque;

        return qcow2_bitmaps_clear(b, o->bitmap, e);
}

static int enable(struct qcow2_bitmaps *b, const void *opaque, struct error *e) {
        const struct disk_file_options *o = opaque;

        return qcow2_bitmaps_enable(b, o->bitmap, true, e);
}

static int disable(struct qcow2_bitmaps *b, const void *opaque, struct error *e) {
        const struct disk_file_options *o = opaque;

        return qcow2_bitmaps_enable(b, o->bitmap, false, e);
}

static int change(const struct disk_file_options *o, bool json, const struct verb *verb, struct error *e) {
        _cleanup_close_ int fd = -EBADF;
        struct file *file = NULL;
        int r = disk_open_file(o->file, false, &fd, &file, e);

        if (r == 0)
                r = refused(qcow2_bitmaps_edit(file, verb->edit, o, e), o, e);
        if (r < 0)
                return r;
        if (json)
                disk_json_print(json_pack("{s:s, s:o, s:o}", "result", verb->result, "file", disk_json_name(o->file),
                                          "bitmap", disk_json_name(o->bitmap)));
        else {
                printf("%s bitmap ", verb->said);
                disk_print_text(o->bitmap);
                puts(".");
        }
        return 0;
}

static int do_add(const struct disk_file_options *o, bool json, struct error *e) {
        return change(o, json, &(const struct verb){ "added", "Added", add }, e);
}

static int do_remove(const struct disk_file_options *o, bool json, struct error *e) {
        return change(o, json, &(const struct verb){ "removed", "Removed", drop }, e);
}

static int do_clear(const struct disk_file_options *o, bool json, struct error *e) {
        return change(o, json, &(const struct verb){ "cleared", "Cleared", clear }, e);
}

static int do_enable(const struct disk_file_options *o, bool json, struct error *e) {
        return change(o, json, &(const struct verb){ "enabled", "Enabled", enable }, e);
}

static int do_disable(const struct disk_file_options *o, bool json, struct error *e) {
        return change(o, json, &(const struct verb){ "disabled", "Disabled", disable }, e);
}

int cli_image_bitmap_list(int argc, char **argv) {
        return disk_command(&schema_command_image_bitmap_list, argc, argv, do_list);
}

int cli_image_bitmap_add(int argc, char **argv) {
        return disk_command(&schema_command_image_bitmap_add, argc, argv, do_add);
}

int cli_image_bitmap_remove(int argc, char **argv) {
        return disk_command(&schema_command_image_bitmap_remove, argc, argv, do_remove);
}

int cli_image_bitmap_clear(int argc, char **argv) {
        return disk_command(&schema_command_image_bitmap_clear, argc, argv, do_clear);
}

int cli_image_bitmap_enable(int argc, char **argv) {
        return disk_command(&schema_command_image_bitmap_enable, argc, argv, do_enable);
}

int cli_image_bitmap_disable(int argc, char **argv) {
        return disk_command(&schema_command_image_bitmap_disable, argc, argv, do_disable);
}

int cli_image_bitmap_dirty(int argc, char **argv) {
        return disk_command(&schema_command_image_bitmap_dirty, argc, argv, do_dirty);
}
