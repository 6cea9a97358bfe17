// SPDX-License-Identifier: GPL-2.0-or-later
/* virtio-net: frames arrive whole, once and in order, in both directions, over any split of buffers and any pace of either side */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test/unit/virtio-harness.h"

#define RX    0
#define TX    1
#define CTL   2
#define BUF   (HARNESS_DATA + 0x1000)
#define RXBUF (HARNESS_DATA + 0x200000)
#define BASE                                                                                                           \
        (BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) |    \
         BIT(VIRTIO_NET_F_CTRL_MAC_ADDR))
#define MRG    (BASE | BIT(VIRTIO_NET_F_MRG_RXBUF))
#define HEADER 12u

struct nic_test {
        struct harness h;
        int peer, inner;
};

static struct nic_test *setup(enum vmm_net_type type, int inner, int peer, bool offloads, uint32_t mtu) {
        struct nic_test *t = calloc(1, sizeof(*t));
        struct vmm_config *config;
        struct vmm_net_config *c;

        t->inner = inner;
        t->peer = peer;
        assert_int_equal(vmm_config_new(&config), 0);
        assert_int_equal(vmm_config_add_nets(config, &c), 0);
        c->type = type;
        c->fd = inner;
        c->mac = strdup("52:54:00:12:34:56");
        c->offloads = offloads;
        c->mtu = mtu;
        harness_init(&t->h, config);
        harness_create(&t->h, &virtio_net_class, 0);
        return t;
}

static struct nic_test *passt_setup(uint64_t features) {
        struct nic_test *t;
        int fds[2], size = 4096;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        size = 1 << 20;
        setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        fcntl(fds[0], F_SETFL, O_NONBLOCK);
        t = setup(VMM_NET_TYPE_PASST, fds[1], fds[0], false, 1500);
        harness_start(&t->h, features, 3);
        return t;
}

static void teardown(struct nic_test *t) {
        harness_free(&t->h);
        close(t->inner);
        if (t->peer >= 0)
                close(t->peer);
        free(t);
}

static void fill(uint8_t *at, size_t n, uint32_t seed) {
        for (size_t i = 0; i < n; i++) {
                seed = seed * 1664525 + 1013904223;
                at[i] = (uint8_t)(seed >> 24);
        }
}

static void peer_send(struct nic_test *t, const uint8_t *frame, uint32_t n) {
        uint32_t prefix = htonl(n);

        assert_int_equal(write(t->peer, &prefix, 4), 4);
        assert_int_equal(write(t->peer, frame, n), n);
}

/* Exactly @n bytes from the peer's end, running the loop while they are not there. */
static void peer_read(struct nic_test *t, uint8_t *buf, size_t n) {
        for (size_t got = 0; got < n;) {
                ssize_t r = read(t->peer, buf + got, n - got);

                if (r > 0)
                        got += (size_t)r;
                else
                        assert_true(loop_run_once(t->h.machine.loop, 1000) > 0);
        }
}

static void guest_send(struct nic_test *t, uint64_t at, const uint8_t *frame, uint32_t n) {
        const struct segment s[] = { { at, HEADER, false }, { at + HEADER, n, false } };

        memset(harness_at(&t->h, at), 0, HEADER);
        memcpy(harness_at(&t->h, at + HEADER), frame, n);
        harness_offer(&t->h, TX, s, 2);
        harness_kick(&t->h, TX);
}

static void offer_rx(struct nic_test *t, uint64_t at, uint32_t size) {
        const struct segment s = { at, size, true };

        harness_offer(&t->h, RX, &s, 1);
}

static void assert_idle(struct nic_test *t) {
        harness_settle(&t->h);
        assert_int_equal(loop_run_once(t->h.machine.loop, 20), 0);
}

/* A frame as the driver gets it: merges used buffers; returns its length without the header. */
static size_t guest_receive(struct nic_test *t, uint8_t *frame, unsigned int *ret_buffers) {
        uint16_t head = 0, count;
        uint32_t len = 0;
        size_t n = 0;

        harness_used(&t->h, RX, &head, &len);
        memcpy(&count, (uint8_t *)harness_at(&t->h, driver_desc(&t->h.queue[RX], head)->addr) + 10, 2);
        for (unsigned int i = 0;; i++) {
                uint8_t *at = harness_at(&t->h, driver_desc(&t->h.queue[RX], head)->addr);
                size_t skip = i == 0 ? HEADER : 0;

                memcpy(frame + n, at + skip, len - skip);
                n += len - skip;
                if (i + 1 >= count)
                        break;
                assert_true(harness_take(&t->h, RX, &head, &len)); /* published together */
        }
        *ret_buffers = count;
        return n;
}

