// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qmp-jobs: mirrors of disks
 *
 *      getfd, with a descriptor of the target's image, open for reading and writing
 *      blockdev-mirror   ... BLOCK_JOB_READY ... block-job-complete ... BLOCK_JOB_COMPLETED
 *
 * The commands and events are those of QEMU's QMP, with these differences. The target is the name of a descriptor, and `format` says what
 * is in it: "raw" or "qcow2". A job has the name of its disk, which has one at most. block-job-complete ends with a copy of the disk as it
 * is at that moment, and the machine stays with its own disk, unless blockdev-mirror was given `"pivot": true`. block-job-cancel gives the
 * copy up, also when it was ready.
 *
 * With `pivot` block-job-complete moves the disk, as in QEMU: all that the guest writes from then on goes to the target, and nothing to the old image.
 * When BLOCK_JOB_COMPLETED comes without an error, the old image is closed, with what it stood on, and the files belong to nobody here; with an
 * error, the machine is still on it. The disk keeps its size, its limits and what it does about errors. The target must not have larger
 * blocks than the guest was told, and is read and written past the host's page cache if the old image was. Only what the guest sees is
 * carried over: no bitmaps, snapshots or backing images.
 *
 * `len` and `offset` are bytes: `offset` of them are copied, `len` less `offset` are left, and `len` grows as the guest writes.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "schema/lodge-schema.h"
#include "vmm/control/internal.h"

const char *const qmp_blockdev_mirror_arguments[] = { "device", "target", "format", "sync", "speed", "pivot", NULL };
const char *const qmp_block_job_arguments[] = { "device", NULL };

static void disk_name(unsigned int disk, char name[static 16]) {
        snprintf(name, 16, "disk%u", disk);
}

/* The format called so, or NULL with @f filled. */
static const char *get_format(json_t *arguments, struct qmp_failure *f) {
        const char *format = json_string_value(json_object_get(arguments, "format"));
        int v = format ? vmm_disk_format_from_string(format) : -EINVAL;

        if (v < 0)
                qmp_fail(f, QMP_GENERIC, "Parameter 'format' expects the target's: 'raw' or 'qcow2'");
        return v < 0 ? NULL : vmm_disk_format_to_string((enum vmm_disk_format)v);
}

static bool get_flag(json_t *arguments, const char *name, bool *v, struct qmp_failure *f) {
        const json_t *flag = json_object_get(arguments, name);

        if (flag && !json_is_boolean(flag))
                qmp_fail(f, QMP_GENERIC, "Parameter '%s' expects true or false", name);
        else
                *v = json_is_true(flag);
        return !flag || json_is_boolean(flag);
}

json_t *qmp_blockdev_mirror(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        const char *target = json_string_value(json_object_get(arguments, "target"));
        json_t *sync = json_object_get(arguments, "sync");
        struct machine_mirror options = { .fd = target ? qmp_fd_find(context->fds, target) : -1 };
        struct machine *machine = context->machine;
        _cleanup_error_ struct error e = ERROR_INIT;
        unsigned int disk;

        if (!qmp_get_disk(arguments, &disk, f) || !qmp_get_number(arguments, "speed", INT64_MAX, &options.speed, f))
                return NULL;
        options.format = get_format(arguments, f);
        if (!options.format)
                return NULL;
        if (!get_flag(arguments, "pivot", &options.pivot, f))
                return NULL;
        if (sync && !streq(json_string_value(sync) ?: "", "full"))
                return qmp_fail(f, QMP_GENERIC, "Parameter 'sync' can be nothing but 'full'");
        if (options.fd < 0)
                return qmp_fail(f, QMP_GENERIC, "Parameter 'target' expects the name of a descriptor: see getfd");
        if (machine->hooks->mirror_disk(machine, disk, &options, &e) < 0)
                return qmp_fail(f, QMP_GENERIC, "%.120s", e.message ?: "the disk can't be mirrored");
        qmp_fd_forget(context->fds, target);
        return json_object();
}

/* What all that is said of a job begins with. */
static json_t *job_object(const struct machine_disk_job *job) {
        uint64_t len = job->done + job->left;
        char name[16];

        disk_name(job->disk, name);
        return json_pack("{s:s,s:s,s:I,s:I,s:I}", "type", "mirror", "device", name, "len", (json_int_t)len, "offset",
                         (json_int_t)job->done, "speed", (json_int_t)job->speed);
}

static json_t *job_info(const struct machine_disk_job *job) {
        static const char *const states[] = {
                [MACHINE_JOB_CREATED] = "created", [MACHINE_JOB_RUNNING] = "running",   [MACHINE_JOB_READY] = "ready",
                [MACHINE_JOB_PENDING] = "pending", [MACHINE_JOB_ABORTING] = "aborting",
        };
        json_t *info = job_object(job);
        json_t *more = json_pack("{s:b,s:s,s:b,s:b,s:s,s:b,s:b}", "ready", job->state == MACHINE_JOB_READY, "status",
                                 states[job->state], "busy", job->left > 0, "paused", false, "io-status", "ok",
                                 "auto-finalize", true, "auto-dismiss", true);

        _Static_assert(ELEMENTSOF(states) == MACHINE_JOB_STATE_COUNT, "each state has a name");
        json_object_update(info, more);
        json_decref(more);
        return info;
}

json_t *qmp_query_block_jobs(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        struct machine *machine = context->machine;
        json_t *list = json_array();
        struct machine_disk_job job;
        int r = 0;

        for (unsigned int i = 0; r != -ENOENT; i++) {
                r = machine->hooks->query_disk_job(machine, i, &job);
                if (r == 0)
                        json_array_append_new(list, job_info(&job));
        }
        return list;
}

static json_t *end_job(struct qmp_context *context, json_t *arguments, bool complete, struct qmp_failure *f) {
        struct machine *machine = context->machine;
        _cleanup_error_ struct error e = ERROR_INIT;
        unsigned int disk;

        if (!qmp_get_disk(arguments, &disk, f))
                return NULL;
        if (machine->hooks->end_disk_job(machine, disk, complete, &e) < 0)
                return qmp_fail(f, QMP_GENERIC, "%.120s", e.message ?: "the job can't be ended");
        return json_object();
}

json_t *qmp_block_job_cancel(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        return end_job(context, arguments, false, f);
}

json_t *qmp_block_job_complete(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        return end_job(context, arguments, true, f);
}

json_t *qmp_job_data(const struct machine_disk_job *job, enum machine_event event) {
        json_t *data;
        char name[16], text[160];

        if (event == MACHINE_EVENT_JOB_ERROR) {
                disk_name(job->disk, name);
                return json_pack("{s:s,s:s,s:s}", "device", name, "operation", job->write ? "write" : "read", "action",
                                 "report");
        }
        data = job_object(job);
        if (job->error) {
                snprintf(text, sizeof(text), "%.120s: %s", job->message ?: "the mirror has failed",
                         strerror(job->error));
                json_object_set_new(data, "error", json_string(text));
        }
        return data;
}
