// SPDX-License-Identifier: GPL-2.0-or-later
/* sha512: FIPS 180-4 SHA-512, for checksum files that have no other; SHA-256 is in daemon/image */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SHA512_HEX_SIZE 129

struct sha512 {
        uint64_t state[8];
        uint64_t n_bytes;
        uint8_t block[128];
};

void sha512_init(struct sha512 *s);
void sha512_update(struct sha512 *s, const void *data, size_t n);
void sha512_final_hex(struct sha512 *s, char ret_hex[static SHA512_HEX_SIZE]);

/** sha512_fd() - digest of a regular file; does not move its offset. Return: 0 or -errno. */
int sha512_fd(int fd, char ret_hex[static SHA512_HEX_SIZE]);
