// SPDX-License-Identifier: GPL-2.0-or-later
/* parts-net: see parts-net.h */
#include "daemon/engine/parts-net.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/io.h"
#include "base/spawn.h"
#include "schema/publish.h"

#define VNET_HEADER_SIZE 12 /* virtio 1.2 §5.1.6: struct virtio_net_hdr with num_buffers */
#define PASST_GRACE_MS   500
#define PUBLISH_MAX      64 /* lodge.yaml: machine.publish */
#define PUBLISH_TEXT_MAX 64

void parts_mac(const char *name, unsigned int index, char ret_mac[static 18]) {
        uint32_t hash = 2166136261u; /* FNV-1a */

        for (const char *p = name; *p; p++)
                hash = (hash ^ (uint8_t)*p) * 16777619u;
        hash = (hash ^ index) * 16777619u;
        snprintf(ret_mac, 18, "52:54:%02x:%02x:%02x:%02x", hash >> 24, hash >> 16 & 0xff, hash >> 8 & 0xff,
                 hash & 0xff);
}

static int tap_open(const char *interface, int *ret_fd, struct error *e) {
        _cleanup_close_ int fd = -EBADF;
        struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
        int size = VNET_HEADER_SIZE;

        if (!interface || if_nametoindex(interface) == 0) {
                error_set(e, -ENODEV, "net-unknown", NULL, "there is no network interface %s", interface ?: "");
                error_set_fix(e, "make it: ip tuntap add %s mode tap user $USER; what exists: ip -br link",
                              interface ?: "tap0");
                return -ENODEV;
        }
        fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return error_set(e, -errno, "net-tap",
                                 errno == ENOENT ? "load the module: modprobe tun" : "run as root, or use --net user",
                                 "cannot open /dev/net/tun");
        snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", interface);
        if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
                int code = -errno;

                error_set(e, code, "net-tap", NULL, "cannot attach to interface %s", interface);
                error_set_fix(e,
                              code == -EBUSY ? "another machine uses %s: give this one its own"
                              : code == -EINVAL
                                      ? "%s is not a tap interface, or not one of its kind: ip -d link show"
                                      : "it belongs to another user: ip tuntap add NAME mode tap user $USER (not %s)",
                              interface);
                return code;
        }
        if (ioctl(fd, TUNSETVNETHDRSZ, &size) < 0)
                return error_set(e, -errno, "net-tap", NULL, "cannot set up interface %s", interface);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Does the host have a default route for IPv4? (/proc/net/route: destination and mask 0.) */
static bool has_default_route(void) {
        FILE *f = fopen("/proc/net/route", "re");
        unsigned int destination, mask;
        bool found = false;
        char line[256];

        while (f && !found && fgets(line, sizeof(line), f))
                found = sscanf(line, "%*s %x %*x %*x %*d %*d %*d %x", &destination, &mask) == 2 && destination == 0 &&
                        mask == 0;
        if (f)
                fclose(f);
        return found;
}

/*
 * The guest's IPv4 network is the same on every host: it is 10.0.2.15/24, and its gateway 10.0.2.2 is the host. passt wants an interface
 * that leads outside; a host without one still serves its guests: they reach the host.
 */
static const char *const passt_ipv4[] = { "--address", "10.0.2.15", "--netmask", "24", "--gateway", "10.0.2.2" };
static const char *const passt_offline[] = { "--ipv4-only", "--interface", "lo", "--mac-addr", "52:55:0a:00:02:02" };
#define PASST_ARGS (ELEMENTSOF(passt_ipv4) + ELEMENTSOF(passt_offline))

/* passt would end by itself, later, and the machine would have no network: so what can be known before is. */
static int port_check(const struct publish *p, struct error *e) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(p->host_port) };
        _cleanup_close_ int fd = socket(AF_INET, (p->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
        const int on = 1;

        if (fd < 0 || (p->address[0] && inet_pton(AF_INET, p->address, &address.sin_addr) != 1))
                return 0;                                          /* IPv6: passt says it */
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)); /* what an ended process has left is no reason */
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && (p->udp || listen(fd, 1) == 0))
                return 0;
        error_set(e, -errno, errno == EACCES ? "port-denied" : "port-busy", NULL, "cannot publish port %u of the host",
                  p->host_port);
        if (e && e->code == -EACCES)
                error_set_fix(e, "ports below 1024 are the administrator's: publish one above, as 8%03u:%u",
                              p->host_port, p->port);
        else
                error_set_fix(e, "choose another port, or see who has it: ss -lnp sport = :%u", p->host_port);
        return e && e->code ? e->code : -EADDRINUSE;
}

