// SPDX-License-Identifier: GPL-2.0-or-later
/* virtio-blk: the guest's sectors land in the file, every request gets one status, and no driver can do harm */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/virtio_blk.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sys.h"
#include "test/unit/virtio-harness.h"

#include "test/unit/temp-file.h"
#include "vmm/block/layer/layer.h"
#include "vmm/block/qcow2/qcow2.h"
#include "vmm/device/disk-limits.h"
#include "vmm/device/disk-mirror.h"
#include "vmm/device/virtio-blk.h"

#include "test/unit/temp-file.h" /* after cmocka.h, which the harness includes */

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
        struct sys sys;
        int fd;
};

/* Storage that can be made to hang, or to fail; one disk at a time has it. */
static _Atomic int storage_error; /* of reads and writes, an errno; 0: none */
static _Atomic int sync_error;
static _Atomic int full_fd;       /* writes to this one find no space; -1: none */
static _Atomic int sync_fails_of; /* likewise: it can't be flushed, which takes as long as storage hangs */

static struct {
        pthread_mutex_t lock;
        pthread_cond_t changed;
        bool hangs;
        unsigned int waiting;
} storage = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void storage_set(bool hangs) {
        pthread_mutex_lock(&storage.lock);
        storage.hangs = hangs;
        pthread_cond_broadcast(&storage.changed);
        pthread_mutex_unlock(&storage.lock);
}

static ssize_t storage_pwritev(int fd, const struct iovec *iov, int n, off_t offset) {
        struct iovec some = iov[0];

        int error = fd == full_fd ? ENOSPC : storage_error;

        if (!error)
                return pwritev(fd, iov, n, offset);
        if (offset % 4096 == 0 && iov[0].iov_len > 1024) { /* what fits still goes through */
                some.iov_len = 1024;
                return pwritev(fd, &some, 1, offset);
        }
        errno = error;
        return -1;
}

/* What is called under storage.lock has begun; it ends when storage no longer hangs. */
static void storage_hang(void) {
        storage.waiting++;
        pthread_cond_broadcast(&storage.changed);
        while (storage.hangs)
                pthread_cond_wait(&storage.changed, &storage.lock);
        storage.waiting--;
}

static int storage_fdatasync(int fd) {
        if (fd == sync_fails_of) {
                pthread_mutex_lock(&storage.lock);
                storage_hang();
                pthread_mutex_unlock(&storage.lock);
        }
        errno = fd == sync_fails_of ? EIO : sync_error;
        return errno ? -1 : 0;
}

static ssize_t storage_preadv(int fd, const struct iovec *iov, int n, off_t offset) {
        if (storage_error) {
                errno = storage_error;
                return -1;
        }
        pthread_mutex_lock(&storage.lock);
        storage_hang();
        pthread_mutex_unlock(&storage.lock);
        return preadv(fd, iov, n, offset);
}

static unsigned int storage_waiting(void) {
        unsigned int n;

        pthread_mutex_lock(&storage.lock);
        n = storage.waiting;
        pthread_mutex_unlock(&storage.lock);
        return n;
}

static void storage_wait(unsigned int n) {
        pthread_mutex_lock(&storage.lock);
        while (storage.waiting < n)
                pthread_cond_wait(&storage.changed, &storage.lock);
        pthread_mutex_unlock(&storage.lock);
}

static int no_uring(unsigned int entries, struct io_uring_params *params) {
        errno = EPERM;
        return -1;
}

/* Disk @index of its machine, behind so many that back ends serve; with a @shape of its own, unless that is NULL. */
static struct disk *disk_new_shaped(unsigned int index, unsigned int cpus, bool readonly, uint64_t features,
                                    unsigned int io_threads, bool hangable, void (*shape)(struct vmm_disk_config *c)) {
        struct disk *d = calloc(1, sizeof(*d));
        struct vmm_config *config;
        struct vmm_disk_config *c;

        storage_error = sync_error = 0;
        full_fd = sync_fails_of = -1;
        d->fd = memfd_create("disk", MFD_CLOEXEC);
        assert_true(d->fd >= 0);
        assert_int_equal(ftruncate(d->fd, DISK), 0);
        assert_int_equal(vmm_config_new(&config), 0);
        config->cpus = cpus;
        for (unsigned int i = 0; i < index; i++) {
                assert_int_equal(vmm_config_add_disks(config, &c), 0);
                c->fd = -1;
                c->vhost_user = true;
        }
        assert_int_equal(vmm_config_add_disks(config, &c), 0);
        c->fd = d->fd;
        c->readonly = readonly;
        c->serial = strdup("LODGE-0123456789abcdef"); /* longer than the 20 bytes that fit */
        c->iothreads = io_threads;
        if (shape)
                shape(c);
        harness_init(&d->h, config);
        if (hangable) {
                d->sys = sys_real;
                d->sys.preadv = storage_preadv;
                d->sys.pwritev = storage_pwritev;
                d->sys.fdatasync = storage_fdatasync;
                d->sys.io_uring_setup = no_uring;
                d->h.machine.sys = &d->sys;
        }
        harness_create(&d->h, &virtio_blk_class, index);
        harness_start(&d->h, features, io_threads > 0 ? io_threads : MIN(cpus, 4u));
        return d;
}

static struct disk *disk_new_at(unsigned int index, unsigned int cpus, bool readonly, uint64_t features,
                                unsigned int io_threads, bool hangable) {
        return disk_new_shaped(index, cpus, readonly, features, io_threads, hangable, NULL);
}

static struct disk *disk_new_on(unsigned int cpus, bool readonly, uint64_t features, unsigned int io_threads,
                                bool hangable) {
        return disk_new_at(0, cpus, readonly, features, io_threads, hangable);
}

static struct disk *disk_new_with(bool readonly, uint64_t features, unsigned int io_threads, bool hangable) {
        return disk_new_on(1, readonly, features, io_threads, hangable);
}

