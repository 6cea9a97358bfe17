// SPDX-License-Identifier: GPL-2.0-or-later
/* unpack: see unpack.h */
#include "daemon/fetch/unpack.h"

#include <endian.h>
#include <errno.h>
#include <lzma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/spawn.h"
#include "base/sys.h"
#include "daemon/fetch/shut-in.h"
#include "daemon/image/copy.h"
#include "daemon/image/foreign.h"

#define CPU_S     (2 * 3600)
#define XZ_MEMORY (512ull << 20)
#define CHUNK     (1u << 20)
#define SAID_MAX  4096
#define THE_FILE  "the image"

struct unpack {
        enum fetch_format format;
        int from, to;
        uint64_t reserve;
};

/* ---- raw, qcow2, xz: our own code ---------------------------------------------------------------------------------------- */

static bool is_qcow2(int fd) {
        char magic[4];

        return io_read_at(&sys_real, fd, magic, sizeof(magic), 0) == 0 && memcmp(magic, "QFI\xfb", 4) == 0;
}

static int write_error(int code, struct error *e) {
        if (code == -ENOSPC || code == -EDQUOT)
                return error_set(e, -ENOSPC, "image-no-space",
                                 "delete images that you don't use (lodge image list), or make room: df -h",
                                 "the disk is full: the image's disk does not fit");
        if (code == -EFBIG)
                return error_set(e, code, "image-import", "copy it again", THE_FILE " has a size that can't be");
        return error_set(e, code, "image-import", "copy it again, and look at the disk: df -h",
                         "cannot unpack " THE_FILE);
}

/* Return: LZMA_STREAM_END when all is there. */
static lzma_ret xz_loop(lzma_stream *s, int from, int to, uint8_t *in, uint8_t *out, uint64_t *at, int *code) {
        lzma_action action = LZMA_RUN;
        off_t read_at = 0;
        lzma_ret ret = LZMA_OK;

        while (ret == LZMA_OK && *code == 0) {
                if (s->avail_in == 0 && action == LZMA_RUN) {
                        ssize_t n = pread(from, in, CHUNK, read_at);

                        if (n < 0)
                                *code = -errno;
                        if (n == 0)
                                action = LZMA_FINISH;
                        s->next_in = in;
                        s->avail_in = n > 0 ? (size_t)n : 0;
                        read_at += n > 0 ? n : 0;
                }
                s->next_out = out;
                s->avail_out = CHUNK;
                ret = lzma_code(s, action);
                if (*code == 0 && *at + (CHUNK - s->avail_out) > FOREIGN_DISK_MAX)
                        *code = -EFBIG;
                if (*code == 0)
                        *code = copy_write_sparse(&sys_real, to, out, CHUNK - s->avail_out, *at);
                *at += CHUNK - s->avail_out;
        }
        return ret;
}

static int unpack_xz(int from, int to, struct error *e) {
        _cleanup_free_ uint8_t *in = malloc(CHUNK), *out = malloc(CHUNK);
        lzma_stream s = LZMA_STREAM_INIT;
        uint64_t at = 0;
        lzma_ret ret;
        int code = 0;

        if (!in || !out || lzma_stream_decoder(&s, XZ_MEMORY, LZMA_CONCATENATED) != LZMA_OK)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot unpack " THE_FILE);
        ret = xz_loop(&s, from, to, in, out, &at, &code);
        lzma_end(&s);
        if (code == 0 && ret != LZMA_STREAM_END)
                return error_set(e, -EUCLEAN, "image-import", "copy it again, and compare with its checksum",
                                 THE_FILE " is no sound xz file");
        if (code == 0 && ftruncate(to, (off_t)at) < 0)
                code = -errno;
        return code < 0 ? write_error(code, e) : 0;
}

static int unpack_own(void *opaque, struct error *e) {
        _cleanup_(layer_freep) struct layer *layer = NULL;
        const struct unpack *u = opaque;
        bool img = u->format == FETCH_FORMAT_IMG || u->format == FETCH_FORMAT_IMG_XZ;
        struct stat st;
        int r;

        if (u->format == FETCH_FORMAT_RAW_XZ || u->format == FETCH_FORMAT_IMG_XZ) {
                r = unpack_xz(u->from, u->to, e);
                if (r == 0 && is_qcow2(u->to))
                        return error_set(e, -ENOTSUP, "image-import",
                                         "unpack it where you trust it, and: lodge image import --disk-format qcow2",
                                         THE_FILE " is qcow2 inside of xz");
        } else if (u->format == FETCH_FORMAT_QCOW2 || (img && is_qcow2(u->from))) {
                r = foreign_open_qcow2(THE_FILE, u->from, &layer, e);
                if (r < 0)
                        return r;
                r = copy_layer(&sys_real, layer, u->to, -EBADF);
                if (r < 0)
                        return write_error(r, e);
        } else {
                r = copy_sparse(&sys_real, u->from, u->to, -EBADF);
                if (r < 0)
                        return write_error(r, e);
        }
        if (r < 0 || fstat(u->to, &st) < 0)
                return r < 0 ? r : -errno;
        return foreign_check_raw(THE_FILE, u->to, (uint64_t)st.st_size, e);
}

/* ---- vmdk, vhdx: qemu-img ------------------------------------------------------------------------------------------------ */

static int not_alone(const char *what, struct error *e) {
        return error_set(e, -ENOTSUP, "image-import",
                         "make one file of it where it comes from: qemu-img convert -O qcow2 FILE NEW.qcow2",
                         THE_FILE " %s", what);
}

/*
 * A VMDK that is its own only file begins with the magic of a sparse extent and a capacity (VMware's Virtual Disk Format 5.0). A descriptor,
 * in a file of its own or behind a header without a capacity, names the files that the disk is in; such are refused.
 */
