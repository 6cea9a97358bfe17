// SPDX-License-Identifier: GPL-2.0-or-later
/* serial: the 16550A that drivers expect, and a host side that never waits and never loses what there was room for */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "machine-stub.h"

#define BASE LAYOUT_PORT_SERIAL
#define DATA (BASE + 0)
#define IER  (BASE + 1)
#define IIR  (BASE + 2)
#define FCR  (BASE + 2)
#define LCR  (BASE + 3)
#define MCR  (BASE + 4)
#define LSR  (BASE + 5)
#define MSR  (BASE + 6)
#define SCR  (BASE + 7)
#define IRQ  LAYOUT_IRQ_SERIAL

#define THRE 0x20
#define DR   0x01

struct port {
        struct stub stub;
        int in, out; /* our ends */
};

static int setup(void **state) {
        static struct port p;

        signal(SIGPIPE, SIG_IGN); /* as main.c does */
        stub_init(&p.stub);
        p.in = p.out = -1;
        *state = &p;
        return 0;
}

static int teardown(void **state) {
        struct port *p = *state;

        stub_free(&p->stub);
        safe_close(p->in);
        safe_close(p->out);
        safe_close(p->stub.config.serial.in_fd);
        if (p->stub.config.serial.out_fd != p->stub.config.serial.in_fd)
                safe_close(p->stub.config.serial.out_fd);
        return 0;
}

static void create_on_pipes(struct port *p) {
        int a[2], b[2];

        assert_int_equal(pipe2(a, O_CLOEXEC), 0);
        assert_int_equal(pipe2(b, O_CLOEXEC), 0);
        p->stub.config.serial.in_fd = a[0];
        p->in = a[1];
        p->stub.config.serial.out_fd = b[1];
        p->out = b[0];
        stub_create(&p->stub, &serial_class);
}

static void send_text(struct stub *s, const char *text) {
        for (; *text; text++)
                out(s, DATA, 1, (uint8_t)*text);
}

/* What has arrived at our end, without waiting. */
static size_t arrived(int fd) {
        int n = 0;

        assert_int_equal(ioctl(fd, FIONREAD, &n), 0);
        return (size_t)n;
}

static void expect_text(int fd, const char *text) {
        char buf[256] = { 0 };

        assert_true(arrived(fd) < sizeof(buf));
        assert_int_equal(arrived(fd) > 0 ? read(fd, buf, sizeof(buf) - 1) : 0, strlen(text));
        assert_string_equal(buf, text);
}

/* A line must be out when its newline is, since whoever watches for "login:" or a panic acts on it; a prompt has no newline. */
static void test_lines_go_out_at_once(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;

        create_on_pipes(p);
        send_text(s, "hello");
        assert_int_equal(arrived(p->out), 0); /* batched */
        send_text(s, "\n");
        expect_text(p->out, "hello\n");
        send_text(s, "login: ");
        stub_run(s, 500);
        expect_text(p->out, "login: ");
}

/* What the guest said last is what explains its end. */
static void test_rest_goes_out_at_the_end(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;

        create_on_pipes(p);
        send_text(s, "Power down");
        serial_class.destroy(s->device);
        s->device = NULL;
        expect_text(p->out, "Power down");
}

/* Linux's transmit path: no THRE interrupt after THRI was enabled, or after a byte, and a console hangs. */
static void test_thre_interrupts(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;

        create_on_pipes(p);
        assert_false(s->level[IRQ]);
        out(s, IER, 1, 0x02);
        assert_true(s->level[IRQ]);
        assert_int_equal(in(s, IIR, 1), 0x02);
        assert_false(s->level[IRQ]);
        assert_int_equal(in(s, IIR, 1), 0x01);
        out(s, DATA, 1, 'x');
        assert_true(s->level[IRQ]);
        assert_int_equal(in(s, LSR, 1) & THRE, THRE);
        out(s, IER, 1, 0);
        assert_false(s->level[IRQ]);
        out(s, IER, 1, 0x02); /* again: Linux tests for a chip that forgets this */
        assert_true(s->level[IRQ]);
}

