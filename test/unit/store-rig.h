// SPDX-License-Identifier: GPL-2.0-or-later
/* store-rig: a store in a directory of its own, and machines to put into it. Included after cmocka.h. */
#pragma once

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/store/store.h"

struct rig {
        char dir[120];
        struct store *s;
        char names[64][16];
};

/** rig_make() - an empty directory; TMPDIR or /var/tmp: a real file system. */
static inline void rig_make(struct rig *rig) {
        *rig = (struct rig){ 0 };
        snprintf(rig->dir, sizeof(rig->dir), "%s/lodge-store.XXXXXX", getenv("TMPDIR") ?: "/var/tmp");
        assert_non_null(mkdtemp(rig->dir));
}

static inline void rig_open(struct rig *rig) {
        struct error e = ERROR_INIT;
        int r = store_open(rig->dir, &rig->s, &e);

        if (r < 0)
                error_print(&e, "store_open", stderr);
        error_clear(&e);
        assert_int_equal(r, 0);
}

static inline void rig_close(struct rig *rig) {
        store_free(rig->s);
        rig->s = NULL;
}

static inline void rig_reopen(struct rig *rig) {
        rig_close(rig);
        rig_open(rig);
}

static inline const char *rig_path(struct rig *rig, const char *name, char buf[static 256]) {
        snprintf(buf, 256, "%s/%.100s", rig->dir, name);
        return buf;
}

/** rig_clear() - remove every file of the store. */
static inline void rig_clear(struct rig *rig) {
        DIR *dir = opendir(rig->dir);
        struct dirent *entry;
        char path[512];

        while (dir && (entry = readdir(dir))) {
                snprintf(path, sizeof(path), "%s/%s", rig->dir, entry->d_name);
                if (entry->d_name[0] != '.')
                        unlink(path);
        }
        if (dir)
                closedir(dir);
}

static inline void rig_free(struct rig *rig) {
        rig_close(rig);
        rig_clear(rig);
        rmdir(rig->dir);
}

/** rig_name() - "m003"; good as long as @rig. */
static inline const char *rig_name(struct rig *rig, unsigned int i) {
        snprintf(rig->names[i % 64], sizeof(rig->names[0]), "m%03u", i % 1000);
        return rig->names[i % 64];
}

/** machine() - number @i's uuid, in project default. Its strings are constants, but the uuid: one of the last 64. */
static inline struct store_machine machine(const char *name, unsigned int i) {
        static char uuids[64][37];
        char *uuid = uuids[i % 64];

        snprintf(uuid, 37, "00000000-0000-4000-8000-%012x", i);
        return (struct store_machine){ .uuid = uuid,
                                       .name = (char *)name,
                                       .project = (char *)"default",
                                       .config = (char *)"{\"cpus\":2,\"memory\":\"1GiB\"}",
                                       .cpus = 2,
                                       .memory = 1 << 30 };
}

/* What cmocka calls around each test: a directory; a directory with an open store; and its end. */
static inline int rig_setup(void **state) {
        struct rig *rig = calloc(1, sizeof(*rig));

        rig_make(rig);
        *state = rig;
        return 0;
}

static inline int rig_setup_open(void **state) {
        rig_setup(state);
        rig_open(*state);
        return 0;
}

static inline int rig_teardown(void **state) {
        rig_free(*state);
        free(*state);
        return 0;
}
