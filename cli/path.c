// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * path: the commands on the directories whose files machines may use
 *
 * They go past the daemon, to a file that only the daemon's owner can write (daemon/allow/allow.h): a daemon that could be asked for it could be talked into it.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#include "base/text.h"
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
        const struct render render = render_to_stdout(o->format, &path_view_schema, "path,there");
        json_auto_t *page = json_pack("{s:O}", "items", items);

        return page ? render_list(&render, page, e) : -ENOMEM;
}

/* What lodged.service does not let the system's machines do (dist/systemd/lodged.service.in: ProtectHome, PrivateTmp). */
static void warn_of_unit(const char *dir) {
        if (text_lies_below(dir, "/tmp") || text_lies_below(dir, "/var/tmp"))
                fputs("lodge: lodged.service has a /tmp and a /var/tmp of its own: its machines do not see this "
                      "directory\n",
                      stderr);
        else if (text_lies_below(dir, "/home") || text_lies_below(dir, "/root") || text_lies_below(dir, "/run/user"))
                fputs("lodge: lodged.service may only read there; for disks that are written: systemctl edit lodged, "
                      "and below [Service] ReadWritePaths=, then this directory\n",
                      stderr);
}

static int change(const struct path_options *o, bool in, struct error *e) {
        _cleanup_free_ char *real = NULL;
        json_auto_t *items = json_array();
        bool session = is_session(o);
        int r = allow_change(session, o->path, in, &real, e);

        if (r < 0)
                return r;
        if (in && !session && access("/run/systemd/system", F_OK) == 0)
                warn_of_unit(real);
        if (o->format != TABLE_FORMAT_TABLE)
                return append(items, real) < 0 ? -ENOMEM : print(o, items, e);
        render_text(stdout, real);
        printf(in ? ": %s may use what is in it, when they are started next\n"
                  : ": %s may not use what is in it any more, once they are started again\n",
               session ? "your machines" : "the system's machines");
        return 0;
}

static int allow(const void *options, struct error *e) {
        return change(options, true, e);
}

static int forbid(const void *options, struct error *e) {
        return change(options, false, e);
}

static int list(const void *options, struct error *e) {
        _cleanup_(allow_freep) struct allow *a = NULL;
        const struct path_options *o = options;
        json_auto_t *items = json_array();
        int r = allow_load(is_session(o), &a, e);

        for (size_t i = 0; r == 0 && i < a->n; i++)
                r = append(items, a->dirs[i]);
        if (r < 0)
                return r;
        if (a->n > 0 || o->format != TABLE_FORMAT_TABLE)
                return print(o, items, e);
        fputs("none but the pools; to let machines use more: lodge path allow DIR\n", stderr);
        return 0;
}

int cli_path_allow(int argc, char **argv) {
        return cli_local(&schema_command_path_allow, &path_options_schema, allow, argc, argv);
}

int cli_path_list(int argc, char **argv) {
        return cli_local(&schema_command_path_list, &path_options_schema, list, argc, argv);
}

int cli_path_forbid(int argc, char **argv) {
        return cli_local(&schema_command_path_forbid, &path_options_schema, forbid, argc, argv);
}
