// SPDX-License-Identifier: GPL-2.0-or-later
/* virtio-console: no byte is lost, invented or buffered without bound, whoever opens, closes or stalls first */
#include <fcntl.h>
#include <linux/virtio_console.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test/unit/virtio-harness.h"

#define AGENT      "org.qemu.guest_agent.0"
#define CONSOLE_RX 0
#define CONSOLE_TX 1
#define CTL_RX     2
#define CTL_TX     3
#define AGENT_RX   4
#define AGENT_TX   5
#define CTL_BUF    HARNESS_DATA            /* 16 buffers of 64 bytes for messages to the driver */
#define MSG        (HARNESS_DATA + 0x1000) /* message from the driver */
#define BUF        (HARNESS_DATA + 0x10000)
#define MULTIPORT  BIT(VIRTIO_CONSOLE_F_MULTIPORT)

struct setup {
        struct harness h;
        int console, agent; /* the host's ends */
        int inner[2];
        unsigned int n_control;
};

static void add_port(struct vmm_config *config, const char *name, int *ret_outer, int *ret_inner) {
        struct vmm_port_config *c;
        int fds[2], size = 4096;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        assert_int_equal(vmm_config_add_ports(config, &c), 0);
        c->name = strdup(name);
        c->fd = *ret_inner = fds[1];
        *ret_outer = fds[0];
        fcntl(fds[0], F_SETFL, O_NONBLOCK);
}

static void offer_control(struct setup *s) {
        const struct segment b = { CTL_BUF + (s->n_control++ % 16) * 64, 64, true };

        harness_offer(&s->h, CTL_RX, &b, 1);
}

static struct setup *setup_new(uint64_t features) {
        struct setup *s = calloc(1, sizeof(*s));
        struct vmm_config *config;

        assert_int_equal(vmm_config_new(&config), 0);
        add_port(config, "console", &s->console, &s->inner[0]);
        add_port(config, AGENT, &s->agent, &s->inner[1]);
        harness_init(&s->h, config);
        harness_create(&s->h, &virtio_console_class, 0);
        harness_start(&s->h, features, 6);
        if (features & MULTIPORT)
                for (int i = 0; i < 16; i++)
                        offer_control(s);
        harness_kick(&s->h, CTL_RX);
        return s;
}

static void setup_free(struct setup *s) {
        harness_free(&s->h);
        for (int i = 0; i < 2; i++)
                close(s->inner[i]);
        if (s->console >= 0)
                close(s->console);
        if (s->agent >= 0)
                close(s->agent);
        free(s);
}

static void tell(struct setup *s, uint32_t id, uint16_t event, uint16_t value) {
        struct virtio_console_control c = { .id = id, .event = event, .value = value };
        const struct segment b = { MSG, sizeof(c), false };

        memcpy(harness_at(&s->h, MSG), &c, sizeof(c));
        harness_offer(&s->h, CTL_TX, &b, 1);
        harness_kick(&s->h, CTL_TX);
        harness_used(&s->h, CTL_TX, NULL, NULL);
}

/* The next message to the driver must be this one. */
static void expect(struct setup *s, uint32_t id, uint16_t event, uint16_t value, const char *text) {
        struct virtio_console_control c;
        uint16_t head = 0;
        uint32_t len;
        uint8_t *at;

        harness_used(&s->h, CTL_RX, &head, &len);
        at = harness_at(&s->h, driver_desc(&s->h.queue[CTL_RX], head)->addr);
        memcpy(&c, at, sizeof(c));
        assert_int_equal(c.id, id);
        assert_int_equal(c.event, event);
        assert_int_equal(c.value, value);
        assert_int_equal(len, sizeof(c) + (text ? strlen(text) : 0));
        if (text)
                assert_memory_equal(at + sizeof(c), text, strlen(text));
}