static struct disk *disk_new(bool readonly, uint64_t features) {
        return disk_new_with(readonly, features, 0, false);
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

static void shape_disk(struct vmm_disk_config *c) {
        c->write_cache = c->discard = false;
        c->logical_block_size = 4096;
        c->physical_block_size = 8192;
}

static void shape_keep(struct vmm_disk_config *c) {
        c->discard = false;
}

static void shape_discard(struct vmm_disk_config *c) {
        c->discard_granularity = 1 << 20;
}

/* What was asked for is what the driver sees, and holds: without a cache, a write that could not be made durable has failed. */
static void test_shape(void **state) {
        struct disk *d = disk_new_shaped(0, 1, false, BIT(VIRTIO_BLK_F_BLK_SIZE), 0, true, shape_disk);
        struct virtio_blk_config seen;
        struct stat st;

        virtio_device_read_config(d->h.virtio, 0, &seen, sizeof(seen));
        assert_int_equal(seen.blk_size, 4096);
        assert_int_equal(seen.physical_block_exp, 1);
        assert_int_equal(seen.wce, 0);
        assert_int_equal(seen.write_zeroes_may_unmap, 0);
        assert_false(d->h.virtio->device_features &
                     (BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE) | BIT(VIRTIO_BLK_F_DISCARD)));
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 8, 4096, false), VIRTIO_BLK_S_OK);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 1, 4096, false), VIRTIO_BLK_S_IOERR);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 8, 512, false), VIRTIO_BLK_S_IOERR);
        sync_error = EIO;
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 8, 4096, false), VIRTIO_BLK_S_IOERR);
        sync_error = 0;
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 8, 4096, false), VIRTIO_BLK_S_IOERR);
        disk_free(d);
        d = disk_new_shaped(0, 1, false, ALL & ~BIT(VIRTIO_BLK_F_DISCARD), 0, false,
                            shape_keep); /* a driver may ask for it all the same */
        assert_int_equal(posix_fallocate(d->fd, 0, DISK), 0);
        assert_int_equal(range_request(d, VIRTIO_BLK_T_WRITE_ZEROES, 0, DISK / 512, 1), VIRTIO_BLK_S_OK);
        assert_int_equal(fstat(d->fd, &st), 0);
        assert_int_equal(st.st_blocks, DISK / 512);
        disk_free(d);
        d = disk_new_shaped(0, 1, false, ALL, 0, false, shape_discard);
        virtio_device_read_config(d->h.virtio, 0, &seen, sizeof(seen));
        assert_int_equal(seen.discard_sector_alignment, 2048);
        assert_int_equal(seen.write_zeroes_may_unmap, 1);
        disk_free(d);
}

static unsigned int n_tables; /* rings that memory was registered with */

static int count_tables(int fd, unsigned int opcode, void *arg, unsigned int n) {
        n_tables += opcode == IORING_REGISTER_BUFFERS2;
        return sys_real.io_uring_register(fd, opcode, arg, n);
}

/* How many rings of a disk is the memory of its machine, which has five, registered with? */
static unsigned int rings_registered(bool preallocate, bool direct, unsigned int index) {
        static const unsigned int io_threads[] = { 4, 0, 3, 1, 0 };
        struct sys sys = sys_real;
        struct vmm_disk_config *c;
        struct vmm_config *config;
        struct harness h;
        int fd = temp_file(DISK);

        assert_int_equal(vmm_config_new(&config), 0);
        config->cpus = 2;
        config->preallocate = preallocate;
        for (unsigned int i = 0; i < ELEMENTSOF(io_threads); i++) {
                assert_int_equal(vmm_config_add_disks(config, &c), 0);
                c->fd = fd;
                c->direct = direct;
                c->iothreads = io_threads[i];
        }
        n_tables = 0;
        harness_init(&h, config);
        sys.io_uring_register = count_tables;
        h.machine.sys = &sys;
        harness_create(&h, &virtio_blk_class, index);
        harness_free(&h);
        close(fd);
        return n_tables;
}

