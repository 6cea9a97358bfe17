// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * compress: zlib and zstd, with their memory kept between calls
 *
 * Theory of operation. Setting up a (de)compressor costs more than a cluster's worth of work, so finished ones wait in a small stack for
 * the next caller; when all are taken, a caller makes its own, and frees it when the stack is full. Output never passes the caller's
 * buffer. Memory for hostile streams is bounded by the window: 32 KiB for deflate, 2^WINDOW_LOG_MAX bytes for zstd.
 *
 * Deflate is written with a window of 4 KiB (12 bits), because that is what QEMU's reader has room for; 32 KiB are read, as the format
 * allows.
 */
#include "vmm/block/qcow2/compress.h"

#include <pthread.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#define KEPT           8u    /* idle states of each direction */
#define DEFLATE_WINDOW (-12) /* negative: no zlib header */
#define INFLATE_WINDOW (-15)
#define WINDOW_LOG_MAX 24

enum direction { DOWN, UP };

struct qcow2_codec {
        enum qcow2_compression type;
        pthread_mutex_t lock; /* idle */
        void *idle[2][KEPT];  /* z_stream, ZSTD_CCtx or ZSTD_DCtx */
        unsigned int n_idle[2];
};

static void state_free(enum qcow2_compression type, enum direction d, void *state) {
        if (type == QCOW2_ZSTD) {
                if (d == DOWN)
                        ZSTD_freeCCtx(state);
                else
                        ZSTD_freeDCtx(state);
                return;
        }
        if (d == DOWN)
                deflateEnd(state);
        else
                inflateEnd(state);
        free(state);
}

static void *state_new(enum qcow2_compression type, enum direction d) {
        z_stream *z;
        ZSTD_DCtx *up;
        int r;

        if (type == QCOW2_ZSTD) {
                if (d == DOWN)
                        return ZSTD_createCCtx();
                up = ZSTD_createDCtx();
                if (up && ZSTD_isError(ZSTD_DCtx_setParameter(up, ZSTD_d_windowLogMax, WINDOW_LOG_MAX))) {
                        ZSTD_freeDCtx(up);
                        return NULL;
                }
                return up;
        }
        z = calloc(1, sizeof *z);
        if (!z)
                return NULL;
        r = d == DOWN ? deflateInit2(z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, DEFLATE_WINDOW, 9, Z_DEFAULT_STRATEGY)
                      : inflateInit2(z, INFLATE_WINDOW);
        if (r != Z_OK) {
                free(z);
                return NULL;
        }
        return z;
}

static void *take(struct qcow2_codec *c, enum direction d) {
        void *state = NULL;

        pthread_mutex_lock(&c->lock);
        if (c->n_idle[d])
                state = c->idle[d][--c->n_idle[d]];
        pthread_mutex_unlock(&c->lock);
        return state ? state : state_new(c->type, d);
}

static void give(struct qcow2_codec *c, enum direction d, void *state) {
        pthread_mutex_lock(&c->lock);
        if (c->n_idle[d] < KEPT) {
                c->idle[d][c->n_idle[d]++] = state;
                state = NULL;
        }
        pthread_mutex_unlock(&c->lock);
        if (state)
                state_free(c->type, d, state);
}

int qcow2_codec_new(enum qcow2_compression type, struct qcow2_codec **ret) {
        struct qcow2_codec *c;

        if (type != QCOW2_ZLIB && type != QCOW2_ZSTD)
                return -ENOTSUP;
        c = calloc(1, sizeof *c);
        if (!c)
                return -ENOMEM;
        c->type = type;
        pthread_mutex_init(&c->lock, NULL);
        *ret = c;
        return 0;
}

void qcow2_codec_free(struct qcow2_codec *codec) {
        if (!codec)
                return;
        for (enum direction d = DOWN; d <= UP; d++)
                while (codec->n_idle[d])
                        state_free(codec->type, d, codec->idle[d][--codec->n_idle[d]]);
        pthread_mutex_destroy(&codec->lock);
        free(codec);
}

static int zlib_down(z_stream *z, const void *in, size_t n, void *out, size_t room, size_t *ret_size) {
        int r;

        if (deflateReset(z) != Z_OK)
                return -EIO;
        z->next_in = (Bytef *)in;
        z->avail_in = (uInt)n;
        z->next_out = out;
        z->avail_out = (uInt)room;
        r = deflate(z, Z_FINISH);
        if (r != Z_STREAM_END)
                return r == Z_OK || r == Z_BUF_ERROR ? -ENOSPC : -EIO;
        *ret_size = room - z->avail_out;
        return 0;
}

static int zlib_up(z_stream *z, const void *in, size_t n, void *out, size_t size) {
        int r;

        if (inflateReset(z) != Z_OK)
                return -EIO;
        z->next_in = (Bytef *)in;
        z->avail_in = (uInt)n;
        z->next_out = out;
        z->avail_out = (uInt)size;
        r = inflate(z, Z_FINISH);
        if (r == Z_MEM_ERROR)
                return -ENOMEM;
        return r == Z_STREAM_END && z->avail_out == 0 ? 0 : -EIO;
}

static int zstd_down(ZSTD_CCtx *z, const void *in, size_t n, void *out, size_t room, size_t *ret_size) {
        size_t r = ZSTD_compress2(z, out, room, in, n);

        if (ZSTD_isError(r))
                return ZSTD_getErrorCode(r) == ZSTD_error_dstSize_tooSmall ? -ENOSPC : -EIO;
        *ret_size = r;
        return 0;
}

/* A frame's length isn't recorded, so it is decoded as a stream that ends by itself. */
static int zstd_up(ZSTD_DCtx *z, const void *in, size_t n, void *out, size_t size) {
        ZSTD_inBuffer from = { .src = in, .size = n };
        ZSTD_outBuffer to = { .dst = out, .size = size };
        size_t r;

        ZSTD_DCtx_reset(z, ZSTD_reset_session_only);
        do {
                size_t before_in = from.pos, before_out = to.pos;

                r = ZSTD_decompressStream(z, &to, &from);
                if (ZSTD_isError(r))
                        return -EIO;
                if (from.pos == before_in && to.pos == before_out)
                        return -EIO; /* no progress: the stream is cut off, or has more in it than a cluster */
        } while (r != 0 || (to.pos < size && from.pos < n)); /* several frames make one cluster */
        return to.pos == size ? 0 : -EIO;
}

int qcow2_compress(struct qcow2_codec *codec, const void *in, size_t n, void *out, size_t room, size_t *ret_size) {
        void *state = take(codec, DOWN);
        int r;

        if (!state)
                return -ENOMEM;
        r = codec->type == QCOW2_ZSTD ? zstd_down(state, in, n, out, room, ret_size)
                                      : zlib_down(state, in, n, out, room, ret_size);
        give(codec, DOWN, state);
        return r;
}

int qcow2_decompress(struct qcow2_codec *codec, const void *in, size_t n, void *out, size_t size) {
        void *state = take(codec, UP);
        int r;

        if (!state)
                return -ENOMEM;
        r = codec->type == QCOW2_ZSTD ? zstd_up(state, in, n, out, size) : zlib_up(state, in, n, out, size);
        give(codec, UP, state);
        return r;
}
