// SPDX-License-Identifier: GPL-2.0-or-later
/* vhost-user-blk: every request of the guest's ends once and well, whatever the back end does; and no back end can do harm */
#include "base/clock.h"
#include "test/unit/vhost-backend.h"
#include "test/unit/virtio-harness.h"
#include "vmm/device/vhost-user-blk.h"
#include "vmm/vhost/vhost-user.h"

#define HEADER  HARNESS_DATA
#define STATUS  (HARNESS_DATA + 0x1000)
#define BUF     (HARNESS_DATA + 0x10000)
#define PENDING 0xff /* a status that no device gives */

struct disk {
        struct harness h;
        struct backend *backend;
        int fds[2]; /* the device's end and the parent's */
};

/* What the parent does when it is asked. */
static void hand_over(struct disk *d) {
        int fd = backend_dial(d->backend);

        assert_int_equal(io_send_fds(d->fds[1], "", 1, &fd, fd >= 0 ? 1 : 0), 0);
        safe_close(fd);
}

static void on_asked(void *opaque, int fd, uint32_t events) {
        char byte;

        if (recv(fd, &byte, 1, 0) == 1)
                hand_over(opaque);
}

static struct disk *disk_new(bool readonly) {
        const struct memory_options options = { .size = HARNESS_RAM, .shared = true };
        struct disk *d = calloc(1, sizeof(*d));
        struct vmm_config *config;
        struct vmm_disk_config *c;

        d->backend = backend_new();
        assert_int_equal(vmm_config_new(&config), 0);
        config->cpus = 2;
        assert_int_equal(vmm_config_add_disks(config, &c), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, d->fds), 0);
        c->fd = d->fds[0];
        c->vhost_user = true;
        c->serial = strdup("LODGE-1");
        c->readonly = readonly;
        harness_init(&d->h, config);
        memory_free(d->h.machine.memory);
        assert_int_equal(memory_new(&options, &d->h.machine.memory, NULL), 0);
        hand_over(d);
        harness_create(&d->h, &virtio_blk_class, 0);
        assert_int_equal(loop_add_fd(d->h.machine.loop, d->fds[1], EPOLLIN, on_asked, d, NULL), 0);
        return d;
}

static struct disk *disk_started(bool readonly) {
        struct disk *d = disk_new(readonly);

        harness_start(&d->h, BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_MQ), 2);
        return d;
}

static void disk_free(struct disk *d) {
        harness_free(&d->h);
        close(d->fds[0]);
        close(d->fds[1]);
        backend_free(d->backend);
        free(d);
}

static uint8_t *status_of(struct disk *d, unsigned int i) {
        return harness_at(&d->h, STATUS + i);
}

/* Request @i: its own header, status byte and page. Sector @sector. */
/* On the ring; the doorbell is the caller's. */
static void put(struct disk *d, unsigned int q, unsigned int i, uint32_t type, uint64_t sector) {
        struct virtio_blk_outhdr *header = harness_at(&d->h, HEADER + i * 16);
        const struct segment s[] = {
                { HEADER + i * 16, 16, false },
                { BUF + i * 4096, 512, type != VIRTIO_BLK_T_OUT },
                { STATUS + i, 1, true },
        };

        *header = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
        *status_of(d, i) = PENDING;
        if (type == VIRTIO_BLK_T_OUT)
                memset(harness_at(&d->h, BUF + i * 4096), 'a' + (int)i, 512);
        harness_offer(&d->h, q, s, 3);
}

static void offer(struct disk *d, unsigned int q, unsigned int i, uint32_t type, uint64_t sector) {
        put(d, q, i, type, sector);
        harness_kick(&d->h, q);
}

/* Runs the loop until @n is @value. */
static void wait_for(struct disk *d, _Atomic unsigned int *n, unsigned int value) {
        for (int i = 0; i < 500 && *n != value; i++)
                assert_true(loop_run_once(d->h.machine.loop, 10) >= 0);
        assert_int_equal(*n, value);
}

/* Long enough for whatever should not happen, on both threads. */
static void linger(struct disk *d) {
        for (uint64_t end = clock_ns() + 200000000; clock_ns() < end;)
                assert_true(loop_run_once(d->h.machine.loop, 10) >= 0);
}