/* Registered memory is locked: never where the machine's is not taken at the start, nor for nothing, nor without an end. */
static void test_memory_is_registered_where_it_stays(void **state) {
        struct io_uring_params params = { 0 };
        int ring = sys_real.io_uring_setup(1, &params), fd = temp_file(0);
        bool can = ring >= 0 && fcntl(fd, F_SETFL, O_DIRECT) == 0;

        close(fd);
        if (ring >= 0)
                close(ring);
        if (!can) {
                print_message("skipped: no io_uring, or no direct I/O, here\n");
                skip();
        }
        assert_int_equal(rings_registered(true, true, 0), 4);
        assert_int_equal(rings_registered(true, true, 1), 2); /* one for each vCPU */
        assert_int_equal(rings_registered(true, true, 2), 0); /* the last would be the ninth */
        assert_int_equal(rings_registered(true, true, 3), 1);
        assert_int_equal(rings_registered(true, true, 4), 0);
        assert_int_equal(rings_registered(false, true, 0), 0);
        assert_int_equal(rings_registered(true, false, 0), 0);
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

#define Q_HEADER(q) (HARNESS_DATA + 0x1000 + (q)*0x1000ull) /* and the status behind it, one for each chain in flight */
#define Q_BUF(q)    (HARNESS_DATA + 0x100000 + (q)*0x80000ull)

/* A request through queue @q with a header, a buffer and a status of the queue's own, not kicked; returns where its status will be. */
static uint8_t *offer_on(struct disk *d, unsigned int q, uint32_t type, uint64_t sector, uint32_t len) {
        const struct virtio_blk_outhdr header = { .type = type, .sector = sector };
        uint64_t at = Q_HEADER(q) + d->h.next_desc[q] * 32ull;
        const struct segment s[] = { { at, 16, false },
                                     { Q_BUF(q), len, type == VIRTIO_BLK_T_IN },
                                     { at + 16, 1, true } };
        uint8_t *status = harness_at(&d->h, at + 16);

        memcpy(harness_at(&d->h, at), &header, sizeof(header));
        __atomic_store_n(status, 0xee, __ATOMIC_RELAXED);
        harness_offer(&d->h, q, s, 3);
        return status;
}

static struct machine_disk_stats stats_of(struct disk *d) {
        struct machine_disk_stats s;

        d->h.machine.devices = d->h.device;
        assert_int_equal(virtio_blk_stats(&d->h.machine, 0, &s), 0);
        return s;
}

/* What a bill or a graph is made of: what was done counts once, what failed or was refused does not count as done, and no reset empties the counters. */
static void test_stats(void **state) {
        struct disk *d = disk_new_with(false, ALL, 0, true);
        struct machine_disk_stats s = stats_of(d);

        for (unsigned int i = 0; i < MACHINE_DISK_STAT_COUNT; i++)
                assert_int_equal(s.operations[i] + s.bytes[i] + s.failed[i], 0);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 0, 8192, false), VIRTIO_BLK_S_OK);
        assert_int_equal(request(d, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_OK);
        assert_int_equal(request(d, VIRTIO_BLK_T_IN, 8, 1024, true), VIRTIO_BLK_S_OK);
        assert_int_equal(request(d, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
        assert_int_equal(range_request(d, VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_OK);
        assert_int_equal(range_request(d, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, 0), VIRTIO_BLK_S_OK);
        assert_int_equal(request(d, VIRTIO_BLK_T_GET_ID, 0, 20, true), VIRTIO_BLK_S_OK); /* no I/O */
        storage_error = EIO;
        assert_int_equal(request(d, VIRTIO_BLK_T_IN, 0, 512, true), VIRTIO_BLK_S_IOERR);
        storage_error = 0;
        virtio_blk_class.reset(d->h.device);
        s = stats_of(d);
        assert_int_equal(s.operations[MACHINE_DISK_READ], 2);
        assert_int_equal(s.bytes[MACHINE_DISK_READ], 1536);
        assert_int_equal(s.failed[MACHINE_DISK_READ], 1);
        assert_int_equal(s.operations[MACHINE_DISK_WRITE], 2);
        assert_int_equal(s.bytes[MACHINE_DISK_WRITE], 8192 + 16 * 512);
        assert_int_equal(s.operations[MACHINE_DISK_FLUSH], 1);
        assert_int_equal(s.operations[MACHINE_DISK_UNMAP], 1);
        assert_int_equal(s.bytes[MACHINE_DISK_UNMAP], 8 * 512);
        assert_int_equal(virtio_blk_stats(&d->h.machine, 1, &s), -ENOENT);
        disk_free(d);
}

/* Queues, with threads of their own or without: each does its own guest's requests, to one disk, and none another's. */
static void use_queues(unsigned int cpus, unsigned int io_threads) {
        enum { QUEUES = 4, LEN = 65536 };
        struct disk *d = disk_new_on(cpus, false, ALL | BIT(VIRTIO_BLK_F_MQ), io_threads, false);
        uint8_t *status[QUEUES], *buf, *got = malloc(LEN);
        uint16_t n_queues;

        virtio_device_read_config(d->h.virtio, offsetof(struct virtio_blk_config, num_queues), &n_queues, 2);
        assert_int_equal(n_queues, QUEUES);
        for (unsigned int round = 0; round < 50; round++) {
                for (unsigned int q = 0; q < QUEUES; q++) {
                        memset(harness_at(&d->h, Q_BUF(q)), (int)(round * QUEUES + q), LEN);
                        status[q] = offer_on(d, q, VIRTIO_BLK_T_OUT, (uint64_t)q * (LEN / 512), LEN);
                        harness_kick(&d->h, q);
                }
                for (unsigned int q = 0; q < QUEUES; q++) {
                        harness_used(&d->h, q, NULL, NULL);
                        assert_int_equal(*status[q], VIRTIO_BLK_S_OK);
                        assert_int_equal(pread(d->fd, got, LEN, (off_t)q * LEN), LEN);
                        buf = harness_at(&d->h, Q_BUF(q));
                        assert_memory_equal(got, buf, LEN);
                }
        }
        for (unsigned int q = 0; q < QUEUES; q++)
                assert_true(__atomic_load_n(&d->h.interrupts[q], __ATOMIC_RELAXED) > 0);
        status[1] = offer_on(d, 1, VIRTIO_BLK_T_OUT, 0, LEN);
        harness_kick(&d->h, 1);
        harness_used(&d->h, 1, NULL, NULL);
        assert_int_equal(*status[1], VIRTIO_BLK_S_OK);
        assert_int_equal(stats_of(d).operations[MACHINE_DISK_WRITE],
                         50 * QUEUES + 1); /* each queue's, and none twice */
        assert_int_equal(stats_of(d).bytes[MACHINE_DISK_WRITE], (50ull * QUEUES + 1) * LEN);
        free(got);
        disk_free(d);
}

static void test_queues(void **state) {
        use_queues(1, 4); /* as many as threads */
        use_queues(4, 0); /* as vCPUs */
        use_queues(9, 0); /* but no more than four */
}

/* A rule broken in one queue stops the device, from whatever thread it was seen, and a reset revives it. */
static void test_a_broken_queue_stops_all(void **state) {
        struct disk *d = disk_new_with(false, ALL | BIT(VIRTIO_BLK_F_MQ), 2, false);
        const struct segment short_header[] = { { HEADER, 15, false }, { STATUS, 1, true } };

        for (unsigned int round = 0; round < 20; round++) {
                harness_offer(&d->h, 1, short_header, 2);
                for (unsigned int i = 0; i < 8; i++)
                        offer_on(d, 0, VIRTIO_BLK_T_IN, i, 4096);
                harness_kick(&d->h, 0);
                harness_kick(&d->h, 1);
                for (int i = 0; i < 5000 && !harness_broken(&d->h); i++)
                        assert_true(loop_run_once(d->h.machine.loop, 1) >= 0);
                assert_true(harness_broken(&d->h));
                harness_start(&d->h, ALL | BIT(VIRTIO_BLK_F_MQ), 2);
                harness_settle(&d->h);
                assert_false(harness_broken(&d->h));
                offer_on(d, 0, VIRTIO_BLK_T_IN, 0, 4096);
                harness_kick(&d->h, 0);
                harness_used(&d->h, 0, NULL, NULL);
        }
        disk_free(d);
}

/* Resets race with threads that are at work: what is in guest memory afterwards is the next kernel's. */
static void test_reset_stops_the_threads(void **state) {
        enum { QUEUES = 3, LEN = 0x80000 };
        struct disk *d = disk_new_with(false, ALL | BIT(VIRTIO_BLK_F_MQ), QUEUES, false);

        for (int round = 0; round < 30; round++) {
                for (unsigned int q = 0; q < QUEUES; q++) {
                        memset(harness_at(&d->h, Q_BUF(q)), 0xaa, LEN);
                        for (unsigned int i = 0; i < 6; i++)
                                offer_on(d, q, VIRTIO_BLK_T_IN, 0, LEN);
                        harness_kick(&d->h, q);
                }
                usleep((unsigned int)round * 50);
                d->h.device->class->reset(d->h.device);
                for (int i = 0; i < 5000 && d->h.virtio->resetting; i++)
                        assert_true(loop_run_once(d->h.machine.loop, 1) >= 0);
                assert_int_equal(d->h.virtio->status, 0);
                for (unsigned int q = 0; q < QUEUES; q++) {
                        uint8_t *buf = harness_at(&d->h, Q_BUF(q));

                        memset(buf, 0xbb, LEN);
                        usleep(500);
                        for (unsigned int i = 0; i < LEN; i++)
                                if (buf[i] != 0xbb)
                                        fail_msg("byte %u of queue %u was written after the reset", i, q);
                }
                harness_start(&d->h, ALL | BIT(VIRTIO_BLK_F_MQ), QUEUES);
        }
        assert_int_equal(d->h.shutdowns, 0);
        disk_free(d);
}

/* Limits must reach the group that was named, at the start and later, and two disks can't tell one group different things. */
static void test_limits_are_a_groups(void **state) {
        struct disk *d = disk_new(false, ALL);
        struct throttle_config c = { .iops = 5, .burst_seconds = 1 }, other = { .iops = 6, .burst_seconds = 1 };
        struct throttle_group *g;
        struct throttle_limits limits;
        _cleanup_error_ struct error e = ERROR_INIT;

        d->h.machine.devices = d->h.device;
        assert_int_equal(disk_limits_set(&d->h.machine, 1, &c, &e), -ENOENT);
        assert_int_equal(disk_limits_set(&d->h.machine, 0, &c, NULL), 0);
        g = throttle_disk_group(block_throttle(virtio_blk_block(&d->h.machine, 0)));
        throttle_group_get(g, &limits);
        assert_string_equal(throttle_group_name(g), "disk0");
        assert_int_equal(limits.v[THROTTLE_OPS].rate, 5);
        throttle_group_unref(g);

        c.group = other.group = (char *)"g";
        assert_int_equal(disk_limits_set(&d->h.machine, 0, &c, NULL), 0);
        assert_int_equal(disk_limits_join(&d->h.machine, 1, &other, &g, NULL), -EINVAL);
        assert_int_equal(disk_limits_join(&d->h.machine, 1, &c, &g, NULL), 0);
        assert_string_equal(throttle_group_name(g), "g");
        throttle_group_unref(g);
        other.iops = 0;
        assert_int_equal(disk_limits_join(&d->h.machine, 1, &other, &g, NULL), 0); /* takes the group's */
        throttle_group_get(g, &limits);
        assert_int_equal(limits.v[THROTTLE_OPS].rate, 5);
        throttle_group_unref(g);
        c.bps = 1;
        c.bps_read = 1;
        assert_int_equal(disk_limits_set(&d->h.machine, 0, &c, NULL), -EINVAL);
        disk_free(d);
}

struct resize {
        int result;
        bool done;
};

static void on_resized(void *opaque, int result, const struct error *e) {
        struct resize *r = opaque;

        *r = (struct resize){ result, true };
}

/* A driver that isn't told keeps the old size; one that is told too early meets errors in the new part. */
static void test_resize_is_told(void **state) {
        struct disk *d = disk_new(false, ALL);
        struct virtio_device *v = d->h.virtio;
        struct resize done = { 0 };
        uint64_t capacity;
        uint8_t generation;

        d->h.machine.devices = d->h.device;
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, DISK / 512, 512, false), VIRTIO_BLK_S_IOERR);
        assert_int_equal(virtio_blk_resize(&d->h.machine, 1, 2 * DISK, on_resized, &done, NULL), -ENOENT);
        assert_int_equal(virtio_blk_resize(&d->h.machine, 0, DISK - 512, on_resized, &done, NULL), -EINVAL);
        assert_int_equal(virtio_blk_resize(&d->h.machine, 0, DISK + 100, on_resized, &done, NULL), -EINVAL);
        generation = v->config_generation;
        assert_int_equal(virtio_blk_resize(&d->h.machine, 0, 2 * DISK, on_resized, &done, NULL), 0);
        assert_int_equal(virtio_blk_resize(&d->h.machine, 0, 3 * DISK, on_resized, &done, NULL), -EBUSY);
        for (int i = 0; i < 5000 && !done.done; i++)
                assert_true(loop_run_once(d->h.machine.loop, 1) >= 0);
        assert_true(done.done && done.result == 0);
        memcpy(&capacity, v->config, sizeof(capacity));
        assert_int_equal(capacity, 2 * DISK / 512);
        assert_int_not_equal(v->config_generation, generation);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, DISK / 512, 512, false), VIRTIO_BLK_S_OK);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 2 * DISK / 512, 512, false), VIRTIO_BLK_S_IOERR);
        disk_free(d);
}

