// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * model: random sequences on a qcow2 image, beside a plain array
 *
 * usage: model [--sequences N] [--seed S] [--qemu N] [--verbose]
 *
 * Each sequence makes an image of random shape (version, cluster size, refcount width, compression, subclusters, backing images, size),
 * and then reads, writes, zeroes, discards, flushes, resizes, puts overlays on top and commits them, closes and reopens, while calls
 * fail, transfers come short, processes are killed and the power is cut. The array knows, for each sector, what may be read now, and what
 * may be found after a power cut: anything since the last flush that succeeded. What would break without it: all that image.h promises.
 *
 * After each end of an image it is checked: no corruption ever, leaks only where something was cut off, and none once it was opened and closed
 * again. Every Nth image is shown to qemu-img too.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "disk.h"
#include "values.h"
#include "vmm/block/qcow2/qcow2.h"

#define OPS        48
#define DEPTH      3 /* images below the first one */
#define DEPTH_MAX  8
#define SIZE_MAX_G (12ull << 20)

static struct {
        struct random random;
        uint64_t number, stamp, op;
        struct qcow2_create shape;
        struct sector *sectors;
        uint64_t n_sectors;
        unsigned int depth;
        int fd, backing_fd[DEPTH_MAX];
        struct layer *backing;

        struct layer *layer;
        struct layer_user user;
        bool cut_before;               /* version 2 has no dirty bit: leaks stay until somebody looks for them */
        uint64_t maybe_sizes[OPS + 1]; /* by operation: what a resize that failed or was cut off may have left */
        bool verbose, large;
        unsigned int qemu;
        uint64_t cuts, kills, failures, checks, qemu_checks, ops;
} t;

static void fail(const char *what) {
        fprintf(stderr, "model: sequence %ju, operation %ju: %s\n", (uintmax_t)t.number, (uintmax_t)t.op, what);
        fprintf(stderr, "  version %u, cluster %u, refcounts %u bits, %s%s%s, backing %s, size %ju\n", t.shape.version,
                t.shape.cluster, t.shape.refcount_bits, t.shape.compression ? "zstd" : "zlib",
                t.shape.extended_l2 ? ", subclusters" : "", t.shape.lazy_refcounts ? ", lazy" : "",
                t.backing ? "yes" : "no", (uintmax_t)t.shape.size);
        fprintf(stderr, "  again: model --sequences 1 --seed %ju --verbose\n", (uintmax_t)t.number);
        exit(1);
}

static void say(const char *what, uint64_t offset, uint64_t length, int r) {
        if (t.verbose)
                printf("%3ju %-10s %8ju +%-8ju %d\n", (uintmax_t)t.op, what, (uintmax_t)(offset / SECTOR),
                       (uintmax_t)(length / SECTOR), r);
}

static uint64_t below(uint64_t n) {
        return random_below(&t.random, n);
}

/* @length bytes of new stamps */
static uint8_t *new_data(uint64_t length, uint64_t *ret_first) {
        uint8_t *buf = malloc(length);

        *ret_first = t.stamp;
        for (uint64_t i = 0; i < length; i += SECTOR)
                sector_paint(buf + i, t.stamp++);
        return buf;
}

static void verify(uint64_t offset, uint64_t length, bool after_cut) {
        uint8_t *buf = malloc(length);
        int r = layer_read(t.layer, below(2) ? &t.user : NULL, buf, offset, length);

        if (r < 0 && !disk_is_dead() && !disk_n_failed())
                fail("a read failed");
        for (uint64_t i = 0; r == 0 && i < length / SECTOR; i++) {
                struct sector *s = &t.sectors[offset / SECTOR + i];
                uint64_t x = sector_look(buf + i * SECTOR);

                if (!values_has(after_cut ? &s->past : &s->now, x)) {
                        fprintf(stderr, "sector %ju holds %jx, not %jx (%u values)\n", (uintmax_t)(offset / SECTOR + i),
                                (uintmax_t)x, (uintmax_t)s->now.v[0], after_cut ? s->past.n : s->now.n);
                        fail(after_cut ? "flushed data is lost" : "a read gives what nobody wrote");
                }
                values_set(&s->now, x);
                if (after_cut)
                        values_set(&s->past, x);
        }
        free(buf);
        if (r < 0 && after_cut)
                fail("an image can't be read after a cut");
}

static void finding(void *opaque, const char *line) {
        if (t.verbose)
                printf("    %s\n", line);
}

