// SPDX-License-Identifier: GPL-2.0-or-later
/* index-plain: lines of checksums; and what both forms share; see index.h */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "daemon/fetch/index.h"
#include "daemon/image/image.h"

#define NAME_MAX_BYTES 100

bool index_path_is_good(const char *path) {
        size_t n = strlen(path);

        if (n == 0 || n > 1023 || path[0] == '/' || path[n - 1] == '/')
                return false;
        for (const char *p = path; *p; p++) {
                bool first = p == path || p[-1] == '/';

                if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
                      strchr("._~+:@-/", *p)))
                        return false; /* no %, ? or #: what they stand for is a URL's business */
                if (first && (*p == '/' || (p[0] == '.' &&
                                            (p[1] == '/' || p[1] == 0 || (p[1] == '.' && (p[2] == '/' || p[2] == 0))))))
                        return false;
        }
        return true;
}

bool index_name(const char *text, size_t n, char ret_name[static NAME_MAX_BYTES + 1]) {
        size_t length = 0;

        for (size_t i = 0; i < n && length < NAME_MAX_BYTES; i++) {
                char c = text[i];

                if (c >= 'A' && c <= 'Z')
                        c = (char)(c + ('a' - 'A'));
                if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '/' || c == '.' || c == '_'))
                        c = '-';
                /* A part begins with a letter or a digit. */
                if ((c == '.' || c == '_' || c == '-') && (length == 0 || ret_name[length - 1] == '/'))
                        continue;
                ret_name[length++] = c;
        }
        while (length > 0 && (ret_name[length - 1] == '-' || ret_name[length - 1] == '/'))
                length--;
        ret_name[length] = 0;
        return image_name_is_valid(ret_name);
}

/* ---- lines --------------------------------------------------------------------------------------------------------------- */

static bool is_digest(const char *text, size_t n) {
        return (n == 64 || n == 128) && strspn(text, "0123456789abcdefABCDEF") >= n;
}

/* "DIGEST  FILE", "DIGEST *FILE", "SHA256 (FILE) = DIGEST". Changes the line. */
static bool take_line(char *line, char **ret_file, char **ret_digest) {
        size_t n = strcspn(line, " \t");
        char *open, *close;

        if (is_digest(line, n)) {
                char *file = line + n + strspn(line + n, " \t");

                line[n] = 0;
                *ret_file = file + (*file == '*');
                *ret_digest = line;
        } else if ((strncmp(line, "SHA256 (", 8) == 0 || strncmp(line, "SHA512 (", 8) == 0) &&
                   (close = strstr(line, ") = "))) {
                open = line + 8;
                *close = 0;
                *ret_file = open;
                *ret_digest = close + 4;
        } else
                return false;
        if (strncmp(*ret_file, "./", 2) == 0)
                *ret_file += 2;
        return is_digest(*ret_digest, strlen(*ret_digest));
}

static const struct {
        const char *suffix;
        enum pull_format format;
} suffixes[] = { /* the better ones first: of two files of one name the first is taken */
                 { ".qcow2", PULL_FORMAT_QCOW2 },
                 { ".raw.xz", PULL_FORMAT_RAW_XZ },
                 { ".img.xz", PULL_FORMAT_IMG_XZ },
                 { ".raw", PULL_FORMAT_RAW },
                 { ".img", PULL_FORMAT_IMG }
};

static int format_of(const char *file, size_t *ret_base) {
        size_t n = strlen(file);

        for (size_t i = 0; i < ELEMENTSOF(suffixes); i++) {
                size_t k = strlen(suffixes[i].suffix);

                if (n > k && strcasecmp(file + n - k, suffixes[i].suffix) == 0) {
                        *ret_base = n - k;
                        return (int)i;
                }
        }
        return -1;
}

/* Is that for machines of another kind, by a word of its name? */
static bool is_foreign(const char *name) {
        static const char *const words[] = { "arm64",   "aarch64", "armhf", "armv7", "ppc64el", "ppc64le",
                                             "riscv64", "s390x",   "i386",  "i686",  "loong64", "mips64el" };

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (strstr(name, words[i]))
                        return true;
        return false;
}

static struct fetch_item *find(struct fetch_result *result, const char *name) {
        for (size_t i = 0; i < result->n_items; i++)
                if (streq(result->items[i].name, name))
                        return &result->items[i];
        return NULL;
}

static int rank(enum pull_format format) {
        for (size_t i = 0; i < ELEMENTSOF(suffixes); i++)
                if (suffixes[i].format == format)
                        return (int)i;
        return 0;
}

static int add(struct fetch_result *result, const char *file, const char *digest) {
        char name[NAME_MAX_BYTES + 1];
        const char *base = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
        struct fetch_item *item;
        size_t length;
        int i = format_of(base, &length);

        if (i < 0 || !index_path_is_good(file) || !index_name(base, length, name) || is_foreign(name))
                return 0;
        item = find(result, name);
        if (item && rank(item->format) <= i)
                return 0;
        if (!item && (result->n_items >= INDEX_ITEMS_MAX || fetch_result_add_items(result, &item) < 0))
                return result->n_items >= INDEX_ITEMS_MAX ? 0 : -ENOMEM;
        free(item->name);
        free(item->path);
        free(item->digest);
        item->name = strdup(name);
        item->path = strdup(file);
        item->digest = strdup(digest);
        item->format = suffixes[i].format;
        for (char *p = item->digest; p && *p; p++)
                *p = *p >= 'A' && *p <= 'F' ? (char)(*p + ('a' - 'A')) : *p;
        return item->name && item->path && item->digest ? 0 : -ENOMEM;
}

int index_plain(const char *text, size_t n, struct fetch_result *result, struct error *e) {
        _cleanup_free_ char *copy = strndup(text, n);
        char *rest = copy, *line;
        int r = copy ? 0 : -ENOMEM;

        while (r == 0 && (line = strsep(&rest, "\n"))) {
                char *file, *digest;

                line[strcspn(line, "\r")] = 0;
                if (take_line(line, &file, &digest))
                        r = add(result, file, digest);
        }
        return r < 0 ? error_set(e, r, "memory", NULL, "cannot read the index") : 0;
}
