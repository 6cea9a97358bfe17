// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * stress: many threads on one qcow2 image
 *
 * usage: stress [--seconds N] [--seed S]
 *
 * In the first part of the disk each sector belongs to one thread, and neighbours belong to different ones, so they all meet in every
 * cluster; each thread writes, zeroes and reads its own sectors and knows what is in them. In the last part everybody writes what was mapped
 * a while ago, while others discard it: what is there nobody knows, but a write that comes late must never land in a cluster that now belongs
 * to somebody's sectors (promise 3 of image.h). One thread flushes. Behind all that, one thread writes a sector here and there, each of which needs a
 * new L2 table, while another lets the disk grow: a table must not get lost between two L1 tables. In the end the image has neither corruption
 * nor leaks, and every sector is right.
 */
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "disk.h"
#include "vmm/block/qcow2/qcow2.h"

#define SECTOR  512u
#define OWNERS  4u
#define SECTORS 4096ull /* owned */
#define COMMON  2048ull /* behind them */
#define APART   2048ull /* sectors, between those that are written behind all others */
#define FAR     512ull  /* so many of those */
#define SIZE    ((SECTORS + COMMON + FAR * APART) * SECTOR)

struct stress {
        struct layer *layer;
        uint64_t stamps[SECTORS]; /* each written by its owner only */
        uint64_t far;             /* so many are written */
        _Atomic bool stop;
        _Atomic uint64_t ops;
};

struct thread {
        struct stress *s;
        pthread_t id;
        unsigned int number;
        struct random random;
        struct layer_user user;
};

static void fail(const char *what) {
        fprintf(stderr, "stress: %s\n", what);
        abort();
}

static void paint(uint8_t *buf, uint64_t stamp) {
        for (unsigned int i = 0; i < SECTOR / 8; i++)
                memcpy(buf + 8 * i, &stamp, 8);
}

/* As a queue does it. */
static void write_at(struct thread *t, uint64_t offset, const uint8_t *buf, uint64_t length, bool dawdle) {
        struct layer *layer = t->s->layer;
        unsigned int token = layer_enter(layer, &t->user);
        struct extent x;
        int r = layer_map(layer, &t->user, offset, length, LAYER_WRITE, &x);

        if (r == 0 && x.length == length) {
                for (unsigned int i = dawdle ? (unsigned int)random_below(&t->random, 50) : 0; i > 0; i--)
                        sched_yield();
                r = file_write(layer->file, buf, length, x.host);
        } else {
                r = layer_write(layer, buf, offset, length);
        }
        layer_leave(&t->user, token);
        if (r < 0)
                fail("a write failed");
}

static void verify(struct thread *t, uint64_t sector, uint64_t stamp) {
        uint8_t buf[SECTOR], want[SECTOR];

        paint(want, stamp);
        if (layer_read(t->s->layer, &t->user, buf, sector * SECTOR, SECTOR) < 0 || memcmp(buf, want, SECTOR) != 0) {
                fprintf(stderr, "sector %ju\n", (uintmax_t)sector);
                fail("a sector doesn't hold what its owner wrote");
        }
}

static void *own(void *opaque) {
        struct thread *t = opaque;
        uint8_t buf[SECTOR];

        for (uint64_t n = 1; !atomic_load(&t->s->stop); n++) {
                uint64_t sector = random_below(&t->random, SECTORS / OWNERS) * OWNERS + t->number;

                switch (random_below(&t->random, 8)) {
                case 0:
                        if (layer_zero(t->s->layer, sector * SECTOR, SECTOR, true) < 0)
                                fail("zeroing failed");
                        t->s->stamps[sector] = 0;
                        break;
                case 1 ... 4:
                        t->s->stamps[sector] = n << 8 | t->number | 1ull << 60;
                        paint(buf, t->s->stamps[sector]);
                        write_at(t, sector * SECTOR, buf, SECTOR, false);
                        break;
                default:
                        verify(t, sector, t->s->stamps[sector]);
                }
                atomic_fetch_add(&t->s->ops, 1);
        }
        return NULL;
}

/* The last part of the disk: writes that come late, and discards. */
static void *meddle(void *opaque) {
        struct thread *t = opaque;
        uint8_t buf[8 * SECTOR];

        memset(buf, 0xee, sizeof buf);
        while (!atomic_load(&t->s->stop)) {
                uint64_t sector = SECTORS + random_below(&t->random, COMMON - 128),
                         n = 1 + random_below(&t->random, 127);

                if (random_below(&t->random, 2))
                        write_at(t, (sector & ~7ull) * SECTOR, buf, sizeof buf, true);
                else if (layer_discard(t->s->layer, sector * SECTOR, n * SECTOR) < 0)
                        fail("a discard failed");
                atomic_fetch_add(&t->s->ops, 1);
        }
        return NULL;
}

