// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * block-vhost-user: how many requests a vhost-user-blk back end, such as qemu-storage-daemon, serves in a second, and what they cost it
 *
 * The jobs of block-job.h, whose way into the disk is a virtqueue each (shadow-ring.h), in memory that the back end shares. It is driven as
 * Linux's virtio_blk would: batches, and with EVENT_IDX (virtio 1.2 §2.7.7, §2.7.10) a doorbell only when the back end wants one, an interrupt only
 * when the job is about to sleep. So what the back end spends on either is what a guest would make it spend.
 *
 * CPU seconds are the back end's, all its threads: those that have ended and io_uring's workers too. The client's stand beside them. The back end
 * is who listens at the socket.
 *
 * How the disk is opened (format, page cache, read-only) is the back end's matter, so those options of block-queue are not here.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "bench/block-job.h"
#include "vmm/vhost/shadow-ring.h"
#include "vmm/vhost/vhost-user.h"

#define BIT(n)          (1ull << (n))
#define FEATURES_NEEDED (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX))
#define FEATURES                                                                                                       \
        (FEATURES_NEEDED | BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_RO) | BIT(VIRTIO_BLK_F_BLK_SIZE) |             \
         BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_MQ))
#define JOBS_MAX  (VHOST_USER_REGIONS_MAX - 1u) /* the buffers are a region, each ring is one */
#define ANSWER_MS 5000u

struct queue {
        struct shadow_ring *ring;
        struct vring vring;           /* the same, for what shadow-ring leaves alone: the event indices */
        uint16_t added, kicked, used; /* entries so far: put on the ring, told of, taken */
        uint8_t *status;              /* of each slot */
};

static struct {
        struct vhost_user backend;
        clockid_t cpu_clock;
        struct queue queues[JOBS_MAX];
        uint8_t *memory; /* each job's buffers, then each job's status bytes */
        size_t memory_size;
        int memory_fd;
} this = { .backend.fd = -EBADF, .memory_fd = -EBADF };

static int failure(const struct block_job_config *c, const char *what, int r) {
        fprintf(stderr, "block-vhost-user: %s: %s: %s\n", c->path, what, vhost_user_reason(-r));
        return r;
}