static void handshake(struct setup *s) {
        tell(s, VIRTIO_CONSOLE_BAD_ID, VIRTIO_CONSOLE_DEVICE_READY, 1);
        expect(s, 0, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
        expect(s, 1, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
        tell(s, 0, VIRTIO_CONSOLE_PORT_READY, 1);
        expect(s, 0, VIRTIO_CONSOLE_CONSOLE_PORT, 1, NULL);
        expect(s, 0, VIRTIO_CONSOLE_PORT_NAME, 1, "console");
        expect(s, 0, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL);
        tell(s, 1, VIRTIO_CONSOLE_PORT_READY, 1);
        expect(s, 1, VIRTIO_CONSOLE_PORT_NAME, 1, AGENT);
        expect(s, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL);
}

static void guest_write(struct setup *s, unsigned int q, const void *data, uint32_t len) {
        const struct segment b = { BUF, len, false };

        memcpy(harness_at(&s->h, BUF), data, len);
        harness_offer(&s->h, q, &b, 1);
        harness_kick(&s->h, q);
}

static void guest_buffer(struct setup *s, unsigned int q, uint64_t at, uint32_t len) {
        const struct segment b = { at, len, true };

        harness_offer(&s->h, q, &b, 1);
        harness_kick(&s->h, q);
}

/* A loop that has nothing to do must sleep: a source left ready would burn a CPU. */
static void assert_idle(struct setup *s) {
        harness_settle(&s->h);
        assert_int_equal(loop_run_once(s->h.machine.loop, 20), 0);
}

/* Linux makes hvc0 and /dev/virtio-ports/NAME from exactly this order of messages. */
static void test_handshake(void **state) {
        struct setup *s = setup_new(MULTIPORT);
        struct virtio_console_config config;

        virtio_device_read_config(s->h.virtio, 0, &config, sizeof(config));
        assert_int_equal(config.max_nr_ports, 2);
        assert_int_equal(s->h.virtio->n_queues, 6);
        handshake(s);
        assert_idle(s);
        setup_free(s);
}

/* Messages wait for buffers: a driver that supplies them late must not miss its port. */
static void test_messages_wait_for_buffers(void **state) {
        struct setup *s = setup_new(0);

        s->h.device->class->reset(s->h.device);
        harness_start(&s->h, MULTIPORT, 6);
        tell(s, 0, VIRTIO_CONSOLE_DEVICE_READY, 1);
        tell(s, 1, VIRTIO_CONSOLE_PORT_READY, 1);
        assert_false(harness_take(&s->h, CTL_RX, NULL, NULL));
        for (int i = 0; i < 4; i++) {
                offer_control(s);
                harness_kick(&s->h, CTL_RX);
        }
        expect(s, 0, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
        expect(s, 1, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
        expect(s, 1, VIRTIO_CONSOLE_PORT_NAME, 1, AGENT);
        expect(s, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL);
        setup_free(s);
}

static void test_data_both_ways(void **state) {
        struct setup *s = setup_new(MULTIPORT);
        char buf[64];
        uint32_t len;

        handshake(s);
        tell(s, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
        guest_write(s, AGENT_TX, "hello", 5);
        harness_used(&s->h, AGENT_TX, NULL, NULL);
        assert_int_equal(read(s->agent, buf, sizeof(buf)), 5);
        assert_memory_equal(buf, "hello", 5);
        guest_buffer(s, AGENT_RX, BUF, 4);
        guest_buffer(s, AGENT_RX, BUF + 64, 64);
        assert_int_equal(write(s->agent, "world!", 6), 6);
        harness_used(&s->h, AGENT_RX, NULL, &len);
        assert_int_equal(len, 4);
        harness_used(&s->h, AGENT_RX, NULL, &len);
        assert_int_equal(len, 2);
        assert_memory_equal(harness_at(&s->h, BUF), "worl", 4);
        assert_memory_equal(harness_at(&s->h, BUF + 64), "d!", 2);
        guest_write(s, CONSOLE_TX, "login:", 6);
        assert_int_equal(read(s->console, buf, sizeof(buf)), 6);
        assert_idle(s);
        setup_free(s);
}

/* The host's first request to the agent comes before the agent runs: it has to be there when the port opens. */
static void test_early_data_is_kept(void **state) {
        struct setup *s = setup_new(MULTIPORT);
        uint32_t len;

        assert_int_equal(write(s->agent, "sync", 4), 4);
        handshake(s);
        guest_buffer(s, AGENT_RX, BUF, 64);
        assert_idle(s);
        assert_false(harness_take(&s->h, AGENT_RX, NULL, NULL));
        tell(s, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
        harness_used(&s->h, AGENT_RX, NULL, &len);
        assert_int_equal(len, 4);
        assert_memory_equal(harness_at(&s->h, BUF), "sync", 4);

        tell(s, 1, VIRTIO_CONSOLE_PORT_OPEN, 0); /* the agent restarts */
        assert_int_equal(write(s->agent, "again", 5), 5);
        guest_buffer(s, AGENT_RX, BUF, 64);
        assert_idle(s);
        assert_false(harness_take(&s->h, AGENT_RX, NULL, NULL));
        tell(s, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
        harness_used(&s->h, AGENT_RX, NULL, &len);
        assert_int_equal(len, 5);
        setup_free(s);
}

/* Without buffers of the guest's nothing is read, and nothing spins; the bytes come when a buffer does. */
static void test_no_buffers_no_reads(void **state) {
        struct setup *s = setup_new(MULTIPORT);
        uint32_t len;

        handshake(s);
        tell(s, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
        assert_int_equal(write(s->agent, "abc", 3), 3);
        assert_idle(s);
        guest_buffer(s, AGENT_RX, BUF, 2);
        harness_used(&s->h, AGENT_RX, NULL, &len);
        assert_int_equal(len, 2);
        assert_idle(s);
        guest_buffer(s, AGENT_RX, BUF, 2);
        harness_used(&s->h, AGENT_RX, NULL, &len);
        assert_int_equal(len, 1);
        setup_free(s);
}

/* A reader that is slow stalls the guest, and every byte arrives once, in order. */
static void test_slow_reader_loses_nothing(void **state) {
        struct setup *s = setup_new(MULTIPORT);
        enum { LEN = 300000 };
        uint8_t *data = malloc(LEN), *got = malloc(LEN);
        size_t n = 0;
        const struct segment b[] = { { BUF, 100001, false }, { BUF + 100001, LEN - 100001, false } };

        handshake(s);
        for (size_t i = 0; i < LEN; i++)
                data[i] = (uint8_t)(i * 31 + i / 251);
        memcpy(harness_at(&s->h, BUF), data, LEN);
        harness_offer(&s->h, AGENT_TX, b, 2);
        harness_kick(&s->h, AGENT_TX);
        assert_false(harness_take(&s->h, AGENT_TX, NULL, NULL));
        assert_idle(s); /* a full socket is waited for, not polled */
        while (n < LEN) {
                ssize_t r = read(s->agent, got + n, 7777);

                if (r > 0)
                        n += (size_t)r;
                else
                        assert_true(loop_run_once(s->h.machine.loop, 1000) > 0);
        }
        assert_memory_equal(got, data, LEN);
        harness_used(&s->h, AGENT_TX, NULL, NULL);
        assert_int_equal(read(s->agent, got, 1), -1);
        free(data);
        free(got);
        setup_free(s);
}

/* The peer's last words arrive before the news of its going; then the guest's output is dropped, not stuck, and nothing spins. */
static void test_hang_up(void **state) {
        struct setup *s = setup_new(MULTIPORT);
        uint32_t len;

        handshake(s);
        tell(s, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
        assert_int_equal(write(s->agent, "bye", 3), 3);
        close(s->agent);
        s->agent = -1;
        assert_idle(s); /* no buffer yet: held, not lost, not spinning */
        assert_false(harness_take(&s->h, CTL_RX, NULL, NULL));
        guest_buffer(s, AGENT_RX, BUF, 64);
        guest_buffer(s, AGENT_RX, BUF + 64, 64);
        harness_used(&s->h, AGENT_RX, NULL, &len);
        assert_int_equal(len, 3);
        expect(s, 1, VIRTIO_CONSOLE_PORT_OPEN, 0, NULL);
        guest_write(s, AGENT_TX, "anyone?", 7);
        harness_used(&s->h, AGENT_TX, NULL, NULL);
        assert_idle(s);

        /* and while it waits for a full socket */
        guest_write(s, CONSOLE_TX, "x", 1);
        harness_used(&s->h, CONSOLE_TX, NULL, NULL);
        for (int i = 0; i < 10; i++) {
                const struct segment b = { BUF, 0x10000, false };

                harness_offer(&s->h, CONSOLE_TX, &b, 1);
        }
        harness_kick(&s->h, CONSOLE_TX);
        assert_idle(s);
        close(s->console);
        s->console = -1;
        for (int i = 0; i < 10; i++)
                harness_used(&s->h, CONSOLE_TX, NULL, NULL);
        expect(s, 0, VIRTIO_CONSOLE_PORT_OPEN, 0, NULL);
        assert_idle(s);

        /* A new driver is told at once. */
        s->h.device->class->reset(s->h.device);
        harness_start(&s->h, MULTIPORT, 6);
        for (int i = 0; i < 8; i++)
                offer_control(s);
        tell(s, 0, VIRTIO_CONSOLE_DEVICE_READY, 1);
        expect(s, 0, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
        expect(s, 1, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
        tell(s, 1, VIRTIO_CONSOLE_PORT_READY, 1);
        expect(s, 1, VIRTIO_CONSOLE_PORT_NAME, 1, AGENT);
        expect(s, 1, VIRTIO_CONSOLE_PORT_OPEN, 0, NULL);
        setup_free(s);
}

/* A peer that goes while the port is closed, with nothing left to say, is gone at once. */
static void test_hang_up_while_closed(void **state) {
        struct setup *s = setup_new(MULTIPORT);

        handshake(s);
        close(s->agent);
        s->agent = -1;
        assert_idle(s);
        expect(s, 1, VIRTIO_CONSOLE_PORT_OPEN, 0, NULL);
        setup_free(s);
}

/* A peer that has only stopped sending still gets our answer. */
static void test_half_close(void **state) {
        struct setup *s = setup_new(MULTIPORT);
        char buf[8];

        handshake(s);
        tell(s, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
        guest_buffer(s, AGENT_RX, BUF + 0x1000, 64);
        assert_int_equal(write(s->agent, "q", 1), 1);
        shutdown(s->agent, SHUT_WR);
        harness_used(&s->h, AGENT_RX, NULL, NULL);
        guest_buffer(s, AGENT_RX, BUF + 0x1000, 64);
        assert_idle(s);
        guest_write(s, AGENT_TX, "answer", 6);
        assert_int_equal(read(s->agent, buf, sizeof(buf)), 6);
        setup_free(s);
}

/* Simple drivers have no control queues: one console, open from the start. */
static void test_without_multiport(void **state) {
        struct setup *s = setup_new(0);
        uint32_t len;
        char buf[8];

        guest_buffer(s, CONSOLE_RX, BUF + 64, 64);
        assert_int_equal(write(s->console, "ls\n", 3), 3);
        harness_used(&s->h, CONSOLE_RX, NULL, &len);
        assert_int_equal(len, 3);
        guest_write(s, CONSOLE_TX, "a", 1);
        assert_int_equal(read(s->console, buf, sizeof(buf)), 1);
        setup_free(s);
}

/* Nonsense on the control queue changes nothing; buffers too small for a message stop the device instead of losing the message. */
static void test_hostile_control(void **state) {
        struct setup *s = setup_new(MULTIPORT);
        const struct segment tiny = { MSG, 3, false }, writable = { MSG, 64, true };
        const struct segment small = { CTL_BUF, 7, true };

        tell(s, 2, VIRTIO_CONSOLE_PORT_READY, 1);
        tell(s, 31, VIRTIO_CONSOLE_PORT_OPEN, 1);
        tell(s, UINT32_MAX, VIRTIO_CONSOLE_PORT_OPEN, 1);
        tell(s, 1, 0xffff, 1);
        tell(s, 1, VIRTIO_CONSOLE_RESIZE, 1);
        harness_offer(&s->h, CTL_TX, &tiny, 1);
        harness_offer(&s->h, CTL_TX, &writable, 1);
        harness_kick(&s->h, CTL_TX);
        assert_idle(s);
        assert_false(harness_take(&s->h, CTL_RX, NULL, NULL));
        assert_false(harness_broken(&s->h));
        handshake(s);

        s->h.device->class->reset(s->h.device);
        harness_start(&s->h, MULTIPORT, 6);
        harness_offer(&s->h, CTL_RX, &small, 1);
        tell(s, 0, VIRTIO_CONSOLE_PORT_OPEN, 1); /* harmless: nothing to say */
        assert_false(harness_broken(&s->h));
        {
                struct virtio_console_control c = { .event = VIRTIO_CONSOLE_DEVICE_READY, .value = 1 };
                const struct segment b = { MSG, sizeof(c), false };

                memcpy(harness_at(&s->h, MSG), &c, sizeof(c));
                harness_offer(&s->h, CTL_TX, &b, 1);
                harness_kick(&s->h, CTL_TX);
        }
        assert_true(harness_broken(&s->h));
        setup_free(s);
}

/* A reset in the middle of a chain: the next driver's first chain goes out whole. */
static void test_reset_forgets_partial_output(void **state) {
        struct setup *s = setup_new(MULTIPORT);
        const struct segment b = { BUF, 0x40000, false };
        uint8_t *buf = malloc(0x40000);

        handshake(s);
        harness_offer(&s->h, AGENT_TX, &b, 1);
        harness_kick(&s->h, AGENT_TX);
        s->h.device->class->reset(s->h.device);
        assert_idle(s);
        while (read(s->agent, buf, 0x40000) > 0)
                ;
        assert_idle(s);
        harness_start(&s->h, MULTIPORT, 6);
        guest_write(s, AGENT_TX, "fresh", 5);
        assert_int_equal(read(s->agent, buf, 64), 5);
        assert_memory_equal(buf, "fresh", 5);
        free(buf);
        setup_free(s);
}

/* The same name twice, or a descriptor that is no stream socket, is told before the guest starts. */
static void test_bad_configuration(void **state) {
        for (int i = 0; i < 2; i++) {
                struct harness h;
                struct vmm_config *config;
                struct vmm_port_config *c;
                _cleanup_error_ struct error e = ERROR_INIT;
                int fds[2], outer, inner;

                assert_int_equal(vmm_config_new(&config), 0);
                add_port(config, "console", &outer, &inner);
                assert_int_equal(pipe(fds), 0);
                assert_int_equal(vmm_config_add_ports(config, &c), 0);
                c->name = strdup(i == 0 ? "console" : "pipe");
                c->fd = i == 0 ? inner : fds[0];
                harness_init(&h, config);
                assert_true(virtio_console_class.create(&h.machine, 0, &h.device, &e) < 0);
                assert_string_equal(e.id, i == 0 ? "port-name" : "port-type");
                harness_free(&h);
                close(fds[0]);
                close(fds[1]);
                close(inner);
                close(outer);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_handshake),
                cmocka_unit_test(test_messages_wait_for_buffers),
                cmocka_unit_test(test_data_both_ways),
                cmocka_unit_test(test_early_data_is_kept),
                cmocka_unit_test(test_no_buffers_no_reads),
                cmocka_unit_test(test_slow_reader_loses_nothing),
                cmocka_unit_test(test_hang_up),
                cmocka_unit_test(test_hang_up_while_closed),
                cmocka_unit_test(test_half_close),
                cmocka_unit_test(test_without_multiport),
                cmocka_unit_test(test_hostile_control),
                cmocka_unit_test(test_reset_forgets_partial_output),
                cmocka_unit_test(test_bad_configuration),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
