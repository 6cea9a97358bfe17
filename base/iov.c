// SPDX-License-Identifier: GPL-2.0-or-later
/* iov: see iov.h. One walk, iov_slice(), finds the pieces; the copies ask it for one piece after another. */
#include "base/iov.h"

#include <string.h>

#include "base/cleanup.h"

uint64_t iov_length(const struct iovec *iov, unsigned int n_iov) {
        uint64_t sum = 0;

        for (unsigned int i = 0; i < n_iov; i++)
                if (__builtin_add_overflow(sum, (uint64_t)iov[i].iov_len, &sum))
                        return UINT64_MAX;
        return sum;
}

uint64_t iov_slice(const struct iovec *iov, unsigned int n_iov, uint64_t skip, uint64_t len, struct iovec *out,
                   unsigned int n_out, unsigned int *ret_n) {
        uint64_t done = 0;
        unsigned int n = 0;

        for (; n_iov > 0 && done < len && n < n_out; iov++, n_iov--) {
                uint64_t part;

                if (skip >= iov->iov_len) {
                        skip -= iov->iov_len;
                        continue;
                }
                part = MIN((uint64_t)iov->iov_len - skip, len - done);
                out[n++] = (struct iovec){ .iov_base = (uint8_t *)iov->iov_base + skip, .iov_len = part };
                done += part;
                skip = 0;
        }
        *ret_n = n;
        return done;
}

/* What to do with a piece: exactly one of @from, @to is set for a copy, none to clear. */
static uint64_t walk(const struct iovec *iov, unsigned int n_iov, uint64_t skip, uint64_t len, const uint8_t *from,
                     uint8_t *to) {
        uint64_t done = 0;

        for (; n_iov > 0 && done < len; iov++, n_iov--) {
                struct iovec v;
                unsigned int n;

                if (skip >= iov->iov_len) {
                        skip -= iov->iov_len;
                        continue;
                }
                if (iov_slice(iov, 1, skip, len - done, &v, 1, &n) == 0)
                        continue;
                if (from)
                        memcpy(v.iov_base, from + done, v.iov_len);
                else if (to)
                        memcpy(to + done, v.iov_base, v.iov_len);
                else
                        memset(v.iov_base, 0, v.iov_len);
                done += v.iov_len;
                skip = 0;
        }
        return done;
}

uint64_t iov_to_buf(const struct iovec *iov, unsigned int n_iov, uint64_t skip, void *buf, uint64_t len) {
        return walk(iov, n_iov, skip, len, NULL, buf);
}

uint64_t iov_from_buf(const struct iovec *iov, unsigned int n_iov, uint64_t skip, const void *buf, uint64_t len) {
        return walk(iov, n_iov, skip, len, buf, NULL);
}

uint64_t iov_zero(const struct iovec *iov, unsigned int n_iov, uint64_t skip, uint64_t len) {
        return walk(iov, n_iov, skip, len, NULL, NULL);
}