static void check(bool leaks_ok) {
        struct qcow2_check c = { .report = finding };
        struct file_options o = { .fd = t.fd, .readonly = true };
        _cleanup_error_ struct error e = ERROR_INIT;
        struct file *file = NULL;

        if (file_open(&o, &file, &e) < 0 || qcow2_check(file, 0, &c, &e) < 0)
                fail("the image can't be checked");
        file_close(file);
        t.checks++;
        if (c.corruptions && !(leaks_ok && t.shape.lazy_refcounts))
                fail("the image is corrupt");
        if (c.leaks && !leaks_ok && !(t.shape.version == 2 && t.cut_before))
                fail("the image has leaks");
}

static void check_qemu(bool leaks_ok) {
        int status;

        leaks_ok |= t.shape.version == 2 && t.cut_before;
        status = disk_check_qemu(t.fd, leaks_ok);
        t.qemu_checks++;
        if (status != 0 && !(leaks_ok && (status == 3 || (status > 0 && t.shape.lazy_refcounts))))
                fail("qemu-img check finds damage");
}

static void open_image(void) {
        struct file_options o = { .sys = &disk_sys, .fd = t.fd };
        struct qcow2_options q = { .repair = true, .cache = 4 * t.shape.cluster };
        _cleanup_error_ struct error e = ERROR_INIT;
        struct file *file = NULL;
        int r;

        if (file_open(&o, &file, &e) < 0)
                fail("the file can't be opened");
        r = qcow2_open(file, &q, &t.layer, &e);
        if (r < 0) {
                fprintf(stderr, "%s [%s]\n", e.message, e.id);
                fail("the image can't be opened");
        }
        t.layer->backing = t.backing;
        layer_user_add(t.layer, &t.user);
}

static void close_image(void) {
        layer_user_remove(t.layer, &t.user);
        t.layer->backing = NULL;
        layer_close(t.layer);
        t.layer = NULL;
}

static void flushed(void) {
        for (uint64_t i = 0; i < t.n_sectors; i++)
                t.sectors[i].past = t.sectors[i].now;
}

static void resized(uint64_t size) {
        uint64_t n = size / SECTOR, old = t.n_sectors;

        if (n > old) {
                t.sectors = reallocarray(t.sectors, n, sizeof *t.sectors);
                for (uint64_t i = old; i < n; i++) {
                        values_set(&t.sectors[i].now, 0);
                        values_set(&t.sectors[i].past, 0);
                }
        }
        t.n_sectors = n;
}

/* The end of this image's use: in order, by a kill, or by a power cut; then it is opened again. */
static void end_image(bool cut, bool kill) {
        bool hurt;

        if (cut) {
                /* Whatever closing would do doesn't happen. */
                disk_faults(0, 1);
                (void)!disk_sys.ftruncate(t.fd, 0);
        }
        close_image();
        hurt = cut || disk_is_dead() || disk_n_failed() > 0;
        t.cut_before |= hurt;
        t.failures += disk_n_failed() - cut;
        if (hurt) {
                disk_cut(kill);
                t.cuts += !kill;
                t.kills += kill;
        } else {
                disk_faults(0, 0);
                flushed(); /* closing does */
        }
        say(hurt ? kill ? "kill" : "cut" : "close", 0, 0, 0);
        check(hurt);
        if (t.qemu && t.number % t.qemu == 0)
                check_qemu(hurt);
        open_image();
        if (atomic_load(&t.layer->size) != t.n_sectors * SECTOR) {
                bool known = false;

                for (unsigned int i = 0; i <= OPS; i++)
                        known |= t.maybe_sizes[i] == atomic_load(&t.layer->size);
                if (!hurt || !known)
                        fail("the size is wrong");
                resized(atomic_load(&t.layer->size));
        }
        memset(t.maybe_sizes, 0, sizeof t.maybe_sizes);
        verify(0, t.n_sectors * SECTOR, true);
}

/* Stamps from @first on were written, with result @r: what failed may have arrived all the same. */
static void wrote(uint64_t offset, uint64_t length, uint64_t first, int r) {
        for (uint64_t i = 0; i < length / SECTOR; i++) {
                struct sector *s = &t.sectors[offset / SECTOR + i];

                if (r == 0)
                        values_set(&s->now, first + i);
                else
                        values_add(&s->now, first + i);
                values_add(&s->past, first + i);
        }
}

static void write_some(uint64_t offset, uint64_t length, bool compressed) {
        uint64_t first;
        uint8_t *buf = new_data(length, &first);
        int r = compressed ? t.layer->ops->write_compressed(t.layer, buf, offset, length)
                           : layer_write(t.layer, buf, offset, length);

        if (t.verbose)
                printf("    stamps from %ju\n", (uintmax_t)first);
        say(compressed ? "compressed" : "write", offset, length, r);
        wrote(offset, length, first, r);
        free(buf);
}