/* The greeting must end in time, with what is wrong, for every way of being wrong. */
static void test_a_greeting_that_goes_wrong(void **state) {
        const struct {
                enum misbehaviour how;
                int error;
        } cases[] = {
                { BACKEND_GOOD, 0 },
                { BACKEND_SHORT, -EPIPE },
                { BACKEND_LONG, -EPROTO },
                { BACKEND_OTHER_REQUEST, -EPROTO },
                { BACKEND_NO_REPLY_FLAG, -EPROTO },
                { BACKEND_SILENT, -ETIMEDOUT },
                { BACKEND_HANGS_UP, -EPIPE },
                { BACKEND_MANY_QUEUES, -EPROTO },
                { BACKEND_NO_QUEUES, -EPROTO },
                { BACKEND_NO_CONFIG, -ENOTSUP },
        };
        struct backend *b = backend_new();

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                int fd = backend_dial(b);
                struct vhost_user v;

                assert_true(fd >= 0);
                b->misbehaviour = (int)cases[i].how;
                print_message("misbehaviour %u\n", cases[i].how);
                assert_int_equal(vhost_user_greet(&v, fd, 500), cases[i].error);
                vhost_user_close(&v);
        }
        b->misbehaviour = BACKEND_GOOD;
        backend_free(b);
}

/* A back end that refuses must be heard, and one that is gone must not end us by SIGPIPE. */
static void test_a_request_that_is_refused(void **state) {
        struct backend *b = backend_new();
        uint8_t config[60];
        struct vhost_user v;

        assert_int_equal(vhost_user_greet(&v, backend_dial(b), 500), 0);
        assert_int_equal(v.n_queues, BACKEND_QUEUES);
        assert_int_equal(vhost_user_get_config(&v, config, sizeof(config)), 0);
        assert_int_equal(vhost_user_get_config(&v, config, VHOST_USER_CONFIG_MAX + 1), -EINVAL);
        assert_int_equal(vhost_user_set_features(&v, 0), 0);
        b->misbehaviour = BACKEND_REFUSES;
        assert_int_equal(vhost_user_set_features(&v, 0), -EREMOTEIO);
        b->misbehaviour = BACKEND_LONG;
        assert_int_equal(vhost_user_get_config(&v, config, sizeof(config)), -EPROTO);
        vhost_user_close(&v);
        b->misbehaviour = BACKEND_GOOD;
        assert_int_equal(vhost_user_greet(&v, backend_dial(b), 500), 0);
        b->misbehaviour = BACKEND_HANGS_UP;
        assert_int_equal(vhost_user_set_features(&v, 0), -EPIPE);
        assert_int_equal(vhost_user_set_features(&v, 0), -EPIPE);
        vhost_user_close(&v);
        backend_free(b);
}

/* Without a back end, or with one that is none, there is an error to read and no machine. */
static void test_a_disk_without_a_back_end(void **state) {
        struct disk *d = disk_new(false);
        _cleanup_error_ struct error e = ERROR_INIT;
        struct device *device;

        d->backend->misbehaviour = BACKEND_BAD_CONFIG;
        backend_die(d->backend);
        hand_over(d);
        assert_int_equal(virtio_blk_class.create(&d->h.machine, 0, &device, &e), -EPROTO);
        assert_string_equal(e.id, "disk-backend");
        error_clear(&e);
        unlink(d->backend->path);
        hand_over(d);
        assert_int_equal(virtio_blk_class.create(&d->h.machine, 0, &device, &e), -ENOTCONN);
        assert_string_equal(e.id, "disk-backend");
        assert_non_null(e.fix);
        disk_free(d);
}

/* The guest's data must come to the disk, and the disk's to the guest, on every queue. */
static void test_data_goes_both_ways(void **state) {
        struct disk *d = disk_started(false);

        offer(d, 0, 0, VIRTIO_BLK_T_OUT, 3);
        harness_used(&d->h, 0, NULL, NULL);
        assert_int_equal(*status_of(d, 0), VIRTIO_BLK_S_OK);
        assert_int_equal(backend_peek(d->backend, 3 * 512 + 511), 'a');
        assert_int_equal(backend_peek(d->backend, 4 * 512), 0);
        backend_fill(d->backend, 5 * 512, 'x', 512);
        offer(d, 1, 1, VIRTIO_BLK_T_IN, 5);
        harness_used(&d->h, 1, NULL, NULL);
        assert_int_equal(*(char *)harness_at(&d->h, BUF + 4096 + 511), 'x');
        offer(d, 0, 2, VIRTIO_BLK_T_GET_ID, 0);
        harness_used(&d->h, 0, NULL, NULL);
        assert_string_equal(harness_at(&d->h, BUF + 2 * 4096), "LODGE-1");
        assert_true(d->h.interrupts[0] > 0 && d->h.interrupts[1] > 0);
        for (unsigned int i = 0; i < 1000; i++) { /* round the rings more than once */
                offer(d, i % 2, i % 16, VIRTIO_BLK_T_OUT, i);
                harness_used(&d->h, i % 2, NULL, NULL);
                assert_int_equal(*status_of(d, i % 16), VIRTIO_BLK_S_OK);
        }
        disk_free(d);
}

