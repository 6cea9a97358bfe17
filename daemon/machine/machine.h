// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * machine: the machines that lodged keeps: what was asked for (the store) and what is (the keepers)
 *
 * Theory of operation. The store's row is the truth about what a person wants. What really runs is found from the broker, which looks at the keepers; for each of
 * those there is a struct machine_live here with a QMP connection and a guest agent's. A machine that does not run costs nothing here: lists are read from the store.
 *
 *      row only                 stopped
 *      row + operation          starting, stopping
 *      row + live               running, paused
 *      row wants it, no live    failed: it ended and nobody asked for that
 *
 * Everything that takes more than one step is an operation (operation.h), whose steps for machines are in op-*.c.
 *
 * Files: machines.c the registry; recover.c what the daemon does at its start; restart.c the restart policy; definition.c JSON to definitions, patches, what is pending; change.c what changes live;
 * view.c what clients see; sample.c, usage.c what machines do and use; live.c one running machine; guest-file.c, shell.c what its guest's agent can do; op-*.c the operations.
 */
#pragma once

#include <jansson.h>

#include "base/loop.h"
#include "daemon/engine/agent.h"
#include "daemon/engine/qmp.h"
#include "daemon/operation/operation.h"
#include "daemon/store/store.h"
#include "daemon/wire/client.h"
#include "schema/lodge-schema.h"

struct machines;
struct machine_live;

/* What happens, for whoever wants to know (the API's listeners). */
typedef void (*machines_event_fn)(void *opaque, const struct store_event *event);

/** machines_new() - @broker and @store are borrowed. */
int machines_new(enum api_scope scope, struct loop *loop, struct store *store, struct broker_client *broker,
                 machines_event_fn on_event, void *opaque, struct machines **ret_machines);
void machines_free(struct machines *ms);
DEFINE_CLEANUP(machines, machines_free);

/**
 * machines_recover() - find what runs, then take up the operations that the last daemon left, then start what should run
 * @fn: called once, when that is done: 0 or -errno
 */
int machines_recover(struct machines *ms, void (*fn)(void *opaque, int result), void *opaque);

/** machines_freeze() - the broker is gone, and we are about to end: leave everything as it is. */
void machines_freeze(struct machines *ms);

struct operations *machines_operations(struct machines *ms);
unsigned int machines_running(const struct machines *ms);

/** machines_event() - write down that something happened, and tell the listeners. */
void machines_event(struct machines *ms, const char *kind, const char *project, const char *target,
                    const char *request_id, const char *format, ...) __attribute__((format(printf, 6, 7)));

/* Who asks, and for which request. */
struct machine_caller {
        const char *who, *request_id;
};

/* ---- definitions --------------------------------------------------------------------------------------------------- */

/** machine_definition_complete() - what a definition for lodged needs beyond the schema: a name, nothing that only `lodge run` has. */
int machine_definition_complete(struct machine_definition *d, struct error *e);

/** machine_definition_load() - the definition in a row. */
int machine_definition_load(const struct store_machine *row, struct machine_definition **ret, struct error *e);

/** machine_definition_patch() - a row's definition with a JSON merge patch (RFC 7396) applied, checked. */
int machine_definition_patch(const struct store_machine *row, const json_t *patch, struct machine_definition **ret,
                             struct error *e);

/** machine_row_set() - put a definition and its summary into a row. */
int machine_row_set(struct store_machine *row, const struct machine_definition *d, struct error *e);

/** machine_row_new() - a row for a new machine, with a UUID. */
int machine_row_new(const char *project, const struct machine_definition *d, struct store_machine **ret,
                    struct error *e);

/** machine_seed_args() - what the broker's seed-write needs. @check: judge only. */
json_t *machine_seed_args(const struct store_machine *row, bool check);

/** machine_pending() - names of the fields that differ from what the machine was started with: a list of texts. */
json_t *machine_pending(const struct store_machine *row);

/* ---- asking and changing --------------------------------------------------------------------------------------------- */

int machine_define(struct machines *ms, const char *project, const struct machine_definition *d,
                   const struct machine_caller *caller, struct store_machine **ret_row, struct error *e);

