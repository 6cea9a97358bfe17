// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * unpack: see unpack.h
 *
 * Theory of operation. The setup header names the payload inside the protected-mode part of the bzImage (payload_offset, payload_length; protocol 2.08).
 * Its first bytes tell the format. A decoder is a function that pulls input from a struct source, which hands out the payload in
 * pieces and ends at its length, and pushes output to a struct sink, which counts and refuses to go beyond the limit. So memory is bounded by
 * the decoders' windows (xz 192 MiB at most, zstd 128 MiB, lz4 two blocks of 8 MiB), whatever the file says.
 *
 * Behind the compressed stream the kernel's build appends the size of the result in 4 bytes (but for gzip, which has them itself): a
 * decoder stops at its stream's own end and ignores what follows. LZ4's legacy frame has no end: there, the 4 bytes are cut off first.
 */
#include "vmm/boot/unpack.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <inttypes.h>
#include <lz4.h>
#include <lzma.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/sys.h"

#define HEADER_OFFSET 0x1f1u
#define CHUNK         (256u << 10)
#define XZ_MEMORY_MAX (192ull << 20)
#define ZSTD_WINDOW   27 /* log2, 128 MiB: what the kernel's build uses at most */
#define LZ4_MAGIC     0x184c2102u
#define LZ4_BLOCK     (8u << 20)

struct source {
        int fd;
        uint64_t offset, left; /* in the file */
        uint8_t *buf;          /* CHUNK bytes */
};

struct sink {
        int fd;
        uint64_t written, max;
        uint8_t head[4]; /* the first bytes, to see what came out */
};

/* What a decoder reports besides -errno. */
#define BAD_DATA  (-EBADMSG)
#define TRUNCATED (-ENODATA)

/* The next piece, at most @max bytes of it: its length, 0 at the end, or -errno. */
static ssize_t source_next(struct source *s, size_t max) {
        uint64_t limit = MIN(max, (size_t)CHUNK);
        size_t n = MIN(s->left, limit);
        int r;

        if (n == 0)
                return 0;
        r = io_read_at(&sys_real, s->fd, s->buf, n, s->offset);
        if (r < 0)
                return r;
        s->offset += n;
        s->left -= n;
        return (ssize_t)n;
}

static int sink_write(struct sink *s, const uint8_t *data, size_t n) {
        if (n > s->max - s->written)
                return -EFBIG;
        for (size_t i = 0; i < n && s->written + i < sizeof(s->head); i++)
                s->head[s->written + i] = data[i];
        s->written += n;
        return io_write_all(s->fd, data, n);
}

static int unpack_gzip(struct source *in, struct sink *out, uint8_t *buf) {
        z_stream z = { 0 };
        int r, state = Z_OK;

        if (inflateInit2(&z, 15 + 16) != Z_OK) /* 16: gzip's header and checksum */
                return -ENOMEM;
        do {
                if (z.avail_in == 0) {
                        ssize_t n = source_next(in, CHUNK);

                        r = n == 0 ? TRUNCATED : (int)MIN(n, (ssize_t)0);
                        if (r < 0)
                                break;
                        z.next_in = in->buf;
                        z.avail_in = (uInt)n;
                }
                z.next_out = buf;
                z.avail_out = CHUNK;
                state = inflate(&z, Z_NO_FLUSH);
                r = state == Z_OK || state == Z_STREAM_END || state == Z_BUF_ERROR
                            ? sink_write(out, buf, CHUNK - z.avail_out)
                            : BAD_DATA;
        } while (r >= 0 && state != Z_STREAM_END);
        inflateEnd(&z);
        return r;
}

static int unpack_xz(struct source *in, struct sink *out, uint8_t *buf) {
        lzma_stream z = LZMA_STREAM_INIT;
        lzma_ret state = LZMA_OK;
        int r;

        if (lzma_stream_decoder(&z, XZ_MEMORY_MAX, 0) != LZMA_OK)
                return -ENOMEM;
        do {
                if (z.avail_in == 0) {
                        ssize_t n = source_next(in, CHUNK);

                        r = n == 0 ? TRUNCATED : (int)MIN(n, (ssize_t)0);
                        if (r < 0)
                                break;
                        z.next_in = in->buf;
                        z.avail_in = (size_t)n;
                }
                z.next_out = buf;
                z.avail_out = CHUNK;
                state = lzma_code(&z, LZMA_RUN);
                r = state == LZMA_OK || state == LZMA_STREAM_END ? sink_write(out, buf, CHUNK - z.avail_out)
                    : state == LZMA_MEM_ERROR || state == LZMA_MEMLIMIT_ERROR ? -ENOMEM
                                                                              : BAD_DATA;
        } while (r >= 0 && state != LZMA_STREAM_END);
        lzma_end(&z);
        return r;
}

static int unpack_zstd(struct source *in, struct sink *out, uint8_t *buf) {
        ZSTD_DStream *z = ZSTD_createDStream();
        ZSTD_inBuffer from = { 0 };
        size_t state = 1;
        int r;

        if (!z || ZSTD_isError(ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, ZSTD_WINDOW))) {
                ZSTD_freeDStream(z);
                return -ENOMEM;
        }
        do {
                ZSTD_outBuffer to = { buf, CHUNK, 0 };

                if (from.pos == from.size) {
                        ssize_t n = source_next(in, CHUNK);

                        r = n == 0 ? TRUNCATED : (int)MIN(n, (ssize_t)0);
                        if (r < 0)
                                break;
                        from = (ZSTD_inBuffer){ in->buf, (size_t)n, 0 };
                }
                state = ZSTD_decompressStream(z, &to, &from);
                r = ZSTD_isError(state) ? BAD_DATA : sink_write(out, buf, to.pos);
        } while (r >= 0 && state != 0);
        ZSTD_freeDStream(z);
        return r;
}

