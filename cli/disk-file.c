// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lodge image create, info, check: disk image files, as they lie in a directory
 *
 * The file is locked as a machine would lock it (parts.h), so that nothing is examined or changed while it is in use. What an image says of
 * itself (names of other images) is shown with control characters replaced.
 */
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/text.h"
#include "cli/cli.h"
#include "daemon/engine/parts.h"
#include "vmm/block/qcow2/qcow2.h"

struct context {
        const struct disk_file_options *options;
        struct file *file;
        bool json;
        bool damaged; /* check: something is left to mend */
};

static const char *yes_no(bool value) {
        return value ? "yes" : "no";
}

static void print_json(json_t *o) {
        json_dumpf(o, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        putchar('\n');
        json_decref(o);
}

static void print_name(const char *label, const char *value) {
        if (!value)
                return;
        printf("%-16s ", label);
        for (; *value; value++)
                putchar((unsigned char)*value < 0x20 || *value == 0x7f ? '?' : *value);
        putchar('\n');
}

static void print_size(const char *label, uint64_t bytes) {
        char text[TEXT_SIZE_MAX];

        printf("%-16s %s (%ju bytes)\n", label, text_format_size(bytes, text), (uintmax_t)bytes);
}

/* A name in JSON: bytes that are no UTF-8 can't be shown there. */
static json_t *json_name(const char *value) {
        json_t *s = value ? json_string(value) : NULL;

        return s ?: json_null();
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
        o = json_pack("{s:o, s:s, s:I, s:I}", "file", json_name(c->options->file), "format", qcow2 ? "qcow2" : "raw",
                      "size", (json_int_t)i.size, "space_used", (json_int_t)space_of(c));
        if (qcow2) {
                json_t *more =
                        json_pack("{s:i, s:I, s:i, s:s, s:b, s:b, s:b, s:b, s:b, s:o, s:o, s:o, s:i, s:i}", "version",
                                  (int)i.version, "cluster", (json_int_t)i.cluster, "refcount_bits",
                                  (int)i.refcount_bits, "compression", i.compression == QCOW2_ZSTD ? "zstd" : "zlib",
                                  "extended_l2", i.extended_l2, "lazy_refcounts", i.lazy_refcounts, "dirty", i.dirty,
                                  "corrupt", i.corrupt, "encrypted", i.encrypted, "backing_file",
                                  json_name(i.backing_file), "backing_format", json_name(i.backing_format), "data_file",
                                  json_name(i.data_file), "snapshots", (int)i.n_snapshots, "bitmaps", (int)i.n_bitmaps);

                json_object_update(o, more);
                json_decref(more);
        }
        print_json(o);
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
                print_json(json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "file",
                                     json_name(c->options->file), "corruptions", (json_int_t)corruptions, "leaks",
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

static int do_create(struct context *c, struct error *error) {
        const struct disk_file_options *o = c->options;
        const struct qcow2_create create = {
                .size = o->size,
                .version = (unsigned int)o->version,
                .cluster = (uint32_t)o->cluster,
                .refcount_bits = (unsigned int)o->refcount_bits,
                .compression = o->compression == DISK_FILE_COMPRESSION_ZSTD ? QCOW2_ZSTD : QCOW2_ZLIB,
                .extended_l2 = o->extended_l2,
                .lazy_refcounts = o->lazy_refcounts,
                .preallocate_metadata = o->preallocate,
        };
        int r = qcow2_create(c->file, &create, error);

        if (r < 0)
                return r;
        if (c->json)
                print_json(json_pack("{s:s, s:o, s:I}", "result", "created", "file", json_name(o->file), "size",
                                     (json_int_t)o->size));
        else
                printf("Created %s.\n", o->file);
        return 0;
}

/* Opens and locks the file that is named, in @flags' way. */
static int open_file(struct context *c, int flags, int *ret_fd, struct error *error) {
        const char *path = c->options->file;
        struct file_options options = { .readonly = (flags & O_ACCMODE) == O_RDONLY };
        _cleanup_close_ int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666);
        int r;

        if (fd < 0 && errno == EEXIST)
                return error_set(error, -EEXIST, "disk-exists", "remove it first, or choose another name",
                                 "there is a file %s", path);
        if (fd < 0)
                return error_set(error, -errno, "disk-open",
                                 "check that the file exists and that you may open it: ls -l",
                                 "cannot open disk image %s", path);
        r = disk_lock(fd, options.readonly, path, error);
        if (r < 0)
                return r;
        options.fd = fd;
        r = file_open(&options, &c->file, error);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int disk_file_command(const struct schema_command *command, int argc, char **argv, int flags,
                             int (*run)(struct context *c, struct error *error)) {
        _cleanup_(disk_file_options_freep) struct disk_file_options *options = NULL;
        _cleanup_error_ struct error error = ERROR_INIT;
        _cleanup_close_ int fd = -EBADF;
        struct context c = { 0 };
        void *objects[1];
        int r, status;

        if (disk_file_options_new(&options) < 0)
                return CLI_FAILED;
        objects[0] = options;
        if (cli_parse(command, argc, argv, objects, &status))
                return status;
        c.options = options;
        c.json = options->format == OUTPUT_FORMAT_JSON;
        r = disk_file_options_check(options, &error);
        if (r == 0)
                r = open_file(&c, options->repair == DISK_FILE_REPAIR_NONE ? flags : O_RDWR, &fd, &error);
        if (r == 0)
                r = run(&c, &error);
        file_close(c.file);
        if (r < 0 && (flags & O_CREAT) && fd >= 0)
                unlink(options->file); /* ours: O_EXCL made it */
        if (r == 0)
                return c.damaged ? CLI_FAILED : CLI_OK;
        if (error.code == 0)
                error_set(&error, r, "failed", NULL, "lodge %s", command->name);
        return c.json ? cli_fail_json(&error) : cli_fail(&error);
}

int cli_image_create(int argc, char **argv) {
        return disk_file_command(&schema_command_image_create, argc, argv, O_RDWR | O_CREAT | O_EXCL, do_create);
}

int cli_image_info(int argc, char **argv) {
        return disk_file_command(&schema_command_image_info, argc, argv, O_RDONLY, do_info);
}

int cli_image_check(int argc, char **argv) {
        return disk_file_command(&schema_command_image_check, argc, argv, O_RDONLY, do_check);
}