/** machine_redefine() - another definition; machine_settle() makes true what can be while it runs. @generation: 0 any, else -ESTALE when it is another. */
int machine_redefine(struct machines *ms, struct store_machine *row, const struct machine_definition *d,
                     uint64_t generation, const struct machine_caller *caller, struct error *e);

/**
 * machine_settle() - make true what of a running machine's new definition can be: see change.c
 * @fn: called when that is over, unless this returns false: nothing is to be done, or the machine does not run
 */
bool machine_settle(struct machines *ms, const char *uuid, void (*fn)(void *opaque), void *opaque);

/** machine_settle_forget() - nobody waits for the answer that @opaque was given for. */
void machine_settle_forget(struct machines *ms, const void *opaque);

int machine_rename(struct machines *ms, struct store_machine *row, const char *name, uint64_t generation,
                   const struct machine_caller *caller, struct error *e);

/** Operations: each begins one and gives its id, owned by the caller. */
/* @boot_timeout: seconds to wait for the guest, 0: none */
int machine_launch(struct machines *ms, const char *project, const struct machine_definition *d,
                   unsigned int boot_timeout, const struct machine_caller *caller, char **ret_id, struct error *e);
int machine_start(struct machines *ms, const struct store_machine *row, const struct machine_caller *caller,
                  char **ret_id, struct error *e);
int machine_stop(struct machines *ms, const struct store_machine *row, const struct machine_stop_request *how,
                 const struct machine_caller *caller, char **ret_id, struct error *e);
/** machine_reboot() - an operation: stop it as asked for, and start it with what its definition says now. */
int machine_reboot(struct machines *ms, const struct store_machine *row, const struct machine_stop_request *how,
                   const struct machine_caller *caller, char **ret_id, struct error *e);
int machine_delete(struct machines *ms, const struct store_machine *row, const struct machine_delete_query *how,
                   uint64_t generation, const struct machine_caller *caller, char **ret_id, struct error *e);

/**
 * machine_dry_stop() and so on - a dry run: the checks of the real one, with its errors; nothing is done
 * @plan: a list, gets what would be done, a text each, in order
 */
int machine_dry_stop(struct machines *ms, const struct store_machine *row, const struct machine_stop_request *how,
                     json_t *plan, struct error *e);
int machine_dry_reboot(struct machines *ms, const struct store_machine *row, const struct machine_stop_request *how,
                       json_t *plan, struct error *e);
int machine_dry_delete(struct machines *ms, const struct store_machine *row, const struct machine_delete_query *how,
                       uint64_t generation, json_t *plan, struct error *e);

/** machine_dry_start() - the same; its answer comes later, to @fn. @choice: as engine_json() makes it; it and @plan are borrowed. */
typedef void (*machine_dry_fn)(void *opaque, const struct error *e, const json_t *choice, json_t *plan);
int machine_dry_start(struct machines *ms, const struct store_machine *row, machine_dry_fn fn, void *opaque,
                      struct error *e);

/**
 * machine_clone() - an operation: a second machine with a copy of the first one's disk, and a MAC, UUID and instance-id of its own
 * The first one must not run: what its guest holds in memory would be missing. -EBUSY "machine-running".
 */
int machine_clone(struct machines *ms, const struct store_machine *row, const char *name,
                  const struct machine_caller *caller, char **ret_id, struct error *e);

/** machine_image_build() - an operation: build an image from the distribution's packages. */
int machine_image_build(struct machines *ms, const struct image_build_request *how, const struct machine_caller *caller,
                        char **ret_id, struct error *e);

/**
 * machine_image_import() - an operation: make image @name of what has been uploaded
 * @upload, @sha256: as the broker answered image-receive. On failure the upload is removed.
 */
int machine_image_import(struct machines *ms, const char *name, const struct image_upload_request *how,
                         const char *upload, const char *sha256, const struct machine_caller *caller, char **ret_id,
                         struct error *e);

/** machine_image_upload_drop() - nobody wants what has been uploaded. */
void machine_image_upload_drop(struct machines *ms, const char *upload);

/** machine_volume_owner() - the machine that a volume belongs to, allocated; NULL: none. */
int machine_volume_owner(struct machines *ms, const char *volume, char **ret_name, struct error *e);

/** machine_image_unused() - -EBUSY "image-in-use", naming a machine. */
int machine_image_unused(struct machines *ms, const char *image, struct error *e);