/* As a queue does it: map, write what may be written at once, the rest through the layer. */
static void write_mapped(uint64_t offset, uint64_t length) {
        unsigned int token = layer_enter(t.layer, &t.user);
        struct extent x;
        int r = layer_map(t.layer, &t.user, offset, length, LAYER_WRITE, &x);

        if (r == 0) {
                uint64_t first;
                uint8_t *buf;

                length = MIN(length, x.length);
                if (length % SECTOR || x.kind != EXTENT_DATA)
                        fail("a mapping is no place to write to");
                buf = new_data(length, &first);
                if (below(8) == 0) /* between the mapping and the data */
                        layer_flush(t.layer);
                r = file_write(t.layer->file, buf, length, x.host);
                if (t.verbose)
                        printf("    stamps from %ju\n", (uintmax_t)first);
                say("map+write", offset, length, r);
                wrote(offset, length, first, r);
                free(buf);
                layer_leave(&t.user, token);
                return;
        }
        layer_leave(&t.user, token);
        if (r != -EAGAIN)
                fail("a mapping failed");
        write_some(offset, length, false);
}

static void zero_some(uint64_t offset, uint64_t length, bool discard) {
        int r = discard ? layer_discard(t.layer, offset, length) : layer_zero(t.layer, offset, length, below(2));

        say(discard ? "discard" : "zero", offset, length, r);
        for (uint64_t i = 0; i < length / SECTOR; i++) {
                struct sector *s = &t.sectors[offset / SECTOR + i];

                if (r == 0 && !discard)
                        values_set(&s->now, 0);
                else
                        values_add(&s->now, 0);
                values_add(&s->past, 0);
        }
}

static void resize(void) {
        _cleanup_error_ struct error e = ERROR_INIT;
        uint64_t size = (1 + below(SIZE_MAX_G / SECTOR / (below(8) ? 8 : 1))) * SECTOR, old = t.n_sectors * SECTOR;
        int r;

        size = MIN(size, (t.large ? 12000ull : 400ull) * t.shape.cluster);
        t.maybe_sizes[MIN(t.op, (uint64_t)OPS)] = size;
        r = t.layer->ops->resize(t.layer, size, &e);
        say("resize", size, 0, r);
        if (r == 0) {
                memset(t.maybe_sizes, 0, sizeof t.maybe_sizes);
                if (size < old)
                        flushed();
                resized(size);
                if (size > old)
                        for (uint64_t i = 0; i < old / SECTOR; i++)
                                t.sectors[i].past = t.sectors[i].now; /* it has flushed */
        } else if (atomic_load(&t.layer->size) != old) {
                resized(size); /* the size has changed, the rest hasn't */
        } else if (size < old) {
                for (uint64_t i = size / SECTOR; i < old / SECTOR; i++)
                        values_add(&t.sectors[i].past, 0);
        }
}

static void push_backing(struct layer *layer, int fd) {
        layer->backing = t.backing;
        t.backing = layer;
        t.backing_fd[t.depth++] = fd;
}

/* The images below: raw at the bottom, qcow2 above; all of them full of stamps here and there. */
static void make_backing(unsigned int depth) {
        uint64_t size = MAX(t.shape.size / (1 + below(2)) & ~(SECTOR - 1ull), (uint64_t)SECTOR);
        _cleanup_error_ struct error e = ERROR_INIT;
        uint64_t first;

        t.backing = NULL;
        t.depth = 0;
        for (unsigned int d = 0; d < depth; d++) {
                struct qcow2_create c = { .size = size, .cluster = 512u << below(8) };
                struct file_options o = { .fd = memfd_create("backing", MFD_CLOEXEC) };
                struct layer *layer = NULL;
                struct file *file = NULL;
                int r = ftruncate(o.fd, (off_t)size);

                if (file_open(&o, &file, &e) < 0)
                        fail("backing");
                if (d == 0)
                        r = raw_open(file, &layer, &e);
                else if ((r = qcow2_create(file, &c, &e)) == 0)
                        r = qcow2_open(file, &(struct qcow2_options){ 0 }, &layer, &e);
                if (r < 0)
                        fail("backing");
                push_backing(layer, o.fd);
                for (unsigned int i = 0; i < 6; i++) {
                        uint64_t at = below(size / SECTOR) * SECTOR, n = MIN((1 + below(200)) * SECTOR, size - at);
                        uint8_t *buf = new_data(n, &first);

                        if (layer_write(layer, buf, at, n) < 0)
                                fail("backing");
                        for (uint64_t k = 0; k < n / SECTOR; k++)
                                if (at / SECTOR + k < t.n_sectors) {
                                        values_set(&t.sectors[at / SECTOR + k].now, first + k);
                                        values_set(&t.sectors[at / SECTOR + k].past, first + k);
                                }
                        free(buf);
                }
        }
}

