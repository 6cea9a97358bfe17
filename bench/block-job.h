// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * block-job: the work that the block benches do: which requests, how many at a time, how it is measured and reported
 *
 * Each job is a thread with its own way into the disk, as a virtio-blk queue with its own I/O thread is, and keeps @depth requests in
 * flight: what has ended is submitted again and started with one kick, and the thread sleeps when nothing has ended. How requests get to the disk
 * is the driver's part (struct block_job_driver): bench/block-queue.c, bench/block-vhost-user.c.
 *
 * Where. Offsets go round the disk in steps that visit every block once before any comes again (for "random" jobs a step near the golden section
 * of the disk, which looks random to a disk and to its tables). `qemu-img bench` can do no more than such steps, so all do the same.
 *
 * What. Time and CPU are those of the measured requests only: of the whole process, with its worker threads and the kernel's work done for
 * it, or of the process that the driver names. Latency is from submit to block_job_done(), kept in a histogram whose classes are 1.6 % wide. The
 * result is one line of JSON on stdout.
 */
#pragma once

#include <getopt.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define BLOCK_JOB_DEPTH_MAX 256u
#define BLOCK_JOB_SUB_BITS  6u /* classes in each power of two: 64 */
#define BLOCK_JOB_CLASSES   (64u << BLOCK_JOB_SUB_BITS)

enum block_job_op { BLOCK_JOB_READ, BLOCK_JOB_WRITE, BLOCK_JOB_FLUSH };

struct block_job_slot {
        enum block_job_op op;
        uint64_t offset;  /* bytes; not of a flush */
        struct iovec iov; /* the slot's buffer, whole: config->block bytes; scratch */
        uint64_t began;   /* ns */
};

struct block_job_config {
        const struct block_job_driver *driver;
        const char *path;   /* what the driver opens */
        const char *engine; /* how, for the report */
        bool random;
        unsigned int read_percent, block, depth, jobs, flush; /* flush: one after that many writes; 0: none */
        uint64_t count;                                       /* requests of each job; 0: until @seconds are over */
        double seconds;
};

struct block_job {
        const struct block_job_config *config;
        unsigned int index;
        void *queue;     /* the driver's */
        uint8_t *memory; /* config->depth * config->block bytes, from the driver's open_queue() */
        struct block_job_slot slots[BLOCK_JOB_DEPTH_MAX];

        pthread_t thread;
        pthread_barrier_t *barrier;
        unsigned int idle[BLOCK_JOB_DEPTH_MAX], n_idle, since_flush;
        uint64_t blocks, position, step, random; /* the walk, in blocks */
        uint64_t submitted, ended, flushes, until_ns, wall_ns;
        uint32_t classes[BLOCK_JOB_CLASSES];
        int failed;
};

/* Those of a queue are called in its job's thread, the others in the main one. All return 0 or -errno, after a message where one helps. */
struct block_job_driver {
        const char *name;  /* of the program, without bench- */
        const char *file;  /* what its argument is called */
        const char *usage; /* lines about its own options and the argument */
        unsigned int depth_max, jobs_max;
        const struct option *options; /* its own, at most 8 */
        int (*option)(int option, const char *value);

        int (*open)(struct block_job_config *c, uint64_t *ret_size); /* the disk, @ret_size bytes */
        void (*close)(void);                                         /* after open(), whatever it returned */
        int (*open_queue)(struct block_job *j);
        void (*close_queue)(struct block_job *j);            /* after open_queue(), whatever it returned */
        void (*submit)(struct block_job *j, unsigned int i); /* slot @i; block_job_done() when it has ended */
        void (*kick)(struct block_job *j);                   /* start what was submitted */
        int (*wait)(struct block_job *j);                    /* until something has ended */
        double (*cpu_seconds)(void); /* of the process that serves the disk; NULL: this one, load and all */
};

/** block_job_done() - slot @i has ended with @result, 0 or -errno. */
void block_job_done(struct block_job *j, unsigned int i, int result);

/** block_job_main() - the program: options, jobs, report. Return: its exit status. */
int block_job_main(const struct block_job_driver *driver, int argc, char **argv);
