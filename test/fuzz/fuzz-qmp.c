// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz-qmp: any bytes on the control socket
 *
 * The stream is cut into objects and each is executed, as qmp.c does, against a machine that only notes what it is told.
 * The pieces that the stream arrives in must make no difference: it is fed twice, whole and byte by byte, and has to give
 * as many objects both times.
 */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vmm/control/frame.h"
#include "vmm/control/internal.h"
#include "vmm/machine/cpus.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- the machine, as far as QMP sees it ------------------------------------------------------------------------- */

int machine_pause(struct machine *machine) {
        machine->state = MACHINE_PAUSED;
        return 0;
}

int machine_resume(struct machine *machine) {
        machine->state = MACHINE_RUNNING;
        return 0;
}

int machine_reset(struct machine *machine) {
        return -EINVAL;
}

int machine_power_button(struct machine *machine) {
        return 0;
}

void machine_request_shutdown(struct machine *machine, enum shutdown_reason reason, int exit_status) {
}

int machine_listen(struct machine *machine, machine_event_fn fn, void *opaque) {
        return 0;
}

void machine_unlisten(struct machine *machine, machine_event_fn fn, void *opaque) {
}

const char *machine_state_name(enum machine_state state) {
        return "running";
}

unsigned int cpus_count(const struct cpus *cpus) {
        return 2;
}

int cpus_thread_id(const struct cpus *cpus, unsigned int index) {
        return 1;
}

static int set_disk_limits(struct machine *machine, unsigned int disk, const struct throttle_config *limits,
                           struct error *e) {
        return disk < 2 ? 0 : error_set(e, -ENOENT, "disk-unknown", NULL, "there is no disk %u", disk);
}

static void (*resized)(void *opaque, int result, const struct error *e);
static void *resized_opaque;

static int resize_disk(struct machine *machine, unsigned int disk, uint64_t size,
                       void (*done)(void *opaque, int result, const struct error *e), void *opaque, struct error *e) {
        if (disk >= 2)
                return error_set(e, -ENOENT, "disk-unknown", NULL, "there is no disk %u", disk);
        resized = done;
        resized_opaque = opaque;
        return 0;
}

static int mirror_disk(struct machine *machine, unsigned int disk, const struct machine_mirror *options,
                       struct error *e) {
        abort(); /* there are no descriptors to name */
}

static int query_disk_job(struct machine *machine, unsigned int disk, struct machine_disk_job *ret_job) {
        if (disk >= 2)
                return -ENOENT;
        *ret_job = (struct machine_disk_job){ .disk = disk, .state = MACHINE_JOB_READY, .done = 65536 };
        return disk == 0 ? -ESRCH : 0;
}

static int end_disk_job(struct machine *machine, unsigned int disk, bool complete, struct error *e) {
        return disk == 1 ? 0 : error_set(e, -ESRCH, "job-none", NULL, "disk%u is not being mirrored", disk);
}

static const struct machine_hooks hooks = {
        .set_disk_limits = set_disk_limits,
        .resize_disk = resize_disk,
        .mirror_disk = mirror_disk,
        .query_disk_job = query_disk_job,
        .end_disk_job = end_disk_job,
};

/* ---- the stream -------------------------------------------------------------------------------------------------- */

static void execute(struct qmp_context *context, bool *ready, const struct frame *frame) {
        json_auto_t *reply = qmp_execute(context, ready, frame->text, frame->len);
        _cleanup_free_ char *text = reply ? json_dumps(reply, JSON_COMPACT) : NULL;

        if (context->later && !reply) {
                resized(resized_opaque, 0, NULL); /* the answer, to nobody */
                return;
        }
        if (!text || (!json_object_get(reply, "return") && !json_object_get(reply, "error")))
                abort();
}

/* Feed in pieces of @piece bytes; returns how many objects came. */
static unsigned int feed(const char *bytes, size_t size, size_t piece, bool run) {
        struct frame *frame = calloc(1, sizeof(*frame));
        struct machine machine = { .state = MACHINE_RUNNING, .hooks = &hooks };
        struct qmp_fds fds;
        struct qmp_context context = { .machine = &machine, .fds = &fds };
        bool ready = false, end = false;
        unsigned int n = 0;

        if (!frame)
                abort();
        qmp_fds_init(&fds);
        for (size_t from = 0; from < size && !end; from += piece) {
                size_t length = MIN(piece, size - from), at = 0;

                while (at < length && !end) {
                        size_t before = at;
                        enum frame_result r = frame_feed(frame, bytes + from, length, &at);

                        if (at > length || (at == before && r == FRAME_MORE))
                                abort(); /* no progress: a loop for ever */
                        end = r == FRAME_TOO_BIG;
                        n += r == FRAME_OBJECT;
                        if (r == FRAME_OBJECT && run)
                                execute(&context, &ready, frame);
                }
        }
        free(frame);
        return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        if (size == 0)
                return -1;
        if (feed((const char *)data, size, size, true) != feed((const char *)data, size, 1, false))
                abort();
        return 0;
}
