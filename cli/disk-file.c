// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lodge image create, info, check: disk image files, as they lie in a directory
 *
 * The file is locked as a machine would lock it (parts.h), so that nothing is examined or changed while it is in use. What an image says of
 * itself (names of other images) is shown with control characters replaced.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/text.h"
#include "cli/disk-target.h"
#include "cli/disk-work.h"
#include "daemon/engine/parts.h"

struct context {
        const struct disk_file_options *options;
        struct file *file;
        bool json;
        bool damaged; /* check: something is left to mend */
};

static const char *yes_no(bool value) {
        return value ? "yes" : "no";
}

static void print_name(const char *label, const char *value) {
        if (!value)
                return;
        printf("%-16s ", label);
        disk_print_text(value);
        putchar('\n');
}

static void print_size(const char *label, uint64_t bytes) {
        char text[TEXT_SIZE_MAX];

        printf("%-16s %s (%ju bytes)\n", label, text_format_size(bytes, text), (uintmax_t)bytes);
}

static uint64_t space_of(const struct context *c) {
        struct stat st;

        return fstat(file_fd(c->file), &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static int do_info(struct context *c, struct error *error) {
        _cleanup_free_ char *strings = NULL;
        struct qcow2_info i = { .size = file_size(c->file) };
        bool qcow2 = c->options->disk_format == MACHINE_DISK_FORMAT_QCOW2;
        json_t *o;

        if (qcow2) {
                int r = qcow2_peek(c->file, &i, &strings, error);

                if (r < 0 && error->id && streq(error->id, "qcow2-magic"))
                        error_set_fix(error, "if it is a raw disk: lodge image info --disk-format raw %s",
                                      c->options->file);
                if (r < 0)
                        return r;
        }
        if (!c->json) {
                print_name("file", c->options->file);
                print_name("format", qcow2 ? i.version == 2 ? "qcow2, version 2" : "qcow2, version 3" : "raw");
                print_size("size", i.size);
                print_size("space used", space_of(c));
                if (!qcow2)
                        return 0;
                print_size("cluster", i.cluster);
                printf("%-16s %u bits%s\n", "reference counts", i.refcount_bits, i.lazy_refcounts ? ", lazy" : "");
                print_name("compression", i.compression == QCOW2_ZSTD ? "zstd" : "zlib");
                print_name("extended L2", yes_no(i.extended_l2));
                print_name("backing file", i.backing_file);
                if (i.backing_file)
                        print_name("backing format", i.backing_format ?: "not recorded");
                print_name("data file", i.data_file);
                print_name("encrypted", i.encrypted ? "yes" : NULL);
                if (i.n_snapshots > 0)
                        printf("%-16s %u\n", "snapshots", i.n_snapshots);
                if (i.n_bitmaps > 0)
                        printf("%-16s %u\n", "bitmaps", i.n_bitmaps);
                if (i.corrupt)
                        printf("This image is marked corrupt. Mend it: lodge image check --repair all FILE\n");
                else if (i.dirty)
                        printf("Not closed in order: its reference counts are old. Mend them: lodge image check "
                               "--repair all FILE\n");
                return 0;
        }
        o = json_pack("{s:o, s:s, s:I, s:I}", "file", disk_json_name(c->options->file), "format",
                      qcow2 ? "qcow2" : "raw", "size", (json_int_t)i.size, "space_used", (json_int_t)space_of(c));
        if (qcow2) {
                json_t *more = json_pack(
                        "{s:i, s:I, s:i, s:s, s:b, s:b, s:b, s:b, s:b, s:o, s:o, s:o, s:i, s:i}", "version",
                        (int)i.version, "cluster", (json_int_t)i.cluster, "refcount_bits", (int)i.refcount_bits,
                        "compression", i.compression == QCOW2_ZSTD ? "zstd" : "zlib", "extended_l2", i.extended_l2,
                        "lazy_refcounts", i.lazy_refcounts, "dirty", i.dirty, "corrupt", i.corrupt, "encrypted",
                        i.encrypted, "backing_file", disk_json_name(i.backing_file), "backing_format",
                        disk_json_name(i.backing_format), "data_file", disk_json_name(i.data_file), "snapshots",
                        (int)i.n_snapshots, "bitmaps", (int)i.n_bitmaps);

                json_object_update(o, more);
                json_decref(more);
        }
        disk_json_print(o);
        return 0;
}

static void show_finding(void *opaque, const char *line) {
        const struct context *c = opaque;

        if (!c->json)
                puts(line);
}

static int do_check(struct context *c, struct error *error) {
        static const unsigned int repairs[] = {
                [DISK_FILE_REPAIR_NONE] = 0,
                [DISK_FILE_REPAIR_LEAKS] = QCOW2_REPAIR_LEAKS,
                [DISK_FILE_REPAIR_ALL] = QCOW2_REPAIR_LEAKS | QCOW2_REPAIR_ALL,
        };
        struct qcow2_check found = { .report = show_finding, .opaque = c };
        uint64_t corruptions, leaks;
        int r;

        r = qcow2_check(c->file, repairs[c->options->repair], &found, error);
        if (r < 0)
                return r;
        corruptions = found.corruptions - MIN(found.corruptions, found.corruptions_fixed);
        leaks = found.leaks - MIN(found.leaks, found.leaks_fixed);
        c->damaged = corruptions + leaks + found.errors > 0;
        if (c->json) {
                disk_json_print(
                        json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "file",
                                  disk_json_name(c->options->file), "corruptions", (json_int_t)corruptions, "leaks",
                                  (json_int_t)leaks, "errors", (json_int_t)found.errors, "corruptions_fixed",
                                  (json_int_t)found.corruptions_fixed, "leaks_fixed", (json_int_t)found.leaks_fixed,
                                  "allocated_clusters", (json_int_t)found.allocated, "compressed_clusters",
                                  (json_int_t)found.compressed, "fragmented_clusters", (json_int_t)found.fragmented,
                                  "total_clusters", (json_int_t)found.total, "image_end", (json_int_t)found.end));
                return 0;
        }
        if (found.corruptions_fixed + found.leaks_fixed > 0)
                printf("Mended: %ju corruptions, %ju leaks.\n", (uintmax_t)found.corruptions_fixed,
                       (uintmax_t)found.leaks_fixed);
        if (c->damaged)
                printf("Left: %ju corruptions, %ju leaks, %ju places that could not be examined.\n",
                       (uintmax_t)corruptions, (uintmax_t)leaks, (uintmax_t)found.errors);
        else
                printf("No damage%s: %ju of %ju clusters allocated, %ju compressed, %ju fragmented.\n",
                       found.corruptions_fixed + found.leaks_fixed > 0 ? " is left" : "", (uintmax_t)found.allocated,
                       (uintmax_t)found.total, (uintmax_t)found.compressed, (uintmax_t)found.fragmented);
        if (c->damaged && c->options->repair != DISK_FILE_REPAIR_ALL)
                printf("Make a copy of the file, then mend it: lodge image check --repair %s FILE\n",
                       corruptions > 0 ? "all" : "leaks");
        return 0;
}

/* The image that the new one will stand on has to be there, with all below it; it also gives the size. */
static int look_below(const struct disk_file_options *o, struct qcow2_create *create, struct error *e) {
        _cleanup_(chain_freep) struct chain *chain = NULL;
        enum machine_disk_format format = MACHINE_DISK_FORMAT_RAW;
        struct chain_options options = { 0 };
        _cleanup_free_ char *path = NULL;
        int r;

        create->backing_format = disk_recorded_format(o, e);
        if (!create->backing_format)
                return -EINVAL;
        create->backing_file = o->backing;
        if (streq(create->backing_format, "qcow2"))
                format = MACHINE_DISK_FORMAT_QCOW2;
        r = chain_resolve(o->file, o->backing, &path, e);
        if (r == 0)
                r = disk_open_chain(path, format, &options, &chain, e);
        if (r < 0)
                return r;
        if (chain->n >= LAYER_CHAIN_MAX)
                return error_set(e, -ELOOP, "chain-depth", CHAIN_DEPTH_FIX,
                                 "there are %u images in the chain of %s already", chain->n, path);
        if (create->size == 0)
                create->size = atomic_load(&chain_top(chain)->size);
        return 0;
}

static int do_create(const struct disk_file_options *o, bool json, struct error *e) {
        struct qcow2_create create = disk_creation(o, o->size);
        _cleanup_disk_target_ struct disk_target target = DISK_TARGET_INIT;
        struct file *file = NULL;
        int r = 0;

        if (o->backing || o->backing_format != IMAGE_DISK_FORMAT_UNKNOWN)
                r = look_below(o, &create, e);
        else if (o->size == 0)
                r = error_set(e, -EINVAL, "argument-missing", "lodge image create FILE SIZE",
                              "a size is needed without a backing image");
        if (r == 0)
                r = disk_target_open(&target, o->file, MACHINE_DISK_FORMAT_QCOW2, &create, &file, e);
        file_close(file);
        if (r == 0)
                r = disk_target_keep(&target, e);
        if (r < 0)
                return r;
        if (json)
                disk_json_print(json_pack("{s:s, s:o, s:I}", "result", "created", "file", disk_json_name(o->file),
                                          "size", (json_int_t)create.size));
        else
                disk_print_done("Created ", o->file, ".");
        return 0;
}

static int with_file(const struct disk_file_options *o, bool json, bool readonly,
                     int (*run)(struct context *c, struct error *e), struct error *e) {
        struct context c = { .options = o, .json = json };
        _cleanup_close_ int fd = -EBADF;
        int r = disk_open_file(o->file, readonly, &fd, &c.file, e);

        if (r == 0)
                r = run(&c, e);
        file_close(c.file);
        return r < 0 ? r : c.damaged ? CLI_FAILED : CLI_OK;
}

static int info(const struct disk_file_options *o, bool json, struct error *e) {
        return with_file(o, json, true, do_info, e);
}

static int check(const struct disk_file_options *o, bool json, struct error *e) {
        return with_file(o, json, o->repair == DISK_FILE_REPAIR_NONE, do_check, e);
}

int cli_image_create(int argc, char **argv) {
        return disk_command(&schema_command_image_create, argc, argv, do_create);
}

int cli_image_info(int argc, char **argv) {
        return disk_command(&schema_command_image_info, argc, argv, info);
}

int cli_image_check(int argc, char **argv) {
        return disk_command(&schema_command_image_check, argc, argv, check);
}
