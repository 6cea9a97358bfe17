// SPDX-License-Identifier: GPL-2.0-or-later
/* internal: what the files of this folder share */
#pragma once

#include "daemon/machine/machine.h"
#include "daemon/machine/sample.h"

struct machines {
        struct loop *loop;
        struct store *store;
        struct broker_client *broker;
        struct operations *operations;
        struct machine_live *live;
        unsigned int n_live;
        enum api_scope scope;
        machines_event_fn on_event;
        void *opaque;
        void (*recovered)(void *opaque, int result);
        void *recovered_opaque;
        struct recovery *recovery;
        bool found; /* what runs: until then the store is believed */
        struct restart *restarts;
        /* sample.c */
        struct loop_source *sample; /* timer: the next pass */
        uint64_t sample_us;
        struct samples samples;
        json_t *network_names, *sampled_networks; /* of the pass that goes on */
        size_t network_next;
        uint64_t storage_ns; /* when storage was counted last */
        unsigned int storage_passes;
        struct storage_walk *storage_walk; /* usage.c; NULL: none goes on */
        uint32_t shell_epoch;              /* of this process: what shells of another one left in a guest is cleared */
        unsigned int n_shells;
};

/* A command in the guest that somebody waits for. */
struct exec_job {
        struct exec_job *next;
        struct machine_live *live;
        struct loop_source *deadline;
        machine_exec_fn fn; /* NULL: forgotten */
        void *opaque;
};

/* A machine that runs. */
struct machine_live {
        struct machine_live *next;
        struct machines *ms;
        char *uuid, *name, *project;
        char *engine, *engine_reason, *since;
        json_t *addresses; /* a list of texts */
        bool kvm, paused, agent_ready, panicked, ending;
        bool found; /* running, by a daemon that has not started it */
        uint32_t pid;
        int control_fd, agent_fd, events_fd;
        struct qmp_client *qmp;
        struct agent *agent;
        struct loop_source *events, *ladder;
        struct exec_job *jobs;
        struct guest_file_job *files;
        struct machine_shell *shells;
        struct change *change; /* of its definition, that is being made true */
        uint32_t sampled_pid;  /* usage.c: the process at the last sample */
        uint64_t sampled_ns;   /* monotonic: its time, or since when it is watched */
        bool sampling;         /* QMP has been asked */
        struct machine_sample sample;
        struct operation *stopping; /* waits for its end */
        char ended_reason[256];
};

/** live_find() - by UUID; NULL when it does not run. */
struct machine_live *live_find(struct machines *ms, const char *uuid);

/** machine_refuse_stopped() - "machine-stopped", -EALREADY: what was asked for needs a machine that runs. */
int machine_refuse_stopped(const struct store_machine *row, struct error *e);

/** machine_refuse_running() - "machine-running", -EBUSY: it needs one that does not; @why: what follows the machine's name. */
int machine_refuse_running(const struct store_machine *row, const char *why, struct error *e);

/** live_agent() - one that runs and whose guest agent answers; -EALREADY "machine-stopped", -EAGAIN "agent-missing". */
int live_agent(struct machines *ms, const struct store_machine *row, struct machine_live **ret_live, struct error *e);

/** live_attach() - ask the broker for the machine's sockets, and watch it; @fn is called when that is done. */
typedef void (*live_attached_fn)(void *opaque, const struct error *e);
int live_attach(struct machines *ms, const struct store_machine *row, live_attached_fn fn, void *opaque,
                struct error *e);

/** live_free() - stop watching; the machine runs on. */
void live_free(struct machine_live *live);

/** live_ended() - its process is gone: reap it at the broker, and decide what follows. */
void live_ended(struct machine_live *live, int status);

/** guest_files_end(), shells_end() - the machine is gone: whoever waits hears of it. */
void guest_files_end(struct machine_live *live);
void shells_end(struct machine_live *live);

/** change_end() - the machine is gone: nothing of it can be changed any more. */
void change_end(struct machine_live *live);

/** live_reap() - the end of a machine that no daemon saw: as live_ended(); @host: its host ended, too. */
void live_reap(struct machines *ms, const struct store_machine *row, bool host);

/** recovery_free() - see recover.c; NULL is fine. */
void recovery_free(struct recovery *r);

/** restart_consider() - a machine has ended (well: @clean) that is wanted: start it again, later, if its policy says so; returns whether. */
bool restart_consider(struct machines *ms, const struct store_machine *row, bool clean);
void restarts_free(struct machines *ms);

/** live_ask_end() - climb the ladder: agent, power button, again and again. */
void live_ask_end(struct machine_live *live, bool agent);

/** operation_commit() - end a transaction in which @op began, and give its id. */
int operation_commit(struct machines *ms, struct operation *op, char **ret_id, struct error *e);

/** operation_ask() - a step's call to the broker, with progress; @fn has to end the step. Return: 1 or -errno. */
int operation_ask(struct operation *op, const char *what, json_t *args, broker_reply_fn fn, struct error *e);

/** operation_target() - the row that it works on. */
int operation_target(struct operation *op, struct store_machine **ret_row, struct error *e);

/** operation_update() - what a step changes in the store, with the journal's word that the step has begun: one transaction. */
int operation_update(struct operation *op, struct store_machine *row, struct error *e);

/* The steps of a start and of a stop, which a reboot has as well: op-start.c, op-stop.c. */
int start_disk_run(struct operation *op, struct error *e);
int start_disk_undo(struct operation *op, struct error *e);
int start_record_run(struct operation *op, struct error *e);
int start_record_undo(struct operation *op, struct error *e);
int start_seed_run(struct operation *op, struct error *e);
int start_spawn_run(struct operation *op, struct error *e);
int start_spawn_undo(struct operation *op, struct error *e);
int start_watch_run(struct operation *op, struct error *e);
int start_watch_undo(struct operation *op, struct error *e);
void start_ended(struct operation *op);
int stop_ask_run(struct operation *op, struct error *e);
void stop_cancel(struct operation *op);
void stop_release(struct operation *op);

