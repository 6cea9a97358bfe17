// SPDX-License-Identifier: GPL-2.0-or-later
/* virtio-blk: the guest's sectors land in the file, every request gets one status, and no driver can do harm */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test/unit/virtio-harness.h"

#define DISK   (4u << 20)
#define HEADER HARNESS_DATA
#define STATUS (HARNESS_DATA + 64)
#define RANGE  (HARNESS_DATA + 128)
#define BUF    (HARNESS_DATA + 0x10000)
#define ALL                                                                                                            \
        (BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES) |                        \
         BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE))

struct disk {
        struct harness h;
        int fd;
};

static struct disk *disk_new(bool readonly, uint64_t features) {
        struct disk *d = calloc(1, sizeof(*d));
        struct vmm_config *config;
        struct vmm_disk_config *c;

        d->fd = memfd_create("disk", MFD_CLOEXEC);
        assert_true(d->fd >= 0);
        assert_int_equal(ftruncate(d->fd, DISK), 0);
        assert_int_equal(vmm_config_new(&config), 0);
        assert_int_equal(vmm_config_add_disks(config, &c), 0);
        c->fd = d->fd;
        c->readonly = readonly;
        c->serial = strdup("LODGE-0123456789abcdef"); /* longer than the 20 bytes that fit */
        harness_init(&d->h, config);
        harness_create(&d->h, &virtio_blk_class, 0);
        harness_start(&d->h, features, 1);
        return d;
}

static void disk_free(struct disk *d) {
        harness_free(&d->h);
        close(d->fd);
        free(d);
}

static void set_header(struct disk *d, uint32_t type, uint64_t sector) {
        struct virtio_blk_outhdr header = { .type = type, .sector = sector };

        memcpy(harness_at(&d->h, HEADER), &header, sizeof(header));
        *(uint8_t *)harness_at(&d->h, STATUS) = 0xee;
}

/* One request with @len bytes at BUF; returns the status byte. */
static uint8_t request(struct disk *d, uint32_t type, uint64_t sector, uint32_t len, bool device_writes) {
        struct segment s[3] = { { HEADER, 16, false } };
        unsigned int n = 1;
        uint16_t head, used;
        uint32_t written;

        set_header(d, type, sector);
        if (len)
                s[n++] = (struct segment){ BUF, len, device_writes };
        s[n++] = (struct segment){ STATUS, 1, true };
        head = harness_offer(&d->h, 0, s, n);
        harness_kick(&d->h, 0);
        harness_used(&d->h, 0, &used, &written);
        assert_int_equal(used, head);
        assert_int_equal(written, device_writes ? len + 1 : 1);
        return *(uint8_t *)harness_at(&d->h, STATUS);
}

static uint8_t range_request(struct disk *d, uint32_t type, uint64_t sector, uint32_t n, uint32_t flags) {
        struct virtio_blk_discard_write_zeroes range = { .sector = sector, .num_sectors = n, .flags = flags };

        memcpy(harness_at(&d->h, BUF), &range, sizeof(range));
        return request(d, type, 0, sizeof(range), false);
}

