// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lodge: the command line
 *
 * One table ties each command of the schema (name, summary, options) to its function. Help, usage errors and suggestions come from the
 * schema's tables, so that they can't differ from what is accepted.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/ask.h"
#include "cli/cli.h"

static const struct cli_command commands[] = {
        { &schema_command_machine_launch, .ask = ask_machine_launch },
        { &schema_command_machine_define, .ask = ask_machine_define },
        { &schema_command_machine_list, .ask = ask_machine_list },
        { &schema_command_machine_show, .ask = ask_machine_show },
        { &schema_command_machine_start, .ask = ask_machine_start },
        { &schema_command_machine_stop, .ask = ask_machine_stop },
        { &schema_command_machine_reboot, .ask = ask_machine_reboot },
        { &schema_command_machine_kill, .ask = ask_machine_kill },
        { &schema_command_machine_pause, .ask = ask_machine_pause },
        { &schema_command_machine_resume, .ask = ask_machine_resume },
        { &schema_command_machine_reset, .ask = ask_machine_reset },
        { &schema_command_machine_delete, .ask = ask_machine_delete },
        { &schema_command_machine_rename, .ask = ask_machine_rename },
        { &schema_command_machine_clone, .ask = ask_machine_clone },
        { &schema_command_machine_set, .ask = ask_machine_set },
        { &schema_command_machine_edit, .ask = ask_machine_edit },
        { &schema_command_machine_wait, .ask = ask_machine_wait },
        { &schema_command_machine_console, .ask = ask_machine_console },
        { &schema_command_machine_exec, .ask = ask_machine_exec },
        { &schema_command_machine_shell, .ask = ask_machine_shell },
        { &schema_command_machine_copy, .ask = ask_machine_copy },
        { &schema_command_operation_list, .ask = ask_operation_list },
        { &schema_command_operation_show, .ask = ask_operation_show },
        { &schema_command_operation_wait, .ask = ask_operation_wait },
        { &schema_command_operation_cancel, .ask = ask_operation_cancel },
        { &schema_command_event_list, .ask = ask_event_list },
        { &schema_command_audit_list, .ask = ask_audit_list },
        { &schema_command_usage_list, .ask = ask_usage_list },
        { &schema_command_network_list, .ask = ask_network_list },
        { &schema_command_network_show, .ask = ask_network_show },
        { &schema_command_pool_show, .ask = ask_pool_show },
        { &schema_command_daemon_show, .ask = ask_daemon_show },
        { &schema_command_template_list, .ask = ask_template_list },
        { &schema_command_template_show, .ask = ask_template_show },
        { &schema_command_token_create, .ask = ask_token_create },
        { &schema_command_token_list, .ask = ask_token_list },
        { &schema_command_token_delete, .ask = ask_token_delete },
        { &schema_command_client_list, .ask = ask_client_list },
        { &schema_command_client_show, .ask = ask_client_show },
        { &schema_command_client_set, .ask = ask_client_set },
        { &schema_command_client_delete, .ask = ask_client_delete },
        { &schema_command_remote_add, cli_remote_add },
        { &schema_command_remote_list, cli_remote_list },
        { &schema_command_remote_delete, cli_remote_delete },
        { &schema_command_path_allow, cli_path_allow },
        { &schema_command_path_list, cli_path_list },
        { &schema_command_path_forbid, cli_path_forbid },
        { &schema_command_complete, cli_complete },
        { &schema_command_run, cli_run },
        { &schema_command_image_build, .ask = ask_image_build, .daemon = CLI_DAEMON_IF_THERE },
        { &schema_command_image_list, .ask = ask_image_list, .daemon = CLI_DAEMON_IF_THERE },
        { &schema_command_image_show, .ask = ask_image_show, .daemon = CLI_DAEMON_IF_THERE },
        { &schema_command_image_delete, .ask = ask_image_delete, .daemon = CLI_DAEMON_IF_THERE },
        { &schema_command_image_import, .ask = ask_image_import, .daemon = CLI_DAEMON_NAMED },
        { &schema_command_image_available, .ask = ask_image_available },
        { &schema_command_image_pull, .ask = ask_image_pull },
        { &schema_command_image_source_add, .ask = ask_image_source_add },
        { &schema_command_image_source_list, .ask = ask_image_source_list },
        { &schema_command_image_source_delete, .ask = ask_image_source_delete },
        { &schema_command_image_create, cli_image_create },
        { &schema_command_image_info, cli_image_info },
        { &schema_command_image_check, cli_image_check },
        { &schema_command_image_map, cli_image_map },
        { &schema_command_image_measure, cli_image_measure },
        { &schema_command_image_convert, cli_image_convert },
        { &schema_command_image_resize, cli_image_resize },
        { &schema_command_image_commit, cli_image_commit },
        { &schema_command_image_rebase, cli_image_rebase },
        { &schema_command_image_bitmap_list, cli_image_bitmap_list },
        { &schema_command_image_bitmap_add, cli_image_bitmap_add },
        { &schema_command_image_bitmap_remove, cli_image_bitmap_remove },
        { &schema_command_image_bitmap_clear, cli_image_bitmap_clear },
        { &schema_command_image_bitmap_enable, cli_image_bitmap_enable },
        { &schema_command_image_bitmap_disable, cli_image_bitmap_disable },
        { &schema_command_image_bitmap_dirty, cli_image_bitmap_dirty },
        { &schema_command_host_probe, cli_host_probe },
};