struct policy {
        enum disk_read_error read;
        enum disk_write_error write;
};

static struct disk *failing_disk(unsigned int io_threads, struct policy policy) {
        struct disk *d = disk_new_with(false, ALL, io_threads, true);

        d->h.config->disks[0].read_error = policy.read;
        d->h.config->disks[0].write_error = policy.write;
        return d;
}

static void wait_for_errors(struct disk *d, unsigned int n) {
        for (int i = 0; i < 5000 && d->h.disk_errors < n; i++)
                assert_true(loop_run_once(d->h.machine.loop, 1) >= 0);
        assert_int_equal(d->h.disk_errors, n);
}

/* A full disk on the host must cost time, not data: the guest's write is kept, goes on where it stopped, and is answered once. */
static void full_disk(unsigned int io_threads) {
        struct disk *d = failing_disk(io_threads, (struct policy){ 0 });
        const struct device_class *class = d->h.device->class;
        uint8_t *buf = harness_at(&d->h, BUF), got[8192];
        const struct segment s[] = { { HEADER, 16, false }, { BUF, sizeof(got), false }, { STATUS, 1, true } };

        for (size_t i = 0; i < sizeof(got); i++)
                buf[i] = (uint8_t)(i * 11 + i / 512);
        storage_error = ENOSPC;
        set_header(d, VIRTIO_BLK_T_OUT, 8);
        harness_offer(&d->h, 0, s, ELEMENTSOF(s));
        harness_kick(&d->h, 0);
        wait_for_errors(d, 1);
        assert_true(d->h.machine.disk_error.write && d->h.machine.disk_error.error == ENOSPC);
        assert_int_equal(d->h.machine.disk_error.action, DISK_ERROR_PAUSE);
        assert_false(harness_take(&d->h, 0, NULL, NULL));
        class->resume(d->h.device); /* still full: it pauses once more */
        wait_for_errors(d, 2);
        assert_false(harness_take(&d->h, 0, NULL, NULL));
        storage_error = 0;
        class->resume(d->h.device);
        harness_used(&d->h, 0, NULL, NULL);
        assert_int_equal(*(uint8_t *)harness_at(&d->h, STATUS), VIRTIO_BLK_S_OK);
        assert_int_equal(pread(d->fd, got, sizeof(got), 8 * 512), sizeof(got));
        assert_memory_equal(got, buf, sizeof(got));
        assert_false(harness_take(&d->h, 0, NULL, NULL));

        /* a reset takes what is kept with it; a machine that can't pause tells the guest */
        storage_error = ENOSPC;
        set_header(d, VIRTIO_BLK_T_OUT, 8);
        harness_offer(&d->h, 0, s, ELEMENTSOF(s));
        harness_kick(&d->h, 0);
        wait_for_errors(d, 3);
        class->reset(d->h.device);
        harness_settle(&d->h);
        harness_start(&d->h, ALL, 1);
        class->resume(d->h.device);
        harness_settle(&d->h);
        assert_false(harness_take(&d->h, 0, NULL, NULL));
        d->h.no_pause = true;
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 8, sizeof(got), false), VIRTIO_BLK_S_IOERR);
        storage_error = 0;
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 8, sizeof(got), false), VIRTIO_BLK_S_OK);
        disk_free(d);
}

static void test_a_full_host_disk_pauses(void **state) {
        full_disk(0);
        full_disk(1);
}

