// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qmp-disk: commands about disks
 *
 * A disk is called "disk0", "disk1", ... in the machine's order. Limits have the names and the meaning that QEMU's QMP gives them, except
 * that all bursts of a disk have one length.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/lodge-schema.h"
#include "vmm/control/internal.h"

#define VALUE_MAX 1000000000000000ll

/* Behind the names: the limits, then the lengths of their bursts. */
#define FIRST_LIMIT 3
#define N_REQUIRED  6 /* of the limits, the first ones */

const char *const qmp_block_set_io_throttle_arguments[] = {
        "id",
        "device",
        "group",
        "bps",
        "bps_rd",
        "bps_wr",
        "iops",
        "iops_rd",
        "iops_wr",
        "bps_max",
        "bps_rd_max",
        "bps_wr_max",
        "iops_max",
        "iops_rd_max",
        "iops_wr_max",
        "iops_size",
        "bps_max_length",
        "bps_rd_max_length",
        "bps_wr_max_length",
        "iops_max_length",
        "iops_rd_max_length",
        "iops_wr_max_length",
        NULL,
};

/* Where each limit goes: uint64_t's. */
#define AT(member) offsetof(struct throttle_config, member)
static const size_t limit_offsets[] = {
        AT(bps),        AT(bps_read),        AT(bps_write),
        AT(iops),       AT(iops_read),       AT(iops_write),
        AT(bps_burst),  AT(bps_read_burst),  AT(bps_write_burst),
        AT(iops_burst), AT(iops_read_burst), AT(iops_write_burst),
        AT(iops_size),
};

bool qmp_get_number(json_t *arguments, const char *name, int64_t max, uint64_t *v, struct qmp_failure *f) {
        json_t *value = json_object_get(arguments, name);

        if (!value)
                return true;
        if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > max) {
                qmp_fail(f, QMP_GENERIC, "Parameter '%s' expects a number from 0 to %lld", name, (long long)max);
                return false;
        }
        *v = (uint64_t)json_integer_value(value);
        return true;
}

static bool get_limits(json_t *arguments, struct throttle_config *c, struct qmp_failure *f) {
        const char *const *name = qmp_block_set_io_throttle_arguments + FIRST_LIMIT;
        uint64_t seconds = 0;

        for (size_t i = 0; i < ELEMENTSOF(limit_offsets); i++, name++) {
                if (i < N_REQUIRED && !json_object_get(arguments, *name)) {
                        qmp_fail(f, QMP_GENERIC, "Parameter '%s' is missing", *name);
                        return false;
                }
                if (!qmp_get_number(arguments, *name, VALUE_MAX, (uint64_t *)((char *)c + limit_offsets[i]), f))
                        return false;
        }
        for (; *name; name++) {
                uint64_t before = seconds;

                if (!qmp_get_number(arguments, *name, VALUE_MAX, &seconds, f))
                        return false;
                if (before > 0 && seconds != before) {
                        qmp_fail(f, QMP_GENERIC, "Parameter '%s' differs from another burst's length", *name);
                        return false;
                }
        }
        c->burst_seconds = seconds > 0 ? (uint32_t)MIN(seconds, (uint64_t)UINT32_MAX) : 1;
        return true;
}

bool qmp_get_disk(json_t *arguments, unsigned int *ret_index, struct qmp_failure *f) {
        json_t *value = json_object_get(arguments, "id") ?: json_object_get(arguments, "device") ?: json_object_get(arguments, "node-name");
        const char *name = json_string_value(value);
        int end = 0;

        if (name && sscanf(name, "disk%2u%n", ret_index, &end) == 1 && name[end] == '\0' && end > 4)
                return true;
        if (!value)
                qmp_fail(f, QMP_GENERIC, "Parameter 'id' is missing: a disk's name");
        else
                qmp_fail(f, QMP_GENERIC, "Device '%.40s' not found: disks are disk0, disk1, ...", name ?: "");
        return false;
}