static double cpu_seconds(void) {
        struct timespec t = { 0 };

        clock_gettime(this.cpu_clock, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* --- a queue --- */

static void queue_submit(struct block_job *j, unsigned int i) {
        static const uint32_t types[] = { [BLOCK_JOB_READ] = VIRTIO_BLK_T_IN,
                                          [BLOCK_JOB_WRITE] = VIRTIO_BLK_T_OUT,
                                          [BLOCK_JOB_FLUSH] = VIRTIO_BLK_T_FLUSH };
        struct queue *q = j->queue;
        const struct block_job_slot *s = &j->slots[i];
        struct virtio_blk_outhdr header = { .type = types[s->op] };
        struct iovec iov[2] = { s->iov, s->iov };
        unsigned int n = 0;

        if (s->op != BLOCK_JOB_FLUSH) {
                header.sector = s->offset / 512;
                n = 1;
        }
        iov[n] = (struct iovec){ .iov_base = &q->status[i], .iov_len = 1 };
        q->status[i] = UINT8_MAX;
        /* There is room: the ring has as many entries as a job may have slots. */
        (void)shadow_ring_add(q->ring, &header, sizeof(header), iov, s->op == BLOCK_JOB_WRITE,
                              1 + (s->op == BLOCK_JOB_READ), (uint16_t)i,
                              1 + (s->op == BLOCK_JOB_READ ? j->config->block : 0));
        q->added++;
}

static void queue_kick(struct block_job *j) {
        struct queue *q = j->queue;
        uint16_t before = q->kicked;

        q->kicked = q->added;
        /* Show the entries, then ask whether the other side has stopped looking. */
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (vring_need_event(__atomic_load_n(&vring_avail_event(&q->vring), __ATOMIC_RELAXED), q->added, before))
                shadow_ring_kick(q->ring);
}

/* Return: how many have ended, or -EPROTO. */
static int queue_collect(struct block_job *j) {
        struct queue *q = j->queue;
        uint32_t written;
        uint16_t i;
        int k, n = 0;

        while ((k = shadow_ring_take(q->ring, &i, &written)) == 1) {
                q->used++;
                n++;
                block_job_done(j, i, q->status[i] == VIRTIO_BLK_S_OK ? 0 : -EIO);
        }
        return k < 0 ? k : n;
}

static int queue_wait(struct block_job *j) {
        struct queue *q = j->queue;
        struct pollfd p[] = { { .fd = shadow_ring_call_fd(q->ring), .events = POLLIN },
                              { .fd = this.backend.fd, .events = POLLIN | POLLRDHUP } };

        for (;;) {
                uint64_t calls;
                int n;

                /* Ask for an interrupt, then see whether that was too late. */
                __atomic_store_n(&vring_used_event(&q->vring), q->used, __ATOMIC_RELAXED);
                __atomic_thread_fence(__ATOMIC_SEQ_CST);
                n = queue_collect(j);
                if (n != 0)
                        return n < 0 ? failure(j->config, "while it served", n) : 0;
                if (poll(p, ELEMENTSOF(p), -1) < 0 && errno != EINTR)
                        return -errno;
                if (p[1].revents)
                        return failure(j->config, "while it served", -EPIPE);
                (void)!read(p[0].fd, &calls, sizeof(calls));
        }
}

static int queue_open(struct block_job *j) {
        size_t size = (size_t)j->config->depth * j->config->block;

        j->queue = &this.queues[j->index];
        j->memory = this.memory + j->index * size;
        return 0;
}

static void queue_close(struct block_job *j) {
        j->queue = NULL; /* it goes when the back end has let go of it */
}

/* --- the back end --- */

static int backend_connect(const struct block_job_config *c) {
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        struct ucred peer;
        socklen_t size = sizeof(peer);
        int r;

        if (fd < 0)
                return -errno;
        if (strlen(c->path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, c->path, strlen(c->path) + 1);
        if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
            getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
                return -errno;
        r = clock_getcpuclockid(peer.pid, &this.cpu_clock);
        if (r != 0)
                return -r;
        if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
                return -errno;
        r = vhost_user_greet(&this.backend, TAKE_FD(fd), ANSWER_MS);
        return r == 0 && (FEATURES_NEEDED & ~this.backend.features) ? -ENOTSUP : r;
}

static int share_memory(const struct block_job_config *c) {
        size_t buffers = (size_t)c->jobs * c->depth * c->block;
        void *memory;

        this.memory_size = buffers + (size_t)c->jobs * c->depth;
        this.memory_fd = memfd_create("bench", MFD_CLOEXEC);
        if (this.memory_fd < 0 || ftruncate(this.memory_fd, (off_t)this.memory_size) < 0)
                return -errno;
        memory = mmap(NULL, this.memory_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, this.memory_fd, 0);
        if (memory == MAP_FAILED)
                return -errno;
        this.memory = memory;
        for (unsigned int i = 0; i < c->jobs; i++)
                this.queues[i].status = this.memory + buffers + (size_t)i * c->depth;
        return 0;
}

static int queue_prepare(struct queue *q, struct vhost_user_region *ret_region) {
        struct vhost_user_ring ring;
        int r = shadow_ring_new(&q->ring);

        if (r < 0)
                return r;
        ring = shadow_ring_describe(q->ring);
        q->vring = (struct vring){
                .num = ring.size, .desc = (void *)ring.desc, .avail = (void *)ring.avail, .used = (void *)ring.used
        };
        *ret_region = shadow_ring_region(q->ring);
        return 0;
}

static int backend_start(const struct block_job_config *c) {
        struct vhost_user_region regions[1 + JOBS_MAX] = {
                { .address = this.memory, .size = this.memory_size, .fd = this.memory_fd },
        };
        int r = 0;

        for (unsigned int i = 0; i < c->jobs && r == 0; i++)
                r = queue_prepare(&this.queues[i], &regions[1 + i]);
        if (r < 0)
                return r;
        vhost_user_allow(&this.backend, ANSWER_MS);
        r = vhost_user_set_features(&this.backend, this.backend.features & FEATURES);
        if (r == 0)
                r = vhost_user_set_memory(&this.backend, regions, 1 + c->jobs);
        for (unsigned int i = 0; i < c->jobs && r == 0; i++) {
                const struct vhost_user_ring ring = shadow_ring_describe(this.queues[i].ring);

                r = vhost_user_start_ring(&this.backend, i, &ring);
        }
        return r;
}

static int backend_open(struct block_job_config *c, uint64_t *ret_size) {
        struct virtio_blk_config disk = { 0 };
        int r = backend_connect(c);

        if (r == 0)
                r = vhost_user_get_config(&this.backend, &disk,
                                          offsetof(struct virtio_blk_config, max_secure_erase_sectors));
        if (r < 0)
                return failure(c, "cannot connect", r);
        if (this.backend.n_queues < c->jobs) {
                fprintf(stderr, "block-vhost-user: %s: %u queues are too few for %u jobs\n", c->path,
                        this.backend.n_queues, c->jobs);
                return -EINVAL;
        }
        if (c->read_percent < 100 && (this.backend.features & BIT(VIRTIO_BLK_F_RO)))
                return -EROFS;
        r = share_memory(c);
        if (r == 0)
                r = backend_start(c);
        if (r < 0)
                return failure(c, "cannot start", r);
        c->engine = "vhost-user";
        *ret_size = disk.capacity * 512;
        return 0;
}

static void backend_close(void) {
        vhost_user_close(&this.backend);
        for (size_t i = 0; i < ELEMENTSOF(this.queues); i++)
                shadow_ring_free(this.queues[i].ring);
        if (this.memory)
                munmap(this.memory, this.memory_size);
        this.memory_fd = safe_close(this.memory_fd);
}

int main(int argc, char **argv) {
        static const struct block_job_driver driver = {
                .name = "block-vhost-user",
                .file = "SOCKET",
                .usage = "The disk that is served at SOCKET is written to by the kinds that write. One line of JSON "
                         "comes out.\n",
                .depth_max = SHADOW_SIZE,
                .jobs_max = JOBS_MAX,
                .open = backend_open,
                .close = backend_close,
                .open_queue = queue_open,
                .close_queue = queue_close,
                .submit = queue_submit,
                .kick = queue_kick,
                .wait = queue_wait,
                .cpu_seconds = cpu_seconds,
        };

        return block_job_main(&driver, argc, argv);
}
