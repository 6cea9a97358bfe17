// SPDX-License-Identifier: GPL-2.0-or-later
/* lodged-worker: the half of lodged that parses what clients send; see worker.h */
#include <limits.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/text.h"
#include "daemon/worker/worker.h"

static const char usage[] =
        "lodged-worker is the half of lodged that parses what clients send; it is started by lodged, not by hand.\n"
        "\n"
        "  lodged-worker --config-fd N   what it needs to know as JSON on descriptor N (schema: worker_config)\n"
        "  lodged-worker --version\n";

int main(int argc, char **argv) {
        uint64_t fd;

        if (argc == 2 && streq(argv[1], "--version")) {
                puts("lodged-worker " LODGE_VERSION);
                return 0;
        }
        if (argc != 3 || !streq(argv[1], "--config-fd") || text_parse_uint(argv[2], INT_MAX, &fd) < 0 || fd < 3 ||
            io_set_cloexec((int)fd, true) < 0) {
                fputs(usage, stderr);
                return WORKER_HOPELESS;
        }
        return worker_run((int)fd);
}