static void test_frames_both_ways(void **state) {
        struct nic_test *t = passt_setup(BASE);
        uint8_t frame[1514], got[2000];
        unsigned int buffers;

        fill(frame, sizeof(frame), 1);
        guest_send(t, BUF, frame, 60);
        harness_used(&t->h, TX, NULL, NULL);
        peer_read(t, got, 64);
        assert_memory_equal(got, "\0\0\0\x3c", 4);
        assert_memory_equal(got + 4, frame, 60);

        offer_rx(t, RXBUF, 2048);
        offer_rx(t, RXBUF + 4096, 2048);
        harness_kick(&t->h, RX);
        memset(harness_at(&t->h, RXBUF), 0xff, 2048); /* the header must be written, not left as it was */
        peer_send(t, frame, 1514);
        peer_send(t, frame + 100, 60);
        assert_int_equal(guest_receive(t, got, &buffers), 1514);
        assert_int_equal(buffers, 1);
        assert_memory_equal(got, frame, 1514);
        assert_memory_equal(harness_at(&t->h, RXBUF), "\0\0\0\0\0\0\0\0\0\0", 10);
        assert_int_equal(guest_receive(t, got, &buffers), 60);
        assert_memory_equal(got, frame + 100, 60);
        assert_idle(t);
        teardown(t);
}

/* A frame larger than a buffer goes over several, in order, and none is lost between frames. */
static void test_mergeable_buffers(void **state) {
        struct nic_test *t = passt_setup(MRG);
        uint8_t *frame = malloc(70000), *got = malloc(70000);
        static const uint32_t sizes[] = { 1000, 60, 9000, 14, 3988, 3989, 20000 };
        unsigned int buffers;

        fill(frame, 70000, 2);
        for (unsigned int i = 0; i < 24; i++)
                offer_rx(t, RXBUF + i * 4096, 2000);
        harness_kick(&t->h, RX);
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                peer_send(t, frame + i, sizes[i]);
                assert_int_equal(guest_receive(t, got, &buffers), sizes[i]);
                assert_memory_equal(got, frame + i, sizes[i]);
                assert_int_equal(buffers, (sizes[i] + HEADER + 1999) / 2000);
        }
        free(frame);
        free(got);
        teardown(t);
}

/* A frame that needs more buffers than there are waits for them; it is neither lost nor cut, and nothing spins. */
static void test_frame_waits_for_buffers(void **state) {
        struct nic_test *t = passt_setup(MRG);
        uint8_t frame[5000], got[8000];
        unsigned int buffers;

        fill(frame, sizeof(frame), 3);
        offer_rx(t, RXBUF, 1000);
        harness_kick(&t->h, RX);
        peer_send(t, frame, 5000);
        peer_send(t, frame, 100);
        assert_idle(t);
        assert_false(harness_take(&t->h, RX, NULL, NULL));
        for (unsigned int i = 1; i < 6; i++) {
                assert_false(harness_take(&t->h, RX, NULL, NULL));
                offer_rx(t, RXBUF + i * 4096, 1000);
                harness_kick(&t->h, RX);
                assert_idle(t);
        }
        assert_int_equal(guest_receive(t, got, &buffers), 5000);
        assert_int_equal(buffers, 6);
        assert_memory_equal(got, frame, 5000);
        offer_rx(t, RXBUF, 1000);
        harness_kick(&t->h, RX);
        assert_int_equal(guest_receive(t, got, &buffers), 100);
        teardown(t);
}

/* Without mergeable buffers a frame that is too long for one is dropped; those around it arrive. */
static void test_oversize_is_dropped(void **state) {
        struct nic_test *t = passt_setup(BASE);
        uint8_t frame[3000], got[4000];
        unsigned int buffers;

        fill(frame, sizeof(frame), 4);
        for (unsigned int i = 0; i < 4; i++)
                offer_rx(t, RXBUF + i * 4096, 1526);
        harness_kick(&t->h, RX);
        peer_send(t, frame, 1514);
        peer_send(t, frame, 1515);
        peer_send(t, frame, 3000);
        peer_send(t, frame, 70);
        assert_int_equal(guest_receive(t, got, &buffers), 1514);
        assert_int_equal(guest_receive(t, got, &buffers), 70);
        assert_memory_equal(got, frame, 70);
        assert_false(harness_broken(&t->h));
        teardown(t);
}

