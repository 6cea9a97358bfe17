// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qmp-commands: what can be said on the control socket: the table of commands, and the shape of replies and events
 *
 * A request is {"execute": NAME, "arguments": {...}, "id": ANY}; the reply is {"return": ..., "id": ...} or
 * {"error": {"class": ..., "desc": ...}, "id": ...}. Anything else in a request, and any argument that a command does not
 * know, is an error, as in QEMU.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "schema/lodge-schema.h"
#include "vmm/control/internal.h"
#include "vmm/machine/cpus.h"

#define NOT_FOUND "CommandNotFound"

/* Return: the value of "return", a new reference; or NULL with @f filled (left empty: no memory). */
typedef json_t *(*command_fn)(struct qmp_context *context, json_t *arguments, struct qmp_failure *f);

static void json_unref(json_t **json) {
        json_decref(*json);
}
#define _cleanup_json_ _cleanup_(json_unref)

json_t *qmp_fail(struct qmp_failure *f, const char *class, const char *format, ...) {
        va_list ap;

        f->class = class;
        va_start(ap, format);
        vsnprintf(f->desc, sizeof(f->desc), format, ap);
        va_end(ap);
        return NULL;
}

/* For requests to the machine that succeed with nothing to say. */
static json_t *done(struct qmp_context *context, int r, struct qmp_failure *f) {
        if (r < 0)
                return qmp_fail(f, QMP_GENERIC, "not possible while the machine is in state '%s'",
                                machine_state_name(context->machine->state));
        return json_object();
}

static json_t *version(void) {
        unsigned int major = 0, minor = 0, micro = 0;

        sscanf(LODGE_VERSION, "%u.%u.%u", &major, &minor, &micro);
        return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "micro", micro, "minor", minor, "major", major, "package",
                         "lodge-vmm " LODGE_VERSION);
}

static json_t *capabilities(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        json_t *enable = json_object_get(arguments, "enable");

        if (enable && (!json_is_array(enable) || json_array_size(enable) > 0))
                return qmp_fail(f, QMP_GENERIC, "no capability is on offer, so 'enable' has to be an empty list");
        return json_object();
}

static json_t *query_status(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        enum machine_state state = context->machine->state;

        return json_pack("{s:s,s:b}", "status", machine_state_name(state), "running", state == MACHINE_RUNNING);
}

static json_t *query_version(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        return version();
}

static json_t *query_name(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        const char *name = context->machine->config->name;

        return name ? json_pack("{s:s}", "name", name) : json_object();
}

static json_t *query_cpus_fast(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        _cleanup_json_ json_t *list = json_array();
        unsigned int n = context->machine->cpus ? cpus_count(context->machine->cpus) : 0;

        for (unsigned int i = 0; list && i < n; i++) {
                char path[32];

                snprintf(path, sizeof(path), "/machine/cpu[%u]", i);
                if (json_array_append_new(list,
                                          json_pack("{s:i,s:s,s:i,s:s}", "cpu-index", i, "qom-path", path, "thread-id",
                                                    cpus_thread_id(context->machine->cpus, i), "target", "x86_64")) < 0)
                        return NULL;
        }
        return TAKE_PTR(list);
}

static json_t *stop(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        return done(context, machine_pause(context->machine), f);
}

static json_t *cont(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        return done(context, machine_resume(context->machine), f);
}

static json_t *system_powerdown(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        return done(context, machine_power_button(context->machine), f);
}

static json_t *system_reset(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        int r;

        context->resetting = true;
        r = machine_reset(context->machine);
        context->resetting = false;
        return done(context, r, f);
}

static json_t *quit(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        context->quitting = true;
        machine_request_shutdown(context->machine, SHUTDOWN_HOST_QUIT, 0);
        return json_object();
}

static json_t *query_commands(struct qmp_context *context, json_t *arguments, struct qmp_failure *f);

static const struct command {
        const char *name;
        command_fn fn;
        const char *const *arguments; /* those that it knows, NULL at the end; or NULL */
} commands[] = {
        { "qmp_capabilities", capabilities, (const char *const[]){ "enable", NULL } },
        { "block_resize", qmp_block_resize, qmp_block_resize_arguments },
        { "block_set_io_throttle", qmp_block_set_io_throttle, qmp_block_set_io_throttle_arguments },
        { "block-job-cancel", qmp_block_job_cancel, qmp_block_job_arguments },
        { "block-job-complete", qmp_block_job_complete, qmp_block_job_arguments },
        { "blockdev-mirror", qmp_blockdev_mirror, qmp_blockdev_mirror_arguments },
        { "closefd", qmp_closefd, qmp_fd_arguments },
        { "getfd", qmp_getfd, qmp_fd_arguments },
        { "query-block-jobs", qmp_query_block_jobs },
        { "query-blockstats", qmp_query_blockstats, qmp_query_blockstats_arguments },
        { "query-commands", query_commands },
        { "query-cpus-fast", query_cpus_fast },
        { "query-name", query_name },
        { "query-status", query_status },
        { "query-version", query_version },
        { "stop", stop },
        { "cont", cont },
        { "system_powerdown", system_powerdown },
        { "system_reset", system_reset },
        { "quit", quit },
};

