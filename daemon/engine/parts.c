// SPDX-License-Identifier: GPL-2.0-or-later
/* parts: see parts.h; locks are in disk-lock.c, interfaces in parts-net.c */
#include "daemon/engine/parts.h"

#include <endian.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/io.h"
#include "base/log.h"
#include "base/spawn.h"
#include "base/sys.h"
#include "base/text.h"
#include "daemon/engine/kernel-cache.h"
#include "daemon/engine/parts-backend.h"
#include "daemon/engine/parts-firmware.h"
#include "daemon/engine/parts-net.h"
#include "daemon/engine/parts-roots.h"
#include "vmm/block/chain/chain.h"
#include "vmm/block/qcow2/qcow2.h"

#define SECTOR 512

static const char qcow2_magic[4] = { 'Q', 'F', 'I', (char)0xfb };

/* ---- kernel and initrd ------------------------------------------------------------------------------------------- */

const char *kernel_identify(int fd) {
        uint8_t head[8192] = { 0 };
        ssize_t n = pread(fd, head, sizeof(head), 0);
        uint32_t magic;

        if (n < 64)
                return NULL;
        if (n > 0x206 && memcmp(head + 0x202, "HdrS", 4) == 0 && head[0x1fe] == 0x55 && head[0x1ff] == 0xaa)
                return "bzImage";
        /* Multiboot 1 §3.1: the header is 4-byte aligned in the first 8192 bytes. */
        for (ssize_t i = 0; i + 12 <= n; i += 4) {
                uint32_t flags, sum;

                memcpy(&magic, head + i, 4);
                memcpy(&flags, head + i + 4, 4);
                memcpy(&sum, head + i + 8, 4);
                if (le32toh(magic) == 0x1BADB002 && le32toh(magic) + le32toh(flags) + le32toh(sum) == 0)
                        return "multiboot";
        }
        return memcmp(head, "\177ELF", 4) == 0 ? "ELF" : NULL;
}

static int open_regular(const char *path, const char *what, const char *id, int *ret_fd, struct error *e) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        struct stat st;

        if (fd < 0)
                return error_set(e, -errno, id, "check the name, and that you may read it: ls -l", "cannot open %s %s",
                                 what, path);
        if (fstat(fd, &st) < 0)
                return error_set(e, -errno, id, NULL, "cannot look at %s %s", what, path);
        if (!S_ISREG(st.st_mode))
                return error_set(e, -EINVAL, id, "name a regular file", "%s %s is not a file", what, path);
        if (st.st_size == 0)
                return error_set(e, -EINVAL, id, "get the file again: it has no content", "%s %s is empty", what, path);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Have a bzImage unpacked here, once, rather than by each guest at each start. */
static int unpack_kernel(struct parts *p, const char *path, struct error *e) {
        int fd, r;

        if (strcmp(kernel_identify(p->kernel_fd), "bzImage") != 0)
                return 0;
        r = kernel_cache_unpack(p->kernel_fd, &fd, e);
        if (r < 0) {
                error_prefix(e, "kernel %s", path);
                return r;
        }
        if (r > 0) {
                safe_close(p->kernel_fd);
                p->kernel_fd = fd;
        }
        return 0;
}

static int open_boot(struct parts *p, const struct parts_options *o, struct error *e) {
        const struct machine_config *c = p->config;
        int r;

        if (c->firmware != MACHINE_FIRMWARE_NONE)
                return part_firmware_open(p, o, e);
        if (!c->kernel)
                return error_set(e, -EINVAL, "kernel-missing",
                                 "name an image (lodge image list) or a kernel: --kernel FILE", "nothing to boot");
        r = open_regular(c->kernel, "kernel", "kernel-open", &p->kernel_fd, e);
        if (r == 0)
                r = parts_check_roots(o, p->kernel_fd, "kernel", c->kernel, e);
        if (r < 0)
                return r;
        if (!kernel_identify(p->kernel_fd))
                return error_set(
                        e, -EINVAL, "kernel-format",
                        "use a Linux bzImage (/boot/vmlinuz-*), an ELF kernel with a PVH note, or a multiboot kernel",
                        "%s is not a kernel: no boot header is in it", c->kernel);
        if (!o || !o->look)
                r = unpack_kernel(p, c->kernel, e);
        if (r == 0 && c->initrd) {
                r = open_regular(c->initrd, "initrd", "initrd-open", &p->initrd_fd, e);
                if (r == 0)
                        r = parts_check_roots(o, p->initrd_fd, "initrd", c->initrd, e);
        }
        return r;
}