/* @n bytes into @to: 1, 0 at a clean end of the input, or -errno. */
static int source_read(struct source *in, uint8_t *to, size_t n) {
        if (in->left == 0)
                return 0;
        while (n > 0) {
                ssize_t got = source_next(in, n);

                if (got <= 0)
                        return got < 0 ? (int)got : TRUNCATED;
                memcpy(to, in->buf, (size_t)got);
                to += got;
                n -= (size_t)got;
        }
        return 1;
}

/* Legacy frame (lz4_Frame_format.md): magic, then blocks of up to 8 MiB, each behind its compressed size. */
static int unpack_lz4(struct source *in, struct sink *out, uint8_t *unused) {
        const size_t packed_max = (size_t)LZ4_compressBound(LZ4_BLOCK);
        _cleanup_free_ uint8_t *packed = malloc(packed_max), *plain = malloc(LZ4_BLOCK);
        uint32_t size;
        int r, n;

        if (!packed || !plain)
                return -ENOMEM;
        if (in->left < 8)
                return TRUNCATED;
        in->left -= 4; /* the size that the kernel's build appended */
        while ((r = source_read(in, (uint8_t *)&size, sizeof(size))) > 0) {
                if (size == LZ4_MAGIC)
                        continue; /* the start, or another frame */
                if (size == 0 || size > packed_max)
                        return BAD_DATA;
                r = source_read(in, packed, size);
                if (r <= 0)
                        return r < 0 ? r : TRUNCATED;
                n = LZ4_decompress_safe((char *)packed, (char *)plain, (int)size, LZ4_BLOCK);
                if (n < 0)
                        return BAD_DATA;
                r = sink_write(out, plain, (size_t)n);
                if (r < 0)
                        return r;
        }
        return r;
}

static const struct format {
        const char *name;
        uint8_t magic[6];
        size_t n;
        int (*unpack)(struct source *in, struct sink *out, uint8_t *buf); /* @buf: CHUNK bytes */
} formats[] = {
        { "gzip", { 0x1f, 0x8b }, 2, unpack_gzip },
        { "xz", { 0xfd, '7', 'z', 'X', 'Z', 0 }, 6, unpack_xz },
        { "zstd", { 0x28, 0xb5, 0x2f, 0xfd }, 4, unpack_zstd },
        { "lz4", { 0x02, 0x21, 0x4c, 0x18 }, 4, unpack_lz4 },
};

/* Where the payload lies: 1; 0 when this is no bzImage that says so. */
static int find_payload(int fd, struct source *ret, struct error *e) {
        struct setup_header h;
        uint64_t protected_mode, size;
        int r;

        r = io_read_at(&sys_real, fd, &h, sizeof(h), HEADER_OFFSET);
        if (r == -ENODATA)
                return 0;
        if (r < 0)
                return error_set(e, r, "kernel-unpack", NULL, "cannot read the kernel");
        if (h.boot_flag != 0xaa55 || h.header != 0x53726448 || h.version < 0x208 || h.payload_length < 8)
                return 0;
        protected_mode = ((h.setup_sects ?: 4u) + 1u) * 512u;
        size = (uint64_t)h.syssize * 16;
        if (h.payload_offset > size || h.payload_length > size - h.payload_offset)
                return error_set(e, -EBADMSG, "kernel-unpack", "copy or download the kernel again",
                                 "the kernel's header puts its payload outside the kernel");
        ret->fd = fd;
        ret->offset = protected_mode + h.payload_offset;
        ret->left = h.payload_length;
        return 1;
}

static const char *problem(int r) {
        return r == TRUNCATED  ? "it ends too early"
               : r == BAD_DATA ? "its data is damaged"
               : r == -EFBIG   ? "it is too large"
                               : "failed";
}

static int unpack(const struct format *f, struct source *in, struct sink *out, uint8_t *buf, struct error *e) {
        int r = f->unpack(in, out, buf);

        if (r < 0)
                return error_set(e, r, "kernel-unpack", "copy or download the kernel again",
                                 "cannot unpack the kernel's %s payload: %s, at byte %" PRIu64
                                 " of the file and %" PRIu64 " of the result",
                                 f->name, problem(r), in->offset, out->written);
        if (memcmp(out->head, "\177ELF", 4) != 0)
                return error_set(e, -EBADMSG, "kernel-unpack", NULL, "the kernel's %s payload is no ELF file", f->name);
        return 1;
}

int kernel_unpack(int kernel_fd, int out_fd, uint64_t max, struct error *e) {
        _cleanup_free_ uint8_t *in_buf = malloc(CHUNK), *out_buf = malloc(CHUNK);
        struct sink out = { .fd = out_fd, .max = max };
        struct source in = { 0 };
        uint8_t magic[8];
        int r;

        if (!in_buf || !out_buf)
                return error_set(e, -ENOMEM, "kernel-unpack", NULL, "cannot unpack the kernel");
        r = find_payload(kernel_fd, &in, e);
        if (r <= 0)
                return r;
        in.buf = in_buf;
        r = io_read_at(&sys_real, kernel_fd, magic, sizeof(magic), in.offset);
        if (r < 0)
                return error_set(e, r, "kernel-unpack", "copy or download the kernel again",
                                 "cannot read the kernel's payload at byte %" PRIu64, in.offset);
        for (size_t i = 0; i < ELEMENTSOF(formats); i++)
                if (memcmp(magic, formats[i].magic, formats[i].n) == 0)
                        return unpack(&formats[i], &in, &out, out_buf, e);
        return 0;
}
