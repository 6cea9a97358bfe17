// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ask: what the commands that ask the daemon share
 *
 * A command is a line in the table of commands (main.c): the schema's command and a function. cli_ask() parses the words into the command's objects,
 * reaches the daemon, calls the function, and prints its error. So a command's function holds only what is its own.
 *
 *      lodge stop web     POST /v1/machines/web/stop -> 202 and an operation -> follow.c shows how it goes -> "web: stopped"
 */
#pragma once

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/render.h"

struct ask {
        const struct schema_command *command;
        void *objects[SCHEMA_OBJECTS_MAX];
        struct client_options *options;
        struct view_options *view; /* NULL: the command has none; so below */
        struct request_options *request;
        struct client *client; /* NULL only in a command that can do without: see enum cli_daemon */
        uint64_t given;        /* a bit for each of the command's options that was among the words */
        int status;            /* the exit status of a good end */
};

/** cli_ask() - run a command of the daemon's; returns the exit status. */
int cli_ask(const struct cli_command *command, int argc, char **argv);

/** ask_object() - the command's object of that schema, or NULL. */
void *ask_object(const struct ask *a, const struct schema_object *object);

/**
 * ask_send() - client_call() with what the command was given: its dry_run and the route's query object, if it has one, in the query; and @body,
 *              an object of the command's, as the body
 */
int ask_send(struct ask *a, enum schema_route_id route, const char *name, const struct schema_object *body,
             json_t **ret_json, struct error *e);

/** ask_send_text() - ask_send() with a body that the caller has made; NULL: none. */
int ask_send_text(struct ask *a, enum schema_route_id route, const char *name, const char *body, json_t **ret_json,
                  struct error *e);

/**
 * ask_list() - every page of a list, joined in the first one's JSON
 * @query: as client_query_add() makes it, may be NULL
 */
int ask_list(struct ask *a, enum schema_route_id route, const char *query, json_t **ret_page, struct error *e);

/**
 * ask_print_list(), ask_print_object() - in the format that was asked for
 * @what:    "machines": a line on stderr says whose they are, unless JSON or YAML says so itself; NULL: no line
 * @columns: unless others were asked for
 */
int ask_print_list(struct ask *a, json_t *page, const char *what, const struct schema_object *item, const char *columns,
                   struct error *e);
int ask_print_object(struct ask *a, json_t *object, const struct schema_object *schema, const char *columns,
                     struct error *e);

/** ask_is_people() - is the output for people (a table)? */
bool ask_is_people(const struct ask *a);

/** ask_command_line() - words as a line for sh(1), a single one as it is; allocated, or NULL. */
char *ask_command_line(char **words, size_t n);

/** ask_keep_error() - one struct error holds one: the first failure is kept in @first, the others are told of here; @own is emptied. */
void ask_keep_error(struct error *first, struct error *own);

/** ask_print_results() - to programs: what a command did to each of several things; one of them is no list. */
int ask_print_results(struct ask *a, json_t *results, const struct schema_object *object, struct error *e);

/** stop_all() - lodge stop --all; see stop-all.c. */
int stop_all(struct ask *a, struct error *e);

/**
 * ask_patch_add() - "memory=2G" into a JSON merge patch of an object of the schema: judged in an object of its own, so that only this field is
 *                   taken from it; "memory=": as if it had never been set
 */
int ask_patch_add(json_t *patch, const struct schema_object *object, const char *text, struct error *e);

/** ask_yes() - ask a person on the terminal; false without one. */
bool ask_yes(const char *question);

/* ---- follow.c -------------------------------------------------------------------------------------------------------- */

/**
 * follow() - wait for the end of an operation, and show on a terminal how it goes
 * @operation: as the daemon answered it
 *
 * Warnings are printed. Return: 0 when it is done, with *@ret_end its last state; -ECANCELED with @e "interrupted" on Ctrl-C (the operation goes
 * on); else the operation's own error in @e.
 */
int follow(struct ask *a, const json_t *operation, json_t **ret_end, struct error *e);

/** ask_interrupt_fd() - a descriptor that becomes readable on Ctrl-C, for a client's stop_fd; -errno. */
int ask_interrupt_fd(void);

/** follow_print() - follow(), or not with --detach, and print how it went in the format that was asked for. */
int follow_print(struct ask *a, const json_t *operation, json_t **ret_end, struct error *e);

/** follow_is_over(), follow_end() - has it ended? And how: 0, or the operation's own error in @e. */
bool follow_is_over(const json_t *operation);
int follow_end(const json_t *operation, struct error *e);

/** follow_say() - "web: stopped", of an operation that is done. */
void follow_say(const json_t *operation);

/* ---- the commands ---------------------------------------------------------------------------------------------------- */

int ask_machine_launch(struct ask *a, struct error *e);
int ask_machine_define(struct ask *a, struct error *e);
int ask_machine_list(struct ask *a, struct error *e);
int ask_machine_show(struct ask *a, struct error *e);
int ask_machine_start(struct ask *a, struct error *e);
int ask_machine_stop(struct ask *a, struct error *e);
int ask_machine_reboot(struct ask *a, struct error *e);
int ask_machine_kill(struct ask *a, struct error *e);
int ask_machine_pause(struct ask *a, struct error *e);
int ask_machine_resume(struct ask *a, struct error *e);
int ask_machine_reset(struct ask *a, struct error *e);
int ask_machine_delete(struct ask *a, struct error *e);
int ask_machine_rename(struct ask *a, struct error *e);
int ask_machine_set(struct ask *a, struct error *e);
int ask_machine_edit(struct ask *a, struct error *e);
int ask_machine_wait(struct ask *a, struct error *e);
int ask_machine_console(struct ask *a, struct error *e);
int ask_machine_exec(struct ask *a, struct error *e);
int ask_machine_shell(struct ask *a, struct error *e);
int ask_machine_copy(struct ask *a, struct error *e);
int ask_operation_list(struct ask *a, struct error *e);
int ask_operation_show(struct ask *a, struct error *e);
int ask_operation_wait(struct ask *a, struct error *e);
int ask_operation_cancel(struct ask *a, struct error *e);
int ask_event_list(struct ask *a, struct error *e);
int ask_audit_list(struct ask *a, struct error *e);
int ask_usage_list(struct ask *a, struct error *e);
int ask_machine_clone(struct ask *a, struct error *e);
int ask_network_list(struct ask *a, struct error *e);
int ask_network_show(struct ask *a, struct error *e);
int ask_pool_show(struct ask *a, struct error *e);
int ask_template_list(struct ask *a, struct error *e);
int ask_template_show(struct ask *a, struct error *e);
int ask_image_list(struct ask *a, struct error *e);
int ask_image_show(struct ask *a, struct error *e);
int ask_image_build(struct ask *a, struct error *e);
int ask_image_delete(struct ask *a, struct error *e);
int ask_image_import(struct ask *a, struct error *e);
int ask_image_source_add(struct ask *a, struct error *e);
int ask_image_source_list(struct ask *a, struct error *e);
int ask_image_source_delete(struct ask *a, struct error *e);
int ask_image_available(struct ask *a, struct error *e);
int ask_image_pull(struct ask *a, struct error *e);
int ask_daemon_show(struct ask *a, struct error *e);
int ask_token_create(struct ask *a, struct error *e);
int ask_token_list(struct ask *a, struct error *e);
int ask_token_delete(struct ask *a, struct error *e);
int ask_client_list(struct ask *a, struct error *e);
int ask_client_show(struct ask *a, struct error *e);
int ask_client_set(struct ask *a, struct error *e);
int ask_client_delete(struct ask *a, struct error *e);