static json_t *query_commands(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        _cleanup_json_ json_t *list = json_array();

        for (size_t i = 0; list && i < ELEMENTSOF(commands); i++)
                if (json_array_append_new(list, json_pack("{s:s}", "name", commands[i].name)) < 0)
                        return NULL;
        return TAKE_PTR(list);
}

json_t *qmp_greeting(void) {
        return json_pack("{s:{s:o,s:[]}}", "QMP", "version", version(), "capabilities");
}

json_t *qmp_error_reply(const char *class, const char *desc, json_t *id) {
        json_t *reply = json_pack("{s:{s:s,s:s}}", "error", "class", class, "desc", desc);

        if (reply && id && json_object_set(reply, "id", id) < 0) {
                json_decref(reply);
                return NULL;
        }
        return reply;
}

json_t *qmp_reply(json_t *result, const struct qmp_failure *f, json_t *id) {
        _cleanup_json_ json_t *reply = NULL;

        if (!result)
                return qmp_error_reply(f->class, f->desc, id);
        reply = json_pack("{s:O}", "return", result);
        if (reply && id && json_object_set(reply, "id", id) < 0)
                return NULL;
        return TAKE_PTR(reply);
}

struct qmp_call *qmp_call_new(struct qmp_context *context) {
        return context->later = calloc(1, sizeof(struct qmp_call));
}

/* May be quoted in a reply: names from the client are printed, cut, and no longer than this. */
#define QUOTE "'%.40s'"

/* The parts of a request, borrowed from it; false with @f filled when it has another shape. */
static bool take_apart(json_t *request, const char **ret_name, json_t **ret_arguments, struct qmp_failure *f) {
        const char *key;
        json_t *value;

        if (!json_is_object(request)) {
                qmp_fail(f, QMP_GENERIC, "QMP input must be a JSON object");
                return false;
        }
        *ret_name = NULL;
        *ret_arguments = NULL;
        json_object_foreach(request, key, value) {
                if (streq(key, "id"))
                        continue;
                if (streq(key, "execute") && json_is_string(value))
                        *ret_name = json_string_value(value);
                else if (streq(key, "arguments") && json_is_object(value))
                        *ret_arguments = value;
                else if (streq(key, "execute") || streq(key, "arguments")) {
                        qmp_fail(f, QMP_GENERIC, "QMP input member '%s' must be %s", key,
                                 streq(key, "execute") ? "a string" : "an object");
                        return false;
                } else {
                        qmp_fail(f, QMP_GENERIC, "QMP input member " QUOTE " is unexpected", key);
                        return false;
                }
        }
        if (!*ret_name)
                qmp_fail(f, QMP_GENERIC, "QMP input lacks member 'execute'");
        return *ret_name;
}

static const struct command *find_command(const char *name, bool ready, struct qmp_failure *f) {
        bool negotiation = streq(name, commands[0].name);

        if (!ready && !negotiation) {
                qmp_fail(f, NOT_FOUND, "Expecting capabilities negotiation with 'qmp_capabilities'");
                return NULL;
        }
        if (ready && negotiation) {
                qmp_fail(f, NOT_FOUND, "Capabilities negotiation is already complete, command ignored");
                return NULL;
        }
        for (size_t i = 0; i < ELEMENTSOF(commands); i++)
                if (streq(name, commands[i].name))
                        return &commands[i];
        qmp_fail(f, NOT_FOUND, "The command " QUOTE " has not been found", name);
        return NULL;
}

static bool knows(const struct command *command, const char *argument) {
        for (const char *const *a = command->arguments; a && *a; a++)
                if (streq(*a, argument))
                        return true;
        return false;
}

static json_t *run(struct qmp_context *context, bool *ready, json_t *request, struct qmp_failure *f) {
        const struct command *command;
        const char *name, *key;
        json_t *arguments, *value, *result;

        if (!take_apart(request, &name, &arguments, f))
                return NULL;
        command = find_command(name, *ready, f);
        if (!command)
                return NULL;
        json_object_foreach(arguments, key, value) {
                if (!knows(command, key))
                        return qmp_fail(f, QMP_GENERIC, "Parameter " QUOTE " is unexpected", key);
        }
        result = command->fn(context, arguments, f);
        if (result && command == &commands[0])
                *ready = true;
        return result;
}