/* A stuck reader must slow the guest down by THRE, then lose bytes: never stop the vCPU; and all must go on when it reads again. */
static void test_stuck_reader(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;
        char buf[65536];
        unsigned int n = 0;

        create_on_pipes(p);
        out(s, IER, 1, 0x02);
        while (in(s, LSR, 1) & THRE) {
                out(s, DATA, 1, 'a');
                assert_true(++n < 1000000);
        }
        assert_true(n > 65536); /* the pipe and the ring */
        (void)in(s, IIR, 1);
        assert_false(s->level[IRQ]);
        for (unsigned int i = 0; i < 20 && !(in(s, LSR, 1) & THRE); i++)
                stub_run(s, 50);
        assert_int_equal(in(s, LSR, 1) & THRE, THRE); /* given up on */
        assert_true(s->level[IRQ]);
        for (unsigned int i = 0; i < 100000; i++)
                out(s, DATA, 1, 'b'); /* nowhere, at once */

        while (arrived(p->out) > 0) {
                assert_true(read(p->out, buf, sizeof(buf)) > 0);
                stub_run(s, 50);
        }
        send_text(s, "back\n");
        expect_text(p->out, "back\n");
}

/* With room in the pipe again before we give up, the guest must be told by the THRE interrupt. */
static void test_slow_reader_loses_nothing(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;
        size_t sent = 0, got = 0, total = 300000;
        char buf[8192];

        create_on_pipes(p);
        out(s, IER, 1, 0x02);
        (void)in(s, IIR, 1);
        while (got < total) {
                ssize_t n;

                while (sent < total && (in(s, LSR, 1) & THRE)) {
                        out(s, DATA, 1, 'a' + sent % 26);
                        sent++;
                }
                stub_run(s, 0);
                if (arrived(p->out) == 0) {
                        stub_run(s, 100);
                        continue;
                }
                n = read(p->out, buf, sizeof(buf));
                assert_true(n > 0);
                for (ssize_t i = 0; i < n; i++)
                        assert_int_equal(buf[i], 'a' + (got + (size_t)i) % 26);
                got += (size_t)n;
        }
        assert_int_equal(got, total);
}

/* A terminal window that was closed must not end or slow the machine. */
static void test_reader_gone(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;

        create_on_pipes(p);
        p->out = safe_close(p->out);
        for (unsigned int i = 0; i < 100000; i++) {
                assert_int_equal(in(s, LSR, 1) & THRE, THRE);
                out(s, DATA, 1, i % 80 ? 'x' : '\n');
        }
        for (unsigned int i = 0; i < 10; i++)
                stub_run(s, 10);
        assert_int_equal(loop_run_once(s->machine.loop, 50), 0); /* and the loop does not spin on the hang-up */
}

/* The flag belongs to everybody who shares the descriptor: the user's shell would get EAGAIN. */
static void test_shared_descriptor_stays_blocking(void **state) {
        struct port *p = *state;

        create_on_pipes(p);
        assert_int_equal(fcntl(p->stub.config.serial.out_fd, F_GETFL) & O_NONBLOCK, 0);
        assert_int_equal(fcntl(p->stub.config.serial.in_fd, F_GETFL) & O_NONBLOCK, 0);
}

/* Text piped in before the guest opens its port must wait outside, and come in whole and in order. */
static void test_input_waits_for_the_guest(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;
        char got[200] = { 0 };
        const char *text = "0123456789abcdefghijklmnopqrstuvwxyz: a line that is longer than the FIFO\n";
        size_t n = 0;

        create_on_pipes(p);
        assert_int_equal(io_write_all(p->in, text, strlen(text)), 0);
        stub_run(s, 20);
        assert_int_equal(arrived(p->in), strlen(text)); /* nobody listens */
        assert_int_equal(in(s, LSR, 1) & DR, 0);
        out(s, FCR, 1, 0x07); /* opening: FIFOs on and cleared */
        out(s, IER, 1, 0x05);
        while (n < strlen(text)) {
                stub_run(s, 200);
                assert_true(s->level[IRQ]);
                assert_int_equal(in(s, IIR, 1) & 0xf7, 0xc4); /* data or timeout, FIFOs on */
                assert_true(arrived(p->in) + 16 >= strlen(text) - n);
                while (in(s, LSR, 1) & DR)
                        got[n++] = (char)in(s, DATA, 1);
                assert_false(s->level[IRQ]);
        }
        assert_string_equal(got, text);
        p->in = safe_close(p->in);
        for (unsigned int i = 0; i < 5; i++)
                stub_run(s, 10);
        assert_int_equal(loop_run_once(s->machine.loop, 50), 0); /* the end of input is no reason to spin */
}