/* ---- disks ------------------------------------------------------------------------------------------------------- */

static int claim(const struct parts_options *o, int fd, bool readonly, const char *path, struct error *e) {
        return o && o->look ? disk_lock_look(fd, readonly, path, e) : disk_lock(fd, readonly, path, e);
}

/* A qcow2 image may stand on another one. Unless it also says what format that has, nobody may guess. */
static int open_backing(const struct parts_options *o, struct part_disk *d, const char *path, struct error *e) {
        enum machine_disk_format format = MACHINE_DISK_FORMAT_QCOW2;
        _cleanup_free_ char *image = strdup(path);
        int fd = d->fd, r = image ? 0 : -ENOMEM;

        while (r == 0 && format == MACHINE_DISK_FORMAT_QCOW2) {
                struct file_options options = { .fd = fd, .readonly = true };
                _cleanup_(file_freep) struct file *file = NULL;
                _cleanup_free_ char *strings = NULL, *next = NULL;
                struct qcow2_info info;
                struct stat st;

                r = file_open(&options, &file, e);
                if (r == 0)
                        r = qcow2_peek(file, &info, &strings, e);
                if (r < 0) {
                        if (e && e->id && streq(e->id, "qcow2-magic")) {
                                error_clear(e);
                                error_set(e, -EINVAL, "disk-format", "say what it is: --disk FILE,format=raw",
                                          "disk %s is no qcow2 image", image);
                        }
                        return r;
                }
                if (!info.backing_file)
                        return 0;
                if (!info.backing_format)
                        return error_set(e, -EINVAL, "disk-backing",
                                         "record it: qemu-img rebase -u -b BACKING -F raw|qcow2 DISK",
                                         "disk %s does not record its backing file's format", image);
                if (streq(info.backing_format, "raw"))
                        format = MACHINE_DISK_FORMAT_RAW;
                else if (!streq(info.backing_format, "qcow2"))
                        return error_set(e, -ENOTSUP, "disk-backing", "convert it: qemu-img convert -O qcow2",
                                         "disk %s has a backing image of format '%s', which is not known here", image,
                                         info.backing_format);
                if (d->n_backing == PART_BACKING_MAX)
                        return error_set(e, -ELOOP, "disk-backing", "commit some of them: qemu-img commit",
                                         "there are more than %d images below disk %s", PART_BACKING_MAX, path);
                r = chain_resolve(image, info.backing_file, &next, e);
                if (r < 0)
                        return r;
                fd = chain_open_file(next, true, false, &st, e);
                if (fd < 0)
                        return fd;
                io_set_nonblock(fd, false);
                d->backing[d->n_backing++] = (struct part_backing){ .fd = fd, .format = format };
                r = parts_check_roots(o, fd, "backing image", next, e);
                if (r == 0)
                        r = claim(o, fd, true, next, e);
                free(TAKE_PTR(image));
                image = TAKE_PTR(next);
        }
        return r;
}

