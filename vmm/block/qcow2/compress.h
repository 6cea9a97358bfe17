// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * compress: one cluster, smaller
 *
 * zlib clusters are raw deflate streams (RFC 1951), zstd clusters are frames (RFC 8878). What is stored is as long as the L2 entry says in whole
 * sectors, so there may be anything behind the stream's end; what comes out is exactly one cluster.
 *
 * Threads. A struct qcow2_codec is shared by any number of threads: it keeps the (de)compressors' memory for the next caller, up to a few.
 */
#pragma once

#include <stddef.h>

#include "base/cleanup.h"
#include "vmm/block/qcow2/qcow2.h"

struct qcow2_codec;

/** qcow2_codec_new() - @type: the image's. -ENOMEM, -ENOTSUP (unknown type) */
int qcow2_codec_new(enum qcow2_compression type, struct qcow2_codec **ret);
void qcow2_codec_free(struct qcow2_codec *codec);
DEFINE_CLEANUP(qcow2_codec, qcow2_codec_free);

/**
 * qcow2_compress() - make @n bytes smaller
 * @out, @room: at most @room bytes are written
 * @ret_size: how many; untouched on error
 * Return: 0, -ENOSPC when it takes more than @room bytes, -ENOMEM, -EIO
 */
int qcow2_compress(struct qcow2_codec *codec, const void *in, size_t n, void *out, size_t room, size_t *ret_size);

/**
 * qcow2_decompress() - the way back
 * @in, @n: the stream and what lies behind it: hostile
 * @out, @size: filled to the last byte on success; its content is undefined on error
 * Return: 0, -EIO when the stream is damaged or has fewer or more than @size bytes in it, -ENOMEM
 */
int qcow2_decompress(struct qcow2_codec *codec, const void *in, size_t n, void *out, size_t size);