static void print_command(FILE *f, const struct schema_command *command) {
        if (command->alias)
                fprintf(f, "  %-20s %s (also: lodge %s)\n", command->alias, command->summary, command->name);
        else
                fprintf(f, "  %-20s %s\n", command->name, command->summary);
}

static void print_help(FILE *f) {
        fputs("usage: lodge COMMAND [ARGUMENT...] [OPTION...]\n\ncommands:\n", f);
        for (size_t i = 0; i < ELEMENTSOF(commands); i++)
                if (!commands[i].schema->hidden)
                        print_command(f, commands[i].schema);
        fputs("\n"
              "options:\n"
              "  --help           this; lodge COMMAND --help explains one command\n"
              "  --version        the version\n"
              "\n"
              "exit status: 0 done, 1 wrong usage, 2 failed, 3 daemon unreachable, 4 busy: try again\n",
              f);
}

/* A socket that the caller may not use is a daemon that can't be reached, whatever the errno says. */
static int exit_status(const struct error *e) {
        return e->id && strncmp(e->id, "socket-", 7) == 0 && e->code != -EINVAL ? CLI_UNREACHABLE
                                                                                : error_exit_status(e);
}

int cli_fail(const struct error *e) {
        error_print(e, "lodge", stderr);
        return exit_status(e);
}

/* Messages quote names out of disk images: what is no UTF-8 must not cost the whole object. */
static json_t *json_text(const char *text) {
        json_t *s = text ? json_string(text) : json_null();
        _cleanup_free_ char *ascii = NULL;

        if (s)
                return s;
        ascii = strdup(text);
        for (char *p = ascii; p && *p; p++)
                *p = (unsigned char)*p < 0x80 ? *p : '?';
        return ascii ? json_string(ascii) : NULL;
}

int cli_fail_json(const struct error *e) {
        json_t *object =
                json_pack("{s:{s:s, s:o?, s:o?, s:s}}", "error", "id", e->id ?: "unknown", "message",
                          json_text(e->message), "fix", json_text(e->fix), "code", strerrorname_np(-e->code) ?: "EIO");

        if (object) {
                json_dumpf(object, stdout, JSON_INDENT(2));
                putchar('\n');
        }
        json_decref(object);
        return exit_status(e);
}

int cli_parse(const struct schema_command *command, int argc, char **argv, void *const objects[], int *ret_status) {
        uint64_t given;

        return cli_parse_given(command, argc, argv, objects, &given, ret_status);
}

int cli_parse_given(const struct schema_command *command, int argc, char **argv, void *const objects[],
                    uint64_t *ret_given, int *ret_status) {
        _cleanup_error_ struct error e = ERROR_INIT;
        int r = schema_command_parse_given(command, argc, argv, objects, ret_given, &e);

        if (r == 0)
                return 0;
        if (r > 0) {
                schema_command_help(command, stdout);
                *ret_status = CLI_OK;
                return 1;
        }
        if (!e.fix)
                error_set_fix(&e, "lodge %s --help", command->alias ?: command->name);
        *ret_status = cli_fail(&e);
        return 1;
}

static enum table_format format_of(const struct schema_object *object, const void *options) {
        const struct schema_field *field = schema_field_find(object, "format");

        return *(const enum table_format *)schema_at_const(options, field->offset);
}

int cli_local(const struct schema_command *command, const struct schema_object *object,
              int (*fn)(const void *options, struct error *e), int argc, char **argv) {
        _cleanup_error_ struct error e = ERROR_INIT;
        int status = CLI_OK;
        void *options;

        if (schema_new(object, &options) < 0)
                return CLI_FAILED;
        if (!cli_parse(command, argc, argv, &options, &status) && fn(options, &e) < 0) {
                error_set(&e, -EIO, "failed", NULL, "cannot finish lodge %s", command->name);
                if (format_of(object, options) == TABLE_FORMAT_JSON)
                        cli_fail_json(&e);
                status = cli_fail(&e);
        }
        schema_free(object, options);
        return status;
}

