// SPDX-License-Identifier: GPL-2.0-or-later
/* wire: see wire.h */
#include "daemon/wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/sys.h"

static const char in_memory[] = "@";

static int send_memory(int sock, const char *text, size_t n, const int *fds, size_t n_fds) {
        _cleanup_close_ int memory = memfd_create("lodge-message", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        int all[WIRE_FDS_MAX + 1], r;

        if (memory < 0)
                return -errno;
        r = io_write_all(memory, text, n);
        if (r < 0)
                return r;
        if (fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
                return -errno;
        all[0] = memory;
        if (n_fds)
                memcpy(all + 1, fds, n_fds * sizeof(*fds));
        return io_send_fds(sock, in_memory, sizeof(in_memory) - 1, all, n_fds + 1);
}

int wire_send(int sock, const json_t *json, const int *fds, size_t n_fds) {
        _cleanup_free_ char *text = json_dumps(json, JSON_COMPACT);
        size_t n;

        if (!text)
                return -ENOMEM;
        n = strlen(text);
        if (n_fds > WIRE_FDS_MAX || n > WIRE_TEXT_MAX)
                return -EMSGSIZE;
        if (n > WIRE_INLINE_MAX)
                return send_memory(sock, text, n, fds, n_fds);
        return io_send_fds(sock, text, n, fds, n_fds);
}

/* A memory file whose length and content can no longer change. */
static int read_memory(int fd, char **ret_text, size_t *ret_n) {
        const int wanted = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
        _cleanup_free_ char *text = NULL;
        struct stat st;
        int r;

        if ((fcntl(fd, F_GET_SEALS) & wanted) != wanted || fstat(fd, &st) < 0)
                return -EPROTO;
        if (st.st_size <= 0 || (uint64_t)st.st_size > WIRE_TEXT_MAX)
                return -EPROTO;
        text = malloc((size_t)st.st_size);
        if (!text)
                return -ENOMEM;
        r = io_read_at(&sys_real, fd, text, (size_t)st.st_size, 0);
        if (r < 0)
                return r;
        *ret_n = (size_t)st.st_size;
        *ret_text = TAKE_PTR(text);
        return 0;
}

int wire_receive(int sock, struct wire_message *ret_message) {
        struct wire_message m = { .n_fds = WIRE_FDS_MAX };
        _cleanup_free_ char *text = malloc(WIRE_INLINE_MAX + 1);
        int fds[WIRE_FDS_MAX + 1], r = 0;
        size_t n_fds = WIRE_FDS_MAX + 1, n, first = 0;
        ssize_t got;

        if (!text)
                return -ENOMEM;
        got = io_recv_fds(sock, text, WIRE_INLINE_MAX + 1, fds, &n_fds);
        if (got <= 0)
                return (int)got;
        n = (size_t)got;
        if (n == 1 && text[0] == in_memory[0] && n_fds > 0) {
                free(TAKE_PTR(text));
                r = read_memory(fds[0], &text, &n);
                close(fds[0]);
                first = 1;
        } else if (n > WIRE_INLINE_MAX || n_fds > WIRE_FDS_MAX)
                r = -EPROTO;
        m.n_fds = 0;
        for (size_t i = first; i < n_fds; i++) {
                if (r == 0)
                        m.fds[m.n_fds++] = fds[i];
                else
                        close(fds[i]);
        }
        if (r == 0) {
                m.json = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
                if (!json_is_object(m.json))
                        r = -EPROTO;
        }
        if (r < 0) {
                wire_message_clear(&m);
                return r;
        }
        *ret_message = m;
        return 1;
}

void wire_message_clear(struct wire_message *m) {
        json_decref(m->json);
        m->json = NULL;
        for (size_t i = 0; i < m->n_fds; i++)
                safe_close(m->fds[i]);
        m->n_fds = 0;
}

int wire_take_fd(struct wire_message *m, size_t i) {
        int fd;

        if (i >= m->n_fds)
                return -EBADF;
        fd = m->fds[i];
        m->fds[i] = -EBADF;
        return fd;
}

json_t *wire_error(const struct error *e) {
        return json_pack("{s:s, s:s, s:s*, s:i}", "id", e->id ?: "unknown", "message", e->message ?: "it failed", "fix",
                         e->fix, "errno", -e->code);
}

int wire_load_error(const json_t *json, struct error *e) {
        const char *id = json_string_value(json_object_get(json, "id"));
        const char *message = json_string_value(json_object_get(json, "message"));
        const char *fix = json_string_value(json_object_get(json, "fix"));
        json_int_t code = json_integer_value(json_object_get(json, "errno"));

        return error_set_foreign(e, code > 0 && code < 4096 ? (int)-code : -EIO, id, fix, message ?: "it failed");
}
