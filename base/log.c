// SPDX-License-Identifier: GPL-2.0-or-later
/* log: see log.h */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/cleanup.h"

static _Atomic enum log_level current_level = LOG_LEVEL_WARNING;

void log_set_level(enum log_level level) {
        atomic_store_explicit(&current_level, level, memory_order_relaxed);
}

void log_message(enum log_level level, const char *format, ...) {
        char line[1024];
        va_list ap;
        size_t len;
        int n;

        if (level > atomic_load_explicit(&current_level, memory_order_relaxed))
                return;

        n = snprintf(line, sizeof(line), "<%d>", level);
        va_start(ap, format);
        n += vsnprintf(line + n, sizeof(line) - (size_t)n, format, ap);
        va_end(ap);
        len = n < 0 ? 0 : (size_t)n;
        if (len > sizeof(line) - 2)
                len = sizeof(line) - 2;
        line[len++] = '\n';
        (void)!write(STDERR_FILENO, line, len);
}