/* No buffers: the socket is left alone (that is the back pressure), without spinning, until the driver brings some. */
static void test_no_buffers_no_reads(void **state) {
        struct nic_test *t = passt_setup(MRG);
        uint8_t frame[100], got[2000];
        unsigned int buffers;

        fill(frame, sizeof(frame), 5);
        for (int i = 0; i < 5; i++)
                peer_send(t, frame + i, 80);
        assert_idle(t);
        for (unsigned int i = 0; i < 5; i++) {
                offer_rx(t, RXBUF + i * 4096, 2000);
                harness_kick(&t->h, RX);
                assert_int_equal(guest_receive(t, got, &buffers), 80);
                assert_memory_equal(got, frame + i, 80);
                assert_idle(t);
        }
        teardown(t);
}

/* A peer that reads slowly: the stream of frames stays whole although the socket takes them in pieces. */
static void test_slow_peer_keeps_framing(void **state) {
        struct nic_test *t = passt_setup(BASE);
        enum { N = 30, LEN = 9000 };
        uint8_t *frame = malloc(LEN + N), *got = malloc(LEN + 4);

        fill(frame, LEN + N, 6);
        for (unsigned int i = 0; i < N; i++) {
                uint64_t at = BUF + i * 0x4000;

                guest_send(t, at, frame + i, LEN);
        }
        assert_idle(t);
        for (unsigned int i = 0; i < N; i++) {
                peer_read(t, got, LEN + 4);
                assert_memory_equal(got, "\0\0\x23\x28", 4);
                assert_memory_equal(got + 4, frame + i, LEN);
        }
        for (unsigned int i = 0; i < N; i++)
                harness_used(&t->h, TX, NULL, NULL);
        assert_idle(t);
        free(frame);
        free(got);
        teardown(t);
}

/* A frame may arrive in any pieces: length and all. */
static void test_trickling_peer(void **state) {
        struct nic_test *t = passt_setup(MRG);
        uint8_t wire[4 + 64] = { 0, 0, 0, 64 }, got[2000];
        unsigned int buffers;

        fill(wire + 4, 64, 7);
        offer_rx(t, RXBUF, 2000);
        harness_kick(&t->h, RX);
        for (size_t i = 0; i < sizeof(wire); i++) {
                assert_false(harness_take(&t->h, RX, NULL, NULL));
                assert_int_equal(write(t->peer, wire + i, 1), 1);
                harness_settle(&t->h);
        }
        assert_int_equal(guest_receive(t, got, &buffers), 64);
        assert_memory_equal(got, wire + 4, 64);
        teardown(t);
}

/* The peer dies, or talks nonsense: the guest sees its cable pulled, its frames are dropped, nothing spins. */
static void test_link_goes_down(void **state) {
        for (int how = 0; how < 3; how++) {
                struct nic_test *t = passt_setup(MRG);
                struct virtio_net_config config;
                uint8_t frame[100] = { 0 };

                offer_rx(t, RXBUF, 2000);
                harness_kick(&t->h, RX);
                virtio_device_read_config(t->h.virtio, 0, &config, sizeof(config));
                assert_int_equal(config.status, VIRTIO_NET_S_LINK_UP);
                assert_memory_equal(config.mac, "\x52\x54\x00\x12\x34\x56", 6);
                if (how == 0) {
                        close(t->peer);
                        t->peer = -1;
                } else {
                        uint32_t length = how == 1 ? UINT32_MAX : htonl(13);

                        assert_int_equal(write(t->peer, &length, 4), 4);
                }
                assert_idle(t);
                virtio_device_read_config(t->h.virtio, 0, &config, sizeof(config));
                assert_int_equal(config.status, 0);
                assert_int_equal(t->h.config_interrupts, 1);
                guest_send(t, BUF, frame, 100);
                harness_used(&t->h, TX, NULL, NULL);
                assert_false(harness_broken(&t->h));
                teardown(t);
        }
}

static uint8_t command(struct nic_test *t, uint8_t class, uint8_t cmd, const void *data, uint32_t n) {
        const struct segment s[] = { { BUF, 2, false }, { BUF + 2, n, false }, { BUF + 0x1000, 1, true } };
        uint8_t *at = harness_at(&t->h, BUF);

        at[0] = class;
        at[1] = cmd;
        memcpy(at + 2, data, n);
        at[0x1000] = 0xee;
        harness_offer(&t->h, CTL, s, 3);
        harness_kick(&t->h, CTL);
        harness_used(&t->h, CTL, NULL, NULL);
        return at[0x1000];
}

