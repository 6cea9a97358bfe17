// SPDX-License-Identifier: GPL-2.0-or-later
/* aml: see aml.h */
#include "vmm/machine/aml.h"

#include <string.h>

#define OP_ZERO       0x00
#define OP_ONE        0x01
#define OP_NAME       0x08
#define OP_BYTE       0x0a
#define OP_WORD       0x0b
#define OP_DWORD      0x0c
#define OP_STRING     0x0d
#define OP_QWORD      0x0e
#define OP_SCOPE      0x10
#define OP_BUFFER     0x11
#define OP_PACKAGE    0x12
#define OP_METHOD     0x14
#define OP_DUAL_NAME  0x2e
#define OP_MULTI_NAME 0x2f
#define OP_EXT        0x5b
#define OP_EXT_DEVICE 0x82

/* Resource descriptors: tag bytes, with the length in the small ones */
#define RES_IRQ       0x22
#define RES_IO        0x47
#define RES_END       0x79
#define RES_MEMORY32F 0x86
#define RES_DWORD     0x87
#define RES_WORD      0x88
#define RES_QWORD     0x8a

enum { SPACE_MEMORY = 0, SPACE_IO = 1, SPACE_BUS = 2 };
#define WINDOW_FLAGS 0x0c /* producer, positive decode, minimum and maximum fixed */
#define IO_ENTIRE    0x03 /* ISA and non-ISA ranges */
#define MEMORY_RW    0x01 /* writable; not prefetchable: such a window takes BARs of both kinds */

void aml_bytes(struct aml *a, const void *data, size_t n) {
        if (a->failed || n > a->size - a->len) {
                a->failed = true;
                return;
        }
        memcpy(a->data + a->len, data, n);
        a->len += n;
}

void aml_u8(struct aml *a, uint8_t value) {
        aml_bytes(a, &value, sizeof(value));
}

/* Little-endian like the machines that this runs on. */
void aml_u16(struct aml *a, uint16_t value) {
        aml_bytes(a, &value, sizeof(value));
}

void aml_u32(struct aml *a, uint32_t value) {
        aml_bytes(a, &value, sizeof(value));
}

void aml_u64(struct aml *a, uint64_t value) {
        aml_bytes(a, &value, sizeof(value));
}

void aml_path(struct aml *a, const char *path) {
        size_t segments = 1;

        if (*path == '\\') {
                aml_u8(a, '\\');
                path++;
        }
        if (!*path) {
                aml_u8(a, 0); /* NullName: the root itself */
                return;
        }
        for (const char *p = path; *p; p++)
                segments += *p == '.';
        if (segments == 2)
                aml_u8(a, OP_DUAL_NAME);
        else if (segments > 2) {
                aml_u8(a, OP_MULTI_NAME);
                aml_u8(a, (uint8_t)segments);
        }
        for (size_t i = 0; i < segments; i++) {
                size_t n = strcspn(path, ".");

                if (n == 0 || n > 4) {
                        a->failed = true;
                        return;
                }
                aml_bytes(a, path, n);
                aml_bytes(a, "____", 4 - n);
                path += n + (path[n] == '.');
        }
}

void aml_integer(struct aml *a, uint64_t value) {
        if (value <= 1)
                aml_u8(a, value ? OP_ONE : OP_ZERO);
        else if (value <= UINT8_MAX) {
                aml_u8(a, OP_BYTE);
                aml_u8(a, (uint8_t)value);
        } else if (value <= UINT16_MAX) {
                aml_u8(a, OP_WORD);
                aml_u16(a, (uint16_t)value);
        } else if (value <= UINT32_MAX) {
                aml_u8(a, OP_DWORD);
                aml_u32(a, (uint32_t)value);
        } else {
                aml_u8(a, OP_QWORD);
                aml_u64(a, value);
        }
}

void aml_string(struct aml *a, const char *text) {
        aml_u8(a, OP_STRING);
        aml_bytes(a, text, strlen(text) + 1);
}