static int disk_size_check(int fd, const char *path, enum machine_disk_format format, struct error *e) {
        struct stat st;
        uint64_t size;

        if (fstat(fd, &st) < 0)
                return error_set(e, -errno, "disk-open", NULL, "cannot look at disk %s", path);
        if (S_ISREG(st.st_mode))
                size = (uint64_t)st.st_size;
        else if (!S_ISBLK(st.st_mode))
                return error_set(e, -EINVAL, "disk-type", "name a file or a block device", "disk %s is neither", path);
        else if (ioctl(fd, BLKGETSIZE64, &size) < 0)
                return error_set(e, -errno, "disk-open", NULL, "cannot read the size of disk %s", path);
        if (size == 0)
                return error_set(e, -EINVAL, "disk-size", "give it a size: truncate -s 1G FILE", "disk %s is empty",
                                 path);
        if (format == MACHINE_DISK_FORMAT_RAW && size % SECTOR != 0)
                return error_set(e, -EINVAL, "disk-size", "if nothing is missing at its end: truncate -s %512 FILE",
                                 "the size of disk %s, %llu bytes, is no multiple of %d: is the file truncated?", path,
                                 (unsigned long long)size, SECTOR);
        return 0;
}

static int open_file(const struct machine_disk_config *c, const struct parts_options *o, struct part_disk *d,
                     struct error *e) {
        char magic[4];
        int r;

        d->fd = open(c->path, (c->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (d->fd < 0)
                return error_set(e, -errno, "disk-open",
                                 errno == ENOENT ? "check the name; a new disk: truncate -s 10G FILE"
                                 : errno == EACCES || errno == EROFS
                                         ? "ls -l shows who may write it; for reading only: readonly=on"
                                         : NULL,
                                 "cannot open disk %s", c->path);
        io_set_nonblock(d->fd, false);
        r = parts_check_roots(o, d->fd, "disk", c->path, e);
        if (r == 0)
                r = disk_size_check(d->fd, c->path, c->format, e);
        if (r == 0) /* before its header is read: from now on nobody else writes it */
                r = claim(o, d->fd, c->readonly, c->path, e);
        if (r == 0 && c->format == MACHINE_DISK_FORMAT_QCOW2)
                r = open_backing(o, d, c->path, e);
        if (r < 0)
                return r;
        if (c->format == MACHINE_DISK_FORMAT_RAW && io_read_at(&sys_real, d->fd, magic, 4, 0) == 0 &&
            memcmp(magic, qcow2_magic, 4) == 0)
                log_warning(
                        "disk %s is used as raw but begins like a qcow2 image; if it is one: --disk %s,format=qcow2",
                        c->path, c->path);
        return 0;
}

static int open_disk(const struct machine_disk_config *c, const struct parts_options *o, struct part_disk *d,
                     struct error *e) {
        int r;

        d->config = c;
        if (c->type == MACHINE_DISK_TYPE_FILE)
                return open_file(c, o, d, e);
        r = part_backend_open(c, d, e);
        return r < 0 ? r : parts_check_roots(o, d->dir_fd, "the directory of socket", c->path, e);
}

/* ---- CD drives --------------------------------------------------------------------------------------------------- */

static int open_cdrom(struct parts *p, const struct parts_options *o, const char *path, struct error *e) {
        int *fd = &p->cdrom_fds[p->n_cdroms], r;

        r = open_regular(path, "CD image", "cdrom-open", fd, e);
        if (r < 0)
                return r;
        p->n_cdroms++;
        io_set_nonblock(*fd, false);
        r = parts_check_roots(o, *fd, "CD image", path, e);
        return r < 0 ? r : claim(o, *fd, true, path, e);
}

/* Those of the person's, and the drivers': a file of the host's at a fixed place. */
static int open_cdroms(struct parts *p, const struct parts_options *o, struct error *e) {
        bool there;
        const char *drivers = part_drivers_path(p->config, &there);
        int r = 0;

        for (size_t i = 0; i < p->config->n_cdroms && r == 0; i++)
                r = i + 1 < PARTS_CDROMS_MAX ? open_cdrom(p, o, p->config->cdroms[i], e)
                                             : error_set(e, -EINVAL, "too-many-devices", NULL, "at most %d CDs fit",
                                                         PARTS_CDROMS_MAX - 1);
        return r == 0 && drivers && there ? open_cdrom(p, NULL, drivers, e) : r;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static uint64_t host_memory(void) {
        unsigned long long kib = 0;
        FILE *f = fopen("/proc/meminfo", "re");

        if (f && fscanf(f, "MemTotal: %llu kB", &kib) != 1)
                kib = 0;
        if (f)
                fclose(f);
        return kib * 1024;
}

static int check_host(const struct machine_config *c, struct error *e) {
        uint64_t total = host_memory();
        char want[TEXT_SIZE_MAX], have[TEXT_SIZE_MAX];

        if (total > 0 && c->memory > total)
                return error_set(e, -ENOMEM, "memory-host", "ask for less: --memory 512M",
                                 "the machine asks for %s of memory, this host has %s",
                                 text_format_size(c->memory, want), text_format_size(total, have));
        return 0;
}

static int make_identity(struct parts *p, struct error *e) {
        uint8_t b[16];

        snprintf(p->name, sizeof(p->name), "%s", p->config->name ?: "machine");
        if (p->config->uuid) {
                snprintf(p->uuid, sizeof(p->uuid), "%s", p->config->uuid);
                return 0;
        }
        if (getrandom(b, sizeof(b), 0) != sizeof(b))
                return error_set(e, -EIO, "uuid", NULL, "cannot get random bytes");
        b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); /* RFC 9562 §5.4: version 4 */
        b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
        snprintf(p->uuid, sizeof(p->uuid), "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
                 b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
        return 0;
}

static struct parts *parts_new(const struct machine_config *config) {
        struct parts *p = calloc(1, sizeof(*p));

        if (!p)
                return NULL;
        p->config = config;
        p->kernel_fd = p->initrd_fd = p->code_fd = p->vars_fd = -EBADF;
        p->tpm.fd = p->tpm.pidfd = p->tpm.log_fd = -EBADF;
        for (size_t i = 0; i < PARTS_CDROMS_MAX; i++)
                p->cdrom_fds[i] = -EBADF;
        for (size_t i = 0; i < LAYOUT_DISKS_MAX; i++)
                p->disks[i].fd = p->disks[i].dir_fd = p->disks[i].parent_fd = -EBADF;
        for (size_t i = 0; i < LAYOUT_NETS_MAX; i++)
                p->nets[i].fd = p->nets[i].pidfd = p->nets[i].log_fd = -EBADF;
        return p;
}

int parts_open(const struct machine_config *config, const struct parts_options *options, struct parts **ret_parts,
               struct error *e) {
        _cleanup_(parts_freep) struct parts *p = parts_new(config);
        int r;

        if (!p)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
        r = make_identity(p, e);
        if (r == 0)
                r = check_host(config, e);
        if (r == 0)
                r = open_boot(p, options, e);
        if (r < 0)
                return r;
        p->append = strdup(config->append ?: "");
        if (!p->append)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
        if (config->n_disks > LAYOUT_DISKS_MAX || config->n_nets > LAYOUT_NETS_MAX)
                return error_set(e, -EINVAL, "too-many-devices", NULL, "at most %d disks and %d interfaces fit",
                                 LAYOUT_DISKS_MAX, LAYOUT_NETS_MAX);
        for (size_t i = 0; i < config->n_disks; i++) {
                r = open_disk(&config->disks[i], options, &p->disks[i], e);
                if (r < 0)
                        return r;
                p->n_disks++;
        }
        for (size_t i = 0; i < config->n_nets; i++) {
                if (config->nets[i].type == MACHINE_NET_TYPE_NONE)
                        continue;
                r = part_net_open(config, p->name, (unsigned int)i, options ? options->helper_jail : NULL,
                                  &p->nets[p->n_nets], e);
                if (r < 0)
                        return r;
                p->n_nets++;
        }
        r = open_cdroms(p, options, e);
        if (r == 0)
                r = part_tpm_open(p, options, e);
        if (r < 0)
                return r;
        *ret_parts = TAKE_PTR(p);
        return 0;
}

/* Locks tell of a file that is named twice; without them its number does. */
static int check_twice(const struct parts *p, struct error *e) {
        for (size_t i = 0; i < p->n_disks; i++)
                for (size_t k = 0; k < i; k++) {
                        const struct machine_disk_config *a = p->disks[i].config, *b = p->disks[k].config;
                        struct stat x, y;

                        if ((a->readonly && b->readonly) || fstat(p->disks[i].fd, &x) < 0 ||
                            fstat(p->disks[k].fd, &y) < 0 || x.st_dev != y.st_dev || x.st_ino != y.st_ino)
                                continue;
                        return error_set(e, -EBUSY, "disk-busy", "name it once, or make both readonly=on",
                                         "disk %s is given twice", a->path);
                }
        return 0;
}

int parts_look(const struct machine_config *config, const struct parts_options *options, struct error *e) {
        _cleanup_(parts_freep) struct parts *p = parts_new(config);
        struct parts_options look = options ? *options : (struct parts_options){ 0 };
        int r = p ? check_host(config, e) : error_set(e, -ENOMEM, "memory", NULL, "cannot look at the machine");

        look.look = true;
        if (r == 0 && config->firmware == MACHINE_FIRMWARE_NONE)
                r = open_boot(p, &look, e);
        for (size_t i = 0; r == 0 && i < MIN(config->n_disks, (size_t)LAYOUT_DISKS_MAX); i++) {
                if (config->disks[i].type != MACHINE_DISK_TYPE_FILE)
                        continue; /* a back end would be told that somebody has come */
                r = open_disk(&config->disks[i], &look, &p->disks[p->n_disks], e);
                p->n_disks += r == 0;
        }
        if (r == 0)
                r = check_twice(p, e);
        return r == 0 ? open_cdroms(p, &look, e) : r;
}

static void close_disk(struct part_disk *d) {
        d->fd = safe_close(d->fd);
        while (d->n_backing > 0)
                safe_close(d->backing[--d->n_backing].fd);
}

void parts_close_files(struct parts *p) {
        p->kernel_fd = safe_close(p->kernel_fd);
        p->initrd_fd = safe_close(p->initrd_fd);
        p->code_fd = safe_close(p->code_fd);
        p->vars_fd = safe_close(p->vars_fd);
        p->tpm.fd = safe_close(p->tpm.fd);
        for (size_t i = 0; i < PARTS_CDROMS_MAX; i++)
                p->cdrom_fds[i] = safe_close(p->cdrom_fds[i]);
        for (size_t i = 0; i < LAYOUT_DISKS_MAX; i++)
                close_disk(&p->disks[i]);
        for (size_t i = 0; i < LAYOUT_NETS_MAX; i++)
                p->nets[i].fd = safe_close(p->nets[i].fd);
}

void parts_free(struct parts *p) {
        if (!p)
                return;
        parts_close_files(p);
        part_tpm_close(&p->tpm);
        for (size_t i = 0; i < LAYOUT_NETS_MAX; i++)
                part_net_close(&p->nets[i]);
        for (size_t i = 0; i < LAYOUT_DISKS_MAX; i++) {
                safe_close(p->disks[i].dir_fd);
                safe_close(p->disks[i].parent_fd);
                free(p->disks[i].socket);
        }
        free(p->append);
        free(p);
}

size_t parts_fds(const struct parts *p, int *fds) {
        size_t n = 0;

        fds[n++] = p->kernel_fd;
        fds[n++] = p->initrd_fd;
        fds[n++] = p->code_fd;
        fds[n++] = p->vars_fd;
        fds[n++] = p->tpm.fd;
        for (size_t i = 0; i < p->n_cdroms; i++)
                fds[n++] = p->cdrom_fds[i];
        for (size_t i = 0; i < p->n_disks; i++) {
                fds[n++] = p->disks[i].fd;
                for (size_t k = 0; k < p->disks[i].n_backing; k++)
                        fds[n++] = p->disks[i].backing[k].fd;
        }
        for (size_t i = 0; i < p->n_nets; i++)
                fds[n++] = p->nets[i].fd;
        return n;
}