json_t *qmp_execute(struct qmp_context *context, bool *ready, const char *text, size_t len) {
        _cleanup_json_ json_t *request = NULL, *result = NULL;
        struct qmp_failure f = { 0 };
        json_error_t where;
        json_t *id;

        context->later = NULL;
        request = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
        if (!request)
                return qmp_error_reply(QMP_GENERIC, "Invalid JSON syntax", NULL);
        id = json_object_get(request, "id");
        result = run(context, ready, request, &f);
        if (context->later)
                context->later->id = json_incref(id);
        return result || f.class ? qmp_reply(result, &f, id) : NULL;
}

/* Events: the name of each, and how each reason for an end reads in QMP. */
static const char *const event_names[] = {
        [MACHINE_EVENT_STOP] = "STOP",
        [MACHINE_EVENT_RESUME] = "RESUME",
        [MACHINE_EVENT_RESET] = "RESET",
        [MACHINE_EVENT_POWERDOWN] = "POWERDOWN",
        [MACHINE_EVENT_SHUTDOWN] = "SHUTDOWN",
        [MACHINE_EVENT_GUEST_PANICKED] = "GUEST_PANICKED",
        [MACHINE_EVENT_INTERNAL_ERROR] = "STOP", /* QEMU's way to say it; query-status names the state */
        [MACHINE_EVENT_DISK_ERROR] = "BLOCK_IO_ERROR",
        [MACHINE_EVENT_JOB_READY] = "BLOCK_JOB_READY",
        [MACHINE_EVENT_JOB_ERROR] = "BLOCK_JOB_ERROR",
        [MACHINE_EVENT_JOB_COMPLETED] = "BLOCK_JOB_COMPLETED",
        [MACHINE_EVENT_JOB_CANCELLED] = "BLOCK_JOB_CANCELLED",
};

static const struct {
        bool guest;
        const char *name;
} reasons[] = {
        [SHUTDOWN_GUEST] = { true, "guest-shutdown" },   [SHUTDOWN_GUEST_RESET] = { true, "guest-reset" },
        [SHUTDOWN_HOST_QUIT] = { false, "host-signal" }, [SHUTDOWN_DEBUG_EXIT] = { true, "guest-shutdown" },
        [SHUTDOWN_PANIC] = { true, "guest-panic" },      [SHUTDOWN_ERROR] = { false, "host-error" },
};
_Static_assert(ELEMENTSOF(reasons) == SHUTDOWN_REASON_COUNT, "each reason has a name");

static json_t *disk_error_data(const struct machine_disk_error *d) {
        static const char *const actions[] = {
                [DISK_ERROR_REPORT] = "report",
                [DISK_ERROR_PAUSE] = "stop",
                [DISK_ERROR_IGNORE] = "ignore",
        };
        char name[16];

        snprintf(name, sizeof(name), "disk%u", d->disk);
        return json_pack("{s:s,s:s,s:s,s:s,s:b,s:s}", "device", name, "node-name", name, "operation",
                         d->write ? "write" : "read", "action", actions[d->action], "nospace", d->error == ENOSPC,
                         "reason", strerror(d->error));
}

static json_t *event_data(const struct qmp_context *context, enum machine_event event, enum shutdown_reason reason) {
        bool guest = reasons[reason].guest;
        const char *name = reasons[reason].name;

        switch (event) {
        case MACHINE_EVENT_RESET:
                if (context->resetting) {
                        guest = false;
                        name = "host-qmp-system-reset";
                }
                break;
        case MACHINE_EVENT_SHUTDOWN:
                if (context->quitting && reason == SHUTDOWN_HOST_QUIT)
                        name = "host-qmp-quit";
                break;
        case MACHINE_EVENT_DISK_ERROR:
                return disk_error_data(&context->machine->disk_error);
        case MACHINE_EVENT_JOB_READY:
        case MACHINE_EVENT_JOB_ERROR:
        case MACHINE_EVENT_JOB_COMPLETED:
        case MACHINE_EVENT_JOB_CANCELLED:
                return qmp_job_data(&context->machine->disk_job, event);
        case MACHINE_EVENT_GUEST_PANICKED:
                return json_pack("{s:s}", "action", "poweroff");
        default:
                return NULL;
        }
        return json_pack("{s:b,s:s}", "guest", guest, "reason", name);
}

json_t *qmp_event(const struct qmp_context *context, enum machine_event event, enum shutdown_reason reason) {
        _cleanup_json_ json_t *object = NULL;
        json_t *data = event_data(context, event, reason);
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        object = json_pack("{s:{s:I,s:i},s:s,s:o*}", "timestamp", "seconds", (json_int_t)now.tv_sec, "microseconds",
                           (int)(now.tv_nsec / 1000), "event", event_names[event], "data", data);
        return TAKE_PTR(object);
}
