// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * iov: buffers that lie in pieces (struct iovec)
 *
 * A position is counted in bytes over all pieces. Empty pieces are allowed everywhere. What reaches behind the last piece is left out,
 * and the functions say how much they really did, so a caller with a hostile length needs no check of its own before the call.
 */
#pragma once

#include <stdint.h>
#include <sys/uio.h>

/** iov_length() - bytes in all; UINT64_MAX when they don't fit into 64 bits. */
uint64_t iov_length(const struct iovec *iov, unsigned int n_iov);

/**
 * iov_slice() - the pieces that make up [@skip, @skip + @len)
 * @out:   at most @n_out pieces, none of them empty; may not overlap @iov
 * @ret_n: how many
 *
 * Return: bytes in @out: less than @len when @iov ends before, or @n_out pieces hold no more.
 */
uint64_t iov_slice(const struct iovec *iov, unsigned int n_iov, uint64_t skip, uint64_t len, struct iovec *out,
                   unsigned int n_out, unsigned int *ret_n);

/** iov_to_buf(), iov_from_buf(), iov_zero() - copy from @iov at @skip, to it, or clear it; return bytes done. */
uint64_t iov_to_buf(const struct iovec *iov, unsigned int n_iov, uint64_t skip, void *buf, uint64_t len);
uint64_t iov_from_buf(const struct iovec *iov, unsigned int n_iov, uint64_t skip, const void *buf, uint64_t len);
uint64_t iov_zero(const struct iovec *iov, unsigned int n_iov, uint64_t skip, uint64_t len);
