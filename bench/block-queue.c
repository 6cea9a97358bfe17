// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * block-queue: how many requests vmm/block serves in a second, and what they cost, without a guest
 *
 * Each job is a thread with its own way into the disk, as a virtio-blk queue with its own I/O thread is, and keeps @depth requests in
 * flight: what has ended is submitted again and started with one block_kick(), and the thread sleeps in its loop when nothing has ended.
 *
 * Where. Offsets go round the disk in steps that visit every block once before any comes again (for "random" jobs a step near the golden section
 * of the disk, which looks random to a disk and to its tables). `qemu-img bench` can do no more than such steps, so both do the same.
 *
 * What. Time and CPU are those of the measured requests only: of the whole process, with its worker threads and the kernel's work done for
 * it. Latency is from submit to done(), kept in a histogram whose classes are 1.6 % wide. The result is one line of JSON on stdout.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/loop.h"
#include "vmm/block/block.h"
#include "vmm/block/chain/chain.h"

#define JOBS_MAX  16u
#define DEPTH_MAX 256u
#define SUB_BITS  6u /* classes in each power of two: 64 */
#define CLASSES   (64u << SUB_BITS)

struct config {
        const char *path, *format;
        struct chain *chain;
        struct block *disk; /* all jobs' */
        bool direct, random;
        enum block_engine engine;
        unsigned int read_percent, block, depth, jobs, flush; /* flush: one after that many writes; 0: none */
        uint64_t count;                                       /* requests of each job; 0: until @seconds are over */
        double seconds;
};

struct job;

struct slot {
        struct block_request request; /* first: done() casts */
        struct job *job;
        struct iovec iov;
        uint8_t *buf;
        uint64_t began; /* ns */
};

struct job {
        const struct config *config;
        pthread_t thread;
        pthread_barrier_t *barrier;
        unsigned int index;
        struct loop *loop;
        struct block_queue *queue;
        uint8_t *memory;
        struct slot slots[DEPTH_MAX], *idle[DEPTH_MAX];
        unsigned int n_idle, since_flush;
        uint64_t blocks, position, step, random; /* the walk, in blocks */
        uint64_t submitted, ended, flushes, until_ns, wall_ns;
        uint32_t classes[CLASSES];
        int failed;
};

