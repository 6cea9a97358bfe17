// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lodge-keeper: holds one machine; see keeper.h
 *
 * Exit status: 0 the machine ran and has ended; 1 bad usage or configuration; 2 the machine did not start.
 */
#include <getopt.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/text.h"
#include "daemon/keeper/keeper.h"
#include "daemon/keeper/record.h"

/*
 * There is a keeper for each machine, so what one takes counts. Buffers from this size on get pages of their own, which come when they
 * are written to and go when the buffer is freed; in the heap calloc() would write to all of them. For that the heap has nothing to spare.
 */
#define OWN_PAGES_MIN 16384

static void be_frugal(void) {
        (void)mallopt(M_MMAP_THRESHOLD, OWN_PAGES_MIN);
        (void)mallopt(M_TRIM_THRESHOLD, 0);
        (void)mallopt(M_TOP_PAD, 0);
}

static const char usage[] = "lodge-keeper holds one virtual machine for lodged; it is started by lodged, not by hand.\n"
                            "\n"
                            "  lodge-keeper --config-fd N   the machine as JSON on descriptor N (schema: keeper)\n"
                            "      --status-fd N            how the start went, as one line of JSON\n"
                            "      --version, --help\n";

struct options {
        int config_fd, status_fd;
};

static int parse_fd(const char *text, int *ret_fd) {
        uint64_t fd;

        if (text_parse_uint(text, INT_MAX, &fd) < 0 || fd < 3)
                return -EINVAL;
        *ret_fd = (int)fd;
        return io_set_cloexec(*ret_fd, true);
}

static int parse_options(int argc, char **argv, struct options *options) {
        static const struct option table[] = {
                { "config-fd", required_argument, NULL, 'c' },
                { "status-fd", required_argument, NULL, 's' },
                { "help", no_argument, NULL, 'h' },
                { "version", no_argument, NULL, 'v' },
                { 0 },
        };
        int c, r = 0;

        while (r == 0 && (c = getopt_long(argc, argv, "hv", table, NULL)) != -1) {
                switch (c) {
                case 'c':
                        r = parse_fd(optarg, &options->config_fd);
                        break;
                case 's':
                        r = parse_fd(optarg, &options->status_fd);
                        break;
                case 'h':
                        fputs(usage, stdout);
                        exit(0);
                case 'v':
                        puts("lodge-keeper " LODGE_VERSION);
                        exit(0);
                default:
                        r = -EINVAL;
                }
        }
        return r == 0 && optind == argc && options->config_fd >= 0 ? 0 : -EINVAL;
}

static int read_config(int fd, struct keeper_config **ret_config, struct error *e) {
        _cleanup_free_ char *json = NULL;
        size_t len;
        int r = io_read_all(fd, SCHEMA_TEXT_MAX, &json, &len);

        if (r < 0)
                return error_set(e, r, "keeper-config", NULL, "cannot read the configuration");
        return keeper_config_parse(json, len, ret_config, e);
}

int main(int argc, char **argv) {
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_(keeper_config_freep) struct keeper_config *config = NULL;
        struct options options = { .config_fd = -EBADF, .status_fd = -EBADF };

        be_frugal();
        if (parse_options(argc, argv, &options) < 0) {
                fputs(usage, stderr);
                return 1;
        }
        signal(SIGPIPE, SIG_IGN);
        signal(SIGHUP, SIG_IGN);
        if (read_config(options.config_fd, &config, &e) < 0) {
                keeper_report_failure(options.status_fd, &e);
                error_print(&e, "lodge-keeper", stderr);
                return 1;
        }
        close(options.config_fd);
        if (config->lock_fd >= 0)
                io_set_cloexec(config->lock_fd, true);
        if (keeper_run(config, options.status_fd, &e) < 0) {
                error_print(&e, "lodge-keeper", stderr);
                return 2;
        }
        return 0;
}
