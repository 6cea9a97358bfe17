// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * network-tool: daemon/network from the command line, for test/system/network-*.sh
 *
 * usage: network-tool STATE CONFIG choose|up|down|delete|status|forwards
 *        network-tool STATE CONFIG attach MACHINE MAC UID | detach MACHINE | forget MACHINE
 *        network-tool STATE CONFIG taps
 *        network-tool STATE CONFIG leftovers [--remove] [NETWORK[/MACHINE]]...
 *        network-tool pump TAP NETNS MAC
 *
 * CONFIG is a file of JSON (schema object network); choose prints it complete. What is found is printed a line each, "WORD id text",
 * with the fix, if there is one, behind " | "; errors as the command line prints them. pump plays the machine: it makes interface eth0 in a network
 * namespace and carries frames between it and the tap, until it is killed.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/io.h"
#include "base/text.h"
#include "daemon/network/network.h"

static const char *const states[] = { "down", "up", "degraded" };

static void print_notes(const char *word, const struct network_notes *notes) {
        for (size_t i = 0; i < notes->n; i++)
                printf("%s %s %s%s%s\n", word, notes->items[i].id, notes->items[i].message,
                       notes->items[i].fix ? " | " : "", notes->items[i].fix ?: "");
}

static int do_status(struct network_ctx *ctx, const struct network_config *c, struct error *e) {
        _cleanup_(network_status_clear) struct network_status s = { 0 };
        int r = network_status(ctx, c, &s, e);

        if (r < 0)
                return r;
        printf("state %s\n", states[s.state]);
        print_notes("problem", &s.problems);
        print_notes("warning", &s.warnings);
        for (size_t i = 0; i < s.n_leases; i++)
                printf("lease %s %s %s\n", s.leases[i].mac, s.leases[i].address, s.leases[i].name ?: "-");
        return 0;
}

static int do_attach(struct network_ctx *ctx, const struct network_config *c, char **words, struct error *e) {
        struct network_port *port = NULL;
        uint64_t uid = 0;
        int r = text_parse_uint(words[2], UINT32_MAX, &uid);

        if (r == 0)
                r = network_attach(ctx, c, words[0], words[1], (uint32_t)uid, &port, e);
        if (r == 0)
                printf("%s %s %s\n", port->tap, port->address4, port->address6 ?: "-");
        network_port_free(port);
        return r;
}

static int do_taps(struct network_ctx *ctx, struct error *e) {
        _cleanup_free_ struct network_tap *taps = NULL;
        size_t n = 0;
        int r = network_taps(ctx, &taps, &n, e);

        for (size_t i = 0; i < n; i++)
                printf("tap %s %s %s received %llu sent %llu\n", taps[i].network, taps[i].machine, taps[i].interface,
                       (unsigned long long)taps[i].counters.received_bytes,
                       (unsigned long long)taps[i].counters.sent_bytes);
        return r;
}

static int do_leftovers(struct network_ctx *ctx, int n, char **words, struct error *e) {
        bool remove = n > 0 && streq(words[0], "--remove");
        struct network_known known[32];
        struct network_leftover *items = NULL;
        size_t n_known = 0, n_items = 0;
        int r;

        for (int i = remove; i < n && n_known < ELEMENTSOF(known); i++) {
                char *slash = strchr(words[i], '/');

                if (slash)
                        *slash++ = '\0';
                known[n_known++] = (struct network_known){ words[i], slash };
        }
        r = network_leftovers(ctx, known, n_known, &items, &n_items, e);
        for (size_t i = 0; i < n_items && r == 0; i++) {
                printf("leftover %s %s\n", network_leftover_kind_to_string(items[i].kind), items[i].name);
                if (remove)
                        r = network_leftover_remove(ctx, &items[i], e);
        }
        network_leftovers_free(items, n_items);
        return r;
}

static int do_up(struct network_ctx *ctx, const struct network_config *c, struct error *e) {
        _cleanup_notes_ struct network_notes repairs = { 0 };
        int r = network_up(ctx, c, &repairs, e);

        print_notes("repair", &repairs);
        return r;
}

