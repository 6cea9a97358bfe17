// SPDX-License-Identifier: GPL-2.0-or-later
/* api-guest: requests to a machine's guest, by its agent: commands, and parts of files */
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "daemon/api/api.h"

/* ---- commands in the guest ------------------------------------------------------------------------------------------- */

/* Output of a guest's command is bytes; JSON is text. What is no UTF-8 is replaced. */
static char *text_of(const char *bytes, size_t n) {
        char *text = bytes ? g_utf8_make_valid(bytes, (gssize)n) : g_strdup("");
        char *own = strdup(text);

        g_free(text);
        return own;
}

static void on_exec(void *opaque, const struct error *e, const struct agent_result *result) {
        _cleanup_(exec_result_freep) struct exec_result *view = NULL;
        struct api_request *q = opaque;

        if (e || exec_result_new(&view) < 0) {
                api_answer_error(q, e);
                return;
        }
        view->status = (uint32_t)(result->status & 255);
        view->output = text_of(result->out, result->out_len);
        view->messages = text_of(result->err, result->err_len);
        view->truncated = result->out_truncated || result->err_truncated;
        api_answer(q, view);
}

static void forget_exec(struct api_request *q) {
        machine_exec_forget(q->api->o.machines, q);
}

int api_machine_exec(struct api_request *q, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        const struct machine_exec_request *how = q->body;
        int r = api_machine(q, &row, e);

        if (r == 0)
                r = machine_exec(q->api->o.machines, row, how->command, how->timeout, on_exec, q, e);
        if (r < 0)
                return r;
        q->forget = forget_exec;
        return 1;
}

/* ---- files in the guest ---------------------------------------------------------------------------------------------- */

struct file_request {
        const char *path; /* of the query or the body */
        uint64_t offset;
};

static struct file_request file_request_of(const struct api_request *q) {
        const struct machine_file_write_request *w = q->body;
        const struct machine_file_query *r = q->query;

        return w ? (struct file_request){ w->path, w->offset } : (struct file_request){ r->path, r->offset };
}

static void on_file(void *opaque, const struct error *e, const struct guest_file_part *part) {
        _cleanup_(machine_file_part_freep) struct machine_file_part *view = NULL;
        struct api_request *q = opaque;
        const struct file_request what = file_request_of(q);

        if (e || machine_file_part_new(&view) < 0) {
                api_answer_error(q, e);
                return;
        }
        view->path = strdup(what.path);
        view->offset = what.offset;
        view->size = part->n;
        view->eof = part->eof;
        if (!q->body)
                view->content = base64_encode(part->data ?: (const unsigned char *)"", part->n);
        api_answer(q, view);
}

static void forget_file(struct api_request *q) {
        machine_file_forget(q->api->o.machines, q);
}

int api_machine_file_read(struct api_request *q, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        const struct machine_file_query *how = q->query;
        int r = api_machine(q, &row, e);

        if (r == 0)
                r = machine_file_read(q->api->o.machines, row, how->path, how->offset, how->length, on_file, q, e);
        if (r < 0)
                return r;
        q->forget = forget_file;
        return 1;
}

int api_machine_file_write(struct api_request *q, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        const struct machine_file_write_request *how = q->body;
        int r = api_machine(q, &row, e);

        if (r == 0)
                r = machine_file_write(q->api->o.machines, row, how->path, how->offset, how->content ?: "", on_file, q,
                                       e);
        if (r < 0)
                return r;
        q->forget = forget_file;
        return 1;
}