static void *flush(void *opaque) {
        struct thread *t = opaque;

        while (!atomic_load(&t->s->stop)) {
                if (layer_flush(t->s->layer) < 0)
                        fail("a flush failed");
                usleep(500);
        }
        return NULL;
}

static uint64_t far_sector(uint64_t i) {
        return SECTORS + COMMON + i * APART;
}

static void *spread(void *opaque) {
        struct thread *t = opaque;
        uint8_t buf[SECTOR];

        for (; t->s->far < FAR && !atomic_load(&t->s->stop); t->s->far++) {
                paint(buf, t->s->far + 1);
                write_at(t, far_sector(t->s->far) * SECTOR, buf, SECTOR, false);
                usleep(200);
        }
        return NULL;
}

static void *grow(void *opaque) {
        struct thread *t = opaque;

        while (!atomic_load(&t->s->stop)) {
                uint64_t size = atomic_load(&t->s->layer->size), more = random_below(&t->random, 4) ? 1 : 4096;

                if (t->s->layer->ops->resize(t->s->layer, size + more * SECTOR, NULL) < 0)
                        fail("growing failed");
        }
        return NULL;
}

static struct layer *open_image(int fd) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct layer *layer = NULL;
        struct file *file = NULL;

        if (file_open(&(struct file_options){ .fd = fd }, &file, &e) < 0 ||
            qcow2_open(file, &(struct qcow2_options){ .cache = 65536 }, &layer, &e) < 0)
                fail(e.message);
        return layer;
}

static void one_shape(const struct qcow2_create *shape, uint64_t seed, unsigned int ms) {
        void *(*const what[])(void *) = { own, own, own, own, meddle, meddle, flush, spread, grow };
        struct thread threads[ELEMENTSOF(what)] = { 0 };
        struct stress *s = calloc(1, sizeof *s);
        struct qcow2_check check = { 0 };
        _cleanup_error_ struct error e = ERROR_INIT;
        struct file *file = NULL;
        int fd = memfd_create("stress", MFD_CLOEXEC);

        if (!s || file_open(&(struct file_options){ .fd = fd }, &file, &e) < 0 || qcow2_create(file, shape, &e) < 0)
                fail(e.message);
        file_close(file);
        s->layer = open_image(fd);
        for (unsigned int i = 0; i < ELEMENTSOF(what); i++) {
                threads[i] = (struct thread){ .s = s, .number = i, .random = { seed * 100 + i } };
                layer_user_add(s->layer, &threads[i].user);
        }
        for (unsigned int i = 0; i < ELEMENTSOF(what); i++)
                pthread_create(&threads[i].id, NULL, what[i], &threads[i]);
        usleep(ms * 1000);
        atomic_store(&s->stop, true);
        for (unsigned int i = 0; i < ELEMENTSOF(what); i++)
                pthread_join(threads[i].id, NULL);
        for (unsigned int i = 0; i < ELEMENTSOF(what); i++)
                layer_user_remove(s->layer, &threads[i].user);
        layer_close(s->layer);
        file_open(&(struct file_options){ .fd = fd, .readonly = true }, &file, &e);
        if (qcow2_check(file, 0, &check, &e) < 0 || check.corruptions || check.leaks)
                fail("the image is damaged");
        file_close(file);
        s->layer = open_image(fd);
        layer_user_add(s->layer, &threads[0].user);
        for (uint64_t i = 0; i < SECTORS; i++)
                verify(&threads[0], i, s->stamps[i]);
        for (uint64_t i = 0; i < s->far; i++)
                verify(&threads[0], far_sector(i), i + 1);
        layer_user_remove(s->layer, &threads[0].user);
        layer_close(s->layer);
        printf("clusters of %u%s: %ju operations\n", shape->cluster, shape->extended_l2 ? " with subclusters" : "",
               (uintmax_t)s->ops);
        close(fd);
        free(s);
}

int main(int argc, char **argv) {
        static const struct option options[] = {
                { "seconds", required_argument, NULL, 's' },
                { "seed", required_argument, NULL, 'r' },
                { 0 },
        };
        static const struct qcow2_create shapes[] = {
                { .size = SIZE, .version = 3, .cluster = 4096, .refcount_bits = 16 },
                { .size = SIZE, .version = 3, .cluster = 512, .refcount_bits = 16 },
                { .size = SIZE, .version = 3, .cluster = 16384, .refcount_bits = 8, .extended_l2 = true },
                { .size = SIZE, .version = 2, .cluster = 4096, .refcount_bits = 16 },
        };
        unsigned int seconds = 2;
        uint64_t seed = 1;
        int o;

        while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
                if (o == 's')
                        seconds = (unsigned int)strtoul(optarg, NULL, 0);
                else if (o == 'r')
                        seed = strtoull(optarg, NULL, 0);
                else
                        return 64;
        }
        for (size_t i = 0; i < ELEMENTSOF(shapes); i++)
                one_shape(&shapes[i], seed, seconds * 1000 / ELEMENTSOF(shapes));
        return 0;
}
