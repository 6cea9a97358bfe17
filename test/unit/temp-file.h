// SPDX-License-Identifier: GPL-2.0-or-later
/* temp-file: a file for a test, on a real file system, which goes with its descriptor. Included after cmocka.h. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/** temp_file() - @size bytes, all holes, in $TMPDIR or /var/tmp: open, and already without a name. */
static inline int temp_file(size_t size) {
        const char *dir = getenv("TMPDIR") ?: "/var/tmp";
        char path[4096];
        int fd;

        snprintf(path, sizeof(path), "%s/lodge-test.XXXXXX", dir);
        fd = mkstemp(path);
        assert_true(fd >= 0);
        unlink(path);
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        return fd;
}