static void make_shape(void) {
        static const unsigned int sizes[] = { 512, 512, 1024, 4096, 16384, 65536 };
        struct qcow2_create *c = &t.shape;

        *c = (struct qcow2_create){ .version = below(5) ? 3 : 2 };
        c->cluster = sizes[below(ELEMENTSOF(sizes))];
        if (c->version == 3) {
                c->refcount_bits = 1u << below(7);
                c->compression = below(2) ? QCOW2_ZSTD : QCOW2_ZLIB;
                c->extended_l2 = c->cluster >= 16384 && below(2);
                c->lazy_refcounts = below(6) == 0;
        }
        c->preallocate_metadata = below(8) == 0;
        c->size = (1 + below(MIN(SIZE_MAX_G, 300ull * c->cluster) / SECTOR)) * SECTOR;
        t.large = c->version == 3 && c->cluster == 512 && below(4) == 0;
        if (t.large) { /* the refcount table has to grow: one cluster of it counts 2 MiB */
                c->refcount_bits = 64;
                c->size = (3ull << 20) + below(8192) * SECTOR;
                c->preallocate_metadata = false;
        }
}

/* An image of the present shape, where the disk is new. */
static void make_image(void) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct file *file = NULL;

        t.fd = disk_start(&t.random);
        if (file_open(&(struct file_options){ .sys = &disk_sys, .fd = t.fd }, &file, &e) < 0 ||
            qcow2_create(file, &t.shape, &e) < 0)
                fail(e.message);
        file_close(file);
        open_image();
}

/* What is there becomes the image below a new, empty one. */
static void put_overlay(void) {
        struct file_options o = { .fd = memfd_create("backing", MFD_CLOEXEC) };
        uint64_t size = t.n_sectors * SECTOR;
        struct layer *layer = NULL;
        struct file *file = NULL;
        off_t at = 0, n;

        say("overlay", 0, size, 0);
        close_image();
        flushed();
        n = lseek(t.fd, 0, SEEK_END);
        if (sendfile(o.fd, t.fd, &at, (size_t)n) != n || file_open(&o, &file, NULL) < 0 ||
            qcow2_open(file, &(struct qcow2_options){ 0 }, &layer, NULL) < 0)
                fail("an image can't be used below another");
        push_backing(layer, o.fd);
        disk_end();
        t.cut_before = false;
        make_shape();
        t.shape.size = size;
        t.shape.preallocate_metadata = false;
        make_image();
}

/* What the image holds goes into the one below (each part with all its bytes), and is then no longer in it. */
static void commit(void) {
        uint64_t size = t.n_sectors * SECTOR, n;
        struct layer *below_it = t.backing, *owner;
        struct extent x;
        int r = 0;

        if (atomic_load(&below_it->size) < size)
                r = below_it->ops->resize(below_it, size, NULL);
        for (uint64_t at = 0; r == 0 && at < size; at += n) {
                uint8_t *buf;

                r = layer_status(t.layer, &t.user, below_it, at, MIN(size - at, 1ull << 20), &x, &owner);
                n = r == 0 ? x.length : 1;
                if (r < 0 || !owner)
                        continue;
                buf = malloc(n);
                r = layer_read(t.layer, &t.user, buf, at, n);
                if (r == 0)
                        r = x.kind == EXTENT_ZERO ? layer_zero(below_it, at, n, true)
                                                  : layer_write(below_it, buf, at, n);
                free(buf);
        }
        if (r == 0)
                r = layer_flush(below_it);
        t.layer->backing = NULL; /* so that a discard forgets, and does not hide */
        if (r == 0)
                r = layer_discard(t.layer, 0, size);
        if (r == 0)
                r = layer_flush(t.layer);
        t.layer->backing = below_it;
        say("commit", 0, size, r);
        if (r < 0)
                fail("a commit failed");
        flushed();
}

/* Overlays come and go between orderly ends: nothing fails meanwhile. */
static void change_chain(void) {
        bool overlay = !t.backing || (t.depth < DEPTH_MAX && below(2));

        end_image(disk_is_dead(), below(2));
        disk_faults(0, 0);
        if (overlay)
                put_overlay();
        else
                commit();
        verify(0, t.n_sectors * SECTOR, false);
}