static void test_commands(void **state) {
        struct nic_test *t = passt_setup(BASE);
        struct virtio_net_config config;

        assert_int_equal(command(t, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, "\1", 1), VIRTIO_NET_OK);
        assert_int_equal(command(t, VIRTIO_NET_CTRL_RX, 77, "\1", 1), VIRTIO_NET_ERR);
        assert_int_equal(command(t, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, "\0\0\0\0\0\0\0\0", 8),
                         VIRTIO_NET_OK);
        assert_int_equal(command(t, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, "\x52\1\2\3\4\5", 6),
                         VIRTIO_NET_OK);
        virtio_device_read_config(t->h.virtio, 0, &config, sizeof(config));
        assert_memory_equal(config.mac, "\x52\1\2\3\4\5", 6);
        assert_int_equal(command(t, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, "\x52\1\2\3\4", 5),
                         VIRTIO_NET_ERR);
        assert_int_equal(command(t, VIRTIO_NET_CTRL_MQ, 0, "\1\0", 2), VIRTIO_NET_ERR);
        assert_int_equal(command(t, 200, 200, "", 0), VIRTIO_NET_ERR);
        assert_false(harness_broken(&t->h));
        teardown(t);
}

/* Chains that break the rules stop the device; frames that are too short or too long are dropped and cost nobody else. */
static void test_hostile_chains(void **state) {
        struct nic_test *t = passt_setup(MRG);
        const struct segment no_header = { BUF, 11, false }, runt = { BUF, HEADER + 13, false };
        const struct segment giant = { BUF, 80000, false }, small_rx = { RXBUF, 11, true }, no_ack = { BUF, 64, false };
        uint8_t frame[64] = { 1 }, got[80];

        memset(harness_at(&t->h, BUF), 0, 80000);
        harness_offer(&t->h, TX, &runt, 1);
        harness_offer(&t->h, TX, &giant, 1);
        harness_kick(&t->h, TX);
        harness_used(&t->h, TX, NULL, NULL);
        harness_used(&t->h, TX, NULL, NULL);
        guest_send(t, BUF, frame, 64);
        peer_read(t, got, 68);
        assert_memory_equal(got + 4, frame, 64);

        harness_offer(&t->h, TX, &no_header, 1);
        harness_kick(&t->h, TX);
        assert_true(harness_broken(&t->h));
        assert_idle(t);
        harness_start(&t->h, MRG, 3);
        harness_offer(&t->h, RX, &small_rx, 1);
        harness_kick(&t->h, RX);
        peer_send(t, frame, 64);
        harness_settle(&t->h);
        assert_true(harness_broken(&t->h));
        assert_idle(t);
        harness_start(&t->h, MRG, 3);
        harness_offer(&t->h, CTL, &no_ack, 1);
        harness_kick(&t->h, CTL);
        assert_true(harness_broken(&t->h));
        teardown(t);
}

/* After a reset the old driver's buffers are never written, and the new one's frames are whole. */
static void test_reset(void **state) {
        struct nic_test *t = passt_setup(MRG);
        uint8_t frame[3000], got[4000], *old = harness_at(&t->h, RXBUF);
        unsigned int buffers;

        fill(frame, sizeof(frame), 8);
        offer_rx(t, RXBUF, 1000);
        harness_kick(&t->h, RX);
        peer_send(t, frame, 3000); /* half of it is in the buffer when the reset comes */
        assert_idle(t);
        t->h.device->class->reset(t->h.device);
        memset(old, 0xcc, 1000);
        peer_send(t, frame + 7, 500);
        assert_idle(t);
        harness_start(&t->h, MRG, 3);
        offer_rx(t, RXBUF + 0x10000, 2000);
        harness_kick(&t->h, RX);
        assert_int_equal(guest_receive(t, got, &buffers), 500);
        assert_memory_equal(got, frame + 7, 500);
        for (unsigned int i = 0; i < 1000; i++)
                assert_int_equal(old[i], 0xcc);
        teardown(t);
}

static int tap_open(const char *name, int flags) {
        struct ifreq ifr = { .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | flags) };
        int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC), sock;

        if (fd < 0)
                return -errno;
        strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
        if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
                close(fd);
                return -errno;
        }
        sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        ifr.ifr_flags = IFF_UP | IFF_NOARP;
        assert_int_equal(ioctl(sock, SIOCSIFFLAGS, &ifr), 0);
        close(sock);
        return fd;
}

/* A raw socket on the host's side of the tap. */
static int packet_open(const char *name) {
        struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(0x88b5) };
        int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(0x88b5));

        assert_true(fd >= 0);
        address.sll_ifindex = (int)if_nametoindex(name);
        assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        return fd;
}

