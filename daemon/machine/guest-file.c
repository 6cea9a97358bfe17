// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * guest-file: parts of files in a guest, read and written by its agent
 *
 *      read:  guest-file-open r, -seek, -read, -close
 *      write: guest-file-open w (the beginning: what was there is gone) or r+, -seek, -write, -flush, -close
 *
 * Nothing is kept open from one request to the next: each says where in the file it is, so that one that got lost can be sent again, and a client
 * that goes away leaves nothing behind. The agent is the guest: what it says is checked.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/text.h"
#include "daemon/machine/internal.h"

struct guest_file_job {
        struct guest_file_job *next;
        struct machine_live *live;
        bool write, flushed, positioned;
        char *path, *content; /* what is to be written, in base64 */
        uint64_t offset;
        size_t length; /* what is to be read at most */
        json_int_t handle;
        struct guest_file_part part;
        struct error error;
        machine_file_fn fn; /* NULL: forgotten */
        void *opaque;
};

static void job_free(struct guest_file_job *job) {
        struct guest_file_job **at = &job->live->files;

        while (*at != job)
                at = &(*at)->next;
        *at = job->next;
        error_clear(&job->error);
        free(job->part.data);
        free(job->path);
        free(job->content);
        free(job);
}

static void job_end(struct guest_file_job *job) {
        if (job->fn)
                job->fn(job->opaque, job->error.code < 0 ? &job->error : NULL, &job->part);
        job_free(job);
}

/* The agent's words end in the guest's: "...: No such file or directory". */
static void refused(struct guest_file_job *job, int result, const char *reason) {
        static const struct {
                const char *text;
                int code;
        } known[] = {
                { "No such file or directory", -ENOENT },
                { "Is a directory", -EINVAL },
                { "Permission denied", -EACCES },
                { "No space left on device", -ENOSPC },
        };
        int code = -EPROTO;

        if (result == -EPIPE) {
                error_set(&job->error, -EIO, "agent-lost", NULL, "the guest agent is gone");
                return;
        }
        for (size_t i = 0; reason && i < ELEMENTSOF(known); i++)
                if (strstr(reason, known[i].text))
                        code = known[i].code;
        error_set(&job->error, code, "guest-file", NULL, "the guest says of %.300s: %.300s", job->path,
                  reason ?: "no reason given");
        error_set_fix(&job->error, "look in the guest: lodge exec %s ls -l PATH", job->live->name);
}

static int ask(struct guest_file_job *job, const char *command, json_t *arguments, agent_reply_fn fn) {
        int r = agent_call(job->live->agent, command, arguments, fn, job);

        if (r < 0)
                error_set(&job->error, -EAGAIN, "agent-busy", "try again in a moment",
                          "the guest agent of %s does not listen now", job->live->name);
        return r;
}

static void on_closed(void *opaque, int result, json_t *value, const char *reason) {
        struct guest_file_job *job = opaque;

        if (result < 0 && job->write && job->error.code == 0) /* a file system may only say now that it is full */
                refused(job, result, reason);
        job_end(job);
}

static void close_file(struct guest_file_job *job) {
        if (ask(job, "guest-file-close", json_pack("{s:I}", "handle", job->handle), on_closed) < 0)
                job_end(job);
}

static void next_step(struct guest_file_job *job);

static void on_step(void *opaque, int result, json_t *value, const char *reason) {
        struct guest_file_job *job = opaque;

        if (result < 0) {
                refused(job, result, reason);
                close_file(job);
        } else
                next_step(job);
}

static void broke(struct guest_file_job *job) {
        error_set(&job->error, -EPROTO, "agent-protocol", NULL, "the guest agent's answer makes no sense");
        close_file(job);
}

static void on_read(void *opaque, int result, json_t *value, const char *reason) {
        json_t *text = json_object_get(value, "buf-b64");
        struct guest_file_job *job = opaque;

        if (result < 0) {
                on_step(job, result, value, reason);
                return;
        }
        if (!json_is_string(text) ||
            base64_decode(json_string_value(text), json_string_length(text), &job->part.data, &job->part.n) < 0 ||
            job->part.n > job->length) {
                broke(job);
                return;
        }
        job->part.eof = json_is_true(json_object_get(value, "eof"));
        close_file(job);
}