/* Each policy does what it says and no more; and a lost flush is never turned into a success. */
static void test_error_policies(void **state) {
        static const struct {
                struct policy policy;
                int error;
                uint8_t read, write; /* 0xff: pauses */
        } cases[] = {
                { { DISK_READ_ERROR_REPORT, DISK_WRITE_ERROR_ENOSPC }, EIO, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR },
                { { DISK_READ_ERROR_PAUSE, DISK_WRITE_ERROR_REPORT }, ENOSPC, 0xff, VIRTIO_BLK_S_IOERR },
                { { DISK_READ_ERROR_IGNORE, DISK_WRITE_ERROR_PAUSE }, EIO, VIRTIO_BLK_S_OK, 0xff },
                { { DISK_READ_ERROR_PAUSE, DISK_WRITE_ERROR_PAUSE }, EROFS, 0xff, 0xff }, /* not the guest's doing */
                { { DISK_READ_ERROR_REPORT, DISK_WRITE_ERROR_IGNORE }, EIO, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                for (int write = 0; write < 2; write++) {
                        struct disk *d = failing_disk(0, cases[i].policy);
                        uint8_t want = write ? cases[i].write : cases[i].read;
                        uint32_t type = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;

                        sync_error = cases[i].error;
                        assert_int_equal(request(d, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_IOERR);
                        wait_for_errors(d, 1);
                        storage_error = cases[i].error;
                        if (want == 0xff) {
                                uint8_t *answer = offer_on(d, 0, type, 1, 512);

                                harness_kick(&d->h, 0);
                                wait_for_errors(d, 2);
                                assert_int_equal(*answer, 0xee);
                                assert_int_equal(d->h.machine.disk_error.action, DISK_ERROR_PAUSE);
                                storage_error = 0;
                                d->h.device->class->resume(d->h.device);
                                harness_used(&d->h, 0, NULL, NULL);
                                assert_int_equal(*answer, VIRTIO_BLK_S_OK);
                                sync_error = 0; /* what was lost is lost */
                                assert_int_equal(request(d, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_IOERR);
                        } else {
                                assert_int_equal(request(d, type, 1, 512, !write), want);
                                assert_int_equal(request(d, type, DISK / 512, 512, !write), VIRTIO_BLK_S_IOERR);
                        }
                        disk_free(d);
                }
        }
}

static void hung_reset(unsigned int io_threads) {
        struct disk *d = disk_new_with(false, ALL, io_threads, true);
        struct virtio_device *v = d->h.virtio;
        uint8_t status = v->status, *answer;

        storage_set(true);
        answer = offer_on(d, 0, VIRTIO_BLK_T_IN, 0, 4096);
        harness_kick(&d->h, 0);
        storage_wait(1);
        virtio_device_set_status(v, 0);
        assert_true(v->resetting && d->h.device->class->busy(d->h.device));
        assert_int_equal(v->status, status);                      /* the driver waits for 0 */
        virtio_device_set_status(v, VIRTIO_CONFIG_S_ACKNOWLEDGE); /* or does not: then nothing comes of it */
        virtio_device_set_features(v, 0, 0);
        assert_int_equal(virtio_device_enable_queue(v, 0), -EINVAL);
        d->h.device->class->reset(d->h.device);
        harness_settle(&d->h);
        assert_int_equal(v->status, status);
        assert_int_equal(d->h.resets_ready, 0);

        storage_set(false);
        for (int i = 0; i < 5000 && v->resetting; i++)
                assert_true(loop_run_once(d->h.machine.loop, 1) >= 0);
        assert_int_equal(v->status, 0);
        assert_false(d->h.device->class->busy(d->h.device));
        assert_int_equal(d->h.resets_ready, 1);
        assert_int_equal(*answer, 0xee); /* no answer to a kernel that is gone */
        harness_start(&d->h, ALL, 1);
        offer_on(d, 0, VIRTIO_BLK_T_IN, 0, 4096);
        harness_kick(&d->h, 0);
        harness_used(&d->h, 0, NULL, NULL);
        assert_int_equal(d->h.shutdowns, 0);
        disk_free(d);
}

/* Storage that hangs must not hang the machine: the reset goes on in the background, and the driver waits for its end (§4.1.4.3.2). */
static void test_reset_of_hung_storage_waits_aside(void **state) {
        hung_reset(0);
        hung_reset(1);
}

static void *release_soon(void *opaque) {
        usleep(200000);
        storage_set(false);
        return NULL;
}

static void pause_and_resume(unsigned int io_threads) {
        struct disk *d = disk_new_with(false, ALL, io_threads, true);
        const struct device_class *class = d->h.device->class;
        pthread_t thread;

        storage_set(true);
        offer_on(d, 0, VIRTIO_BLK_T_IN, 0, 4096);
        harness_kick(&d->h, 0);
        storage_wait(1);
        assert_int_equal(pthread_create(&thread, NULL, release_soon, NULL), 0);
        assert_int_equal(class->pause(d->h.device), 0);
        pthread_join(thread, NULL);
        assert_true(harness_take(&d->h, 0, NULL, NULL)); /* it has ended, before the pause began */

        offer_on(d, 0, VIRTIO_BLK_T_IN, 0, 4096);
        harness_kick(&d->h, 0);
        harness_settle(&d->h);
        usleep(50000);
        assert_false(harness_take(&d->h, 0, NULL, NULL));
        class->resume(d->h.device);
        harness_used(&d->h, 0, NULL, NULL);
        disk_free(d);
}

/* A paused machine's disk is still: what was begun has ended, and nothing begins. */
static void test_pause_drains(void **state) {
        pause_and_resume(0);
        pause_and_resume(1);
}

/* ---- mirrors ----------------------------------------------------------------------------------------------------- */

static int qcow2_target(const char *backing) {
        const struct qcow2_create create = {
                .size = DISK,
                .backing_file = backing,
                .backing_format = backing ? "raw" : NULL,
        };
        int fd = memfd_create("target", MFD_CLOEXEC);
        struct file *file;

        assert_int_equal(file_open(&(struct file_options){ .fd = fd }, &file, NULL), 0);
        assert_int_equal(qcow2_create(file, &create, NULL), 0);
        file_close(file);
        return fd;
}

static void wait_for_job(struct disk *d, enum machine_event event) {
        for (int i = 0; i < 5000 && d->h.job_events[event] == 0; i++)
                assert_true(loop_run_once(d->h.machine.loop, 10) >= 0);
        assert_int_equal(d->h.job_events[event], 1);
        d->h.job_events[event] = 0;
}

static int start_mirror(struct disk *d, int fd, const char *format) {
        return disk_mirror_start(&d->h.machine, 0, &(struct machine_mirror){ .fd = fd, .format = format }, NULL);
}

static int start_pivot(struct disk *d, int fd, const char *format) {
        const struct machine_mirror options = { .fd = fd, .format = format, .pivot = true };

        return disk_mirror_start(&d->h.machine, 0, &options, NULL);
}

/* The mirror closes its descriptor: what is looked at is another one. */
static void check_mirror(int fd, const uint8_t *want) {
        struct layer *layer;
        struct file *file;
        uint8_t *got = malloc(DISK);

        assert_int_equal(file_open(&(struct file_options){ .fd = fd, .readonly = true }, &file, NULL), 0);
        assert_int_equal(qcow2_open(file, &(struct qcow2_options){ .readonly = true }, &layer, NULL), 0);
        assert_int_equal(layer_read(layer, NULL, got, 0, DISK), 0);
        assert_memory_equal(got, want, DISK);
        layer_close(layer);
        free(got);
}

/* One write through each queue, to places of its own; all are waited for. */
static void write_on_all(struct disk *d, unsigned int n_queues, unsigned int value) {
        uint8_t *status[4];

        for (unsigned int q = 0; q < n_queues; q++) {
                memset(harness_at(&d->h, Q_BUF(q)), (int)(value + q), 32768);
                status[q] = offer_on(d, q, VIRTIO_BLK_T_OUT, (q * 16 + value % 16) * 64, 32768);
                harness_kick(&d->h, q);
        }
        for (unsigned int q = 0; q < n_queues; q++) {
                harness_used(&d->h, q, NULL, NULL);
                assert_int_equal(*status[q], VIRTIO_BLK_S_OK);
        }
}

static void mirror_with(unsigned int io_threads, bool paused) {
        enum { QUEUES = 4 };
        struct disk *d = disk_new_on(QUEUES, false, ALL | BIT(VIRTIO_BLK_F_MQ), io_threads, false);
        const struct device_class *class = d->h.device->class;
        struct machine_disk_job job;
        uint8_t *want = malloc(DISK);
        int fd = qcow2_target(NULL);

        d->h.machine.devices = d->h.device;
        write_on_all(d, QUEUES, 1);
        assert_int_equal(start_mirror(d, dup(fd), "qcow2"), 0);
        assert_int_equal(start_mirror(d, -1, "raw"), -EBUSY);
        assert_int_equal(disk_mirror_end(&d->h.machine, 0, true, NULL), -EBUSY); /* it is not ready */
        for (unsigned int i = 2; i < 40; i++)
                write_on_all(d, QUEUES, i);
        wait_for_job(d, MACHINE_EVENT_JOB_READY);
        for (unsigned int i = 40; i < 60; i++)
                write_on_all(d, QUEUES, i);
        assert_int_equal(disk_mirror_query(&d->h.machine, 0, &job), 0);
        assert_int_equal(job.state, MACHINE_JOB_READY);
        if (paused)
                assert_int_equal(class->pause(d->h.device), 0);
        assert_int_equal(disk_mirror_end(&d->h.machine, 0, true, NULL), 0);
        assert_int_equal(pread(d->fd, want, DISK, 0), DISK);
        offer_on(d, 0, VIRTIO_BLK_T_OUT, DISK / 512 - 64, 32768); /* too late for the copy */
        harness_kick(&d->h, 0);
        usleep(20000); /* time for a queue that doesn't stand still */
        wait_for_job(d, MACHINE_EVENT_JOB_COMPLETED);
        assert_int_equal(d->h.machine.disk_job.error, 0);
        check_mirror(fd, want);
        assert_int_equal(disk_mirror_query(&d->h.machine, 0, &job), -ESRCH);
        if (paused) {
                harness_settle(&d->h);
                assert_false(harness_take(&d->h, 0, NULL, NULL)); /* the end of the one is not the end of the other */
                class->resume(d->h.device);
        }
        harness_used(&d->h, 0, NULL, NULL);
        write_on_all(d, QUEUES, 70);
        close(fd);
        free(want);
        disk_free(d);
}

/* Every queue's writes reach the copy, none comes in while it is finished, and all of them go on afterwards. */
static void test_mirror(void **state) {
        mirror_with(0, false);
        mirror_with(4, false);
        mirror_with(0, true);
        mirror_with(4, true);
}

/* A disk that a back end serves has no image, but those behind it have: theirs must not be overwritten, and their jobs be shown. */
static void test_mirror_beside_a_back_end(void **state) {
        struct disk *d = disk_new_at(1, 1, false, ALL, 0, false);
        struct machine_mirror own = { .fd = d->fd, .format = "raw" };
        struct machine_disk_job job;

        d->h.machine.devices = d->h.device;
        assert_int_equal(disk_mirror_start(&d->h.machine, 1, &own, NULL), -EINVAL);
        assert_int_equal(start_mirror(d, -1, "raw"), -ENOENT);
        assert_int_equal(disk_mirror_query(&d->h.machine, 0, &job), -ESRCH);
        assert_int_equal(disk_mirror_query(&d->h.machine, 1, &job), -ESRCH);
        assert_int_equal(disk_mirror_query(&d->h.machine, 2, &job), -ENOENT);
        disk_free(d);
}

static void test_mirror_that_fails(void **state) {
        struct disk *d = disk_new(false, ALL);
        int closed = qcow2_target("base.raw");
        struct machine_disk_job job;

        d->h.machine.devices = d->h.device;
        assert_int_equal(disk_mirror_end(&d->h.machine, 0, false, NULL), -ESRCH);
        assert_int_equal(disk_mirror_end(&d->h.machine, 1, false, NULL), -ENOENT);
        assert_int_equal(disk_mirror_query(&d->h.machine, 1, &job), -ENOENT);
        assert_int_equal(start_mirror(d, d->fd, "raw"), -EINVAL); /* its own file: not even opened */
        assert_int_equal(start_mirror(d, closed, "qcow2"), 0);    /* the base would show through its zeroes */
        wait_for_job(d, MACHINE_EVENT_JOB_ERROR);
        wait_for_job(d, MACHINE_EVENT_JOB_COMPLETED);
        assert_int_equal(d->h.machine.disk_job.error, EINVAL);
        assert_int_equal(fcntl(closed, F_GETFD), -1);
        assert_int_equal(start_mirror(d, qcow2_target(NULL), "qcow2"), 0);
        assert_int_equal(disk_mirror_end(&d->h.machine, 0, false, NULL), 0);
        wait_for_job(d, MACHINE_EVENT_JOB_CANCELLED);
        assert_int_equal(d->h.job_events[MACHINE_EVENT_JOB_ERROR], 0);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 0, 512, false), VIRTIO_BLK_S_OK);
        assert_int_equal(start_mirror(d, qcow2_target(NULL), "qcow2"), 0);
        disk_free(d); /* with the mirror under way */
}

static void pivot_now(struct disk *d) {
        wait_for_job(d, MACHINE_EVENT_JOB_READY);
        assert_int_equal(disk_mirror_end(&d->h.machine, 0, true, NULL), 0);
}

static void check_raw(int fd, const uint8_t *want) {
        uint8_t *got = malloc(DISK);

        assert_int_equal(pread(fd, got, DISK, 0), DISK);
        assert_memory_equal(got, want, DISK);
        free(got);
}

/* What write_on_all() does to a disk. */
static void note_writes(uint8_t *disk, unsigned int n_queues, unsigned int value) {
        for (unsigned int q = 0; q < n_queues; q++)
                memset(disk + (q * 16 + value % 16) * 32768, (int)(value + q), 32768);
}

/* There, where a write that was offered during the switch ends up, and back. */
static void pivot_with(unsigned int io_threads, bool paused) {
        enum { QUEUES = 4 };
        struct disk *d = disk_new_on(QUEUES, false, ALL | BIT(VIRTIO_BLK_F_MQ), io_threads, false);
        const struct device_class *class = d->h.device->class;
        uint8_t *then = malloc(DISK), *now = malloc(DISK), *status;
        int raw = dup(d->fd), qcow2 = qcow2_target(NULL), number = dup(qcow2);

        d->h.machine.devices = d->h.device;
        assert_int_equal(start_pivot(d, number, "qcow2"), 0);
        assert_int_equal(start_mirror(d, number, "qcow2"), -EINVAL); /* it is in use */
        for (unsigned int i = 1; i < 20; i++)
                write_on_all(d, QUEUES, i);
        if (paused)
                assert_int_equal(class->pause(d->h.device), 0);
        pivot_now(d);
        assert_int_equal(pread(raw, then, DISK, 0), DISK);
        memset(harness_at(&d->h, Q_BUF(QUEUES - 1)), 0x77, 32768);
        status = offer_on(d, QUEUES - 1, VIRTIO_BLK_T_OUT, DISK / 512 - 64, 32768);
        harness_kick(&d->h, QUEUES - 1);
        wait_for_job(d, MACHINE_EVENT_JOB_COMPLETED);
        assert_int_equal(d->h.machine.disk_job.error, 0);
        assert_int_equal(fcntl(d->fd, F_GETFD), -1);
        if (paused) {
                assert_false(harness_take(&d->h, QUEUES - 1, NULL, NULL));
                class->resume(d->h.device);
        }
        harness_used(&d->h, QUEUES - 1, NULL, NULL);
        assert_int_equal(*status, VIRTIO_BLK_S_OK);
        write_on_all(d, QUEUES, 30);
        check_raw(raw, then); /* as if it had been pulled out */
        memcpy(now, then, DISK);
        memset(now + DISK - 32768, 0x77, 32768);
        note_writes(now, QUEUES, 30);

        assert_int_equal(start_mirror(d, number, "qcow2"), -EINVAL);
        assert_int_equal(dup2(raw, d->fd), d->fd);
        assert_int_equal(start_pivot(d, d->fd, "raw"), 0);
        pivot_now(d);
        wait_for_job(d, MACHINE_EVENT_JOB_COMPLETED);
        assert_int_equal(fcntl(number, F_GETFD), -1);
        check_raw(raw, now);
        check_mirror(qcow2, now);
        write_on_all(d, QUEUES, 40);
        memcpy(then, now, DISK);
        note_writes(now, QUEUES, 40);
        check_raw(raw, now);
        check_mirror(qcow2, then);
        free(then);
        free(now);
        close(raw);
        close(qcow2);
        disk_free(d);
}

/* A disk moves under its guest: every queue goes on with the new image, nothing is lost or done twice, and the old one is let alone, and go. */
static void test_pivot(void **state) {
        pivot_with(0, false);
        pivot_with(4, false);
        pivot_with(0, true);
        pivot_with(4, true);
}

/*
 * The way out of a full storage. A write that was kept half done goes on in the new image from where it stopped in the old one, after what the
 * mirror has copied of it, when the machine does, which the error has paused.
 */
static void pivot_off_a_full_disk(unsigned int io_threads) {
        struct disk *d = failing_disk(io_threads, (struct policy){ 0 });
        const struct device_class *class = d->h.device->class;
        uint8_t *buf = harness_at(&d->h, BUF), got[8192];
        const struct segment s[] = { { HEADER, 16, false }, { BUF, sizeof(got), false }, { STATUS, 1, true } };
        int raw = dup(d->fd), target = memfd_create("target", MFD_CLOEXEC), look = dup(target);

        d->h.machine.devices = d->h.device;
        assert_int_equal(ftruncate(target, DISK), 0);
        memset(buf, 0x55, sizeof(got));
        full_fd = d->fd;
        set_header(d, VIRTIO_BLK_T_OUT, 8);
        harness_offer(&d->h, 0, s, ELEMENTSOF(s));
        harness_kick(&d->h, 0);
        wait_for_errors(d, 1);
        assert_int_equal(start_pivot(d, target, "raw"), 0);
        pivot_now(d);
        wait_for_job(d, MACHINE_EVENT_JOB_COMPLETED);
        full_fd = -1;
        harness_settle(&d->h);
        assert_false(harness_take(&d->h, 0, NULL, NULL));
        class->resume(d->h.device);
        harness_used(&d->h, 0, NULL, NULL);
        assert_int_equal(*(uint8_t *)harness_at(&d->h, STATUS), VIRTIO_BLK_S_OK);
        assert_int_equal(pread(look, got, sizeof(got), 8 * 512), sizeof(got));
        assert_memory_equal(got, buf, sizeof(got));
        assert_int_equal(pread(raw, got, sizeof(got), 8 * 512), sizeof(got));
        assert_true(got[1023] == 0x55 && got[1024] == 0);
        close(raw);
        disk_free(d);
        assert_int_equal(fcntl(target, F_GETFD), -1); /* it was the disk's */
        close(look);
}

static void test_pivot_off_a_full_disk(void **state) {
        pivot_off_a_full_disk(0);
        pivot_off_a_full_disk(1);
}

static void shape_direct(struct vmm_disk_config *c) {
        c->direct = true;
        c->fd = temp_file(DISK);
}

/* Who keeps a disk out of the host's page cache wants that of its new image too; a copy is nobody's disk. */
static void test_pivot_keeps_direct(void **state) {
        struct disk *d;
        int probe = temp_file(DISK);
        bool can = fcntl(probe, F_SETFL, O_RDWR | O_DIRECT) == 0;

        close(probe);
        if (!can)
                skip(); /* an old tmpfs */
        d = disk_new_shaped(0, 1, false, ALL, 0, false, shape_direct);
        d->h.machine.devices = d->h.device;
        for (unsigned int i = 0; i < 2; i++) {
                int target = temp_file(DISK), look = dup(target);

                assert_int_equal(i == 0 ? start_mirror(d, target, "raw") : start_pivot(d, target, "raw"), 0);
                pivot_now(d);
                wait_for_job(d, MACHINE_EVENT_JOB_COMPLETED);
                assert_int_equal(fcntl(look, F_GETFL) & O_DIRECT, i == 0 ? 0 : O_DIRECT);
                close(look);
        }
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 0, 4096, false), VIRTIO_BLK_S_OK);
        disk_free(d);
}