/* The real kernel's tap: both directions, the header's size, offloads as offered, and the interface's end. */
static void test_tap(void **state) {
        uint8_t frame[1514], got[2000];
        struct nic_test *t;
        unsigned int buffers;
        int tap, packet;

        if (unshare(CLONE_NEWNET) < 0) {
                print_message("skipped: no network namespace without root (%s)\n", strerror(errno));
                skip();
        }
        tap = tap_open("t0", IFF_VNET_HDR);
        if (tap < 0) {
                print_message("skipped: no tap devices here (%s)\n", strerror(-tap));
                skip();
        }
        packet = packet_open("t0");
        t = setup(VMM_NET_TYPE_TAP, tap, packet, true, 1500);
        assert_true(t->h.virtio->device_features & BIT(VIRTIO_NET_F_HOST_TSO4));
        assert_true(t->h.virtio->device_features & BIT(VIRTIO_NET_F_GUEST_CSUM));
        harness_start(&t->h, MRG | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4), 3);
        fill(frame, sizeof(frame), 9);
        memcpy(frame + 12, "\x88\xb5", 2); /* local experiments */
        frame[0] = frame[6] = 2;

        for (unsigned int i = 0; i < 20; i++)
                offer_rx(t, RXBUF + i * 4096, 1000);
        harness_kick(&t->h, RX);
        assert_int_equal(send(packet, frame, 1514, 0), 1514);
        do { /* the kernel's own chatter comes through too */
                size_t n = guest_receive(t, got, &buffers);

                if (memcmp(got + 12, "\x88\xb5", 2) == 0) {
                        assert_int_equal(n, 1514);
                        break;
                }
        } while (true);
        assert_int_equal(buffers, 2);
        assert_memory_equal(got, frame, 1514);

        guest_send(t, BUF, frame, 1000);
        harness_used(&t->h, TX, NULL, NULL);
        {
                struct pollfd p = { .fd = packet, .events = POLLIN };

                assert_int_equal(poll(&p, 1, 2000), 1);
        }
        assert_int_equal(recv(packet, got, sizeof(got), 0), 1000);
        assert_memory_equal(got, frame, 1000);

        /* a header that makes no sense: dropped by the kernel, not our problem */
        memset(harness_at(&t->h, BUF), 0xff, HEADER);
        {
                const struct segment s = { BUF, HEADER + 64, false };

                harness_offer(&t->h, TX, &s, 1);
                harness_kick(&t->h, TX);
                harness_used(&t->h, TX, NULL, NULL);
        }
        assert_false(harness_broken(&t->h));
        teardown(t);
}

/* A tap in the wrong mode would read garbage headers for ever: refused at the start. */
static void test_tap_modes(void **state) {
        int fds[2], tap = -1, pair[2];

        assert_int_equal(pipe(fds), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), 0);
        if (unshare(CLONE_NEWNET) == 0)
                tap = tap_open("t1", 0);
        for (int i = 0; i < 3; i++) {
                _cleanup_error_ struct error e = ERROR_INIT;
                struct harness h;
                struct vmm_config *config;
                struct vmm_net_config *c;

                if (i == 2 && tap < 0)
                        break;
                assert_int_equal(vmm_config_new(&config), 0);
                assert_int_equal(vmm_config_add_nets(config, &c), 0);
                c->type = i == 1 ? VMM_NET_TYPE_PASST : VMM_NET_TYPE_TAP;
                c->fd = i == 0 ? fds[0] : i == 1 ? pair[0] : tap;
                c->mac = strdup("52:54:00:12:34:56");
                harness_init(&h, config);
                assert_true(virtio_net_class.create(&h.machine, 0, &h.device, &e) < 0);
                assert_string_equal(e.id, i == 1 ? "net-socket" : "net-tap");
                harness_free(&h);
        }
        for (int i = 0; i < 2; i++) {
                close(fds[i]);
                close(pair[i]);
        }
        if (tap >= 0)
                close(tap);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_frames_both_ways),
                cmocka_unit_test(test_mergeable_buffers),
                cmocka_unit_test(test_frame_waits_for_buffers),
                cmocka_unit_test(test_oversize_is_dropped),
                cmocka_unit_test(test_no_buffers_no_reads),
                cmocka_unit_test(test_slow_peer_keeps_framing),
                cmocka_unit_test(test_trickling_peer),
                cmocka_unit_test(test_link_goes_down),
                cmocka_unit_test(test_commands),
                cmocka_unit_test(test_hostile_chains),
                cmocka_unit_test(test_reset),
                cmocka_unit_test(test_tap),
                cmocka_unit_test(test_tap_modes),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
