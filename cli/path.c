// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * path: the commands on the directories whose files machines may use
 *
 * They go past the daemon, to a file that only the daemon's owner can write (daemon/allow/allow.h): a daemon that could be asked for it could be talked into it.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/render.h"
#include "daemon/allow/allow.h"

/* Whose machines? Those of the daemon that would be asked; root's are the system's unless root's own daemon runs, and no other. */
static bool is_session(const struct path_options *o) {
        return o->session || (!client_has_system() && (geteuid() != 0 || client_has_session()));
}

static int append(json_t *items, const char *dir) {
        return json_array_append_new(items, json_pack("{s:s, s:b}", "path", dir, "there", access(dir, F_OK) == 0));
}

static int print(const struct path_options *o, json_t *items, struct error *e) {
        const struct render render = { .file = stdout,
                                       .format = o->format,
                                       .object = &path_view_schema,
                                       .columns = "path,there",
                                       .terminal = isatty(STDOUT_FILENO),
                                       .colour = render_colour(stdout) };
        json_auto_t *page = json_pack("{s:O}", "items", items);

        return page ? render_list(&render, page, e) : -ENOMEM;
}

static bool lies_below(const char *dir, const char *root) {
        size_t n = strlen(root);

        return strncmp(dir, root, n) == 0 && (dir[n] == '/' || dir[n] == '\0');
}

/* What lodged.service does not let the system's machines do (dist/systemd/lodged.service.in: ProtectHome, PrivateTmp). */
static void warn_of_unit(const char *dir) {
        if (lies_below(dir, "/tmp") || lies_below(dir, "/var/tmp"))
                fputs("lodge: lodged.service has a /tmp and a /var/tmp of its own: its machines do not see this "
                      "directory\n",
                      stderr);
        else if (lies_below(dir, "/home") || lies_below(dir, "/root") || lies_below(dir, "/run/user"))
                fputs("lodge: lodged.service may only read there; for disks that are written: systemctl edit lodged, "
                      "and below "
                      "[Service] ReadWritePaths=, then this directory\n",
                      stderr);
}

static int change(const struct path_options *o, bool in, struct error *e) {
        _cleanup_free_ char *real = NULL;
        json_auto_t *items = json_array();
        const char *whose = is_session(o) ? "your machines" : "the system's machines";
        int r = allow_change(is_session(o), o->path, in, &real, e);

        if (r < 0)
                return r;
        if (in && !is_session(o) && access("/run/systemd/system", F_OK) == 0)
                warn_of_unit(real);
        if (o->format != TABLE_FORMAT_TABLE)
                return append(items, real) < 0 ? -ENOMEM : print(o, items, e);
        render_text(stdout, real);
        printf(in ? ": %s may use what is in it, when they are started next\n"
                  : ": %s may not use what is in it any more, once they are started again\n",
               whose);
        return 0;
}

static int allow(const struct path_options *o, struct error *e) {
        return change(o, true, e);
}

static int forbid(const struct path_options *o, struct error *e) {
        return change(o, false, e);
}

static int list(const struct path_options *o, struct error *e) {
        _cleanup_(allow_freep) struct allow *a = NULL;
        json_auto_t *items = json_array();
        int r = allow_load(is_session(o), &a, e);

        for (size_t i = 0; r == 0 && i < a->n; i++)
                r = append(items, a->dirs[i]);
        if (r < 0)
                return r;
        if (a->n == 0 && o->format == TABLE_FORMAT_TABLE)
                fprintf(stderr, "none but the pools; to let machines use more: lodge path allow DIR\n");
        return a->n == 0 && o->format == TABLE_FORMAT_TABLE ? 0 : print(o, items, e);
}

static int run(const struct schema_command *command, int (*fn)(const struct path_options *o, struct error *e), int argc,
               char **argv) {
        _cleanup_(path_options_freep) struct path_options *o = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        void *objects[1];
        int status;

        if (path_options_new(&o) < 0)
                return CLI_FAILED;
        objects[0] = o;
        if (cli_parse(command, argc, argv, objects, &status))
                return status;
        if (fn(o, &e) >= 0)
                return CLI_OK;
        error_set(&e, -EIO, "failed", NULL, "lodge %s failed", command->name);
        if (o->format == TABLE_FORMAT_JSON)
                cli_fail_json(&e);
        return cli_fail(&e);
}

int cli_path_allow(int argc, char **argv) {
        return run(&schema_command_path_allow, allow, argc, argv);
}

int cli_path_list(int argc, char **argv) {
        return run(&schema_command_path_list, list, argc, argv);
}

int cli_path_forbid(int argc, char **argv) {
        return run(&schema_command_path_forbid, forbid, argc, argv);
}