static int run(struct network_ctx *ctx, struct network_config *c, int argc, char **argv, struct error *e) {
        const char *verb = argv[0];

        if (streq(verb, "choose")) {
                int r = network_choose(ctx, c, e);
                _cleanup_free_ char *text = r < 0 ? NULL : network_config_format(c);

                if (text)
                        puts(text);
                return r;
        }
        if (streq(verb, "up"))
                return do_up(ctx, c, e);
        if (streq(verb, "down"))
                return network_down(ctx, c->name, e);
        if (streq(verb, "delete"))
                return network_delete(ctx, c->name, e);
        if (streq(verb, "status"))
                return do_status(ctx, c, e);
        if (streq(verb, "forwards"))
                return network_set_forwards(ctx, c, e);
        if (streq(verb, "attach") && argc == 4)
                return do_attach(ctx, c, argv + 1, e);
        if (streq(verb, "detach") && argc == 2)
                return network_detach(ctx, c, argv[1], e);
        if (streq(verb, "forget") && argc == 2)
                return network_forget(ctx, c, argv[1], e);
        if (streq(verb, "taps"))
                return do_taps(ctx, e);
        if (streq(verb, "leftovers"))
                return do_leftovers(ctx, argc - 1, argv + 1, e);
        return error_set(e, -EINVAL, "usage", NULL, "see the head of network-tool.c");
}

/* ---- pump --------------------------------------------------------------------------------------------------------- */

static int tap_open(const char *name, const char *mac) {
        _cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
        struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
        unsigned int b[6];

        snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
        if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0)
                return -errno;
        if (!mac)
                return TAKE_FD(fd);
        if (sscanf(mac, "%x:%x:%x:%x:%x:%x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]) != 6)
                return -EINVAL;
        ifr.ifr_hwaddr.sa_family = ARPHRD_ETHER;
        for (int i = 0; i < 6; i++)
                ifr.ifr_hwaddr.sa_data[i] = (char)b[i];
        return ioctl(fd, SIOCSIFHWADDR, &ifr) < 0 ? -errno : TAKE_FD(fd);
}

static int pump(const char *tap, const char *netns, const char *mac) {
        static char frame[65536 + 64];
        _cleanup_close_ int ns = -EBADF;
        struct pollfd p[2] = { { .events = POLLIN }, { .events = POLLIN } };
        char path[300];

        p[0].fd = tap_open(tap, NULL);
        snprintf(path, sizeof(path), "/run/netns/%s", netns);
        ns = open(path, O_RDONLY | O_CLOEXEC);
        if (p[0].fd < 0 || ns < 0 || setns(ns, CLONE_NEWNET) < 0)
                return perror("pump"), 2;
        p[1].fd = tap_open("eth0", mac);
        if (p[1].fd < 0)
                return fprintf(stderr, "pump: eth0: %s\n", strerror(-p[1].fd)), 2;
        puts("ready");
        fflush(stdout);
        for (;;) {
                poll(p, 2, -1);
                for (int i = 0; i < 2; i++) {
                        ssize_t n = p[i].revents & POLLIN ? read(p[i].fd, frame, sizeof(frame)) : 0;

                        if (n > 0)
                                (void)!write(p[!i].fd, frame, (size_t)n); /* lost while the other end is down */
                        else if (p[i].revents & (POLLERR | POLLHUP))
                                usleep(10000);
                }
        }
}

int main(int argc, char **argv) {
        _cleanup_(network_ctx_freep) struct network_ctx *ctx = NULL;
        _cleanup_(network_config_freep) struct network_config *c = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *text = NULL;
        size_t n;
        int r;

        if (argc >= 5 && streq(argv[1], "pump"))
                return pump(argv[2], argv[3], argv[4]);
        if (argc < 4)
                return fprintf(stderr, "usage: see the head of network-tool.c\n"), 1;
        fd = open(argv[2], O_RDONLY | O_CLOEXEC);
        if (fd < 0 || io_read_all(fd, 1 << 20, &text, &n) < 0)
                return perror(argv[2]), 1;
        r = network_config_parse(text, n, &c, &e);
        if (r == 0)
                r = network_ctx_new(argv[1], &ctx, &e);
        if (r == 0)
                r = run(ctx, c, argc - 3, argv + 3, &e);
        if (r < 0) {
                error_set(&e, r, "unknown", NULL, "failed");
                error_print(&e, "network-tool", stderr);
                return 2;
        }
        return 0;
}