/* A monitor without interrupts polls LSR: it must get input too, but a printing early console must not swallow any. */
static void test_polling_guest(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;

        create_on_pipes(p);
        assert_int_equal(io_write_all(p->in, "q", 1), 0);
        for (unsigned int i = 0; i < 1000; i++) {
                (void)in(s, LSR, 1);
                out(s, DATA, 1, 'x');
        }
        stub_run(s, 10);
        assert_int_equal(in(s, LSR, 1) & DR, 0);
        for (unsigned int i = 0; i < 1000; i++)
                (void)in(s, LSR, 1);
        stub_run(s, 100);
        assert_int_equal(in(s, LSR, 1) & DR, DR);
        assert_int_equal(in(s, DATA, 1), 'q');
}

/* Hang-up with bytes left that the guest does not want yet: no spinning, and no loss. */
static void test_hang_up_before_the_guest_reads(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;

        create_on_pipes(p);
        assert_int_equal(io_write_all(p->in, "ls\n", 3), 0);
        p->in = safe_close(p->in);
        for (unsigned int i = 0; i < 5; i++)
                stub_run(s, 10);
        assert_int_equal(loop_run_once(s->machine.loop, 50), 0);
        out(s, FCR, 1, 0x01);
        out(s, IER, 1, 0x01);
        stub_run(s, 200);
        assert_int_equal(in(s, DATA, 1), 'l');
        assert_int_equal(in(s, DATA, 1), 's');
        assert_int_equal(in(s, DATA, 1), '\n');
}

/* epoll refuses regular files; a log file and a script must work all the same. */
static void test_regular_files(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;
        char in_name[] = "/tmp/test-serial-XXXXXX", out_name[] = "/tmp/test-serial-XXXXXX", buf[16] = { 0 };
        unsigned int got = 0;

        s->config.serial.in_fd = mkstemp(in_name);
        s->config.serial.out_fd = mkstemp(out_name);
        unlink(in_name);
        unlink(out_name);
        assert_int_equal(ftruncate(s->config.serial.in_fd, 1000), 0);
        stub_create(s, &serial_class);
        send_text(s, "to a file\n");
        assert_int_equal(pread(s->config.serial.out_fd, buf, sizeof(buf), 0), 10);
        assert_string_equal(buf, "to a file\n");
        out(s, FCR, 1, 0x01);
        out(s, IER, 1, 0x01);
        for (unsigned int i = 0; i < 200 && got < 1000; i++) {
                stub_run(s, 100);
                for (; in(s, LSR, 1) & DR; got++)
                        assert_int_equal(in(s, DATA, 1), 0);
        }
        assert_int_equal(got, 1000);
        stub_run(s, 0);
        stub_run(s, 0);
        assert_int_equal(loop_run_once(s->machine.loop, 50), 0);
}