/** start_args() - what a start's steps need to know. */
json_t *start_args(const struct store_machine *row, const struct machine_definition *d, unsigned int boot_timeout);

/** on_step_answer() - the broker's answer to a step that needs nothing of it. */
void on_step_answer(void *opaque, const struct error *e, struct wire_message *reply);

/** define_undo() - of an operation that began with a new row: it is gone again. */
int define_undo(struct operation *op, struct error *e);

/** operation_cancel_call() - of a kind whose steps are calls to the broker. */
void operation_cancel_call(struct operation *op);

/** facts: a row's facts, as an object; a new reference. */
json_t *row_facts(const struct store_machine *row);

/** row_set_facts() - @facts is borrowed. */
int row_set_facts(struct store_machine *row, const json_t *facts);

/**
 * machine_networks() - the configurations of the networks that it is attached to; a new list
 * @d: without interfaces it gets one first: of network default, or user networking in a session daemon
 */
int machine_networks(struct machines *ms, struct machine_definition *d, json_t **ret_list, struct error *e);

/** machine_networks_of() - machine_networks() of what a row wants. @ret_d: owned by the caller. */
int machine_networks_of(struct machines *ms, const struct store_machine *row, struct machine_definition **ret_d,
                        json_t **ret_list, struct error *e);

/** networks_run(), networks_undo() - a start's step: all of the machine's networks are up, with its published ports. */
int networks_run(struct operation *op, struct error *e);
int networks_undo(struct operation *op, struct error *e);

/** networks_withdraw() - its published ports are the host's again. */
void networks_withdraw(struct machines *ms, const struct store_machine *row);

/**
 * networks_republish() - the ports that the machine's definition publishes now are forwarded
 * Return: 1 when @fn will be called; 0 when it is attached to no network of ours; -errno.
 */
int networks_republish(struct machines *ms, const char *uuid, broker_reply_fn fn, void *opaque, uint64_t *ret_call);

/** import_sweep() - at the daemon's start: uploads that no operation needs go. */
void import_sweep(struct machines *ms);

/** networks_sweep(), networks_renew() - at the daemon's start: networks that are not in the store go; forwards are those of the machines that run. */
void networks_sweep(struct machines *ms);
void networks_renew(struct machines *ms);

/** networks_keep_published() - the ports that the machine's definition publishes are forwarded now: remember that. */
int networks_keep_published(struct machines *ms, const char *uuid);

/**
 * networks_name_free() - may a machine of this name be in a network? Addresses, taps and forwards are known by machines' names, whatever their projects.
 * -EEXIST "network-name" when another project has one that is in a network.
 */
int networks_name_free(struct machines *ms, const char *project, const char *name, const struct machine_definition *d,
                       struct error *e);

/** network_names() - of all networks in the store, as texts; a new list. */
int network_names(struct machines *ms, json_t **ret_names);

/** sample_begin(), sample_end() - a pass each minute, from now on; what is kept goes. */
int sample_begin(struct machines *ms);
void sample_end(struct machines *ms);

/** sample_take_disks() - what a machine's QMP says to query-blockstats. */
void sample_take_disks(struct machine_sample *s, const json_t *answer);

/** usage_count_running(), usage_count_storage() - add what the broker has seen (machines-usage's items, pool-usage's volumes) to what machines have used. */
void usage_count_running(struct machines *ms, const json_t *items);
void usage_count_storage(struct machines *ms, const json_t *volumes);

/** usage_end() - nothing is counted any more. */
void usage_end(struct machines *ms);

/** usage_of_projects() - see struct samples; a new object. */
json_t *usage_of_projects(struct machines *ms);

/** time_now_us() - Unix microseconds. */
int64_t time_now_us(void);

/**
 * machine_*_check() - what the request of that name looks at before it does anything: "machine-running", "machine-stopped", "operation-running",
 *                     "machine-changed"
 * @ret_d: owned by the caller
 */
int machine_start_check(struct machines *ms, const struct store_machine *row, struct error *e);
int machine_stop_check(struct machines *ms, const struct store_machine *row, const struct machine_stop_request *how,
                       struct error *e);
int machine_reboot_check(struct machines *ms, const struct store_machine *row, struct error *e);
int machine_delete_check(struct machines *ms, const struct store_machine *row, const struct machine_delete_query *how,
                         uint64_t generation, struct machine_definition **ret_d, struct error *e);

/** launch_or_free() - 0 when no operation works on it but a launch that only waits for the guest; "operation-running". */
int launch_or_free(struct machines *ms, const struct store_machine *row, struct error *e);

/** start_spawn_args() - what the broker's machine-start and machine-check need; @volume may be NULL. NULL when there is no memory. */
json_t *start_spawn_args(const struct store_machine *row, const struct machine_definition *d, json_t *networks,
                         const char *volume, bool seed);

/** launch_stop_waiting() - a launch that only waits for the guest is over: something else is to happen to the machine. */
void launch_stop_waiting(struct machines *ms, const char *uuid);

/** machine_end_args() - what the broker's machine-end, -forget and -purge need. */
json_t *machine_end_args(struct machines *ms, const struct store_machine *row);

extern const struct operation_kind launch_kind, start_kind, stop_kind, reboot_kind, delete_kind, clone_kind,
        image_build_kind, image_pull_kind, image_import_kind;