/* Requests end out of order, then the back end dies: the next one must get exactly those that have not ended. */
static void test_requests_in_flight_survive_the_back_end(void **state) {
        struct disk *d = disk_started(false);

        d->backend->held = 7;
        offer(d, 0, 0, VIRTIO_BLK_T_OUT, 7);
        offer(d, 0, 1, VIRTIO_BLK_T_OUT, 8);
        harness_used(&d->h, 0, NULL, NULL);
        assert_int_equal(*status_of(d, 1), VIRTIO_BLK_S_OK);
        offer(d, 1, 2, VIRTIO_BLK_T_OUT, 7);
        wait_for(d, &d->backend->n_taken, 3);
        backend_die(d->backend);
        wait_for(d, &d->backend->n_connections, 2);
        d->backend->held = HOLD_NOTHING;
        backend_wake(d->backend);
        harness_used(&d->h, 0, NULL, NULL);
        harness_used(&d->h, 1, NULL, NULL);
        assert_int_equal(*status_of(d, 0), VIRTIO_BLK_S_OK);
        assert_int_equal(*status_of(d, 2), VIRTIO_BLK_S_OK);
        assert_int_equal(d->backend->n_writes[7], 2);
        assert_int_equal(d->backend->n_writes[8], 1);
        assert_false(harness_take(&d->h, 0, NULL, NULL));
        offer(d, 0, 3, VIRTIO_BLK_T_OUT, 9); /* and life goes on */
        harness_used(&d->h, 0, NULL, NULL);
        disk_free(d);
}

/* A guest that laid its file system out on blocks of 512 bytes must not find itself on another disk. */
static void test_another_disk_is_refused(void **state) {
        struct disk *d = disk_started(false);

        d->backend->misbehaviour = BACKEND_OTHER_BLOCKS;
        harness_settle(&d->h);
        backend_die(d->backend);
        wait_for(d, &d->backend->n_connections, 2);
        offer(d, 0, 0, VIRTIO_BLK_T_OUT, 1);
        linger(d);
        assert_int_equal(d->backend->n_taken, 0);
        assert_int_equal(*status_of(d, 0), PENDING);
        assert_false(harness_broken(&d->h));
        disk_free(d);
}

/* One request is used wrongly while the other is in flight; both must end, each once, at the next back end. */
static void used_wrongly(enum misbehaviour how) {
        struct disk *d = disk_started(false);
        uint16_t heads[2];

        d->backend->misbehaviour = (int)how;
        d->backend->held = 2;
        offer(d, 0, 0, VIRTIO_BLK_T_OUT, 2);
        wait_for(d, &d->backend->n_taken, 1);
        offer(d, 0, 1, VIRTIO_BLK_T_OUT, 1);
        wait_for(d, &d->backend->n_connections, 2);
        d->backend->misbehaviour = BACKEND_GOOD;
        d->backend->held = HOLD_NOTHING;
        backend_wake(d->backend);
        for (unsigned int i = 0; i < 2; i++)
                harness_used(&d->h, 0, &heads[i], NULL);
        assert_int_not_equal(heads[0], heads[1]);
        harness_settle(&d->h);
        assert_false(harness_take(&d->h, 0, NULL, NULL));
        assert_false(harness_broken(&d->h));
        disk_free(d);
}

/* What the back end had ended when it died, without having said so, must not be done again. */
static void test_the_last_words_of_a_back_end(void **state) {
        struct disk *d = disk_started(false);

        d->backend->misbehaviour = BACKEND_NO_CALL;
        offer(d, 0, 0, VIRTIO_BLK_T_OUT, 1);
        wait_for(d, &d->backend->n_done, 1);
        backend_die(d->backend);
        harness_used(&d->h, 0, NULL, NULL);
        d->backend->misbehaviour = BACKEND_GOOD;
        offer(d, 0, 1, VIRTIO_BLK_T_OUT, 2);
        harness_used(&d->h, 0, NULL, NULL);
        assert_int_equal(d->backend->n_writes[1], 1);
        disk_free(d);
}

/* A back end that uses what is not in flight must not reach the guest's ring with it. */
static void test_a_used_ring_full_of_lies(void **state) {
        used_wrongly(BACKEND_BAD_USED);
        used_wrongly(BACKEND_USED_TWICE);
}