/* One socket for both ways is what the terminal of `lodge run` hands in. */
static void test_one_socket_both_ways(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;
        int pair[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        s->config.serial.in_fd = s->config.serial.out_fd = pair[0];
        p->out = pair[1];
        stub_create(s, &serial_class);
        send_text(s, "hi\n");
        expect_text(p->out, "hi\n");
        assert_int_equal(io_write_all(p->out, "y", 1), 0);
        out(s, IER, 1, 0x01);
        stub_run(s, 200);
        assert_int_equal(in(s, DATA, 1), 'y');
        p->out = safe_close(p->out);
        send_text(s, "gone\n");
        for (unsigned int i = 0; i < 5; i++)
                stub_run(s, 10);
        assert_int_equal(loop_run_once(s->machine.loop, 50), 0);
}

static void test_dev_null_and_nothing(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;

        stub_create(s, &serial_class);
        send_text(s, "nobody\n");
        out(s, IER, 1, 0x0f);
        stub_run(s, 5);
        assert_int_equal(in(s, LSR, 1), 0x60);
        s->device->class->destroy(s->device);

        s->config.serial.in_fd = s->config.serial.out_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        stub_create(s, &serial_class);
        send_text(s, "nobody\n");
        out(s, IER, 1, 0x0f);
        stub_run(s, 50);
        assert_int_equal(in(s, LSR, 1), 0x60);
}

/* A bad descriptor is an error with a cure, not a silent console. */
static void test_bad_descriptor(void **state) {
        struct port *p = *state;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct device *device = NULL;
        int pair[2];

        assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
        p->stub.config.serial.in_fd = p->in = pair[1]; /* the writing end */
        p->out = pair[0];
        assert_int_equal(serial_class.create(&p->stub.machine, 0, &device, &e), -EBADF);
        assert_string_equal(e.id, "serial-fd");
        assert_null(device);
        assert_int_equal(in(&p->stub, LSR, 1), 0xff); /* nothing was left on the bus */
        p->stub.config.serial.in_fd = -1;
}

/* What Linux's autoconfig() looks at to decide that this is a plain 16550A. */
static void test_probe_finds_a_16550a(void **state) {
        struct stub *s = &((struct port *)*state)->stub;

        stub_create(s, &serial_class);
        out(s, IER, 1, 0);
        assert_int_equal(in(s, IER, 1), 0);
        out(s, IER, 1, 0xff);
        assert_int_equal(in(s, IER, 1), 0x0f);
        out(s, IER, 1, 0);
        out(s, MCR, 1, 0x1a); /* loopback, OUT2, RTS */
        assert_int_equal(in(s, MSR, 1) & 0xf0, 0x90);
        out(s, MCR, 1, 0);
        assert_int_equal(in(s, IIR, 1) >> 6, 0);
        out(s, LCR, 1, 0xbf); /* no EFR */
        assert_int_equal(in(s, FCR, 1) & 0xc0, 0);
        out(s, LCR, 1, 0);
        out(s, FCR, 1, 0x01);
        assert_int_equal(in(s, IIR, 1) >> 6, 3);
        out(s, LCR, 1, 0x80);
        out(s, FCR, 1, 0x21); /* 64-byte FIFO of a 16750: not here */
        assert_int_equal(in(s, IIR, 1) >> 5, 6);
        out(s, DATA, 2, 0x1234);
        assert_int_equal(in(s, DATA, 2), 0x1234); /* divisor, not data */
        out(s, LCR, 1, 0x03);
        assert_int_equal(in(s, IER, 1), 0);
        out(s, SCR, 1, 0x5a);
        assert_int_equal(in(s, SCR, 1), 0x5a);
        assert_int_equal(in(s, MSR, 1) & 0xf0, 0xb0);
}

/* Loopback, overrun and the order of causes: what diagnostic programs check. */
static void test_loopback_and_priorities(void **state) {
        struct stub *s = &((struct port *)*state)->stub;

        stub_create(s, &serial_class);
        out(s, MCR, 1, 0x10);
        (void)in(s, MSR, 1);
        out(s, IER, 1, 0x0f);
        out(s, DATA, 1, 'L');
        assert_int_equal(in(s, LSR, 1), 0x61);
        assert_int_equal(in(s, IIR, 1), 0x04);
        out(s, DATA, 1, 'M'); /* no FIFO: overrun */
        assert_int_equal(in(s, IIR, 1), 0x06);
        assert_int_equal(in(s, LSR, 1), 0x63);
        assert_int_equal(in(s, LSR, 1), 0x61);
        assert_int_equal(in(s, DATA, 1), 'L');
        assert_int_equal(in(s, IIR, 1), 0x02);
        out(s, MCR, 1, 0x11); /* DTR -> DSR */
        assert_int_equal(in(s, IIR, 1), 0x00);
        assert_int_equal(in(s, MSR, 1), 0x22);
        assert_int_equal(in(s, IIR, 1), 0x01);
        assert_false(s->level[IRQ]);
        out(s, FCR, 1, 0xc1); /* FIFO, trigger 14 */
        for (unsigned int i = 0; i < 13; i++)
                out(s, DATA, 1, i);
        assert_int_equal(in(s, IIR, 1), 0xcc);
        out(s, DATA, 1, 13);
        assert_int_equal(in(s, IIR, 1), 0xc4);
        serial_class.reset(s->device);
        assert_int_equal(in(s, LSR, 1), 0x60);
        assert_int_equal(in(s, IIR, 1), 0x01);
        assert_false(s->level[IRQ]);
}

/* Any byte to any register in any order. Run under sanitizers. */
static void test_hostile_accesses(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;
        unsigned int seed = 1;

        create_on_pipes(p);
        assert_int_equal(io_write_all(p->in, "some input", 10), 0);
        for (unsigned int i = 0; i < 200000; i++) {
                unsigned int size = 1u << (seed >> 8 & 3), offset;

                seed = seed * 1103515245 + 12345;
                offset = (seed >> 16) % (9 - size);
                if (seed & 0x40000000)
                        out(s, (uint16_t)(BASE + offset), size, seed >> 3);
                else
                        (void)in(s, (uint16_t)(BASE + offset), size);
                if (i % 1024 == 0) {
                        char buf[4096];

                        stub_run(s, 0);
                        while (arrived(p->out) > 0)
                                assert_true(read(p->out, buf, sizeof(buf)) > 0);
                }
        }
        serial_class.reset(s->device);
        assert_int_equal(in(s, IER, 1), 0);
}

static void send_polled(struct stub *s, unsigned int n) {
        for (unsigned int i = 0; i < n; i++) {
                assert_true(in(s, LSR, 1) & THRE);
                out(s, DATA, 1, '.');
        }
}

/*
 * Gathered bytes are not seen until somebody looks: a byte that the guest sends last must come out all the same, and a driver
 * that waits for the transmitter's interrupt must not find its bytes in the ring.
 */
static void test_gathering_begins_and_ends(void **state) {
        struct port *p = *state;
        struct stub *s = &p->stub;

        create_on_pipes(p);
        send_text(s, "not polled, not gathered");
        assert_false(s->gathering);
        send_polled(s, 16);
        assert_true(s->gathering);

        s->gathered = 3; /* the guest sends on, KVM keeps it */
        for (int i = 0; i < 50 && s->gathered > 0; i++)
                stub_run(s, 30);
        assert_int_equal(s->gathered, 0);
        assert_true(s->gathering);
        for (int i = 0; i < 50 && s->gathering; i++)
                stub_run(s, 30);
        assert_false(s->gathering); /* quiet */

        send_polled(s, 16);
        assert_true(s->gathering);
        out(s, IER, 1, 0x02);
        assert_false(s->gathering);
        send_polled(s, 40);
        assert_false(s->gathering);
        out(s, IER, 1, 0);
        send_polled(s, 16);
        assert_true(s->gathering);
        out(s, LCR, 1, 0x80); /* the divisor is not data */
        assert_false(s->gathering);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_lines_go_out_at_once),
                TEST(test_rest_goes_out_at_the_end),
                TEST(test_thre_interrupts),
                TEST(test_stuck_reader),
                TEST(test_slow_reader_loses_nothing),
                TEST(test_reader_gone),
                TEST(test_shared_descriptor_stays_blocking),
                TEST(test_input_waits_for_the_guest),
                TEST(test_polling_guest),
                TEST(test_hang_up_before_the_guest_reads),
                TEST(test_regular_files),
                TEST(test_one_socket_both_ways),
                TEST(test_dev_null_and_nothing),
                TEST(test_bad_descriptor),
                TEST(test_probe_finds_a_16550a),
                TEST(test_loopback_and_priorities),
                TEST(test_gathering_begins_and_ends),
                TEST(test_hostile_accesses),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
