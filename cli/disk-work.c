// SPDX-License-Identifier: GPL-2.0-or-later
/* disk-work: see disk-work.h */
#include "cli/disk-work.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/text.h"
#include "daemon/engine/parts.h"

int disk_command(const struct schema_command *command, int argc, char **argv,
                 int (*run)(const struct disk_file_options *o, bool json, struct error *e)) {
        _cleanup_(disk_file_options_freep) struct disk_file_options *options = NULL;
        _cleanup_error_ struct error error = ERROR_INIT;
        void *objects[1];
        int r, status;
        bool json;

        if (disk_file_options_new(&options) < 0)
                return CLI_FAILED;
        objects[0] = options;
        if (cli_parse(command, argc, argv, objects, &status))
                return status;
        json = options->format == OUTPUT_FORMAT_JSON;
        r = disk_file_options_check(options, &error);
        if (r == 0)
                r = run(options, json, &error);
        if (r >= 0)
                return r;
        if (error.code == 0)
                error_set(&error, r, "failed", NULL, "cannot finish lodge %s", command->name);
        return json ? cli_fail_json(&error) : cli_fail(&error);
}

void disk_json_print(json_t *o) {
        json_dumpf(o, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        putchar('\n');
        json_decref(o);
}

void disk_json_begin(json_t *head, const char *list) {
        _cleanup_free_ char *text = json_dumps(head, JSON_INDENT(2) | JSON_PRESERVE_ORDER);

        /* Without the line with the closing brace. */
        if (text)
                printf("%.*s,\n  \"%s\": [", (int)strlen(text) - 2, text, list);
        json_decref(head);
}

void disk_json_item(json_t *item, bool first) {
        fputs(first ? "\n    " : ",\n    ", stdout);
        json_dumpf(item, stdout, JSON_PRESERVE_ORDER);
        json_decref(item);
}

void disk_json_end(bool any) {
        puts(any ? "\n  ]\n}" : "]\n}");
}

json_t *disk_json_name(const char *name) {
        json_t *s = name ? json_string(name) : NULL;

        return s ?: json_null();
}

void disk_print_text(const char *text) {
        bool plain;

        for (size_t n; *text; text += n) {
                n = text_char(text, &plain);
                fwrite(plain ? text : "?", 1, plain ? n : 1, stdout);
        }
}

void disk_print_done(const char *before, const char *name, const char *after) {
        fputs(before, stdout);
        disk_print_text(name);
        puts(after);
}

int disk_claim(int fd, bool readonly, const char *path, struct error *e) {
        int r = disk_lock(fd, readonly, path, e);

        if (r == -EBUSY)
                error_set_fix(e,
                              "try again when it is no longer in use: power the machine off, or let the command end");
        return r;
}

void disk_stop_signals(sigset_t *ret_set) {
        static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
        struct sigaction action;

        sigemptyset(ret_set);
        for (size_t i = 0; i < ELEMENTSOF(signals); i++)
                if (sigaction(signals[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN)
                        sigaddset(ret_set, signals[i]);
}

int disk_open_file(const char *path, bool readonly, int *ret_fd, struct file **ret_file, struct error *e) {
        struct file_options options = { .readonly = readonly };
        _cleanup_close_ int fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        int r;

        if (fd < 0)
                return error_set(e, -errno, "disk-open", "check that the file exists and that you may open it: ls -l",
                                 "cannot open disk image %s", path);
        r = disk_claim(fd, readonly, path, e);
        if (r < 0)
                return r;
        options.fd = fd;
        r = file_open(&options, ret_file, e);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int disk_open_chain(const char *path, enum machine_disk_format format, const struct chain_options *options,
                    struct chain **ret_chain, struct error *e) {
        struct chain_options o = *options;
        int r;

        o.lock = disk_claim;
        r = chain_open(path, machine_disk_format_to_string(format), &o, ret_chain, e);
        if (r < 0 && e->id && streq(e->id, "qcow2-magic"))
                error_set_fix(e, "if it is a raw disk: --disk-format raw");
        return r;
}

struct qcow2_create disk_creation(const struct disk_file_options *o, uint64_t size) {
        return (struct qcow2_create){
                .size = size,
                .version = (unsigned int)o->version,
                .cluster = (uint32_t)o->cluster,
                .refcount_bits = (unsigned int)o->refcount_bits,
                .compression = o->compression == DISK_FILE_COMPRESSION_ZSTD ? QCOW2_ZSTD : QCOW2_ZLIB,
                .extended_l2 = o->extended_l2,
                .lazy_refcounts = o->lazy_refcounts,
                .preallocate_metadata = o->preallocate,
        };
}

const char *disk_recorded_format(const struct disk_file_options *o, struct error *e) {
        bool image = o->backing && *o->backing, format = o->backing_format != IMAGE_DISK_FORMAT_UNKNOWN;

        if (image && format)
                return image_disk_format_to_string(o->backing_format);
        if (image)
                error_set(e, -EINVAL, "backing-format", "--backing-format raw or --backing-format qcow2",
                          "the format of the backing image is not given, and it is never guessed");
        else
                error_set(e, -EINVAL, "backing-format", "name the image: --backing PATH",
                          "a format is given, but no backing image");
        return NULL;
}

int disk_work_begin(struct disk_work *w, uint64_t all, struct error *e) {
        *w = (struct disk_work){ .all = all, .shown = -1, .terminal = isatty(STDERR_FILENO) };
        disk_stop_signals(&w->signals);
        pthread_sigmask(SIG_BLOCK, &w->signals, &w->old_mask);
        w->buf = aligned_alloc(4096, DISK_WORK_BUFFER);
        w->other = aligned_alloc(4096, DISK_WORK_BUFFER);
        return w->buf && w->other ? 0 : error_set(e, -ENOMEM, "memory", NULL, "no memory for the data");
}

void disk_work_end(struct disk_work *w) {
        if (w->shown >= 0)
                fputs("\r      \r", stderr);
        free(w->buf);
        free(w->other);
        pthread_sigmask(SIG_SETMASK, &w->old_mask, NULL);
        *w = (struct disk_work){ .shown = -1, .old_mask = w->old_mask };
}

int disk_work_step(struct disk_work *w, uint64_t done, struct error *e) {
        static const struct timespec now = { 0 };
        int percent = w->all ? (int)((double)done / (double)w->all * 100) : 100;
        int signo = sigtimedwait(&w->signals, NULL, &now);

        w->done = done;
        if (signo > 0)
                return error_set(e, -EINTR, "interrupted", "start it again", "stopped by SIG%s after %d %% of the work",
                                 sigabbrev_np(signo), percent);
        if (w->terminal && percent != w->shown) {
                fprintf(stderr, "\r%3d %%", percent);
                w->shown = percent;
        }
        return 0;
}

int disk_read_failed(int r, uint64_t offset, struct error *e) {
        return error_set(
                e, r, "disk-read",
                "restore it from a backup; lodge image check FILE finds damage of the tables, but not of the data",
                "cannot read the disk at offset %ju", (uintmax_t)offset);
}

int disk_write_failed(int r, struct error *e) {
        return error_set(e, r, "disk-write", "check the file system's free space: df", "cannot write the disk image");
}

int disk_read(struct layer *layer, void *buf, uint64_t offset, uint64_t length, struct error *e) {
        uint64_t size = layer ? atomic_load(&layer->size) : 0;
        uint64_t inside = offset < size ? MIN(length, size - offset) : 0;
        int r = inside ? layer_read(layer, NULL, buf, offset, inside) : 0;

        memset((uint8_t *)buf + inside, 0, length - inside);
        return r < 0 ? disk_read_failed(r, offset, e) : 0;
}

bool disk_is_zero(const void *buf, size_t n) {
        const uint8_t *p = buf;

        return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}