/* Sector n of the guest is bytes [512n, 512n+512) of the file: the one thing a disk must get right. */
static void test_sectors_land_in_the_file(void **state) {
        struct disk *d = disk_new(false, ALL);
        uint8_t *buf = harness_at(&d->h, BUF), expect[8192], got[8192];

        for (size_t i = 0; i < sizeof(expect); i++)
                buf[i] = expect[i] = (uint8_t)(i * 7 + i / 512);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 5, sizeof(expect), false), VIRTIO_BLK_S_OK);
        assert_int_equal(pread(d->fd, got, sizeof(got), 5 * 512), sizeof(got));
        assert_memory_equal(got, expect, sizeof(got));
        memset(buf, 0, sizeof(expect));
        assert_int_equal(request(d, VIRTIO_BLK_T_IN, 6, 7680, true), VIRTIO_BLK_S_OK);
        assert_memory_equal(buf, expect + 512, 7680);
        assert_int_equal(request(d, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
        assert_true(d->h.interrupts[0] > 0);
        disk_free(d);
}

/* Any split of the chain into buffers is legal (§2.7.4): header in pieces, data beside header and status. */
static void test_any_framing(void **state) {
        struct disk *d = disk_new(false, ALL);
        /* the header's last bytes and the data in one buffer; data and status in one buffer */
        const struct segment write[] = {
                { HEADER, 3, false }, { HEADER + 3, 13 + 100, false }, { BUF, 412, false }, { STATUS, 1, true }
        };
        const struct segment read[] = { { HEADER, 16, false }, { BUF, 500, true }, { BUF + 1000, 13, true } };
        uint8_t *buf = harness_at(&d->h, BUF), got[512];

        set_header(d, VIRTIO_BLK_T_OUT, 1);
        memset((uint8_t *)harness_at(&d->h, HEADER) + 16, 0x11, 48);
        *(uint8_t *)harness_at(&d->h, STATUS) =
                0x22; /* inside the data's first 100 bytes: overwritten by the status only later */
        memset(buf, 0x33, 412);
        harness_offer(&d->h, 0, write, ELEMENTSOF(write));
        harness_kick(&d->h, 0);
        harness_used(&d->h, 0, NULL, NULL);
        assert_int_equal(pread(d->fd, got, 512, 512), 512);
        assert_int_equal(got[0], 0x11);
        assert_int_equal(got[48], 0x22);
        assert_int_equal(got[100], 0x33);
        assert_int_equal(got[511], 0x33);

        set_header(d, VIRTIO_BLK_T_IN, 1);
        memset(buf, 0, 2000);
        harness_offer(&d->h, 0, read, ELEMENTSOF(read));
        buf[1012] = 0xee;
        harness_kick(&d->h, 0);
        harness_used(&d->h, 0, NULL, NULL);
        assert_memory_equal(buf, got, 500);
        assert_memory_equal(buf + 1000, got + 500, 12);
        assert_int_equal(buf[1012], VIRTIO_BLK_S_OK);
        assert_int_equal(buf[1013], 0);
        disk_free(d);
}

/* Errors inside a request are answered, and never reach the file. */
static void test_bad_requests_get_a_status(void **state) {
        struct disk *d = disk_new(false, ALL);
        const uint64_t end = DISK / 512;
        struct stat st;

        assert_int_equal(request(d, VIRTIO_BLK_T_IN, end, 512, true), VIRTIO_BLK_S_IOERR);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, end - 1, 1024, false), VIRTIO_BLK_S_IOERR);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, UINT64_MAX, 512, false), VIRTIO_BLK_S_IOERR);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, UINT64_MAX / 512, 512, false), VIRTIO_BLK_S_IOERR);
        assert_int_equal(request(d, VIRTIO_BLK_T_IN, 0, 511, true), VIRTIO_BLK_S_IOERR);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 0, 513, false), VIRTIO_BLK_S_IOERR);
        assert_int_equal(request(d, VIRTIO_BLK_T_SCSI_CMD, 0, 512, false), VIRTIO_BLK_S_UNSUPP);
        assert_int_equal(request(d, 0x80000000u, 0, 512, false), VIRTIO_BLK_S_UNSUPP);
        assert_int_equal(request(d, VIRTIO_BLK_T_SECURE_ERASE, 0, 16, false), VIRTIO_BLK_S_UNSUPP);
        assert_int_equal(range_request(d, VIRTIO_BLK_T_DISCARD, end, 1, 0), VIRTIO_BLK_S_IOERR);
        assert_int_equal(range_request(d, VIRTIO_BLK_T_DISCARD, 0, 1, 1), VIRTIO_BLK_S_UNSUPP); /* §5.2.6.2 */
        assert_int_equal(range_request(d, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 2), VIRTIO_BLK_S_UNSUPP);
        assert_int_equal(range_request(d, VIRTIO_BLK_T_WRITE_ZEROES, UINT64_MAX - 3, 8, 0), VIRTIO_BLK_S_IOERR);
        assert_int_equal(request(d, VIRTIO_BLK_T_DISCARD, 0, 32, false), VIRTIO_BLK_S_IOERR); /* two ranges */
        assert_int_equal(request(d, VIRTIO_BLK_T_DISCARD, 0, 0, false), VIRTIO_BLK_S_IOERR);
        fstat(d->fd, &st);
        assert_int_equal(st.st_size, DISK);
        assert_int_equal(st.st_blocks, 0); /* nothing was ever written */
        assert_int_equal(request(d, VIRTIO_BLK_T_IN, end - 1, 512, true), VIRTIO_BLK_S_OK);
        assert_false(harness_broken(&d->h));
        disk_free(d);
}