/** machine_network_load(), machine_network_keep(), machine_network_unused() - a network's configuration in the store. */
int machine_network_load(struct machines *ms, const char *name, json_t **ret_config, struct error *e);
int machine_network_keep(struct machines *ms, const json_t *config, struct error *e);
int machine_network_unused(struct machines *ms, const char *name, struct error *e);

/* An answer that comes later. @e: NULL or why not. */
typedef void (*machine_done_fn)(void *opaque, const struct error *e);

/** machine_command() - "stop", "cont" or "system_reset" for a machine that runs; @fn is called unless this fails. */
int machine_command(struct machines *ms, const struct store_machine *row, const char *command, machine_done_fn fn,
                    void *opaque, struct error *e);

typedef void (*machine_exec_fn)(void *opaque, const struct error *e, const struct agent_result *result);

/** machine_exec() - run a command by the guest agent; several may run at once, up to some 48 of them. */
int machine_exec(struct machines *ms, const struct store_machine *row, const char *command, unsigned int timeout_s,
                 machine_exec_fn fn, void *opaque, struct error *e);

/** machine_exec_forget() - nobody waits for the answers that @opaque was given for. */
void machine_exec_forget(struct machines *ms, const void *opaque);

/* What was read of a guest's file, or how much was written. */
struct guest_file_part {
        unsigned char *data; /* borrowed */
        size_t n;
        bool eof; /* nothing follows */
};

typedef void (*machine_file_fn)(void *opaque, const struct error *e, const struct guest_file_part *part);

#define MACHINE_FILE_MAX (512u << 10) /* of one part, in bytes */

/** machine_file_read() - up to @length bytes of a file in the guest, MACHINE_FILE_MAX at most. */
int machine_file_read(struct machines *ms, const struct store_machine *row, const char *path, uint64_t offset,
                      size_t length, machine_file_fn fn, void *opaque, struct error *e);

/** machine_file_write() - @content, base64, at @offset; at 0 the file is made, and what it held is gone. -EINVAL "base64". */
int machine_file_write(struct machines *ms, const struct store_machine *row, const char *path, uint64_t offset,
                       const char *content, machine_file_fn fn, void *opaque, struct error *e);

/** machine_file_forget() - nobody waits for the answers that @opaque was given for. */
void machine_file_forget(struct machines *ms, const void *opaque);

struct machine_shell;

struct machine_shell_ops {
        void (*on_output)(void *opaque, const void *data, size_t n);
        bool (*takes_more)(void *opaque); /* false: the guest's output is held up */
        /* It is over and gone: @status is the shell's, or -1 with the reason why there is none. */
        void (*on_end)(void *opaque, int status, const char *why);
};

/** machine_shell_open() - a terminal in the guest, by its agent: see shell.c. */
int machine_shell_open(struct machines *ms, const struct store_machine *row, const struct machine_shell_request *how,
                       const struct machine_shell_ops *ops, void *opaque, struct machine_shell **ret_shell,
                       struct error *e);
void machine_shell_input(struct machine_shell *s, const void *data, size_t n);
void machine_shell_resize(struct machine_shell *s, unsigned int rows, unsigned int columns);

/** machine_shell_close() - nobody looks at it any more: its processes are hung up; on_end is not called. */
void machine_shell_close(struct machine_shell *s);

/* ---- views ----------------------------------------------------------------------------------------------------------- */

/** machine_state_fill() - what is, for a row; lists and texts in it are owned by @state. */
int machine_state_fill(struct machines *ms, const struct store_machine *row, struct machine_state_view *state);

/** machine_view_make() - all of a machine. */
int machine_view_make(struct machines *ms, const struct store_machine *row, struct machine_view **ret, struct error *e);

/** machine_addresses() - of one that runs, as far as they are known: a list of texts, borrowed; or NULL. */
const json_t *machine_addresses(const struct machines *ms, const char *uuid);

/** machine_status_of() - the short form, for lists. @ret_engine: borrowed, may be set to NULL. */
enum machine_status machine_status_of(struct machines *ms, const struct store_machine *row, const char **ret_engine);

/** time_text() - RFC 3339 in UTC, of Unix microseconds; allocated. */
char *time_text(int64_t us);
