// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sha256: FIPS 180-4 SHA-256, with the processor's SHA instructions where it has them
 *
 * An image's disk is hashed once when it is made: at 150 MB/s in plain C that is most of the time of an import, at 1.5
 * GB/s it is nothing. A library would do, but it would be the only thing that Lodge needs from it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SHA256_SIZE     32
#define SHA256_HEX_SIZE (2 * SHA256_SIZE + 1)

struct sha256 {
        uint32_t state[8];
        uint64_t n_bytes;
        uint8_t block[64];
        void (*compress)(uint32_t state[8], const uint8_t *blocks, size_t n_blocks);
};

/** sha256_init() - start a digest. */
void sha256_init(struct sha256 *s);

/** sha256_init_portable() - the same without the processor's help; for tests, which compare the two. */
void sha256_init_portable(struct sha256 *s);

/** sha256_update() - add @n bytes. */
void sha256_update(struct sha256 *s, const void *data, size_t n);

/** sha256_final_hex() - finish, and write the digest as 64 lower-case hexadecimal digits and a NUL. */
void sha256_final_hex(struct sha256 *s, char ret_hex[static SHA256_HEX_SIZE]);

/**
 * sha256_fd() - digest of a regular file from its start to its end; moves its offset
 * @ret_size: its size in bytes; may be NULL
 *
 * Holes are hashed as the zeros that they read as, without reading them. Return: 0 or -errno.
 */
int sha256_fd(int fd, char ret_hex[static SHA256_HEX_SIZE], uint64_t *ret_size);