/* A request without a place for its status, or without a whole header, stops the device (§2.1.2), and a reset revives it. */
static void test_unanswerable_requests_need_a_reset(void **state) {
        struct disk *d = disk_new(false, ALL);
        const struct segment no_status[] = { { HEADER, 16, false }, { BUF, 512, false } };
        const struct segment short_header[] = { { HEADER, 15, false }, { STATUS, 1, true } };
        const struct segment only_status[] = { { STATUS, 1, true } };
        const struct {
                const struct segment *s;
                unsigned int n;
        } bad[] = { { no_status, 2 }, { short_header, 2 }, { only_status, 1 } };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                unsigned int before = d->h.config_interrupts;

                set_header(d, VIRTIO_BLK_T_OUT, 0);
                harness_offer(&d->h, 0, bad[i].s, bad[i].n);
                harness_kick(&d->h, 0);
                assert_true(harness_broken(&d->h));
                assert_true(d->h.config_interrupts > before);
                harness_settle(&d->h);
                assert_false(harness_take(&d->h, 0, NULL, NULL));
                harness_start(&d->h, ALL, 1);
                assert_int_equal(request(d, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
        }
        disk_free(d);
}

/* udev's by-id links hang on the serial: 20 bytes, no terminator, short buffers cut it. */
static void test_serial(void **state) {
        struct disk *d = disk_new(false, ALL);
        uint8_t *buf = harness_at(&d->h, BUF);

        memset(buf, 0x55, 64);
        assert_int_equal(request(d, VIRTIO_BLK_T_GET_ID, 0, 20, true), VIRTIO_BLK_S_OK);
        assert_memory_equal(buf, "LODGE-0123456789abcd\x55", 21);
        memset(buf, 0x55, 64);
        assert_int_equal(request(d, VIRTIO_BLK_T_GET_ID, 0, 4, true), VIRTIO_BLK_S_OK);
        assert_memory_equal(buf, "LODG\x55", 5);
        assert_int_equal(request(d, VIRTIO_BLK_T_GET_ID, 0, 0, false), VIRTIO_BLK_S_OK);
        disk_free(d);
}

/* Read-only is the host's promise, not the guest's courtesy. */
static void test_readonly(void **state) {
        struct disk *d = disk_new(true, BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_RO));

        assert_false(d->h.virtio->device_features & BIT(VIRTIO_BLK_F_DISCARD));
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 0, 512, false), VIRTIO_BLK_S_IOERR);
        assert_int_equal(range_request(d, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), VIRTIO_BLK_S_UNSUPP);
        assert_int_equal(request(d, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
        assert_int_equal(request(d, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
        disk_free(d);
}

static void test_zeroes_and_discard(void **state) {
        struct disk *d = disk_new(false, ALL);
        uint8_t *buf = harness_at(&d->h, BUF), got[2048];
        struct stat st;

        memset(buf, 0x77, 65536);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 0, 65536, false), VIRTIO_BLK_S_OK);
        assert_int_equal(range_request(d, VIRTIO_BLK_T_WRITE_ZEROES, 1, 2, 0), VIRTIO_BLK_S_OK);
        assert_int_equal(pread(d->fd, got, 2048, 0), 2048);
        assert_int_equal(got[511], 0x77);
        for (unsigned int i = 512; i < 1536; i++)
                assert_int_equal(got[i], 0);
        assert_int_equal(got[1536], 0x77);
        assert_int_equal(range_request(d, VIRTIO_BLK_T_DISCARD, 0, DISK / 512, 0), VIRTIO_BLK_S_OK);
        fstat(d->fd, &st);
        assert_int_equal(st.st_blocks, 0);
        disk_free(d);
}

/* The cache switch is the driver's (§5.2.5.2); it starts on, survives odd writes, and a reset turns it on again. */
static void test_write_cache_switch(void **state) {
        struct disk *d = disk_new(false, ALL | BIT(VIRTIO_BLK_F_CONFIG_WCE));
        unsigned int at = offsetof(struct virtio_blk_config, wce);
        uint64_t all_ones = UINT64_MAX;
        uint8_t off = 0, value;

        virtio_device_read_config(d->h.virtio, at, &value, 1);
        assert_int_equal(value, 1);
        virtio_device_write_config(d->h.virtio, at, &off, 1);
        virtio_device_read_config(d->h.virtio, at, &value, 1);
        assert_int_equal(value, 0);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 0, 512, false), VIRTIO_BLK_S_OK);
        virtio_device_write_config(d->h.virtio, 0, &all_ones, 8); /* the capacity is not the driver's */
        virtio_device_read_config(d->h.virtio, 0, &all_ones, 8);
        assert_int_equal(all_ones, DISK / 512);
        harness_start(&d->h, ALL, 1);
        virtio_device_write_config(d->h.virtio, at, &off, 1); /* not negotiated: not writable */
        virtio_device_read_config(d->h.virtio, at, &value, 1);
        assert_int_equal(value, 1);
        disk_free(d);
}

