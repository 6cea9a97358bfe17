// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * iso9660: see iso9660.h
 *
 *      sector 0..15   the system area: zeroes
 *             16, 17  the primary volume descriptor (ECMA-119 8.4), and the end of the descriptors (8.3)
 *             18, 19  the path table (9.4), which names the root directory only, in either byte order
 *             20      the root directory (9.1): itself, its parent (itself), the files
 *             21...   the files, each from a sector of its own on
 *
 * Dates are left unspecified (zeroes). Numbers are written in both byte orders where the standard says so (7.2.3, 7.3.3).
 */
#include "daemon/seed/iso9660.h"

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

#define SECTOR     2048u
#define DESCRIPTOR 16u
#define PATHS_L    18u
#define PATHS_M    19u
#define ROOT       20u
#define FIRST      21u
#define PATHS_SIZE 10u
#define RECORD     33u /* bytes of a directory record in front of the name */

static void put16_both(unsigned char *p, uint16_t v) {
        uint16_t le = htole16(v), be = htobe16(v);

        memcpy(p, &le, sizeof(le));
        memcpy(p + 2, &be, sizeof(be));
}

static void put32_both(unsigned char *p, uint32_t v) {
        uint32_t le = htole32(v), be = htobe32(v);

        memcpy(p, &le, sizeof(le));
        memcpy(p + 4, &be, sizeof(be));
}

/* A directory record at @p; returns its length, which is even. */
static size_t put_record(unsigned char *p, uint32_t sector, uint32_t size, bool directory, const char *name,
                         size_t name_len) {
        size_t len = RECORD + name_len + (name_len % 2 == 0 ? 1 : 0);

        p[0] = (unsigned char)len;
        put32_both(p + 2, sector);
        put32_both(p + 10, size);
        p[25] = directory ? 2 : 0;
        put16_both(p + 28, 1);
        p[32] = (unsigned char)name_len;
        memcpy(p + RECORD, name, name_len);
        return len;
}

static void put_descriptors(unsigned char *image, const char *volume, uint32_t n_sectors) {
        unsigned char *p = image + (size_t)DESCRIPTOR * SECTOR;
        uint32_t le = htole32(PATHS_L), be = htobe32(PATHS_M);

        memcpy(p, "\1CD001\1", 7);
        memset(p + 8, ' ', 64);
        memcpy(p + 40, volume, strlen(volume));
        put32_both(p + 80, n_sectors);
        put16_both(p + 120, 1);
        put16_both(p + 124, 1);
        put16_both(p + 128, SECTOR);
        put32_both(p + 132, PATHS_SIZE);
        memcpy(p + 140, &le, sizeof(le));
        memcpy(p + 148, &be, sizeof(be));
        put_record(p + 156, ROOT, SECTOR, true, "", 1);
        memset(p + 190, ' ', 813 - 190); /* who made it and which files say so: nobody, none */
        for (size_t i = 0; i < 4; i++)   /* dates: 16 digits, and a time zone that is a byte */
                memset(p + 813 + 17 * i, '0', 16);
        p[881] = 1;
        memcpy(p + SECTOR,
               "\xff"
               "CD001\1",
               7);
}

static void put_paths(unsigned char *image) {
        uint32_t sector[2] = { htole32(ROOT), htobe32(ROOT) };
        uint16_t parent[2] = { htole16(1), htobe16(1) };

        for (size_t i = 0; i < 2; i++) {
                unsigned char *p = image + (size_t)(PATHS_L + i) * SECTOR;

                p[0] = 1;
                memcpy(p + 2, &sector[i], sizeof(sector[i]));
                memcpy(p + 6, &parent[i], sizeof(parent[i]));
        }
}

static uint32_t sectors_of(size_t size) {
        return (uint32_t)((size + SECTOR - 1) / SECTOR);
}

/* Return: how many sectors the files take, or -EINVAL. */
static int64_t measure(const struct iso_file *files, size_t n_files) {
        const char *before = "";
        size_t total = 0;
        int64_t n = 0;

        if (n_files > ISO_FILES_MAX)
                return -EINVAL;
        for (size_t i = 0; i < n_files; i++) {
                if (!files[i].data)
                        continue;
                if (strlen(files[i].name) > ISO_NAME_MAX || strcmp(files[i].name, before) <= 0 ||
                    files[i].size > ISO_SIZE_MAX - total)
                        return -EINVAL;
                before = files[i].name;
                total += files[i].size;
                n += sectors_of(files[i].size);
        }
        return n;
}

int iso_make(const char *volume, const struct iso_file *files, size_t n_files, void **ret_image, size_t *ret_size) {
        int64_t n = strlen(volume) <= 32 ? measure(files, n_files) : -EINVAL;
        unsigned char *image, *dir;
        uint32_t sector = FIRST;

        if (n < 0)
                return (int)n;
        image = calloc((size_t)(FIRST + n), SECTOR);
        if (!image)
                return -ENOMEM;
        put_descriptors(image, volume, (uint32_t)(FIRST + n));
        put_paths(image);
        dir = image + (size_t)ROOT * SECTOR;
        dir += put_record(dir, ROOT, SECTOR, true, "", 1);
        dir += put_record(dir, ROOT, SECTOR, true, "\1", 1);
        for (size_t i = 0; i < n_files; i++) { /* 16 records of 33 + 31 + 1 bytes fit into the sector */
                char name[ISO_NAME_MAX + 4];
                int len;

                if (!files[i].data)
                        continue;
                len = snprintf(name, sizeof(name), "%s.;1", files[i].name);
                dir += put_record(dir, sector, (uint32_t)files[i].size, false, name, (size_t)len);
                memcpy(image + (size_t)sector * SECTOR, files[i].data, files[i].size);
                sector += sectors_of(files[i].size);
        }
        *ret_image = image;
        *ret_size = (size_t)(FIRST + n) * SECTOR;
        return 0;
}
