// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * serial-line: the host's end of a serial port: bytes out to one descriptor, bytes in from another, never waiting for either
 *
 * Threads: new and free on the loop's thread. The rest under the machine lock, on any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/loop.h"

struct serial_line;

struct serial_line_ops {
        /* Output can be taken again after serial_line_full() was true. */
        void (*room)(void *opaque);
        /* How many bytes of input are wanted now; 0 leaves them where they are. */
        size_t (*wanted)(void *opaque);
        /* Input: 1 .. wanted() bytes. */
        void (*input)(void *opaque, const uint8_t *bytes, size_t n);
};

/**
 * serial_line_new() - tie a line to its descriptors
 * @in_fd, @out_fd: terminal, pipe, socket, file or device; -1 for none; may be the same. Borrowed: must outlive the line.
 *
 * Errors: "serial-fd" when a descriptor is not open or has the wrong direction.
 */
int serial_line_new(struct loop *loop, int in_fd, int out_fd, const struct serial_line_ops *ops, void *opaque,
                    struct serial_line **ret_line, struct error *e);

/** serial_line_free() - write out what can be written within a fifth of a second, and release. */
void serial_line_free(struct serial_line *line);
DEFINE_CLEANUP(serial_line, serial_line_free);

/** serial_line_put() - take one byte of output; it goes out with the end of its line, or soon. Dropped when full. */
void serial_line_put(struct serial_line *line, uint8_t byte);

/** serial_line_full() - is there no room? False again once whoever reads has been stuck for a while: bytes are dropped then. */
bool serial_line_full(const struct serial_line *line);

/** serial_line_want() - wanted() would now say more than 0: start to read. */
void serial_line_want(struct serial_line *line);

/** serial_line_dropped() - bytes of output that nobody took (metric). */
uint64_t serial_line_dropped(const struct serial_line *line);
