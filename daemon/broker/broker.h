// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * broker: the privileged half of lodged
 *
 * Theory of operation. lodged is two processes, each a program of its own. The worker (lodged-worker) parses what clients send (HTTP, JSON, SQL) and decides what should happen;
 * it runs as a user of its own under a system call filter and may open nothing but its store. The broker is the only one with privileges.
 * It parses nothing but the wire (wire.h), does a closed list of operations (broker_host_ops[] and the others of op-*.c, each with checked arguments), and hands out open descriptors.
 *
 *      clients --HTTP--> worker --wire--> broker --spawn--> lodge-keeper --spawn--> lodge-vmm, passt, swtpm
 *                          |                 |
 *                        store            disks, images, taps, rules, cgroups
 *
 * The worker is held for taken over. So no operation takes a path that the broker did not make itself from a checked name: machines are named by UUID,
 * images by an image's name, volumes by a volume's name inside a pool that the broker knows. Files that a person may want from elsewhere must lie below a
 * directory that the broker's own command line (--allow-path) or a file of its owner's (daemon/allow) allows, whatever the worker says.
 *
 * The broker holds no state that matters: what runs is found from the runtime directory and the keepers in it. It can be killed at any time; so can the worker,
 * which the broker starts again. Operations that last (building an image, copying a disk) run in a child of the broker each, by broker_task(); the others are done
 * in a moment, on the broker's one thread.
 *
 * Directories:       system                   session
 *      state         /var/lib/lodge           ${XDG_DATA_HOME:-~/.local/share}/lodge
 *        store/      lodge.db: the worker's   images/  pools/default/  seeds/UUID/  devices/UUID/
 *      run           /run/lodge               ${XDG_RUNTIME_DIR}/lodge, or /tmp/lodge-UID
 *        lodged.sock                          machines/UUID/  (keeper.h)
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/fault.h"
#include "base/loop.h"
#include "daemon/host/probe.h"
#include "daemon/wire/wire.h"
#include "schema/lodge-schema.h"

struct image_store;
struct network_ctx;
struct broker_call;

#define BROKER_NETWORK_FDS_MAX 16u
#define BROKER_ADDRESSES_MAX   64u

struct broker_paths {
        char *state, *run, *store, *socket, *machines, *images, *pools, *seeds, *devices, *networks;
};

/* A keeper that we started: ours to reap. */
struct broker_child {
        struct broker_child *next;
        struct broker *broker;
        pid_t pid;
        int pidfd;
        struct loop_source *source;
};

struct broker {
        const struct lodged_options *options; /* borrowed */
        enum api_scope scope;
        struct broker_paths paths;
        struct loop *loop;
        int lock_fd;   /* the state directory's */
        int listen_fd; /* the API's socket */
        int network_fds[BROKER_NETWORK_FDS_MAX];
        size_t n_network_fds;
        char *addresses[BROKER_ADDRESSES_MAX]; /* where these can be reached */
        size_t n_addresses;
        int worker_exec_fd; /* its program */
        int wire_fd;        /* to it */
        pid_t worker;
        int worker_pidfd;
        uid_t worker_uid; /* whom the store belongs to */
        gid_t group;      /* who may connect, in a system daemon */
        struct loop_source *worker_source, *wire_source, *respawn;
        int worker_status;     /* with which the last one ended, when it did; 0: none has */
        unsigned int respawns; /* in a row, each soon after the other */
        uint64_t worker_started;
        struct broker_call *calls; /* those that have not been answered */
        struct broker_child *children;
        struct image_store *images;
        char **roots; /* real names of the directories that machines' files may lie in, but for those of daemon/allow */
        size_t n_roots;
        char *cgroups;                /* where machines' control groups are made; NULL: nowhere */
        struct network_ctx *networks; /* of a system daemon, else NULL */
        struct probe probe;
        struct fault fault;
        bool probed, stopping;
        char started[32];
};

