// SPDX-License-Identifier: GPL-2.0-or-later
/* op-usage: what machines have used so far: CPU time, memory, what went through their taps */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/broker/broker.h"
#include "daemon/keeper/client.h"
#include "daemon/network/network.h"

/* proc(5): utime and stime are fields 14 and 15 of stat; the name, field 2, may hold anything but ends with the last ')'. */
static uint64_t cpu_us(uint32_t pid) {
        char path[64], text[1024], *fields;
        unsigned long long user = 0, system = 0;
        FILE *f;
        size_t n;

        snprintf(path, sizeof(path), "/proc/%" PRIu32 "/stat", pid);
        f = fopen(path, "re");
        if (!f)
                return 0;
        n = fread(text, 1, sizeof(text) - 1, f);
        fclose(f);
        text[n] = 0;
        fields = strrchr(text, ')');
        if (!fields ||
            sscanf(fields + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) != 2)
                return 0;
        return (user + system) * 1000000ull / (uint64_t)sysconf(_SC_CLK_TCK);
}

static uint64_t memory_bytes(uint32_t pid) {
        unsigned long long resident = 0;
        char path[64];
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%" PRIu32 "/statm", pid);
        f = fopen(path, "re");
        if (!f)
                return 0;
        if (fscanf(f, "%*u %llu", &resident) != 1)
                resident = 0;
        fclose(f);
        return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static json_t *sample(const char *machines, const char *uuid) {
        _cleanup_(keeper_status_freep) struct keeper_status *status = NULL;
        _cleanup_close_ int fd = -EBADF;
        char dir[4096];

        snprintf(dir, sizeof(dir), "%s/%s", machines, uuid);
        if (keeper_connect(dir, &fd, NULL) < 0 || keeper_get_status(fd, &status, NULL) < 0 ||
            status->state != KEEPER_STATE_RUNNING || status->pid == 0)
                return NULL;
        return json_pack("{s:s, s:I, s:I, s:I}", "uuid", uuid, "pid", (json_int_t)status->pid, "cpu_us",
                         (json_int_t)cpu_us(status->pid), "memory", (json_int_t)memory_bytes(status->pid));
}

/* Only a system daemon's machines have taps of ours. */
static json_t *taps(struct broker *b) {
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_free_ struct network_tap *list = NULL;
        json_t *items = json_array();
        size_t n = 0;

        if (b->networks && network_taps(b->networks, &list, &n, &e) < 0)
                log_warning("what went through machines' interfaces is not known: %s", e.message ?: "?");
        for (size_t i = 0; i < n; i++) {
                const struct network_counters *c = &list[i].counters;

                json_array_append_new(items,
                                      json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "interface",
                                                list[i].interface, "network", list[i].network, "machine",
                                                list[i].machine, "received_bytes", (json_int_t)c->received_bytes,
                                                "received_packets", (json_int_t)c->received_packets, "received_drops",
                                                (json_int_t)c->received_drops, "sent_bytes", (json_int_t)c->sent_bytes,
                                                "sent_packets", (json_int_t)c->sent_packets, "sent_drops",
                                                (json_int_t)c->sent_drops));
        }
        return items;
}

static int machines_usage(struct broker_call *call, void *args, struct error *e) {
        const char *machines = call->broker->paths.machines;
        json_t *items = json_array(), *item;
        DIR *dir = opendir(machines);

        for (const struct dirent *entry; dir && (entry = readdir(dir));) {
                if (strlen(entry->d_name) != 36)
                        continue;
                item = sample(machines, entry->d_name);
                if (item)
                        json_array_append_new(items, item);
        }
        if (dir)
                closedir(dir);
        call->result = json_pack("{s:o, s:o}", "items", items, "taps", taps(call->broker));
        return call->result ? 0 : -ENOMEM;
}

const struct broker_op broker_usage_ops[] = {
        { "machines-usage", NULL, machines_usage },
        { 0 },
};
