// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * file: see file.h
 *
 * Theory of operation. All transfers end in transfer(), a loop around preadv()/pwritev() that takes at most FILE_IOVS pieces at a time
 * and goes on until everything is done. A read that meets the end of the file fills the rest with zeroes.
 *
 * O_DIRECT wants offsets, lengths and addresses that are multiples of a block. Where all are, the transfer goes straight through.
 * Else it goes piece by piece through a buffer: a read widens to whole blocks and copies what was wanted, a write reads
 * the blocks that it covers in part, under rmw_lock so that two such writes can't undo each other, nor one of them a hole that is punched
 * into a part of its block meanwhile.
 *
 * Which of fallocate()'s modes the file system has is learnt from its first refusal and kept in flags; they only ever go from false to true.
 */
#include "vmm/block/layer/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/iov.h"

/* seccomp: main: newfstatat arg3=AT_EMPTY_PATH (rare) -- is a file one of the disk's? */

#define FILE_IOVS       64
#define FILE_BOUNCE     (256u << 10)
#define FILE_ZEROES     (64u << 10)
#define FILE_DIRECT_MAX 4096u
#define FILE_RETRIES    32
#define FILE_MAX        ((uint64_t)INT64_MAX)

struct file {
        const struct sys *sys;
        int fd;
        bool is_device, direct, readonly;
        uint32_t logical, physical;
        _Atomic uint64_t size;
        _Atomic bool no_punch, no_zero_range, no_discard;
        _Atomic int sync_lost; /* -errno: what was written before may be gone */
        pthread_mutex_t rmw_lock;
};

/* All zero, and never written: shared by every file. */
static const uint8_t zeroes[FILE_ZEROES] __attribute__((aligned(4096)));

static int measure(struct file *f, struct error *e) {
        struct stat st;
        unsigned int physical = 0;
        uint64_t size = 0;
        int logical = 0;

        if (f->sys->fstat(f->fd, &st) < 0)
                return error_set(e, -errno, "disk-type", NULL, "cannot examine the disk's descriptor");
        f->logical = f->physical = 512;
        if (S_ISREG(st.st_mode)) {
                size = (uint64_t)st.st_size;
                f->physical = 4096;
        } else if (S_ISBLK(st.st_mode)) {
                f->is_device = true;
                if (f->sys->ioctl(f->fd, BLKGETSIZE64, &size) < 0)
                        return error_set(e, -errno, "disk-size", NULL, "cannot read the block device's size");
                if (f->sys->ioctl(f->fd, BLKSSZGET, &logical) == 0 && logical > 0)
                        f->logical = (uint32_t)logical;
                if (f->sys->ioctl(f->fd, BLKPBSZGET, &physical) == 0)
                        f->physical = physical;
                f->physical = MAX(f->physical, f->logical);
        } else {
                return error_set(e, -EINVAL, "disk-type", "give a regular file or a block device",
                                 "a disk is neither a regular file nor a block device");
        }
        atomic_init(&f->size, size);
        return 0;
}