/* A reset must not be over while the back end may still write to memory that belongs to another kernel then. */
static void test_a_reset_waits_for_what_is_in_flight(void **state) {
        struct disk *d = disk_started(false);

        d->backend->held = HOLD_ALL;
        offer(d, 0, 0, VIRTIO_BLK_T_IN, 1);
        wait_for(d, &d->backend->n_taken, 1);
        virtio_device_set_status(d->h.virtio, 0);
        harness_settle(&d->h);
        assert_true(d->h.virtio->resetting);
        d->backend->held = HOLD_NOTHING;
        backend_wake(d->backend);
        wait_for(d, &d->backend->n_stopped, 2);
        assert_false(d->h.virtio->resetting);
        assert_int_equal(d->h.resets_ready, 1);
        assert_false(harness_take(&d->h, 0, NULL, NULL)); /* not to the old driver's ring */
        harness_start(&d->h, 0, 2);
        offer(d, 0, 1, VIRTIO_BLK_T_OUT, 2);
        harness_used(&d->h, 0, NULL, NULL);
        disk_free(d);
}

/* While the machine is paused nothing may change the disk; afterwards it goes on. */
static void test_a_pause_stops_the_rings(void **state) {
        struct disk *d = disk_started(false);

        offer(d, 0, 0, VIRTIO_BLK_T_OUT, 1);
        harness_settle(&d->h);
        assert_int_equal(d->h.device->class->pause(d->h.device), 0);
        assert_int_equal(d->backend->n_stopped, 2);
        harness_used(&d->h, 0, NULL, NULL); /* before the pause was over */
        offer(d, 0, 1, VIRTIO_BLK_T_OUT, 2);
        harness_settle(&d->h);
        backend_die(d->backend); /* another one comes: it has to wait as well */
        wait_for(d, &d->backend->n_connections, 2);
        linger(d);
        assert_int_equal(d->backend->n_writes[2], 0);
        d->h.device->class->resume(d->h.device);
        harness_used(&d->h, 0, NULL, NULL);
        assert_int_equal(d->backend->n_writes[2], 1);
        disk_free(d);
}

/* What a read-only disk's guest writes must not even be seen by a back end that would do it. */
static void test_a_read_only_disk(void **state) {
        struct disk *d = disk_started(true);

        offer(d, 0, 0, VIRTIO_BLK_T_OUT, 1);
        harness_used(&d->h, 0, NULL, NULL);
        assert_int_equal(*status_of(d, 0), VIRTIO_BLK_S_IOERR);
        offer(d, 0, 1, VIRTIO_BLK_T_IN, 1);
        harness_used(&d->h, 0, NULL, NULL);
        assert_int_equal(*status_of(d, 1), VIRTIO_BLK_S_OK);
        assert_int_equal(d->backend->n_taken, 1);
        disk_free(d);
}

/* A driver that leaves the header or the status out breaks its own device, nobody else's. */
static void test_a_chain_without_its_parts(void **state) {
        const struct segment bad[][2] = {
                { { HEADER, 8, false }, { STATUS, 1, true } },
                { { HEADER, 16, false }, { BUF, 512, false } },
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                struct disk *d = disk_started(false);

                harness_offer(&d->h, 0, bad[i], 2);
                harness_kick(&d->h, 0);
                harness_settle(&d->h);
                assert_true(harness_broken(&d->h));
                assert_int_equal(d->backend->n_taken, 0);
                disk_free(d);
                d = disk_started(false); /* behind one that is whole, which the reset waits for */
                put(d, 0, 0, VIRTIO_BLK_T_OUT, 1);
                harness_offer(&d->h, 0, bad[i], 2);
                harness_kick(&d->h, 0);
                harness_settle(&d->h);
                assert_true(harness_broken(&d->h));
                virtio_device_set_status(d->h.virtio, 0);
                wait_for(d, &d->backend->n_stopped, 2);
                assert_int_equal(d->backend->n_writes[1], 1);
                assert_false(d->h.virtio->resetting);
                disk_free(d);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_a_greeting_that_goes_wrong),
                cmocka_unit_test(test_a_request_that_is_refused),
                cmocka_unit_test(test_a_disk_without_a_back_end),
                cmocka_unit_test(test_data_goes_both_ways),
                cmocka_unit_test(test_requests_in_flight_survive_the_back_end),
                cmocka_unit_test(test_the_last_words_of_a_back_end),
                cmocka_unit_test(test_another_disk_is_refused),
                cmocka_unit_test(test_a_used_ring_full_of_lies),
                cmocka_unit_test(test_a_reset_waits_for_what_is_in_flight),
                cmocka_unit_test(test_a_pause_stops_the_rings),
                cmocka_unit_test(test_a_read_only_disk),
                cmocka_unit_test(test_a_chain_without_its_parts),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
