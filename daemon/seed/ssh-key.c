// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ssh-key: public keys as OpenSSH writes them: TYPE BASE64 [COMMENT]
 *
 * A line of authorized_keys may begin with options, such as a command that is run instead of a shell: what goes there
 * unseen is never one. The blob behind the base64 is a row of strings with their lengths in front (RFC 4253 §6.6, RFC
 * 5656 §3.1, RFC 8709 §4, OpenSSH's PROTOCOL.u2f), the first of which is the type again.
 */
#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "base/text.h"
#include "daemon/seed/seed.h"

#define KEY_MAX  8192  /* bytes of a line */
#define FILE_MAX 16384 /* bytes of a .pub file */
#define KEYS_MAX 64

static const struct key_type {
        const char *name;
        unsigned int n_fields; /* strings in the blob, with the type */
        size_t min, max;       /* bytes of the field that says how strong it is */
        unsigned int field;    /* which one */
        const char *curve;     /* what field 1 must be, or NULL */
} types[] = {
        { "ssh-ed25519", 2, 32, 32, 1, NULL },
        { "ssh-rsa", 3, 128, 2049, 2, NULL }, /* 1024 to 16384 bits, and a byte of zero in front */
        { "ecdsa-sha2-nistp256", 3, 65, 65, 2, "nistp256" },
        { "ecdsa-sha2-nistp384", 3, 97, 97, 2, "nistp384" },
        { "ecdsa-sha2-nistp521", 3, 133, 133, 2, "nistp521" },
        { "sk-ssh-ed25519@openssh.com", 3, 32, 32, 1, NULL },
        { "sk-ecdsa-sha2-nistp256@openssh.com", 4, 65, 65, 2, "nistp256" },
};

static int bad(struct error *e, const char *line, const char *why) {
        int n = (int)strcspn(line, " \t\r\n");

        return error_set(e, -EINVAL, "ssh-key", "give what a file like ~/.ssh/id_ed25519.pub holds: TYPE KEY [COMMENT]",
                         "SSH key '%.*s ...' %s", MIN(n, 40), line, why);
}

static const struct key_type *type_of(const char *name, size_t len) {
        for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
                if (strlen(types[i].name) == len && memcmp(types[i].name, name, len) == 0)
                        return &types[i];
        return NULL;
}

/* NULL: the blob is a key of that type; else what is wrong. */
static const char *check_blob(const struct key_type *t, const unsigned char *blob, size_t len) {
        for (unsigned int i = 0; i < t->n_fields; i++) {
                const char *want = i == 0 ? t->name : i == 1 ? t->curve : NULL;
                uint32_t n;

                if (len < sizeof(n))
                        return "is cut short";
                memcpy(&n, blob, sizeof(n));
                n = be32toh(n);
                blob += sizeof(n);
                len -= sizeof(n);
                if (n > len)
                        return "is cut short";
                if (want && (strlen(want) != n || memcmp(want, blob, n) != 0))
                        return "holds a key of another type than it says";
                if (i == t->field && n < t->min)
                        return "is too short to be safe";
                if (i == t->field && n > t->max)
                        return "is too long";
                blob += n;
                len -= n;
        }
        return len == 0 ? NULL : "has something behind its key";
}

int ssh_key_check(const char *line, struct error *e) {
        _cleanup_free_ unsigned char *blob = NULL;
        size_t len = strnlen(line, KEY_MAX + 1), type_len, key_len, blob_len;
        const struct key_type *type;
        const char *key, *why;
        bool plain;
        int r;

        if (len == 0)
                return error_set(e, -EINVAL, "ssh-key", "leave it out, or give a key", "an SSH key is empty");
        if (len > KEY_MAX)
                return bad(e, line, "is too long");
        if (strstr(line, "PRIVATE KEY"))
                return error_set(e, -EINVAL, "ssh-key", "give the file that ends in .pub; that one stays with you",
                                 "this is a private SSH key");
        for (const char *p = line; *p;) {
                p += text_char(p, &plain);
                if (!plain)
                        return bad(e, line, "is more than one line, or has control characters in it");
        }
        type_len = strcspn(line, " ");
        type = type_of(line, type_len);
        if (!type && strncmp(line, "ssh-dss", 7) == 0)
                return bad(e, line, "is of the type DSA, which SSH servers refuse by now");
        if (!type)
                return bad(e, line, "does not begin with a type of key that is known here");
        key = line + type_len;
        key += strspn(key, " ");
        key_len = strcspn(key, " ");
        r = base64_decode(key, key_len, &blob, &blob_len);
        if (r == -ENOMEM)
                return error_set(e, r, "no-memory", NULL, "out of memory");
        if (r < 0)
                return bad(e, line, "is damaged: it is no base64");
        why = check_blob(type, blob, blob_len);
        return why ? bad(e, line, why) : 0;
}

/* The key in a .pub file; NULL: it holds none that could be used. */
static char *read_key(const char *path) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        _cleanup_free_ char *text = NULL;
        struct stat st;
        size_t len;

        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || io_read_all(fd, FILE_MAX, &text, &len) < 0)
                return NULL;
        if (strlen(text) != len)
                return NULL;
        while (len > 0 && strchr(" \t\r\n", text[len - 1]))
                text[--len] = '\0';
        return ssh_key_check(text, NULL) == 0 ? TAKE_PTR(text) : NULL;
}

static int is_public_key(const struct dirent *de) {
        size_t len = strlen(de->d_name);

        return len > 7 && strncmp(de->d_name, "id_", 3) == 0 && streq(de->d_name + len - 4, ".pub");
}

int ssh_keys_find(const char *home, char ***ret_keys, size_t *ret_n) {
        _cleanup_free_ char *dir = NULL;
        struct dirent **entries = NULL;
        char **keys;
        int n, r = 0;
        size_t k = 0;

        home = home ?: getenv("HOME");
        keys = calloc(KEYS_MAX, sizeof(*keys));
        if (!keys || asprintf(&dir, "%s/.ssh", home ?: "/nonexistent") < 0) {
                free(keys);
                return -ENOMEM;
        }
        n = scandir(dir, &entries, is_public_key, alphasort);
        for (int i = 0; i < n; i++) {
                _cleanup_free_ char *path = NULL;

                if (asprintf(&path, "%s/%s", dir, entries[i]->d_name) < 0) {
                        path = NULL;
                        r = -ENOMEM;
                } else if (k < KEYS_MAX && (keys[k] = read_key(path))) {
                        k++;
                }
                free(entries[i]);
        }
        free(entries);
        if (r < 0) {
                ssh_keys_free(keys, k);
                return r;
        }
        *ret_keys = keys;
        *ret_n = k;
        return 0;
}

void ssh_keys_free(char **keys, size_t n) {
        for (size_t i = 0; i < n; i++)
                free(keys[i]);
        free(keys);
}