/* Each command has a name, and many a short one. */
static const char *command_name(const void *table, unsigned int i) {
        const struct schema_command *command = ((const struct cli_command *)table)[i / 2].schema;

        return i % 2 == 0 && command->alias ? command->alias : command->name;
}

/* The command that was meant: "lst", "imgae list". NULL: none is near. */
static const char *suggest_command(int argc, char **argv) {
        _cleanup_free_ char *two = NULL;
        const char *near = NULL;

        if (argc > 1 && asprintf(&two, "%s %s", argv[0], argv[1]) >= 0)
                near = schema_suggest(two, command_name, commands, 2 * ELEMENTSOF(commands));
        return near ?: schema_suggest(argv[0], command_name, commands, 2 * ELEMENTSOF(commands));
}

/* How many words name a group that the command is in, but not the command: "image bitmap". @ret_length: bytes of the name, with a space */
static int group_words(const char *name, int argc, char **argv, size_t *ret_length) {
        size_t at = 0;
        int words = 0;

        for (; words < argc; words++) {
                size_t n = strlen(argv[words]);

                if (strncmp(name + at, argv[words], n) != 0 || name[at + n] != ' ')
                        break;
                at += n + 1;
        }
        *ret_length = at;
        return words;
}

static int unknown_command(int argc, char **argv) {
        _cleanup_error_ struct error e = ERROR_INIT;
        const char *near, *group = NULL;
        size_t group_len = 0;
        int words = 0;

        for (size_t i = 0; i < ELEMENTSOF(commands); i++) {
                const char *name = commands[i].schema->name;
                size_t length;
                int w = group_words(name, argc, argv, &length);

                if (w > words) {
                        words = w;
                        group = name;
                        group_len = length;
                }
        }
        if (group) {
                FILE *f = argc > words && streq(argv[words], "--help") ? stdout : stderr;

                fprintf(f, "lodge %.*s:\n", (int)group_len - 1, group);
                for (size_t i = 0; i < ELEMENTSOF(commands); i++)
                        if (strncmp(commands[i].schema->name, group, group_len) == 0)
                                print_command(f, commands[i].schema);
                return f == stdout ? CLI_OK : CLI_USAGE;
        }
        error_set(&e, -EINVAL, "command-unknown", "see all commands: lodge --help", "there is no command '%.64s'",
                  argv[0]);
        near = suggest_command(argc, argv);
        if (near)
                error_set_fix(&e, "did you mean 'lodge %s'? All commands: lodge --help", near);
        return cli_fail(&e);
}

/* A descriptor from 0 to 2 that is closed would go to the next file that is opened, and what is printed into that file. */
static int open_standard_files(void) {
        int fd;

        do
                fd = open("/dev/null", O_RDWR);
        while (fd >= 0 && fd <= STDERR_FILENO);
        if (fd < 0)
                return -errno;
        close(fd);
        return 0;
}

static int run_command(int argc, char **argv) {
        const struct schema_command *command;
        int words;

        if (argc < 2)
                return cli_welcome();
        if (streq(argv[1], "--help") || streq(argv[1], "-h") || streq(argv[1], "help")) {
                print_help(stdout);
                return CLI_OK;
        }
        if (streq(argv[1], "--version")) {
                puts("lodge " LODGE_VERSION);
                return CLI_OK;
        }
        command = schema_command_find(argc - 1, argv + 1, &words);
        for (size_t i = 0; command && i < ELEMENTSOF(commands); i++)
                if (commands[i].schema == command)
                        return commands[i].ask ? cli_ask(&commands[i], argc - 1 - words, argv + 1 + words)
                                               : commands[i].run(argc - 1 - words, argv + 1 + words);
        return unknown_command(argc - 1, argv + 1);
}

int main(int argc, char **argv) {
        _cleanup_error_ struct error e = ERROR_INIT;
        int status;

        if (open_standard_files() < 0)
                return CLI_FAILED; /* and nowhere to say why */
        status = run_command(argc, argv);
        errno = EIO; /* for output that was lost earlier */
        if (fflush(stdout) == 0 && !ferror(stdout))
                return status;
        error_set(&e, -errno, "output-lost", "look where it goes: is that disk full, or its reader gone?",
                  "cannot write the output");
        cli_fail(&e);
        return status == CLI_OK ? CLI_FAILED : status;
}
