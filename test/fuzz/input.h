// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * input: numbers taken one after the other from a fuzzer's bytes; 0 when they are used up
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct input {
        const uint8_t *data;
        size_t left;
};

static inline uint64_t input_take(struct input *in, unsigned int bytes) {
        uint64_t value = 0;

        for (unsigned int i = 0; i < bytes && in->left > 0; i++, in->left--)
                value |= (uint64_t)*in->data++ << 8 * i;
        return value;
}

/* What must always hold; the fuzzer reports the trap with its stack. */
#define MUST(condition)                                                                                                \
        do {                                                                                                           \
                if (!(condition))                                                                                      \
                        __builtin_trap();                                                                              \
        } while (0)