json_t *qmp_block_set_io_throttle(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        struct machine *machine = context->machine;
        struct throttle_config c = { 0 };
        json_t *group = json_object_get(arguments, "group");
        char name[64];
        unsigned int index;
        _cleanup_error_ struct error e = ERROR_INIT;

        if (!qmp_get_disk(arguments, &index, f) || !get_limits(arguments, &c, f))
                return NULL;
        if (group && (!json_is_string(group) || json_string_length(group) - 1 >= sizeof(name) - 1))
                return qmp_fail(f, QMP_GENERIC, "Parameter 'group' expects a name of at most %zu bytes",
                                sizeof(name) - 1);
        if (group) {
                snprintf(name, sizeof(name), "%s", json_string_value(group));
                c.group = name;
        }
        if (machine->hooks->set_disk_limits(machine, index, &c, &e) < 0)
                return qmp_fail(f, QMP_GENERIC, "%.120s", e.message);
        return json_object();
}

/* ---- resize ------------------------------------------------------------------------------------------------------ */

const char *const qmp_block_resize_arguments[] = { "device", "node-name", "size", NULL };

static void on_resized(void *opaque, int result, const struct error *e) {
        struct qmp_failure f = { 0 };

        if (result < 0)
                qmp_fail(&f, QMP_GENERIC, "%.120s: %s", e->message ?: "the disk is not resized", strerror(-result));
        qmp_call_finish(opaque, result < 0 ? &f : NULL);
}

json_t *qmp_block_resize(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        struct machine *machine = context->machine;
        _cleanup_error_ struct error e = ERROR_INIT;
        unsigned int index;
        uint64_t size = 0;

        if (!qmp_get_disk(arguments, &index, f) || !qmp_get_number(arguments, "size", INT64_MAX, &size, f))
                return NULL;
        if (size == 0)
                return qmp_fail(f, QMP_GENERIC, "Parameter 'size' is missing: bytes");
        if (!qmp_call_new(context))
                return NULL;
        if (machine->hooks->resize_disk(machine, index, size, on_resized, context->later, &e) == 0)
                return NULL;
        free(TAKE_PTR(context->later));
        return qmp_fail(f, QMP_GENERIC, "%.120s", e.message ?: "the disk can't be resized");
}

/* ---- what disks have done ---------------------------------------------------------------------------------------- */

const char *const qmp_query_blockstats_arguments[] = { "query-nodes", NULL };

/* BlockDeviceStats, as far as we count: there are no times, no merged requests and no highest offset. */
static json_t *disk_stats(const struct machine_disk_stats *s) {
        static const struct {
                const char *bytes, *operations, *failed;
        } names[] = {
                [MACHINE_DISK_READ] = { "rd_bytes", "rd_operations", "failed_rd_operations" },
                [MACHINE_DISK_WRITE] = { "wr_bytes", "wr_operations", "failed_wr_operations" },
                [MACHINE_DISK_FLUSH] = { NULL, "flush_operations", "failed_flush_operations" },
                [MACHINE_DISK_UNMAP] = { "unmap_bytes", "unmap_operations", "failed_unmap_operations" },
        };
        json_t *o = json_object();

        _Static_assert(ELEMENTSOF(names) == MACHINE_DISK_STAT_COUNT, "each kind has names");
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                if (names[i].bytes)
                        json_object_set_new(o, names[i].bytes, json_integer((json_int_t)s->bytes[i]));
                json_object_set_new(o, names[i].operations, json_integer((json_int_t)s->operations[i]));
                json_object_set_new(o, names[i].failed, json_integer((json_int_t)s->failed[i]));
        }
        return o;
}

/* Disks that a back end serves are missing, as they are in QEMU's answer. */
json_t *qmp_query_blockstats(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        struct machine *machine = context->machine;
        json_t *nodes = json_object_get(arguments, "query-nodes"), *list;
        struct machine_disk_stats stats;
        int r = 0;

        if (nodes && !json_is_false(nodes))
                return qmp_fail(f, QMP_GENERIC,
                                "Parameter 'query-nodes' must be false: a disk's images are not counted apart");
        list = json_array();
        for (unsigned int i = 0; r != -ENOENT; i++) {
                char name[16];

                r = machine->hooks->query_disk_stats(machine, i, &stats);
                if (r < 0)
                        continue;
                snprintf(name, sizeof(name), "disk%u", i);
                json_array_append_new(list, json_pack("{s:s,s:s,s:o}", "device", name, "node-name", name, "stats",
                                                      disk_stats(&stats)));
        }
        return list;
}