/* With O_DIRECT on, finds the alignment by trying: the smallest block that can be read. An empty file is taken to want the largest. */
static int probe_direct(struct file *f, bool wanted, struct error *e) {
        int flags = fcntl(f->fd, F_GETFL);
        uint8_t *buf;
        ssize_t n = -1;
        int saved = 0;

        if (flags < 0)
                return error_set(e, -errno, "disk-type", NULL, "cannot examine the disk's descriptor");
        if (!f->readonly && (flags & O_ACCMODE) != O_RDWR)
                return error_set(e, -EBADF, "disk-access", "mark the disk readonly",
                                 "the disk is not open for writing");
        if (wanted && !(flags & O_DIRECT)) {
                if (fcntl(f->fd, F_SETFL, flags | O_DIRECT) < 0)
                        return error_set(e, -errno, "disk-direct", "go through the page cache: cache=writeback",
                                         "the disk's file system has no direct I/O");
                flags |= O_DIRECT;
        }
        f->direct = flags & O_DIRECT;
        if (!f->direct)
                return 0;
        buf = f->sys->mmap(NULL, 2 * FILE_DIRECT_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (buf == MAP_FAILED)
                return error_set(e, -errno, "disk-direct", NULL, "no memory for a bounce buffer");
        for (; f->logical <= FILE_DIRECT_MAX; f->logical *= 2) {
                /* At an address that is aligned to this block only, not to the next larger one. */
                n = f->sys->pread(f->fd, buf + f->logical % FILE_DIRECT_MAX, f->logical, 0);
                saved = errno;
                if (n > 0 || (n < 0 && saved != EINVAL))
                        break;
        }
        munmap(buf, 2 * FILE_DIRECT_MAX);
        if (n == 0)
                f->logical = FILE_DIRECT_MAX;
        else if (n < 0)
                return error_set(e, -saved, "disk-direct", "go through the page cache: cache=writeback",
                                 "cannot read the disk with direct I/O");
        f->physical = MAX(f->physical, f->logical);
        return 0;
}

int file_open(const struct file_options *options, struct file **ret_file, struct error *e) {
        _cleanup_free_ struct file *f = calloc(1, sizeof(*f));
        int r;

        if (!f)
                return error_set(e, -ENOMEM, "disk-memory", NULL, "no memory for a disk's file");
        f->sys = options->sys ?: &sys_real;
        f->fd = options->fd;
        f->readonly = options->readonly;
        r = measure(f, e);
        if (r < 0)
                return r;
        r = probe_direct(f, options->direct, e);
        if (r < 0)
                return r;
        pthread_mutex_init(&f->rmw_lock, NULL);
        *ret_file = TAKE_PTR(f);
        return 0;
}

void file_close(struct file *file) {
        if (!file)
                return;
        pthread_mutex_destroy(&file->rmw_lock);
        free(file);
}

int file_fd(const struct file *file) {
        return file->fd;
}

const struct sys *file_sys(const struct file *file) {
        return file->sys;
}

uint64_t file_size(const struct file *file) {
        return atomic_load(&file->size);
}

uint32_t file_logical_block(const struct file *file) {
        return file->logical;
}

uint32_t file_physical_block(const struct file *file) {
        return file->physical;
}

bool file_is_device(const struct file *file) {
        return file->is_device;
}

bool file_is_direct(const struct file *file) {
        return file->direct;
}

bool file_is_same(int fd, int other_fd) {
        struct stat st, other;

        if (fstat(fd, &st) < 0 || fstat(other_fd, &other) < 0)
                return false;
        if (st.st_dev == other.st_dev && st.st_ino == other.st_ino)
                return true;
        return S_ISBLK(st.st_mode) && S_ISBLK(other.st_mode) && st.st_rdev == other.st_rdev;
}

bool file_is_readonly(const struct file *file) {
        return file->readonly;
}

static void grown(struct file *f, uint64_t end) {
        uint64_t size = atomic_load(&f->size);

        while (end > size && !atomic_compare_exchange_weak(&f->size, &size, end))
                ;
}

static int check_range(uint64_t offset, uint64_t len) {
        return offset > FILE_MAX || len > FILE_MAX - offset ? -EFBIG : 0;
}

/* @iov, aligned as the file wants it. */
static int transfer(struct file *f, const struct iovec *iov, unsigned int n_iov, uint64_t offset, uint64_t len,
                    bool write) {
        unsigned int retries = 0;
        uint64_t done = 0;

        while (done < len) {
                struct iovec part[FILE_IOVS];
                unsigned int n_part;
                ssize_t n;

                iov_slice(iov, n_iov, done, MIN(len - done, (uint64_t)(1u << 30)), part, FILE_IOVS, &n_part);
                if (n_part == 0)
                        return -EINVAL;
                n = write ? f->sys->pwritev(f->fd, part, (int)n_part, (off_t)(offset + done))
                          : f->sys->preadv(f->fd, part, (int)n_part, (off_t)(offset + done));
                if (n < 0 && (errno == EINTR || errno == EAGAIN) && retries++ < FILE_RETRIES)
                        continue;
                if (n < 0) {
                        n = -errno;
                        if (write)
                                grown(f,
                                      offset +
                                              len); /* some of it may have arrived all the same: nobody may take it for zeroes */
                        return (int)n;
                }
                if (n == 0 && write)
                        return -EIO;
                if (!write && (n == 0 || (f->direct && offset + done + (uint64_t)n >= file_size(f)))) {
                        /* the end of the file */
                        iov_zero(iov, n_iov, done + (uint64_t)n, len - done - (uint64_t)n);
                        return 0;
                }
                if (f->direct && (uint64_t)n < len - done)
                        n -= n % (ssize_t)f->logical; /* what is left must stay aligned */
                if (n > 0)
                        retries = 0;
                else if (retries++ >= FILE_RETRIES)
                        return -EIO;
                done += (uint64_t)n;
        }
        if (write)
                grown(f, offset + len);
        return 0;
}

static bool is_aligned(const struct file *f, const struct iovec *iov, unsigned int n_iov, uint64_t offset,
                       uint64_t len) {
        if (!f->direct)
                return true;
        if ((offset | len) % f->logical != 0)
                return false;
        for (unsigned int i = 0; i < n_iov; i++)
                if (((uintptr_t)iov[i].iov_base | iov[i].iov_len) % f->logical != 0)
                        return false;
        return true;
}

/* One piece of a direct write, through @buf: reads first what it covers in part. */
static int bounce_write(struct file *f, uint8_t *buf, const struct iovec *iov, unsigned int n_iov, uint64_t skip,
                        uint64_t start, uint64_t head, uint64_t n, uint64_t whole) {
        struct iovec all = { .iov_base = buf, .iov_len = whole };
        int r = 0;

        if (head == 0 && n == whole) {
                iov_to_buf(iov, n_iov, skip, buf, n);
                return transfer(f, &all, 1, start, whole, true);
        }
        pthread_mutex_lock(&f->rmw_lock);
        r = transfer(f, &all, 1, start, whole, false);
        if (r == 0) {
                iov_to_buf(iov, n_iov, skip, buf + head, n);
                r = transfer(f, &all, 1, start, whole, true);
        }
        pthread_mutex_unlock(&f->rmw_lock);
        return r;
}

static int bounce(struct file *f, const struct iovec *iov, unsigned int n_iov, uint64_t offset, uint64_t len,
                  bool write) {
        uint64_t block = f->logical, done = 0;
        size_t size = (size_t)MIN((len + 2 * block - 1) / block * block, (uint64_t)FILE_BOUNCE);
        _cleanup_free_ uint8_t *buf = NULL;
        int r = 0;

        size = MAX(size, (size_t)block);
        buf = aligned_alloc(FILE_DIRECT_MAX, (size + FILE_DIRECT_MAX - 1) / FILE_DIRECT_MAX * FILE_DIRECT_MAX);
        if (!buf)
                return -ENOMEM;
        while (r == 0 && done < len) {
                uint64_t head = (offset + done) % block, start = offset + done - head;
                uint64_t n = MIN(len - done, size - head), whole = (head + n + block - 1) / block * block;
                struct iovec all = { .iov_base = buf, .iov_len = whole };

                if (write) {
                        r = bounce_write(f, buf, iov, n_iov, done, start, head, n, whole);
                } else {
                        r = transfer(f, &all, 1, start, whole, false);
                        if (r == 0)
                                iov_from_buf(iov, n_iov, done, buf + head, n);
                }
                done += n;
        }
        return r;
}

static int move(struct file *f, const struct iovec *iov, unsigned int n_iov, uint64_t offset, uint64_t len,
                bool write) {
        if (write && f->readonly)
                return -EROFS;
        if (len == 0)
                return 0;
        if (check_range(offset, len) < 0)
                return -EFBIG;
        if (is_aligned(f, iov, n_iov, offset, len))
                return transfer(f, iov, n_iov, offset, len, write);
        return bounce(f, iov, n_iov, offset, len, write);
}

int file_read(struct file *file, void *buf, uint64_t len, uint64_t offset) {
        struct iovec v = { .iov_base = buf, .iov_len = len };

        return move(file, &v, 1, offset, len, false);
}

int file_write(struct file *file, const void *buf, uint64_t len, uint64_t offset) {
        struct iovec v = { .iov_base = (void *)buf, .iov_len = len };

        return move(file, &v, 1, offset, len, true);
}

static int move_part(struct file *f, const struct iovec *iov, unsigned int n_iov, uint64_t skip, uint64_t len,
                     uint64_t offset, bool write) {
        while (len > 0) {
                struct iovec part[FILE_IOVS];
                unsigned int n_part;
                uint64_t n = iov_slice(iov, n_iov, skip, len, part, FILE_IOVS, &n_part);
                int r = n > 0 ? move(f, part, n_part, offset, n, write) : -EINVAL;

                if (r < 0)
                        return r;
                skip += n;
                offset += n;
                len -= n;
        }
        return 0;
}

int file_read_part(struct file *file, const struct iovec *iov, unsigned int n_iov, uint64_t skip, uint64_t len,
                   uint64_t offset) {
        return move_part(file, iov, n_iov, skip, len, offset, false);
}

int file_write_part(struct file *file, const struct iovec *iov, unsigned int n_iov, uint64_t skip, uint64_t len,
                    uint64_t offset) {
        return move_part(file, iov, n_iov, skip, len, offset, true);
}

static int call_fallocate(struct file *f, int mode, uint64_t offset, uint64_t len) {
        bool partial = f->direct && (offset | len) % f->logical != 0;
        unsigned int retries = 0;
        int r;

        if (partial)
                pthread_mutex_lock(&f->rmw_lock);
        do
                r = f->sys->fallocate(f->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) < 0 ? -errno : 0;
        while ((r == -EINTR || r == -EAGAIN) && retries++ < FILE_RETRIES);
        if (partial)
                pthread_mutex_unlock(&f->rmw_lock);
        return r == -ENOTSUP || r == -ENOSYS ? -EOPNOTSUPP : r;
}

static int write_zeroes(struct file *f, uint64_t offset, uint64_t len) {
        struct iovec iov[FILE_IOVS];

        for (unsigned int i = 0; i < FILE_IOVS; i++)
                iov[i] = (struct iovec){ .iov_base = (void *)zeroes, .iov_len = FILE_ZEROES };
        while (len > 0) {
                struct iovec part[FILE_IOVS];
                unsigned int n_part;
                uint64_t n = iov_slice(iov, FILE_IOVS, 0, len, part, FILE_IOVS, &n_part);
                int r = move(f, part, n_part, offset, n, true);

                if (r < 0)
                        return r;
                offset += n;
                len -= n;
        }
        return 0;
}

/* An aligned range, by whatever works. */
static int zero_aligned(struct file *f, uint64_t offset, uint64_t len, bool unmap) {
        int r = -EOPNOTSUPP;

        if (len == 0)
                return 0;
        if (unmap && !atomic_load(&f->no_punch)) {
                r = call_fallocate(f, FALLOC_FL_PUNCH_HOLE, offset, len);
                if (r == -EOPNOTSUPP)
                        atomic_store(&f->no_punch, true);
        }
        if (r == -EOPNOTSUPP && !atomic_load(&f->no_zero_range)) {
                r = call_fallocate(f, FALLOC_FL_ZERO_RANGE, offset, len);
                if (r == -EOPNOTSUPP)
                        atomic_store(&f->no_zero_range, true);
        }
        return r == -EOPNOTSUPP ? write_zeroes(f, offset, len) : r;
}

int file_zero(struct file *file, uint64_t offset, uint64_t len, bool unmap) {
        uint64_t size = file_size(file), first, last;
        int r;

        if (file->readonly)
                return -EROFS;
        if (offset >= size)
                return 0; /* reads as zeroes already */
        len = MIN(len, size - offset);
        if (!file->is_device)
                return zero_aligned(file, offset, len, unmap);

        /* A device's fallocate() wants whole blocks. */
        first = (offset + file->logical - 1) / file->logical * file->logical;
        last = (offset + len) / file->logical * file->logical;
        if (first >= last)
                return write_zeroes(file, offset, len);
        r = write_zeroes(file, offset, first - offset);
        if (r == 0)
                r = zero_aligned(file, first, last - first, unmap);
        return r < 0 ? r : write_zeroes(file, last, offset + len - last);
}

int file_punch(struct file *file, uint64_t offset, uint64_t len) {
        uint64_t size = file_size(file);
        int r;

        if (file->readonly)
                return -EROFS;
        if (offset >= size || len == 0)
                return 0;
        len = MIN(len, size - offset);
        if (atomic_load(&file->no_punch) || (file->is_device && (offset | len) % file->logical != 0))
                return -EOPNOTSUPP;
        r = call_fallocate(file, FALLOC_FL_PUNCH_HOLE, offset, len);
        if (r == -EOPNOTSUPP)
                atomic_store(&file->no_punch, true);
        return r;
}

int file_discard(struct file *file, uint64_t offset, uint64_t len) {
        uint64_t size = file_size(file), range[2];
        int r;

        if (file->readonly)
                return -EROFS;
        if (offset >= size || len == 0)
                return 0;
        len = MIN(len, size - offset);
        if (!file->is_device) {
                r = file_punch(file, offset, len);
                return r == -EOPNOTSUPP ? 0 : r;
        }
        range[0] = (offset + file->logical - 1) / file->logical * file->logical;
        range[1] = (offset + len) / file->logical * file->logical;
        if (range[0] >= range[1] || atomic_load(&file->no_discard))
                return 0;
        range[1] -= range[0];
        if (file->sys->ioctl(file->fd, BLKDISCARD, range) == 0)
                return 0;
        if (errno != EOPNOTSUPP && errno != ENOTTY && errno != EINVAL)
                return -errno;
        atomic_store(&file->no_discard, true);
        return 0;
}

int file_sync(struct file *file) {
        unsigned int retries = 0;

        while (file_sync_lost(file) == 0 && file->sys->fdatasync(file->fd) < 0) {
                if (errno != EINTR)
                        file_sync_fail(file, -errno);
                else if (retries++ >= FILE_RETRIES)
                        return -EINTR;
        }
        return file_sync_lost(file); /* also when another one failed meanwhile: ours may have been told nothing */
}

int file_sync_lost(const struct file *file) {
        return atomic_load(&file->sync_lost);
}

void file_sync_fail(struct file *file, int error) {
        int none = 0;

        (void)atomic_compare_exchange_strong(&file->sync_lost, &none, error);
}

int file_truncate(struct file *file, uint64_t size) {
        unsigned int retries = 0;

        if (file->readonly)
                return -EROFS;
        if (file->is_device)
                return size <= file_size(file) ? 0 : -ENOTSUP;
        if (size > FILE_MAX)
                return -EFBIG;
        while (file->sys->ftruncate(file->fd, (off_t)size) < 0)
                if (errno != EINTR || retries++ >= FILE_RETRIES)
                        return -errno;
        if (size > file_size(file))
                grown(file, size); /* beside somebody who writes further back */
        else
                atomic_store(&file->size, size);
        return 0;
}

int file_next(struct file *file, uint64_t offset, bool *ret_data, uint64_t *ret_length) {
        uint64_t size = file_size(file);
        off_t at;

        if (offset >= size)
                return -ERANGE;
        at = file->is_device ? -1 : lseek(file->fd, (off_t)offset, SEEK_DATA);
        if (!file->is_device && at < 0 && errno == ENXIO) {
                *ret_data = false;
                *ret_length = size - offset;
                return 0;
        }
        if (at > (off_t)offset) {
                *ret_data = false;
                *ret_length = MIN((uint64_t)at, size) - offset;
                return 0;
        }
        /* Where the file system can't tell, all is data. */
        at = at < 0 ? -1 : lseek(file->fd, (off_t)offset, SEEK_HOLE);
        *ret_data = true;
        *ret_length = (at > (off_t)offset ? MIN((uint64_t)at, size) : size) - offset;
        return 0;
}