/* Option and value for each published port, into @argv; @text holds the values. Return: how many words, or -errno. */
static int passt_publish(const struct machine_config *machine, const char **argv, char (*text)[PUBLISH_TEXT_MAX],
                         struct error *e) {
        int n = 0, r;

        for (size_t i = 0; i < machine->n_publish; i++) {
                struct publish p;

                r = publish_parse(machine->publish[i], &p);
                if (r == 0)
                        r = port_check(&p, e);
                if (r < 0)
                        return r;
                snprintf(text[i], PUBLISH_TEXT_MAX, "%s%s%u:%u", p.address, p.address[0] ? "/" : "", p.host_port,
                         p.port);
                argv[n++] = p.udp ? "-u" : "-t";
                argv[n++] = text[i];
        }
        return n;
}

static int passt_start(const struct machine_config *publish, struct part_net *n, const struct spawn_jail *jail,
                       struct error *e) {
        static const char missing_fix[] = "install it (apt install passt), or run without network: --net none";
        _cleanup_close_ int ours = -EBADF, theirs = -EBADF, log_ours = -EBADF, log_theirs = -EBADF;
        char fd_text[16], mtu[16];
        enum { PASST_FIXED = 8 };
        char ports[PUBLISH_MAX][PUBLISH_TEXT_MAX];
        size_t n_argv = PASST_FIXED + ELEMENTSOF(passt_ipv4);
        const char *argv[PASST_FIXED + PASST_ARGS + 2 * PUBLISH_MAX + 1] = {
                "passt", "--foreground", "--quiet", "--stderr", "--fd", fd_text, "--mtu", mtu
        };
        struct spawn s = {
                .path = "passt", .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .death_signal = 15, .jail = jail
        };
        int pair[2], r;

        memcpy(argv + PASST_FIXED, passt_ipv4, sizeof(passt_ipv4));
        if (!has_default_route()) {
                memcpy(argv + n_argv, passt_offline, sizeof(passt_offline));
                n_argv += ELEMENTSOF(passt_offline);
        }
        if (publish) {
                r = passt_publish(publish, argv + n_argv, ports, e);
                if (r < 0)
                        return r;
        }
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return error_set(e, -errno, "net-passt", NULL, "cannot make a socket for passt");
        ours = pair[0];
        theirs = pair[1];
        if (pipe2(pair, O_CLOEXEC) < 0)
                return error_set(e, -errno, "net-passt", NULL, "cannot make a pipe for passt");
        log_ours = pair[0];
        log_theirs = pair[1];
        r = io_set_nonblock(log_ours, true);
        if (r < 0)
                return error_set(e, r, "net-passt", NULL, "cannot make a pipe for passt");
        snprintf(fd_text, sizeof(fd_text), "%d", theirs);
        snprintf(mtu, sizeof(mtu), "%u", n->mtu);
        s.fds = &theirs;
        s.n_fds = 1;
        s.stderr_fd = log_theirs;
        r = spawn_child(&s, &n->pid, &n->pidfd, e);
        if (r < 0) {
                if (r == -ENOENT)
                        error_set_fix(e, "%s", missing_fix);
                error_prefix(e, "user networking");
                return r;
        }
        n->fd = TAKE_FD(ours);
        n->log_fd = TAKE_FD(log_ours);
        return 0;
}

/* Is @index the first interface of type user? */
static bool publishes(const struct machine_config *machine, unsigned int index) {
        for (unsigned int i = 0; i < index; i++)
                if (machine->nets[i].type == MACHINE_NET_TYPE_USER)
                        return false;
        return true;
}

int part_net_open(const struct machine_config *machine, const char *name, unsigned int index,
                  const struct spawn_jail *jail, struct part_net *ret_net, struct error *e) {
        const struct machine_net_config *c = &machine->nets[index];
        struct part_net n = { .type = c->type, .fd = -EBADF, .pidfd = -EBADF, .log_fd = -EBADF, .mtu = c->mtu ?: 1500 };
        int r;

        if (c->type == MACHINE_NET_TYPE_NETWORK)
                return error_set(e, -ENOTSUP, "net-network", "lodge launch IMAGE NAME; or take --net user",
                                 "network %s is the daemon's, and this machine has no daemon", c->network ?: "default");
        if (c->mac)
                snprintf(n.mac, sizeof(n.mac), "%s", c->mac);
        else
                parts_mac(name, index, n.mac);
        r = c->type == MACHINE_NET_TYPE_TAP ? tap_open(c->interface, &n.fd, e)
                                            : passt_start(publishes(machine, index) ? machine : NULL, &n, jail, e);
        if (r < 0)
                return r;
        *ret_net = n;
        return 0;
}

void part_net_close(struct part_net *n) {
        int status;

        n->fd = safe_close(n->fd);
        if (n->pid > 0 && spawn_wait(n->pid, n->pidfd, PASST_GRACE_MS, &status) == -ETIMEDOUT)
                spawn_end(n->pid, n->pidfd, PASST_GRACE_MS);
        n->pid = 0;
        n->pidfd = safe_close(n->pidfd);
        n->log_fd = safe_close(n->log_fd);
}