static int check_vmdk(int fd, struct error *e) {
        struct __attribute__((packed)) {
                char magic[4];
                uint32_t version, flags;
                uint64_t capacity; /* sectors */
        } h;
        char text[1024] = "";

        if (io_read_at(&sys_real, fd, &h, sizeof(h), 0) < 0)
                return error_set(e, -EUCLEAN, "image-import", "copy it again", THE_FILE " is too short for a vmdk");
        if (memcmp(h.magic, "KDMV", 4) != 0) {
                if (pread(fd, text, sizeof(text) - 1, 0) > 0 && strstr(text, "# Disk DescriptorFile"))
                        return not_alone("is only the description of a disk that is in other files", e);
                return error_set(e, -EUCLEAN, "image-import", "say another --disk-format", THE_FILE " is no vmdk");
        }
        if (le64toh(h.capacity) == 0)
                return not_alone("names other files that the disk is in", e);
        if (le64toh(h.capacity) > FOREIGN_DISK_MAX / 512)
                return error_set(e, -EUCLEAN, "image-import", "copy it again", THE_FILE " has a size that can't be");
        return 0;
}

static int check_vhdx(int fd, struct error *e) {
        char magic[8];

        if (io_read_at(&sys_real, fd, magic, sizeof(magic), 0) == 0 && memcmp(magic, "vhdxfile", 8) == 0)
                return 0;
        return error_set(e, -EUCLEAN, "image-import", "say another --disk-format", THE_FILE " is no vhdx");
}

static int check_header(void *opaque, struct error *e) {
        const struct unpack *u = opaque;

        return u->format == FETCH_FORMAT_VMDK ? check_vmdk(u->from, e) : check_vhdx(u->from, e);
}

/* The last line that qemu-img has printed, without what a terminal would act on. */
static void last_line(int fd, char ret_text[static SAID_MAX]) {
        ssize_t n = pread(fd, ret_text, SAID_MAX - 1, 0);
        char *line;

        ret_text[n > 0 ? n : 0] = 0;
        while (n > 0 && ret_text[n - 1] == '\n')
                ret_text[--n] = 0;
        line = strrchr(ret_text, '\n');
        if (line)
                memmove(ret_text, line + 1, strlen(line));
        for (char *p = ret_text; *p; p++)
                if ((unsigned char)*p < ' ' || (unsigned char)*p >= 127)
                        *p = '?';
}

/* @verb: "check" or "convert". */
static int qemu_img(const struct unpack *u, const char *verb, struct error *e) {
        const char *format = u->format == FETCH_FORMAT_VMDK ? "vmdk" : "vhdx";
        bool check = streq(verb, "check");
        _cleanup_close_ int said = memfd_create("lodge-qemu-img", MFD_CLOEXEC);
        _cleanup_free_ char *path = NULL;
        char from[40], to[40], text[SAID_MAX];
        const char *const checks[] = { "qemu-img", verb, "-f", format, "--", from, NULL };
        const char *const converts[] = { "qemu-img", verb, "-f", format, "-O", "raw", "--", from, to, NULL };
        const int files[] = { u->from, u->to };
        const struct shut_in_limits limits = { .file_bytes = FOREIGN_DISK_MAX,
                                               .cpu_seconds = CPU_S,
                                               .room_fd = u->to,
                                               .room_bytes = u->reserve,
                                               .read_files = &u->from,
                                               .n_read_files = 1,
                                               .write_files = &u->to,
                                               .n_write_files = 1 };
        struct shut_in_program program = { .argv = check ? checks : converts,
                                           .stdin_fd = -1,
                                           .stdout_fd = -1,
                                           .stderr_fd = said,
                                           .keep = files,
                                           .n_keep = ELEMENTSOF(files) };
        int status = 0, r;

        if (said < 0)
                return error_set(e, -errno, "fetch", NULL, "cannot hear qemu-img");
        if (spawn_find("qemu-img", &path) < 0)
                return error_set(e, -ENOENT, "qemu-img-missing", "apt-get install qemu-utils",
                                 "qemu-img is not installed, and only it reads vmdk and vhdx");
        program.path = path;
        snprintf(from, sizeof(from), "/proc/self/fd/%d", u->from);
        snprintf(to, sizeof(to), "/proc/self/fd/%d", u->to);
        r = shut_in_program(&program, &limits, &status, e);
        if (r < 0 || status == 0)
                return r;
        last_line(said, text);
        return error_set(e, -EUCLEAN, "image-import",
                         "make a qcow2 file of it where it comes from: qemu-img convert -O qcow2 FILE NEW.qcow2",
                         THE_FILE " can't be read: %s", text[0] ? text : "it is damaged or was cut short");
}

int unpack_run(enum fetch_format format, int from, int to, uint64_t reserve, struct error *e) {
        const struct shut_in_limits limits = {
                .file_bytes = FOREIGN_DISK_MAX, .cpu_seconds = CPU_S, .room_fd = to, .room_bytes = reserve
        };
        struct unpack u = { format, from, to, reserve };
        struct stat st;
        int r;

        if (format != FETCH_FORMAT_VMDK && format != FETCH_FORMAT_VHDX)
                return shut_in_run(SHUT_IN_COMPUTE, &limits, unpack_own, &u, NULL, e);
        r = shut_in_run(SHUT_IN_COMPUTE, &limits, check_header, &u, NULL, e);
        if (r == 0) /* what lies behind a file's end would be read as zeroes */
                r = qemu_img(&u, "check", e);
        if (r == 0)
                r = qemu_img(&u, "convert", e);
        if (r == 0 && fstat(to, &st) < 0)
                r = -errno;
        return r < 0 ? r : foreign_check_raw(THE_FILE, to, (uint64_t)st.st_size, e);
}