static int hex_digit(char c) {
        return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

void aml_eisa_id(struct aml *a, const char *id) {
        uint32_t value = 0;

        if (strlen(id) != 7) {
                a->failed = true;
                return;
        }
        /* Three letters of five bits, four hexadecimal digits, most significant byte first. */
        for (int i = 0; i < 3; i++)
                value = value << 5 | ((uint32_t)(id[i] - 'A' + 1) & 0x1f);
        for (int i = 3; i < 7; i++) {
                int digit = hex_digit(id[i]);

                if (digit < 0)
                        a->failed = true;
                value = value << 4 | ((uint32_t)digit & 0xf);
        }
        aml_u8(a, OP_DWORD);
        aml_u32(a, __builtin_bswap32(value));
}

void aml_name(struct aml *a, const char *name) {
        aml_u8(a, OP_NAME);
        aml_path(a, name);
}

void aml_name_integer(struct aml *a, const char *name, uint64_t value) {
        aml_name(a, name);
        aml_integer(a, value);
}

size_t aml_scope_begin(struct aml *a, const char *path) {
        size_t mark;

        aml_u8(a, OP_SCOPE);
        mark = a->len;
        aml_path(a, path);
        return mark;
}

size_t aml_device_begin(struct aml *a, const char *name) {
        size_t mark;

        aml_u8(a, OP_EXT);
        aml_u8(a, OP_EXT_DEVICE);
        mark = a->len;
        aml_path(a, name);
        return mark;
}

size_t aml_method_begin(struct aml *a, const char *name, unsigned int n_args, bool serialized) {
        size_t mark;

        aml_u8(a, OP_METHOD);
        mark = a->len;
        aml_path(a, name);
        aml_u8(a, (uint8_t)((n_args & 7) | (serialized ? 8 : 0)));
        return mark;
}

size_t aml_package_begin(struct aml *a, uint8_t n_elements) {
        size_t mark;

        aml_u8(a, OP_PACKAGE);
        mark = a->len;
        aml_u8(a, n_elements);
        return mark;
}

/* PkgLength (§20.2.4): counts itself; 6 bits in one byte, else 4 in the first and 8 in each of up to three more. */
static size_t encode_length(size_t content, uint8_t out[static 4]) {
        size_t n = content + 1 < 0x40 ? 1 : content + 2 < 0x1000 ? 2 : content + 3 < 0x100000 ? 3 : 4;
        size_t length = content + n;

        if (n == 1) {
                out[0] = (uint8_t)length;
                return 1;
        }
        out[0] = (uint8_t)((n - 1) << 6 | (length & 0xf));
        for (size_t i = 1; i < n; i++)
                out[i] = (uint8_t)(length >> (4 + 8 * (i - 1)));
        return n;
}

void aml_end(struct aml *a, size_t mark) {
        size_t content = a->len - mark, n;
        uint8_t length[4];

        n = encode_length(content, length);
        if (a->failed || n > a->size - a->len) {
                a->failed = true;
                return;
        }
        memmove(a->data + mark + n, a->data + mark, content);
        memcpy(a->data + mark, length, n);
        a->len += n;
}

/* The buffer's size is a word constant in front of the content, filled in at the end. */
size_t aml_resources_begin(struct aml *a) {
        size_t mark;

        aml_name(a, "_CRS");
        aml_u8(a, OP_BUFFER);
        mark = a->len;
        aml_u8(a, OP_WORD);
        aml_u16(a, 0);
        return mark;
}

void aml_resources_end(struct aml *a, size_t mark) {
        uint16_t size;

        aml_u8(a, RES_END);
        aml_u8(a, 0); /* checksum 0: not checked (§6.4.2.9) */
        if (a->failed)
                return;
        size = (uint16_t)(a->len - mark - 3);
        memcpy(a->data + mark + 1, &size, sizeof(size));
        aml_end(a, mark);
}

void aml_res_io(struct aml *a, uint16_t base, uint8_t length) {
        aml_u8(a, RES_IO);
        aml_u8(a, 1); /* decodes 16 bits */
        aml_u16(a, base);
        aml_u16(a, base);
        aml_u8(a, 1);
        aml_u8(a, length);
}

void aml_res_irq(struct aml *a, unsigned int irq) {
        aml_u8(a, RES_IRQ);
        aml_u16(a, (uint16_t)(1u << irq));
}

void aml_res_fixed_memory32(struct aml *a, uint32_t base, uint32_t length) {
        aml_u8(a, RES_MEMORY32F);
        aml_u16(a, 9);
        aml_u8(a, 1); /* writable */
        aml_u32(a, base);
        aml_u32(a, length);
}

static void window_head(struct aml *a, uint8_t tag, uint16_t body, uint8_t space, uint8_t flags) {
        aml_u8(a, tag);
        aml_u16(a, body);
        aml_u8(a, space);
        aml_u8(a, WINDOW_FLAGS);
        aml_u8(a, flags);
}

static void word_window(struct aml *a, uint8_t space, uint8_t flags, uint16_t first, uint16_t last) {
        window_head(a, RES_WORD, 13, space, flags);
        aml_u16(a, 0); /* granularity */
        aml_u16(a, first);
        aml_u16(a, last);
        aml_u16(a, 0); /* translation */
        aml_u16(a, (uint16_t)(last - first + 1));
}

void aml_res_bus_window(struct aml *a, uint16_t first, uint16_t last) {
        word_window(a, SPACE_BUS, 0, first, last);
}

void aml_res_io_window(struct aml *a, uint16_t first, uint16_t last) {
        word_window(a, SPACE_IO, IO_ENTIRE, first, last);
}

void aml_res_memory32_window(struct aml *a, uint32_t base, uint32_t length) {
        window_head(a, RES_DWORD, 23, SPACE_MEMORY, MEMORY_RW);
        aml_u32(a, 0);
        aml_u32(a, base);
        aml_u32(a, base + length - 1);
        aml_u32(a, 0);
        aml_u32(a, length);
}

void aml_res_memory64_window(struct aml *a, uint64_t base, uint64_t length) {
        window_head(a, RES_QWORD, 43, SPACE_MEMORY, MEMORY_RW);
        aml_u64(a, 0);
        aml_u64(a, base);
        aml_u64(a, base + length - 1);
        aml_u64(a, 0);
        aml_u64(a, length);
}