static uint64_t now_ns(void) {
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static double cpu_seconds(void) {
        struct rusage u;

        getrusage(RUSAGE_SELF, &u);
        return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
               (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static unsigned int class_of(uint64_t ns) {
        unsigned int log;

        if (ns < 1u << SUB_BITS)
                return (unsigned int)ns;
        log = 63u - (unsigned int)__builtin_clzll(ns);
        return ((log - SUB_BITS + 1) << SUB_BITS) + (unsigned int)((ns >> (log - SUB_BITS)) & ((1u << SUB_BITS) - 1));
}

static uint64_t class_ns(unsigned int class) {
        unsigned int log = class >> SUB_BITS, low = class & ((1u << SUB_BITS) - 1);

        return log == 0 ? low : (uint64_t)(low | 1u << SUB_BITS) << (log - 1);
}

static uint64_t gcd(uint64_t a, uint64_t b) {
        while (b != 0) {
                uint64_t t = a % b;

                a = b;
                b = t;
        }
        return a;
}

static void slot_done(struct block_request *request, int result) {
        struct slot *s = (struct slot *)request;
        struct job *j = s->job;

        if (result < 0 && j->failed == 0)
                j->failed = result;
        j->classes[class_of(now_ns() - s->began)]++;
        j->ended++;
        j->idle[j->n_idle++] = s;
}

/* The next request of the job: a flush when one is due, else a transfer. */
static void slot_start(struct job *j, struct slot *s) {
        const struct config *c = j->config;
        bool read;

        s->request = (struct block_request){ .op = BLOCK_FLUSH, .done = slot_done };
        s->began = now_ns();
        j->submitted++;
        if (c->flush > 0 && j->since_flush >= c->flush) {
                j->since_flush = 0;
                j->flushes++;
                block_queue_submit(j->queue, &s->request);
                return;
        }
        j->random = j->random * 6364136223846793005u + 1442695040888963407u;
        read = (j->random >> 33) % 100 < c->read_percent;
        j->since_flush += !read;
        s->iov = (struct iovec){ .iov_base = s->buf, .iov_len = c->block };
        s->request.op = read ? BLOCK_READ : BLOCK_WRITE;
        s->request.offset = j->position * c->block;
        s->request.length = c->block;
        s->request.iov = &s->iov;
        s->request.n_iov = 1;
        j->position = (j->position + j->step) % j->blocks;
        block_queue_submit(j->queue, &s->request);
}

static bool job_wants_more(const struct job *j) {
        if (j->failed < 0)
                return false;
        if (j->config->count > 0)
                return j->submitted < j->config->count;
        return now_ns() < j->until_ns;
}

static void job_work(struct job *j) {
        uint64_t begin = now_ns();

        j->until_ns = begin + (uint64_t)(j->config->seconds * 1e9);
        for (;;) {
                bool started = false;

                while (j->n_idle > 0 && job_wants_more(j)) {
                        slot_start(j, j->idle[--j->n_idle]);
                        started = true;
                }
                if (started)
                        block_queue_kick(j->queue);
                else if (j->ended == j->submitted)
                        break;
                if ((j->n_idle == 0 || !job_wants_more(j)) && j->ended < j->submitted)
                        (void)loop_run_once(j->loop, -1);
        }
        j->wall_ns = now_ns() - begin;
}

static int job_open(struct job *j) {
        const struct config *c = j->config;
        struct block_queue_options options = { .depth = c->depth };
        struct error e = { 0 };
        int r = loop_new(&j->loop);

        if (r < 0)
                return r;
        options.loop = j->loop;
        r = block_queue_new(c->disk, &options, &j->queue, &e);
        if (r < 0) {
                fprintf(stderr, "block-queue: %s: %s\n", c->path, e.message);
                return r;
        }
        j->memory = mmap(NULL, (size_t)c->depth * c->block, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (j->memory == MAP_FAILED)
                return -ENOMEM;
        memset(j->memory, 0xa5, (size_t)c->depth * c->block);
        j->blocks = block_limits(c->disk)->size / c->block;
        if (j->blocks == 0)
                return -EINVAL;
        j->position = j->blocks * j->index / c->jobs;
        j->step = c->random ? (uint64_t)((double)j->blocks * 0.6180339887) | 1u : 1;
        while (gcd(j->step, j->blocks) != 1)
                j->step += 2;
        j->random = j->index + 1;
        for (unsigned int i = 0; i < c->depth; i++) {
                j->slots[i].job = j;
                j->slots[i].buf = j->memory + (size_t)i * c->block;
                j->idle[j->n_idle++] = &j->slots[i];
        }
        return 0;
}

/* What a loop holds belongs to the thread that runs it, so a job opens its queue itself. */
static void *job_main(void *opaque) {
        struct job *j = opaque;

        j->failed = job_open(j);
        pthread_barrier_wait(j->barrier); /* everybody is ready: the clock starts */
        pthread_barrier_wait(j->barrier);
        if (j->failed == 0)
                job_work(j);
        pthread_barrier_wait(j->barrier); /* it stops */
        block_queue_free(j->queue);
        loop_free(j->loop);
        return NULL;
}

static double percentile_us(const struct job *jobs, unsigned int n, double part) {
        uint64_t total = 0, seen = 0;

        for (unsigned int i = 0; i < n; i++)
                total += jobs[i].ended;
        for (unsigned int class = 0; class < CLASSES; class ++) {
                for (unsigned int i = 0; i < n; i++)
                        seen += jobs[i].classes[class];
                if ((double)seen >= part * (double)total)
                        return (double)class_ns(class) / 1000;
        }
        return 0;
}

static void report(const struct config *c, const struct job *jobs, double wall, double cpu) {
        uint64_t ios = 0, flushes = 0;

        for (unsigned int i = 0; i < c->jobs; i++) {
                ios += jobs[i].ended;
                flushes += jobs[i].flushes;
        }
        printf("{\"ios\": %" PRIu64 ", \"flushes\": %" PRIu64
               ", \"seconds\": %.6f, \"iops\": %.1f, \"mib_s\": %.2f, \"cpu_s\": %.6f, "
               "\"cpu_s_per_million\": %.4f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"engine\": "
               "\"%s\"}\n",
               ios, flushes, wall, (double)ios / wall, (double)(ios - flushes) * c->block / wall / (1 << 20), cpu,
               cpu / (double)ios * 1e6, percentile_us(jobs, c->jobs, 0.5), percentile_us(jobs, c->jobs, 0.99),
               percentile_us(jobs, c->jobs, 0.999), c->engine == BLOCK_ENGINE_THREADS ? "threads" : "io_uring");
}

static int run(const struct config *c) {
        _cleanup_free_ struct job *jobs = calloc(c->jobs, sizeof(*jobs));
        pthread_barrier_t barrier;
        double cpu, wall;
        int failed = 0;

        if (!jobs || pthread_barrier_init(&barrier, NULL, c->jobs + 1) != 0)
                return -ENOMEM;
        for (unsigned int i = 0; i < c->jobs; i++) {
                jobs[i] = (struct job){ .config = c, .barrier = &barrier, .index = i };
                if (pthread_create(&jobs[i].thread, NULL, job_main, &jobs[i]) != 0)
                        return -EAGAIN; /* the process ends at once */
        }
        pthread_barrier_wait(&barrier);
        cpu = cpu_seconds();
        wall = (double)now_ns();
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        wall = ((double)now_ns() - wall) / 1e9;
        cpu = cpu_seconds() - cpu;
        for (unsigned int i = 0; i < c->jobs; i++) {
                (void)pthread_join(jobs[i].thread, NULL);
                failed = jobs[i].failed ?: failed;
        }
        if (failed == 0)
                report(c, jobs, wall, cpu);
        pthread_barrier_destroy(&barrier);
        return failed;
}

static int open_disk(struct config *c) {
        const struct chain_options options = { .n_writable = c->read_percent < 100,
                                               .direct = c->direct,
                                               .repair = true };
        struct block_options block = { .borrowed = true, .engine = c->engine };
        struct error e = { 0 };
        int r = chain_open(c->path, c->format ?: "raw", &options, &c->chain, &e);

        if (r == 0) {
                block.top = chain_top(c->chain);
                r = block_open(&block, &c->disk, &e);
        }
        if (r < 0)
                fprintf(stderr, "block-queue: %s: %s\n", c->path, e.message);
        return r;
}

static int usage(void) {
        fputs("usage: bench-block-queue [OPTION...] FILE\n"
              "  --rw KIND       read, write, randread, randwrite, randrw (70 % reads)   (default randread)\n"
              "  --bs BYTES      of each request (default 4096)\n"
              "  --depth N       requests in flight in each job, at most 256 (default 32)\n"
              "  --jobs N        threads, at most 16 (default 1)\n"
              "  --flush N       a flush after each N writes (default 0: none)\n"
              "  --count N       requests of each job (default: as many as --seconds allow)\n"
              "  --seconds S     (default 1)\n"
              "  --cached        through the host's page cache (default: direct)\n"
              "  --format F      raw, qcow2 (default raw)\n"
              "  --engine E      auto, uring, threads (default auto)\n"
              "FILE is written to by the kinds that write. One line of JSON comes out.\n",
              stderr);
        return 64;
}

static int parse_kind(struct config *c, const char *kind) {
        static const struct {
                const char *name;
                bool random;
                unsigned int read_percent;
        } kinds[] = { { "read", false, 100 },
                      { "write", false, 0 },
                      { "randread", true, 100 },
                      { "randwrite", true, 0 },
                      { "randrw", true, 70 } };

        for (size_t i = 0; i < ELEMENTSOF(kinds); i++)
                if (strcmp(kinds[i].name, kind) == 0) {
                        c->random = kinds[i].random;
                        c->read_percent = kinds[i].read_percent;
                        return 0;
                }
        return -EINVAL;
}

static int parse_option(struct config *c, int option, const char *value) {
        unsigned long long n = value ? strtoull(value, NULL, 10) : 0;

        switch (option) {
        case 'r':
                return parse_kind(c, value);
        case 'b':
                c->block = (unsigned int)n;
                return n >= 512 && n <= 16u << 20 && n % 512 == 0 ? 0 : -EINVAL;
        case 'd':
                c->depth = (unsigned int)n;
                return n >= 1 && n <= DEPTH_MAX ? 0 : -EINVAL;
        case 'j':
                c->jobs = (unsigned int)n;
                return n >= 1 && n <= JOBS_MAX ? 0 : -EINVAL;
        case 'f':
                c->flush = (unsigned int)n;
                return 0;
        case 'n':
                c->count = n;
                return 0;
        case 's':
                c->seconds = strtod(value, NULL);
                return c->seconds > 0 && c->seconds < 3600 ? 0 : -EINVAL;
        case 'F':
                c->format = value;
                return 0;
        case 'c':
                c->direct = false;
                return 0;
        case 'e':
                c->engine = strcmp(value, "threads") == 0 ? BLOCK_ENGINE_THREADS
                            : strcmp(value, "uring") == 0 ? BLOCK_ENGINE_URING
                                                          : BLOCK_ENGINE_AUTO;
                return 0;
        default:
                return -EINVAL;
        }
}

int main(int argc, char **argv) {
        static const struct option options[] = {
                { "rw", required_argument, NULL, 'r' },
                { "bs", required_argument, NULL, 'b' },
                { "depth", required_argument, NULL, 'd' },
                { "jobs", required_argument, NULL, 'j' },
                { "flush", required_argument, NULL, 'f' },
                { "count", required_argument, NULL, 'n' },
                { "seconds", required_argument, NULL, 's' },
                { "cached", no_argument, NULL, 'c' },
                { "engine", required_argument, NULL, 'e' },
                { "format", required_argument, NULL, 'F' },
                { 0 },
        };
        struct config c = {
                .direct = true, .random = true, .read_percent = 100, .block = 4096, .depth = 32, .jobs = 1, .seconds = 1
        };
        int option, r;

        while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
                if (parse_option(&c, option, optarg) < 0)
                        return usage();
        if (optind != argc - 1)
                return usage();
        c.path = argv[optind];
        r = open_disk(&c);
        if (r == 0)
                r = run(&c);
        block_close(c.disk);
        chain_close(c.chain);
        if (r < 0)
                fprintf(stderr, "block-queue: %s: %s\n", c.path, strerror(-r));
        return r < 0;
}