/* A batch is one interrupt's worth, not one for each request, and comes back complete. */
static void test_batches(void **state) {
        struct disk *d = disk_new(false, ALL);
        enum { N = 20 };
        bool seen[HARNESS_SIZE] = { false };

        set_header(d, VIRTIO_BLK_T_OUT, 0);
        for (unsigned int i = 0; i < N; i++) {
                const struct segment s[] = { { HEADER, 16, false }, { BUF, 4096, false }, { STATUS + i, 1, true } };

                harness_offer(&d->h, 0, s, 3);
        }
        harness_kick(&d->h, 0);
        usleep(300000); /* let all of it complete before the loop looks, however slow the host's workers are */
        for (unsigned int i = 0; i < N; i++) {
                uint16_t head = 0;

                harness_used(&d->h, 0, &head, NULL);
                assert_false(seen[head % HARNESS_SIZE]);
                seen[head % HARNESS_SIZE] = true;
        }
        assert_true(d->h.interrupts[0] <= N / 2);
        disk_free(d);
}

/* The same chain over and over, more often than the queue is long: bounded, and nobody else starves. */
static void test_endless_driver_is_bounded(void **state) {
        struct disk *d = disk_new(false, ALL);
        const struct segment s[] = { { HEADER, 16, false }, { BUF, 20, true }, { STATUS, 1, true } };
        uint16_t head;

        set_header(d, VIRTIO_BLK_T_GET_ID, 0);
        head = harness_offer(&d->h, 0, s, 3);
        for (unsigned int i = 1; i < HARNESS_SIZE; i++)
                driver_offer(&d->h.queue[0], head);
        harness_kick(&d->h, 0);
        for (unsigned int i = 0; i < HARNESS_SIZE; i++)
                harness_used(&d->h, 0, NULL, NULL);
        for (unsigned int i = 0; i < HARNESS_SIZE; i++) /* and a full ring once more */
                driver_offer(&d->h.queue[0], head);
        harness_kick(&d->h, 0);
        for (unsigned int i = 0; i < HARNESS_SIZE; i++)
                harness_used(&d->h, 0, NULL, NULL);
        assert_false(harness_broken(&d->h));
        disk_free(d);
}

/* After a reset nothing writes into guest memory any more: it belongs to the next kernel. */
static void test_reset_ends_what_is_in_flight(void **state) {
        struct disk *d = disk_new(false, ALL);
        uint8_t *buf = harness_at(&d->h, BUF), *status = harness_at(&d->h, STATUS);
        enum { LEN = 1 << 20 };

        for (int round = 0; round < 20; round++) {
                memset(buf, 0xaa, LEN);
                set_header(d, VIRTIO_BLK_T_IN, 0);
                for (unsigned int i = 0; i < 8; i++) {
                        const struct segment s[] = { { HEADER, 16, false },
                                                     { BUF, LEN, true },
                                                     { STATUS + i, 1, true } };

                        harness_offer(&d->h, 0, s, 3);
                }
                harness_kick(&d->h, 0);
                d->h.device->class->reset(d->h.device);
                memset(buf, 0xbb, LEN);
                memset(status, 0xcc, 8);
                harness_settle(&d->h);
                for (unsigned int i = 0; i < LEN; i++)
                        if (buf[i] != 0xbb)
                                fail_msg("byte %u was written after the reset", i);
                assert_memory_equal(status, "\xcc\xcc\xcc\xcc\xcc\xcc\xcc\xcc", 8);
                harness_start(&d->h, ALL, 1);
        }
        assert_int_equal(request(d, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
        assert_int_equal(d->h.shutdowns, 0);
        disk_free(d);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_sectors_land_in_the_file),
                cmocka_unit_test(test_any_framing),
                cmocka_unit_test(test_bad_requests_get_a_status),
                cmocka_unit_test(test_unanswerable_requests_need_a_reset),
                cmocka_unit_test(test_serial),
                cmocka_unit_test(test_readonly),
                cmocka_unit_test(test_zeroes_and_discard),
                cmocka_unit_test(test_write_cache_switch),
                cmocka_unit_test(test_batches),
                cmocka_unit_test(test_endless_driver_is_bounded),
                cmocka_unit_test(test_reset_ends_what_is_in_flight),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
