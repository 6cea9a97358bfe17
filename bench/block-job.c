// SPDX-License-Identifier: GPL-2.0-or-later
/* block-job: see block-job.h */
#include "bench/block-job.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/cleanup.h"
#include "base/clock.h"

static double cpu_seconds(void) {
        struct rusage u;

        getrusage(RUSAGE_SELF, &u);
        return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
               (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static unsigned int class_of(uint64_t ns) {
        unsigned int log;

        if (ns < 1u << BLOCK_JOB_SUB_BITS)
                return (unsigned int)ns;
        log = 63u - (unsigned int)__builtin_clzll(ns);
        return ((log - BLOCK_JOB_SUB_BITS + 1) << BLOCK_JOB_SUB_BITS) +
               (unsigned int)((ns >> (log - BLOCK_JOB_SUB_BITS)) & ((1u << BLOCK_JOB_SUB_BITS) - 1));
}

static uint64_t class_ns(unsigned int class) {
        unsigned int log = class >> BLOCK_JOB_SUB_BITS, low = class & ((1u << BLOCK_JOB_SUB_BITS) - 1);

        return log == 0 ? low : (uint64_t)(low | 1u << BLOCK_JOB_SUB_BITS) << (log - 1);
}

static uint64_t gcd(uint64_t a, uint64_t b) {
        while (b != 0) {
                uint64_t t = a % b;

                a = b;
                b = t;
        }
        return a;
}

void block_job_done(struct block_job *j, unsigned int i, int result) {
        if (result < 0 && j->failed == 0)
                j->failed = result;
        j->classes[class_of(clock_ns() - j->slots[i].began)]++;
        j->ended++;
        j->idle[j->n_idle++] = i;
}

/* The next request of the job: a flush when one is due, else a transfer. */
static void job_start(struct block_job *j, unsigned int i) {
        const struct block_job_config *c = j->config;
        struct block_job_slot *s = &j->slots[i];
        bool read;

        s->began = clock_ns();
        j->submitted++;
        if (c->flush > 0 && j->since_flush >= c->flush) {
                j->since_flush = 0;
                j->flushes++;
                s->op = BLOCK_JOB_FLUSH;
                c->driver->submit(j, i);
                return;
        }
        j->random = j->random * 6364136223846793005u + 1442695040888963407u;
        read = (j->random >> 33) % 100 < c->read_percent;
        j->since_flush += !read;
        s->op = read ? BLOCK_JOB_READ : BLOCK_JOB_WRITE;
        s->iov = (struct iovec){ .iov_base = j->memory + (size_t)i * c->block, .iov_len = c->block };
        s->offset = j->position * c->block;
        j->position = (j->position + j->step) % j->blocks;
        c->driver->submit(j, i);
}

static bool job_wants_more(const struct block_job *j) {
        if (j->failed < 0)
                return false;
        if (j->config->count > 0)
                return j->submitted < j->config->count;
        return clock_ns() < j->until_ns;
}

static void job_work(struct block_job *j) {
        const struct block_job_driver *d = j->config->driver;
        uint64_t begin = clock_ns();

        j->until_ns = begin + (uint64_t)(j->config->seconds * 1e9);
        for (;;) {
                bool started = false;

                while (j->n_idle > 0 && job_wants_more(j)) {
                        job_start(j, j->idle[--j->n_idle]);
                        started = true;
                }
                if (started)
                        d->kick(j);
                else if (j->ended == j->submitted)
                        break;
                if ((j->n_idle == 0 || !job_wants_more(j)) && j->ended < j->submitted) {
                        int r = d->wait(j);

                        if (r < 0) { /* what is in flight will never end */
                                j->failed = r;
                                break;
                        }
                }
        }
        j->wall_ns = clock_ns() - begin;
}

static int job_open(struct block_job *j) {
        const struct block_job_config *c = j->config;
        int r = c->driver->open_queue(j);

        if (r < 0)
                return r;
        memset(j->memory, 0xa5, (size_t)c->depth * c->block);
        if (j->blocks == 0)
                return -EINVAL;
        j->position = j->blocks * j->index / c->jobs;
        j->step = c->random ? (uint64_t)((double)j->blocks * 0.6180339887) | 1u : 1;
        while (gcd(j->step, j->blocks) != 1)
                j->step += 2;
        j->random = j->index + 1;
        for (unsigned int i = 0; i < c->depth; i++)
                j->idle[j->n_idle++] = i;
        return 0;
}

/* What a queue holds may belong to the thread that runs it, so a job opens its queue itself. */
static void *job_main(void *opaque) {
        struct block_job *j = opaque;

        j->failed = job_open(j);
        pthread_barrier_wait(j->barrier); /* everybody is ready: the clock starts */
        pthread_barrier_wait(j->barrier);
        if (j->failed == 0)
                job_work(j);
        pthread_barrier_wait(j->barrier); /* it stops */
        j->config->driver->close_queue(j);
        return NULL;
}

static double percentile_us(const struct block_job *jobs, unsigned int n, double part) {
        uint64_t total = 0, seen = 0;

        for (unsigned int i = 0; i < n; i++)
                total += jobs[i].ended;
        for (unsigned int class = 0; class < BLOCK_JOB_CLASSES; class ++) {
                for (unsigned int i = 0; i < n; i++)
                        seen += jobs[i].classes[class];
                if ((double)seen >= part * (double)total)
                        return (double)class_ns(class) / 1000;
        }
        return 0;
}

struct cost {
        double wall, cpu, served; /* seconds; served: CPU of the process that serves, which may be this one */
};

static struct cost cost_now(const struct block_job_config *c) {
        double own = cpu_seconds();

        return (struct cost){
                .wall = (double)clock_ns() / 1e9,
                .cpu = own,
                .served = c->driver->cpu_seconds ? c->driver->cpu_seconds() : own,
        };
}

static void report(const struct block_job_config *c, const struct block_job *jobs, const struct cost *cost) {
        uint64_t ios = 0, flushes = 0;

        for (unsigned int i = 0; i < c->jobs; i++) {
                ios += jobs[i].ended;
                flushes += jobs[i].flushes;
        }
        printf("{\"ios\": %" PRIu64 ", \"flushes\": %" PRIu64
               ", \"seconds\": %.6f, \"iops\": %.1f, \"mib_s\": %.2f, \"cpu_s\": %.6f, "
               "\"cpu_s_per_million\": %.4f, ",
               ios, flushes, cost->wall, (double)ios / cost->wall,
               (double)(ios - flushes) * c->block / cost->wall / (1 << 20), cost->served,
               cost->served / (double)ios * 1e6);
        if (c->driver->cpu_seconds)
                printf("\"client_cpu_s\": %.6f, \"client_cpu_s_per_million\": %.4f, ", cost->cpu,
                       cost->cpu / (double)ios * 1e6);
        printf("\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"engine\": \"%s\"}\n",
               percentile_us(jobs, c->jobs, 0.5), percentile_us(jobs, c->jobs, 0.99),
               percentile_us(jobs, c->jobs, 0.999), c->engine);
}

static int run(const struct block_job_config *c, uint64_t size) {
        _cleanup_free_ struct block_job *jobs = calloc(c->jobs, sizeof(*jobs));
        pthread_barrier_t barrier;
        struct cost begin, end;
        int failed = 0;

        if (!jobs || pthread_barrier_init(&barrier, NULL, c->jobs + 1) != 0)
                return -ENOMEM;
        for (unsigned int i = 0; i < c->jobs; i++) {
                jobs[i].config = c;
                jobs[i].barrier = &barrier;
                jobs[i].index = i;
                jobs[i].blocks = size / c->block;
                if (pthread_create(&jobs[i].thread, NULL, job_main, &jobs[i]) != 0)
                        return -EAGAIN; /* the process ends at once */
        }
        pthread_barrier_wait(&barrier);
        begin = cost_now(c);
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        end = cost_now(c);
        for (unsigned int i = 0; i < c->jobs; i++) {
                (void)pthread_join(jobs[i].thread, NULL);
                failed = jobs[i].failed ?: failed;
        }
        if (failed == 0)
                report(c, jobs,
                       &(struct cost){ end.wall - begin.wall, end.cpu - begin.cpu, end.served - begin.served });
        pthread_barrier_destroy(&barrier);
        return failed;
}

static int usage(const struct block_job_driver *d) {
        fprintf(stderr,
                "usage: bench-%s [OPTION...] %s\n"
                "  --rw KIND       read, write, randread, randwrite, randrw (70 %% reads)   (default randread)\n"
                "  --bs BYTES      of each request (default 4096)\n"
                "  --depth N       requests in flight in each job, at most %u (default 32)\n"
                "  --jobs N        threads, at most %u (default 1)\n"
                "  --flush N       a flush after each N writes (default 0: none)\n"
                "  --count N       requests of each job (default: as many as --seconds allow)\n"
                "  --seconds S     (default 1)\n"
                "%s",
                d->name, d->file, d->depth_max, d->jobs_max, d->usage);
        return 64;
}

static int parse_kind(struct block_job_config *c, const char *kind) {
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

static int parse_option(struct block_job_config *c, int option, const char *value) {
        unsigned long long n = value ? strtoull(value, NULL, 10) : 0;

        switch (option) {
        case 'r':
                return parse_kind(c, value);
        case 'b':
                c->block = (unsigned int)n;
                return n >= 512 && n <= 16u << 20 && n % 512 == 0 ? 0 : -EINVAL;
        case 'd':
                c->depth = (unsigned int)n;
                return n >= 1 && n <= c->driver->depth_max ? 0 : -EINVAL;
        case 'j':
                c->jobs = (unsigned int)n;
                return n >= 1 && n <= c->driver->jobs_max ? 0 : -EINVAL;
        case 'f':
                c->flush = (unsigned int)n;
                return 0;
        case 'n':
                c->count = n;
                return 0;
        case 's':
                c->seconds = strtod(value, NULL);
                return c->seconds > 0 && c->seconds < 3600 ? 0 : -EINVAL;
        default:
                return c->driver->option ? c->driver->option(option, value) : -EINVAL;
        }
}

int block_job_main(const struct block_job_driver *d, int argc, char **argv) {
        struct option options[16] = {
                { "rw", required_argument, NULL, 'r' },      { "bs", required_argument, NULL, 'b' },
                { "depth", required_argument, NULL, 'd' },   { "jobs", required_argument, NULL, 'j' },
                { "flush", required_argument, NULL, 'f' },   { "count", required_argument, NULL, 'n' },
                { "seconds", required_argument, NULL, 's' },
        };
        struct block_job_config c = {
                .driver = d, .random = true, .read_percent = 100, .block = 4096, .depth = 32, .jobs = 1, .seconds = 1
        };
        uint64_t size = 0;
        int option, r;

        for (size_t i = 0; d->options && d->options[i].name; i++)
                options[7 + i] = d->options[i];
        while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
                if (parse_option(&c, option, optarg) < 0)
                        return usage(d);
        if (optind != argc - 1)
                return usage(d);
        c.path = argv[optind];
        r = d->open(&c, &size);
        if (r == 0)
                r = run(&c, size);
        d->close();
        if (r < 0)
                fprintf(stderr, "%s: %s: %s\n", d->name, c.path, strerror(-r));
        return r < 0;
}
