// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lodged: the daemon: its command line
 *
 * This program is the broker (broker/broker.h). It starts the other half, lodged-worker (worker/worker.h), so that a process with privileges never has HTTP, TLS and
 * SQL in its address space, nor the libraries that do these.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "daemon/broker/broker.h"
#include "schema/lodge-schema.h"

static int parse(int argc, char **argv, struct lodged_options *options, struct error *e) {
        void *objects[] = { options };
        int r;

        if (argc > 1 && streq(argv[1], "--version")) {
                puts("lodged " LODGE_VERSION);
                return 1;
        }
        r = schema_command_parse(&schema_command_lodged, argc - 1, argv + 1, objects, e);
        if (r > 0)
                schema_command_help(&schema_command_lodged, stdout);
        if (r == 0)
                r = lodged_options_check(options, e);
        if (r < 0 && !e->fix)
                error_set_fix(e, "lodged --help");
        return r;
}

int main(int argc, char **argv) {
        _cleanup_(lodged_options_freep) struct lodged_options *options = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        int r;

        if (lodged_options_new(&options) < 0)
                return 2;
        r = parse(argc, argv, options, &e);
        if (r > 0)
                return 0;
        if (r == 0) {
                log_set_level(options->debug ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
                r = broker_run(options, &e);
        }
        if (r >= 0)
                return r;
        error_print(&e, "lodged", stderr);
        return error_exit_status(&e);
}