static void one_op(void) {
        uint64_t size = t.n_sectors * SECTOR, cluster = t.shape.cluster;
        uint64_t offset = below(t.n_sectors) * SECTOR;
        uint64_t length = (1 + below(MIN(3 * cluster, size - offset) / SECTOR ?: 1)) * SECTOR;
        int r;

        if (t.large && below(4) == 0)
                length = (1 + below(4096)) * SECTOR;
        length = MIN(length, size - offset);
        if (below(3) == 0) { /* whole clusters */
                offset &= ~(cluster - 1);
                length = MIN((length + cluster - 1) & ~(cluster - 1), size - offset);
        }
        t.ops++;
        switch (below(20)) {
        case 0 ... 4:
                write_some(offset, length, false);
                break;
        case 5 ... 8:
                write_mapped(offset, length);
                break;
        case 9 ... 10:
                offset &= ~(cluster - 1);
                write_some(offset, MIN(cluster, size - offset), true);
                break;
        case 11 ... 12:
                zero_some(offset, length, false);
                break;
        case 13 ... 14:
                zero_some(offset, below(4) ? length : size - offset, true);
                break;
        case 15 ... 16:
                r = layer_flush(t.layer);
                say("flush", 0, 0, r);
                if (r == 0)
                        flushed();
                break;
        case 17:
                if (below(3) == 0)
                        resize();
                break;
        case 18:
                if (below(4) == 0)
                        end_image(below(2), below(2));
                else if (below(4) == 0)
                        change_chain();
                break;
        default:
                say("read", offset, length, 0);
                verify(offset, length, false);
        }
}

static void sequence(uint64_t number) {
        t.number = number;
        t.random.state = number * 0x2545f4914f6cdd1dull + 1;
        t.stamp = 1;
        t.op = 0;
        t.cut_before = false;
        make_shape();
        t.n_sectors = 0;
        t.sectors = NULL;
        resized(t.shape.size);
        make_backing(t.shape.preallocate_metadata ? 0 : (unsigned int)below(DEPTH + 1));
        make_image();
        for (t.op = 1; t.op <= OPS; t.op++) {
                if (disk_is_dead())
                        end_image(true, below(2));
                if (below(12) == 0) {
                        bool on = below(2);

                        disk_faults(on ? 6 + (unsigned int)below(60) : 0,
                                    on && below(3) == 0 ? 1 + (unsigned int)below(30) : 0);
                }
                one_op();
        }
        if (disk_is_dead() || below(2))
                end_image(true, below(2));
        disk_faults(0, 0);
        if (!disk_n_failed())
                verify(0, t.n_sectors * SECTOR, false);
        end_image(false, false);
        close_image();
        check(false);
        if (t.qemu && number % t.qemu == 0)
                check_qemu(false);
        disk_end();
        layer_close(t.backing);
        for (unsigned int d = 0; d < t.depth; d++)
                close(t.backing_fd[d]);
        free(t.sectors);
}

int main(int argc, char **argv) {
        static const struct option options[] = {
                { "sequences", required_argument, NULL, 'n' },
                { "seed", required_argument, NULL, 's' },
                { "qemu", required_argument, NULL, 'q' },
                { "verbose", no_argument, NULL, 'v' },
                { 0 },
        };
        uint64_t n = 200, seed = 1;
        int o;

        while ((o = getopt_long(argc, argv, "", options, NULL)) != -1)
                switch (o) {
                case 'n':
                        n = strtoull(optarg, NULL, 0);
                        break;
                case 's':
                        seed = strtoull(optarg, NULL, 0);
                        break;
                case 'q':
                        t.qemu = (unsigned int)strtoul(optarg, NULL, 0);
                        break;
                case 'v':
                        t.verbose = true;
                        break;
                default:
                        return 64;
                }
        for (uint64_t i = 0; i < n; i++)
                sequence(seed + i);
        printf("%ju sequences from seed %ju: %ju operations, %ju power cuts, %ju kills, %ju injected failures, %ju "
               "checks, %ju by "
               "qemu-img: no corruption, nothing flushed was lost\n",
               (uintmax_t)n, (uintmax_t)seed, (uintmax_t)t.ops, (uintmax_t)t.cuts, (uintmax_t)t.kills,
               (uintmax_t)t.failures, (uintmax_t)t.checks, (uintmax_t)t.qemu_checks);
        return 0;
}