/* The target's errors stay the mirror's to the last: the guest never notices, and neither does it that its disk has not moved. */
static void test_pivot_that_fails(void **state) {
        struct disk *d = disk_new_with(false, ALL, 1, true);
        int target = memfd_create("target", MFD_CLOEXEC);
        uint8_t got[512];

        d->h.machine.devices = d->h.device;
        assert_int_equal(ftruncate(target, DISK), 0);
        assert_int_equal(start_pivot(d, target, "raw"), 0);
        wait_for_job(d, MACHINE_EVENT_JOB_READY);
        sync_error = EIO;
        assert_int_equal(disk_mirror_end(&d->h.machine, 0, true, NULL), 0);
        wait_for_job(d, MACHINE_EVENT_JOB_ERROR);
        wait_for_job(d, MACHINE_EVENT_JOB_COMPLETED);
        assert_int_equal(d->h.machine.disk_job.error, EIO);
        assert_int_equal(fcntl(target, F_GETFD), -1);
        sync_error = 0;
        memset(harness_at(&d->h, BUF), 0x66, 512);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 3, 512, false), VIRTIO_BLK_S_OK);
        assert_int_equal(request(d, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
        assert_int_equal(pread(d->fd, got, 512, 3 * 512), 512);
        assert_int_equal(got[511], 0x66);

        /* once it has moved, the old image's errors are nobody's, and nobody waits for it; but it isn't free before it is closed */
        target = memfd_create("target", MFD_CLOEXEC);
        assert_int_equal(ftruncate(target, DISK), 0);
        assert_int_equal(start_pivot(d, target, "raw"), 0);
        pivot_now(d);
        storage_set(true);
        sync_fails_of = d->fd;
        for (int i = 0; i < 5000 && storage_waiting() == 0; i++)
                assert_true(loop_run_once(d->h.machine.loop, 1) >= 0);
        assert_int_equal(storage_waiting(), 1);
        assert_int_equal(request(d, VIRTIO_BLK_T_OUT, 3, 512, false), VIRTIO_BLK_S_OK);
        assert_int_equal(start_mirror(d, d->fd, "raw"), -EINVAL);
        assert_int_equal(d->h.job_events[MACHINE_EVENT_JOB_COMPLETED], 0);
        storage_set(false);
        wait_for_job(d, MACHINE_EVENT_JOB_COMPLETED);
        sync_fails_of = -1;
        assert_int_equal(d->h.job_events[MACHINE_EVENT_JOB_ERROR], 0);
        assert_int_equal(request(d, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
        disk_free(d);
}

/* The CPUs that a thread of ours may use are in /proc; the I/O threads' in the order of their ids, which is the queues'. */
static unsigned int io_thread_sets(char sets[2][64]) {
        struct dirent **tasks;
        int n = scandir("/proc/self/task", &tasks, NULL, versionsort);
        unsigned int found = 0;

        assert_true(n > 0);
        for (int i = 0; i < n; i++) {
                char path[300], line[256];
                bool ours = false;
                FILE *f;

                snprintf(path, sizeof(path), "/proc/self/task/%s/status", tasks[i]->d_name);
                f = fopen(path, "re");
                while (f && fgets(line, sizeof(line), f)) {
                        ours |= strcmp(line, "Name:\tio\n") == 0;
                        if (ours && found < 2)
                                found += sscanf(line, "Cpus_allowed_list: %63s", sets[found]) == 1;
                }
                if (f)
                        fclose(f);
                free(tasks[i]);
        }
        free(tasks);
        return found;
}

/* A disk with two I/O threads on @cpus; what became of it. */
static int create_on_cpus(struct harness *h, const uint32_t *cpus, size_t n, struct error *e) {
        struct vmm_config *config;
        struct vmm_disk_config *c;

        assert_int_equal(vmm_config_new(&config), 0);
        assert_int_equal(vmm_config_add_disks(config, &c), 0);
        c->fd = memfd_create("disk", MFD_CLOEXEC);
        assert_int_equal(ftruncate(c->fd, DISK), 0);
        c->iothreads = 2;
        c->iothread_cpus = calloc(n, sizeof(*cpus));
        memcpy(c->iothread_cpus, cpus, n * sizeof(*cpus));
        c->n_iothread_cpus = n;
        harness_init(h, config);
        return virtio_blk_class.create(&h->machine, 0, &h->device, e);
}

static void destroy_on_cpus(struct harness *h) {
        int fd = h->config->disks[0].fd;

        harness_free(h);
        close(fd);
}

/* A thread that runs elsewhere than it was told to takes the CPU of a machine that was promised it. */
static void test_threads_on_chosen_cpus(void **state) {
        _cleanup_error_ struct error e = ERROR_INIT;
        uint32_t first = 0, last = 0;
        char sets[2][64], want[2][64];
        struct harness h;
        cpu_set_t have;

        assert_int_equal(sched_getaffinity(0, sizeof(have), &have), 0);
        while (!CPU_ISSET(first, &have))
                first++;
        for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
                if (CPU_ISSET(cpu, &have))
                        last = cpu;
        snprintf(want[0], sizeof(want[0]), "%u", first);
        snprintf(want[1], sizeof(want[1]), "%u", last);

        /* as many as threads: in their order. With one CPU here, it is one for both. */
        assert_int_equal(create_on_cpus(&h, (const uint32_t[]){ last, first }, first == last ? 1 : 2, &e), 0);
        assert_int_equal(io_thread_sets(sets), 2);
        assert_string_equal(sets[0], want[1]);
        assert_string_equal(sets[1], want[0]);
        destroy_on_cpus(&h);

        /* another number: each may use all, and what the host lacks is passed over */
        assert_int_equal(create_on_cpus(&h, (const uint32_t[]){ 8190, first, 8191 }, 3, &e), 0);
        assert_int_equal(io_thread_sets(sets), 2);
        assert_string_equal(sets[0], want[0]);
        assert_string_equal(sets[1], want[0]);
        destroy_on_cpus(&h);

        assert_int_equal(create_on_cpus(&h, (const uint32_t[]){ first, 8191 }, 2, &e), -EINVAL);
        assert_string_equal(e.id, "disk-cpus");
        destroy_on_cpus(&h);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_sectors_land_in_the_file),
                cmocka_unit_test(test_any_framing),
                cmocka_unit_test(test_bad_requests_get_a_status),
                cmocka_unit_test(test_limits_are_a_groups),
                cmocka_unit_test(test_resize_is_told),
                cmocka_unit_test(test_a_full_host_disk_pauses),
                cmocka_unit_test(test_error_policies),
                cmocka_unit_test(test_unanswerable_requests_need_a_reset),
                cmocka_unit_test(test_serial),
                cmocka_unit_test(test_readonly),
                cmocka_unit_test(test_zeroes_and_discard),
                cmocka_unit_test(test_write_cache_switch),
                cmocka_unit_test(test_shape),
                cmocka_unit_test(test_memory_is_registered_where_it_stays),
                cmocka_unit_test(test_batches),
                cmocka_unit_test(test_endless_driver_is_bounded),
                cmocka_unit_test(test_reset_ends_what_is_in_flight),
                cmocka_unit_test(test_queues),
                cmocka_unit_test(test_stats),
                cmocka_unit_test(test_threads_on_chosen_cpus),
                cmocka_unit_test(test_a_broken_queue_stops_all),
                cmocka_unit_test(test_reset_stops_the_threads),
                cmocka_unit_test(test_reset_of_hung_storage_waits_aside),
                cmocka_unit_test(test_pause_drains),
                cmocka_unit_test(test_mirror),
                cmocka_unit_test(test_mirror_beside_a_back_end),
                cmocka_unit_test(test_mirror_that_fails),
                cmocka_unit_test(test_pivot),
                cmocka_unit_test(test_pivot_off_a_full_disk),
                cmocka_unit_test(test_pivot_keeps_direct),
                cmocka_unit_test(test_pivot_that_fails),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
