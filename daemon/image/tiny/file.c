// SPDX-License-Identifier: GPL-2.0-or-later
/* file: see file.h */
#include "daemon/image/tiny/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base64.h"

#define READ_MAX (1 << 20)

void files_init(struct files *f) {
        for (size_t i = 0; i < FILES_MAX; i++)
                f->fds[i] = -1;
}

void files_close(struct files *f) {
        for (size_t i = 0; i < FILES_MAX; i++) {
                if (f->fds[i] >= 0)
                        close(f->fds[i]);
                f->fds[i] = -1;
        }
}

__attribute__((format(printf, 2, 3))) static json_t *fail(char desc[FILE_DESC_SIZE], const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        vsnprintf(desc, FILE_DESC_SIZE, format, ap);
        va_end(ap);
        return NULL;
}

/* The slot of a handle, or -1. */
static int slot_of(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]) {
        json_int_t handle = json_integer_value(json_object_get(args, "handle"));

        if (handle >= 1 && handle <= FILES_MAX && f->fds[handle - 1] >= 0)
                return (int)handle - 1;
        fail(desc, "handle '%lld' has not been found", (long long)handle);
        return -1;
}

json_t *file_open(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]) {
        static const struct {
                const char *mode;
                int flags;
        } modes[] = {
                { "r", O_RDONLY }, { "w", O_WRONLY | O_CREAT | O_TRUNC }, { "a", O_WRONLY | O_CREAT | O_APPEND },
                { "r+", O_RDWR },  { "w+", O_RDWR | O_CREAT | O_TRUNC },  { "a+", O_RDWR | O_CREAT | O_APPEND },
        };
        const char *path = json_string_value(json_object_get(args, "path"));
        const char *mode = json_string_value(json_object_get(args, "mode"));
        size_t slot = 0, m = 0;

        if (!path)
                return fail(desc, "Parameter 'path' is missing");
        while (m < sizeof(modes) / sizeof(*modes) && strcmp(mode ? mode : "r", modes[m].mode) != 0)
                m++;
        if (m == sizeof(modes) / sizeof(*modes))
                return fail(desc, "invalid file open mode '%.20s'", mode);
        while (slot < FILES_MAX && f->fds[slot] >= 0)
                slot++;
        if (slot == FILES_MAX)
                return fail(desc, "too many open files");
        f->fds[slot] = open(path, modes[m].flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666);
        if (f->fds[slot] < 0)
                return fail(desc, "failed to open file '%.100s' (mode: '%s'): %s", path, modes[m].mode,
                            strerror(errno));
        return json_integer((json_int_t)slot + 1);
}

json_t *file_close(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]) {
        int slot = slot_of(f, args, desc);

        if (slot < 0)
                return NULL;
        close(f->fds[slot]);
        f->fds[slot] = -1;
        return json_object();
}

json_t *file_read(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]) {
        json_t *count = json_object_get(args, "count"), *value;
        json_int_t n = json_is_integer(count) ? json_integer_value(count) : 4096;
        int slot = slot_of(f, args, desc);
        char *data, *text;
        ssize_t got = -1;
        size_t done = 0;

        if (slot < 0)
                return NULL;
        if (n < 0 || n > READ_MAX)
                return fail(desc, "value '%lld' is invalid for argument count", (long long)n);
        data = malloc((size_t)n + 1);
        while (data && done < (size_t)n) { /* one read() may bring less than there is: /proc, a FIFO */
                got = read(f->fds[slot], data + done, (size_t)n - done);
                if (got <= 0)
                        break;
                done += (size_t)got;
        }
        if (!data || (got < 0 && done == 0 && n > 0)) {
                free(data);
                return fail(desc, "failed to read file: %s", strerror(errno));
        }
        text = base64_encode(data, done);
        value = text ? json_pack("{s:I, s:s, s:b}", "count", (json_int_t)done, "buf-b64", text, "eof", got == 0) : NULL;
        free(text);
        free(data);
        return value ? value : fail(desc, "out of memory");
}

json_t *file_write(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]) {
        json_t *text = json_object_get(args, "buf-b64");
        int slot = slot_of(f, args, desc);
        unsigned char *data;
        ssize_t done;
        size_t n;

        if (slot < 0)
                return NULL;
        if (!json_is_string(text) || base64_decode(json_string_value(text), json_string_length(text), &data, &n) < 0)
                return fail(desc, "Parameter 'buf-b64' is not base64");
        done = write(f->fds[slot], data, n);
        free(data);
        if (done < 0)
                return fail(desc, "failed to write to file: %s", strerror(errno));
        return json_pack("{s:I, s:b}", "count", (json_int_t)done, "eof", 0);
}

json_t *file_seek(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]) {
        json_t *whence = json_object_get(args, "whence");
        const char *name = json_string_value(whence);
        json_int_t from = json_integer_value(whence), offset = json_integer_value(json_object_get(args, "offset"));
        int slot = slot_of(f, args, desc);
        off_t at;

        if (slot < 0)
                return NULL;
        if (name)
                from = strcmp(name, "set") == 0 ? 0 : strcmp(name, "cur") == 0 ? 1 : strcmp(name, "end") == 0 ? 2 : -1;
        if (from < 0 || from > 2)
                return fail(desc, "invalid parameter 'whence'");
        at = lseek(f->fds[slot], (off_t)offset, from == 0 ? SEEK_SET : from == 1 ? SEEK_CUR : SEEK_END);
        if (at < 0)
                return fail(desc, "failed to seek file: %s", strerror(errno));
        return json_pack("{s:I, s:b}", "position", (json_int_t)at, "eof", 0);
}

json_t *file_flush(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]) {
        return slot_of(f, args, desc) < 0 ? NULL : json_object(); /* nothing is kept back */
}
