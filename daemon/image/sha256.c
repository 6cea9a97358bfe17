// SPDX-License-Identifier: GPL-2.0-or-later
/* sha256: see sha256.h. The names follow FIPS 180-4 §4.1.2 and §6.2. */
#include "daemon/image/sha256.h"

#include <cpuid.h>
#include <endian.h>
#include <errno.h>
#include <immintrin.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

static const uint32_t K[64] __attribute__((aligned(16))) = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t rotr(uint32_t x, unsigned n) {
        return x >> n | x << (32 - n);
}

static void compress_portable(uint32_t state[8], const uint8_t *p, size_t n_blocks) {
        for (; n_blocks > 0; n_blocks--, p += 64) {
                uint32_t w[64], v[8];

                for (unsigned t = 0; t < 16; t++) {
                        uint32_t be;
                        memcpy(&be, p + 4 * t, 4);
                        w[t] = be32toh(be);
                }
                for (unsigned t = 16; t < 64; t++) {
                        uint32_t s0 = rotr(w[t - 15], 7) ^ rotr(w[t - 15], 18) ^ w[t - 15] >> 3;
                        uint32_t s1 = rotr(w[t - 2], 17) ^ rotr(w[t - 2], 19) ^ w[t - 2] >> 10;
                        w[t] = s1 + w[t - 7] + s0 + w[t - 16];
                }
                memcpy(v, state, sizeof(v));
                for (unsigned t = 0; t < 64; t++) {
                        uint32_t big1 = rotr(v[4], 6) ^ rotr(v[4], 11) ^ rotr(v[4], 25);
                        uint32_t big0 = rotr(v[0], 2) ^ rotr(v[0], 13) ^ rotr(v[0], 22);
                        uint32_t choose = (v[4] & v[5]) ^ (~v[4] & v[6]);
                        uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
                        uint32_t t1 = v[7] + big1 + choose + K[t] + w[t];

                        memmove(v + 1, v, 7 * sizeof(*v));
                        v[4] += t1;
                        v[0] = t1 + big0 + majority;
                }
                for (unsigned i = 0; i < 8; i++)
                        state[i] += v[i];
        }
}

/*
 * The SHA extensions keep the eight words as two vectors, ABEF and CDGH, and do two rounds per instruction; sha256msg1
 * and sha256msg2 extend the message schedule four words at a time (Intel SDM vol. 2, SHA256RNDS2).
 */
__attribute__((target("sha,sse4.1"))) static void compress_shani(uint32_t state[8], const uint8_t *p, size_t n_blocks) {
        const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
        __m128i dcba = _mm_loadu_si128((const __m128i *)state);
        __m128i hgfe = _mm_loadu_si128((const __m128i *)(state + 4));
        __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
        __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);

        for (; n_blocks > 0; n_blocks--, p += 64) {
                const __m128i abef_in = abef, cdgh_in = cdgh;
                __m128i w[4];

                for (unsigned i = 0; i < 16; i++) {
                        __m128i *now = &w[i % 4], k;

                        if (i < 4)
                                *now = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(p + 16 * i)), swap);
                        else {
                                /* w[i-4] + s0(w[i-3]) + w[t-7], then s1 of the two newest */
                                __m128i x = _mm_sha256msg1_epu32(*now, w[(i + 1) % 4]);
                                x = _mm_add_epi32(x, _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4));
                                *now = _mm_sha256msg2_epu32(x, w[(i + 3) % 4]);
                        }
                        k = _mm_add_epi32(*now, _mm_load_si128((const __m128i *)(K + 4 * i)));
                        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, k);
                        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(k, 0x0e));
                }
                abef = _mm_add_epi32(abef, abef_in);
                cdgh = _mm_add_epi32(cdgh, cdgh_in);
        }

        __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
        _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xf0));
        _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

static int have_shani(void) {
        unsigned a, b, c, d;

        if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1))
                return 0;
        return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
}

void sha256_init_portable(struct sha256 *s) {
        *s = (struct sha256){
                .state = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
                           0x5be0cd19 },
                .compress = compress_portable,
        };
}

void sha256_init(struct sha256 *s) {
        sha256_init_portable(s);
        if (have_shani())
                s->compress = compress_shani;
}

void sha256_update(struct sha256 *s, const void *data, size_t n) {
        const uint8_t *p = data;
        size_t have = s->n_bytes % 64;

        s->n_bytes += n;
        if (have > 0) {
                size_t take = MIN(n, 64 - have);

                memcpy(s->block + have, p, take);
                p += take, n -= take, have += take;
                if (have < 64)
                        return;
                s->compress(s->state, s->block, 1);
        }
        if (n >= 64) {
                s->compress(s->state, p, n / 64);
                p += n / 64 * 64;
        }
        memcpy(s->block, p, n % 64);
}

void sha256_final_hex(struct sha256 *s, char ret_hex[static SHA256_HEX_SIZE]) {
        static const uint8_t padding[64] = { 0x80 };
        uint64_t n_bits = htobe64(s->n_bytes * 8);
        size_t have = s->n_bytes % 64;

        sha256_update(s, padding, (have < 56 ? 56 : 120) - have);
        sha256_update(s, &n_bits, sizeof(n_bits));
        for (unsigned i = 0; i < SHA256_SIZE; i++) {
                uint8_t byte = s->state[i / 4] >> (24 - 8 * (i % 4));

                ret_hex[2 * i] = "0123456789abcdef"[byte >> 4];
                ret_hex[2 * i + 1] = "0123456789abcdef"[byte & 15];
        }
        ret_hex[2 * SHA256_SIZE] = '\0';
}

#define CHUNK (256U * 1024)

int sha256_fd(int fd, char ret_hex[static SHA256_HEX_SIZE], uint64_t *ret_size) {
        static const uint8_t zeros[CHUNK];
        _cleanup_free_ uint8_t *buf = malloc(CHUNK);
        off_t at = 0, data = 0, end;
        struct sha256 s;

        if (!buf)
                return -ENOMEM;
        end = lseek(fd, 0, SEEK_END);
        if (end < 0)
                return -errno;
        sha256_init(&s);
        while (at < end) {
                if (at >= data) { /* where is the next byte that is not in a hole? */
                        data = lseek(fd, at, SEEK_DATA);
                        if (data < 0)
                                data = errno == ENXIO ? end : at;
                }
                if (data > at) {
                        size_t n = MIN((off_t)CHUNK, data - at);

                        sha256_update(&s, zeros, n);
                        at += n;
                        continue;
                }
                ssize_t n = pread(fd, buf, MIN((off_t)CHUNK, end - at), at);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        return -ENODATA;
                sha256_update(&s, buf, n);
                at += n;
                data = 0;
        }
        sha256_final_hex(&s, ret_hex);
        if (ret_size)
                *ret_size = end;
        return 0;
}
