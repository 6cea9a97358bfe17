// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cli: what the subcommands of lodge share
 *
 * A subcommand gets the words behind its name, already matched to its schema_command, and returns the exit status. What it prints for
 * programs (--format json) goes to stdout as one object; messages for people that are not the result go to stderr.
 *
 * Exit status: 0 done; 1 wrong usage; 2 failed; 3 the daemon can't be reached; 4 busy, try again. `lodge run --exec` gives the guest command's.
 */
#pragma once

#include "base/error.h"
#include "schema/lodge-schema.h"

enum { CLI_OK = 0, CLI_USAGE = 1, CLI_FAILED = 2, CLI_UNREACHABLE = 3, CLI_BUSY = 4 };

struct ask;

/* What a command needs of a daemon. */
enum cli_daemon {
        CLI_DAEMON_START,    /* one is started when none runs */
        CLI_DAEMON_IF_THERE, /* one that runs, or was named; else it works by itself, and ask->client is NULL */
        CLI_DAEMON_NAMED,    /* one that was named: client_is_named(); else it works by itself, too */
};

struct cli_command {
        const struct schema_command *schema;        /* name, summary, arguments, options */
        int (*run)(int argc, char **argv);          /* the words behind the name; returns the exit status */
        int (*ask)(struct ask *a, struct error *e); /* of a command that asks the daemon, instead: see ask.h */
        enum cli_daemon daemon;                     /* of such a command */
};

/** cli_fail() - print the error as "lodge: ...", and return its exit status. */
int cli_fail(const struct error *e);

/** cli_fail_json() - print the error as {"error": {"id", "message", "fix"}} to stdout, and return its exit status. */
int cli_fail_json(const struct error *e);

/**
 * cli_parse() - fill a command's objects from its words; prints help or the error itself
 * Return: 0 to go on, 1 when the command is over with exit status *@ret_status.
 */
int cli_parse(const struct schema_command *command, int argc, char **argv, void *const objects[], int *ret_status);

/** cli_parse_given() - the same; *@ret_given: a bit for each of the command's options that was among the words. */
int cli_parse_given(const struct schema_command *command, int argc, char **argv, void *const objects[],
                    uint64_t *ret_given, int *ret_status);

/**
 * cli_local() - a command that asks no daemon, from its words to its exit status
 * @object: of the schema: the one object that its words fill; it has a field `format` of kind table_format
 * @fn:     gets that object. Return: 0 or more: done; -errno, with @e or without: that is printed, as JSON, too, where that was asked for
 */
int cli_local(const struct schema_command *command, const struct schema_object *object,
              int (*fn)(const void *options, struct error *e), int argc, char **argv);

/** cli_default_name() - "debian/12" -> "debian-12-3f2a": what a name may hold, and a random end, so that many can run; allocated. */
int cli_default_name(const char *image, char **ret_name);

/** cli_welcome() - `lodge` alone: what to do next on this host. */
int cli_welcome(void);

int cli_complete(int argc, char **argv);
int cli_run(int argc, char **argv);
int cli_path_allow(int argc, char **argv);
int cli_path_list(int argc, char **argv);
int cli_path_forbid(int argc, char **argv);
int cli_remote_add(int argc, char **argv);
int cli_remote_list(int argc, char **argv);
int cli_remote_delete(int argc, char **argv);
int cli_image_create(int argc, char **argv);
int cli_image_info(int argc, char **argv);
int cli_image_check(int argc, char **argv);
int cli_image_map(int argc, char **argv);
int cli_image_measure(int argc, char **argv);
int cli_image_convert(int argc, char **argv);
int cli_image_resize(int argc, char **argv);
int cli_image_commit(int argc, char **argv);
int cli_image_rebase(int argc, char **argv);
int cli_image_bitmap_list(int argc, char **argv);
int cli_image_bitmap_add(int argc, char **argv);
int cli_image_bitmap_remove(int argc, char **argv);
int cli_image_bitmap_clear(int argc, char **argv);
int cli_image_bitmap_enable(int argc, char **argv);
int cli_image_bitmap_disable(int argc, char **argv);
int cli_image_bitmap_dirty(int argc, char **argv);
int cli_host_probe(int argc, char **argv);