/* A call under way. An operation that answers later keeps it. */
struct broker_call {
        struct broker_call *next;
        struct broker *broker;
        uint64_t id;
        const char *op;
        json_t *args;          /* borrowed, for the time of the operation's function only */
        json_t *result;        /* what to answer; NULL: {} */
        int fds[WIRE_FDS_MAX]; /* sent with it, then closed */
        size_t n_fds;
        bool fds_early;                /* with the first progress, and not with the answer */
        void (*cancel)(void *opaque);  /* the worker wants it to end early; NULL: it can't */
        void (*release)(void *opaque); /* with the call */
        void *opaque;
};

struct broker_op {
        const char *name;
        const struct schema_object *args; /* what they must look like; NULL: none */
        /*
         * @args: the parsed object; what the function takes out of it is its own, the rest is freed afterwards.
         * Return: 0 answered by call->result and fds, 1 answered later, -errno with @e.
         */
        int (*run)(struct broker_call *call, void *args, struct error *e);
};

/** broker_run() - be the broker until the end; returns the exit status, or -errno with @e. */
int broker_run(const struct lodged_options *options, struct error *e);

/* ---- for the files of this folder -------------------------------------------------------------------------------- */

/** broker_answer() - end a call that answers later: by its result, or by @e when that holds an error. Frees the call. */
void broker_answer(struct broker_call *call, const struct error *e);

/** broker_progress() - tell the worker how far a call is. */
void broker_progress(struct broker_call *call, const char *text);

/**
 * broker_task_fn - what a task does, in a process of its own
 * @progress: as image.h has it; its cancel_fd is readable when the task should end early
 * @ret:      the call's result; may stay NULL
 */
struct image_progress;
typedef int (*broker_task_fn)(void *opaque, const struct image_progress *progress, json_t **ret, struct error *e);

/**
 * broker_task() - do something that lasts in a child, whose result answers the call
 * Return: 1, or -errno with @e.
 */
int broker_task(struct broker_call *call, broker_task_fn fn, void *opaque, struct error *e);

/* The tables of operations: one for each of the files op-*.c. Each ends with an empty entry. */
extern const struct broker_op broker_host_ops[], broker_image_ops[], broker_machine_ops[], broker_network_ops[],
        broker_usage_ops[], broker_volume_ops[];

/** broker_calls_alike() - calls of the same operation that have not been answered, with this one. */
unsigned int broker_calls_alike(const struct broker_call *call);

/** broker_probe() - what KVM is worth here; found out once. */
const struct probe *broker_probe(struct broker *b);

/** engine_json() - how the worker hears of a choice: engine, engine_reason, kvm, fallback, warning. */
struct engine_choice;
json_t *engine_json(const struct engine_choice *choice);

/** broker_pool_open() - a pool by its name; "default" is always there. */
struct pool;
int broker_pool_open(struct broker *b, const char *name, struct pool **ret_pool, struct error *e);

/**
 * broker_networks_attach() - make taps of a machine's interfaces of type network
 * @c:         its hardware, with name and UUID; changed
 * @networks:  the networks that it may use; they are up
 * @addresses: a JSON list, gets the addresses that are reserved for it
 */
int broker_networks_attach(struct broker *b, struct machine_config *c, const struct network_config *networks, size_t n,
                           uint32_t uid, json_t *addresses, struct error *e);

/** broker_networks_detach() - take its taps away; @forget: its addresses, too. */
void broker_networks_detach(struct broker *b, const char *machine, const struct network_config *networks, size_t n,
                            bool forget);

/** broker_listen() - open the sockets that --listen names: "listen", -EINVAL for what is no address. */
int broker_listen(struct broker *b, struct error *e);
void broker_listen_end(struct broker *b);

int broker_paths_make(struct broker *b, struct error *e);
int broker_roots_make(struct broker *b, struct error *e);
void broker_roots_clear(struct broker *b);
void broker_paths_clear(struct broker_paths *p);
