// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * keeper-client: the daemon's side of a keeper, one call a run, for test/system/keeper.sh
 *
 *      start CONFIG        start the keeper of the JSON object in that file, wait, print its pid, and end as a broker that dies
 *      status DIR          print the answer
 *      console DIR HISTORY copy the console to stdout and stdin to the console, until the console ends
 *      control DIR LINE... connect to QMP, send each LINE, print what comes, one line for each; "-" breaks off in the middle
 *      agent DIR           the same for one guest-ping of the agent
 *      kill DIR            kill the VMM
 *      events DIR          print events until the keeper ends
 *      exit DIR            print exit.json, as it was understood
 *
 * Exit status: 0; 1, with the error on stderr.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "daemon/keeper/client.h"

static int start(const char *path, struct error *e) {
        _cleanup_(keeper_config_freep) struct keeper_config *config = NULL;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC), pidfd = -EBADF;
        _cleanup_free_ char *json = NULL;
        size_t n;
        pid_t pid;
        int r;

        if (fd < 0 || io_read_all(fd, SCHEMA_TEXT_MAX, &json, &n) < 0)
                return error_set(e, -EIO, "test", NULL, "cannot read %s", path);
        r = keeper_config_parse(json, n, &config, e);
        if (r == 0)
                r = keeper_start(config, &pid, &pidfd, e);
        if (r == 0)
                printf("%d\n", (int)pid);
        return r;
}

static int status(int fd, struct error *e) {
        _cleanup_(keeper_status_freep) struct keeper_status *s = NULL;
        _cleanup_free_ char *text = NULL;
        int r = keeper_get_status(fd, &s, e);

        if (r < 0)
                return r;
        text = keeper_status_format(s);
        puts(text ?: "");
        return 0;
}

static int console(int fd, const char *history, struct error *e) {
        struct pollfd p[2] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .events = POLLIN } };
        _cleanup_close_ int stream = -EBADF;
        char buf[4096];
        int r = keeper_console(fd, (size_t)atoi(history), &stream, e);

        if (r < 0)
                return r;
        p[1].fd = stream;
        while (poll(p, 2, -1) >= 0) {
                ssize_t n;

                if (p[0].revents) {
                        n = read(STDIN_FILENO, buf, sizeof(buf));
                        if (n > 0)
                                io_write_all(stream, buf, (size_t)n);
                        else
                                p[0].fd = -1;
                }
                if (p[1].revents) {
                        n = read(stream, buf, sizeof(buf));
                        if (n <= 0)
                                return 0;
                        io_write_all(STDOUT_FILENO, buf, (size_t)n);
                }
        }
        return 0;
}

/* A line, and the first line that comes back, waiting up to 20 s. */
static int print_line(int fd, struct error *e) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        char byte;

        do {
                if (poll(&p, 1, 20000) <= 0 || read(fd, &byte, 1) != 1)
                        return error_set(e, -ETIMEDOUT, "test", NULL, "no answer");
                putchar(byte);
        } while (byte != '\n');
        fflush(stdout);
        return 0;
}

static int control(int fd, char **lines, struct error *e) {
        _cleanup_close_ int stream = -EBADF;
        int r = keeper_control(fd, &stream, e);

        if (r == 0)
                r = print_line(stream, e);
        for (; r == 0 && *lines; lines++) {
                if (streq(*lines, "-")) { /* half a command, and gone */
                        (void)io_write_all(stream, "{\"execute\": \"query-sta", 21);
                        return 0;
                }
                r = io_write_all(stream, *lines, strlen(*lines));
                if (r == 0)
                        r = io_write_all(stream, "\n", 1);
                if (r == 0)
                        r = print_line(stream, e);
        }
        return r;
}

static int agent(int fd, struct error *e) {
        static const char ping[] = "\xff{\"execute\":\"guest-sync\",\"arguments\":{\"id\":7}}\n";
        _cleanup_close_ int stream = -EBADF;
        int r = keeper_agent(fd, &stream, e);

        if (r == 0)
                r = io_write_all(stream, ping, sizeof(ping) - 1);
        return r < 0 ? r : print_line(stream, e);
}

static int events(int fd, struct error *e) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        int r = keeper_events(fd, e);

        if (r < 0)
                return r;
        puts("listening");
        fflush(stdout);
        while (poll(&p, 1, -1) >= 0) {
                _cleanup_(keeper_event_freep) struct keeper_event *event = NULL;
                _cleanup_free_ char *text = NULL;

                r = keeper_event_read(fd, &event);
                if (r < 0)
                        return r == -EPIPE ? 0 : r;
                text = event ? keeper_event_format(event) : NULL;
                puts(text ?: "");
                fflush(stdout);
        }
        return 0;
}

static int show_exit(const char *dir, struct error *e) {
        _cleanup_(keeper_exit_freep) struct keeper_exit *record = NULL;
        _cleanup_free_ char *text = NULL;
        int r = keeper_exit_read(dir, &record, e);

        if (r < 0)
                return error_set(e, r, "test", NULL, "no exit.json");
        text = keeper_exit_format(record);
        puts(text ?: "");
        return 0;
}

static int run(int argc, char **argv, struct error *e) {
        _cleanup_close_ int fd = -EBADF;
        const char *what;
        int r;

        if (argc < 3)
                return error_set(e, -EINVAL, "usage", NULL, "keeper-client COMMAND DIR ...");
        what = argv[1];
        if (streq(what, "start"))
                return start(argv[2], e);
        if (streq(what, "exit"))
                return show_exit(argv[2], e);
        r = keeper_connect(argv[2], &fd, e);
        if (r < 0)
                return r;
        if (streq(what, "status"))
                return status(fd, e);
        if (streq(what, "console"))
                return console(fd, argc > 3 ? argv[3] : "0", e);
        if (streq(what, "control"))
                return control(fd, argv + 3, e);
        if (streq(what, "agent"))
                return agent(fd, e);
        if (streq(what, "kill"))
                return keeper_kill(fd, e);
        if (streq(what, "events"))
                return events(fd, e);
        return error_set(e, -EINVAL, "usage", NULL, "unknown command %s", what);
}

int main(int argc, char **argv) {
        _cleanup_error_ struct error e = ERROR_INIT;

        if (run(argc, argv, &e) == 0)
                return 0;
        error_print(&e, "keeper-client", stderr);
        return 1;
}