static void on_written(void *opaque, int result, json_t *value, const char *reason) {
        json_int_t n = json_integer_value(json_object_get(value, "count"));
        struct guest_file_job *job = opaque;

        if (result == 0 && (n < 0 || (size_t)n > job->length)) {
                broke(job);
                return;
        }
        job->part.n = (size_t)n;
        on_step(job, result, value, reason);
}

static void next_step(struct guest_file_job *job) {
        json_int_t h = job->handle;
        int r;

        if (!job->positioned) {
                job->positioned = true;
                r = ask(job, "guest-file-seek",
                        json_pack("{s:I, s:I, s:s}", "handle", h, "offset", (json_int_t)job->offset, "whence", "set"),
                        on_step);
        } else if (!job->write)
                r = ask(job, "guest-file-read", json_pack("{s:I, s:I}", "handle", h, "count", (json_int_t)job->length),
                        on_read);
        else if (job->content) {
                r = ask(job, "guest-file-write", json_pack("{s:I, s:s}", "handle", h, "buf-b64", job->content),
                        on_written);
                free(TAKE_PTR(job->content));
        } else if (!job->flushed) {
                job->flushed = true;
                r = ask(job, "guest-file-flush", json_pack("{s:I}", "handle", h), on_step);
        } else {
                close_file(job);
                return;
        }
        if (r < 0)
                close_file(job);
}

static void on_opened(void *opaque, int result, json_t *value, const char *reason) {
        struct guest_file_job *job = opaque;

        if (result == 0 && json_is_integer(value)) {
                job->handle = json_integer_value(value);
                next_step(job);
                return;
        }
        if (result < 0)
                refused(job, result, reason);
        else
                error_set(&job->error, -EPROTO, "agent-protocol", NULL, "the guest agent's answer makes no sense");
        job_end(job);
}

static int begin(struct machines *ms, const struct store_machine *row, const struct guest_file_job *what,
                 const char *mode, struct error *e) {
        struct machine_live *live;
        struct guest_file_job *job;
        int r = live_agent(ms, row, &live, e);

        if (r < 0)
                return r;
        job = malloc(sizeof(*job));
        if (!job)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot reach the file");
        *job = *what;
        job->live = live;
        job->next = live->files;
        live->files = job;
        job->path = strdup(what->path);
        job->content = text_copy(what->content);
        job->positioned = job->offset == 0;
        if (!job->path || (what->content && !job->content))
                r = error_set(e, -ENOMEM, "memory", NULL, "cannot reach the file");
        else if (ask(job, "guest-file-open", json_pack("{s:s, s:s}", "path", job->path, "mode", mode), on_opened) < 0)
                r = error_set(e, -EAGAIN, "agent-busy", "try again in a moment",
                              "the guest agent of %s does not listen now", row->name);
        if (r < 0)
                job_free(job);
        return r;
}

int machine_file_read(struct machines *ms, const struct store_machine *row, const char *path, uint64_t offset,
                      size_t length, machine_file_fn fn, void *opaque, struct error *e) {
        const struct guest_file_job what = {
                .path = (char *)(uintptr_t)path, .offset = offset, .length = length, .fn = fn, .opaque = opaque
        };

        return begin(ms, row, &what, "r", e);
}

int machine_file_write(struct machines *ms, const struct store_machine *row, const char *path, uint64_t offset,
                       const char *content, machine_file_fn fn, void *opaque, struct error *e) {
        _cleanup_free_ unsigned char *data = NULL;
        struct guest_file_job what = { .path = (char *)(uintptr_t)path,
                                       .offset = offset,
                                       .content = (char *)(uintptr_t)content,
                                       .write = true,
                                       .fn = fn,
                                       .opaque = opaque };

        if (base64_decode(content, strlen(content), &data, &what.length) < 0)
                return error_set(e, -EINVAL, "base64", "encode it as RFC 4648, section 4, says, with padding",
                                 "the content is no base64");
        return begin(ms, row, &what, offset == 0 ? "w" : "r+", e);
}

void machine_file_forget(struct machines *ms, const void *opaque) {
        for (struct machine_live *l = ms->live; l; l = l->next)
                for (struct guest_file_job *job = l->files; job; job = job->next)
                        if (job->opaque == opaque)
                                job->fn = NULL;
}

void guest_files_end(struct machine_live *live) {
        while (live->files) {
                struct guest_file_job *job = live->files;

                agent_forget(live->agent, job);
                if (job->error.code == 0)
                        error_set(&job->error, -EIO, "machine-ended", NULL, "the machine has ended");
                job_end(job);
        }
}
