// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * meta: see meta.h
 *
 * image.json may have been edited, truncated or written by a newer Lodge. Everything in it is checked before use:
 * file names can't leave the image's directory, the format must be one that we serve, and an unknown major version is
 * refused. Unknown keys are left alone: a newer Lodge may add some.
 */
#include "daemon/image/meta.h"

#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>

#include "base/io.h"

#define META_VERSION 1
#define META_MAX     (64U * 1024)
#define NAME_MAX_LEN 100

static const char *const kind_names[] = {
        [IMAGE_FILE_DISK] = "disk",
        [IMAGE_FILE_KERNEL] = "kernel",
        [IMAGE_FILE_INITRD] = "initrd",
        [IMAGE_FILE_VMLINUX] = "vmlinux",
};
_Static_assert(ELEMENTSOF(kind_names) == _IMAGE_FILE_MAX, "every kind of file has a name");

/* The strings of struct image that are stored, once for both directions. */
static const struct {
        const char *key;
        size_t offset;
} strings[] = {
        { "name", offsetof(struct image, name) },           { "version", offsetof(struct image, version) },
        { "created", offsetof(struct image, created) },     { "arch", offsetof(struct image, arch) },
        { "format", offsetof(struct image, format) },       { "recipe", offsetof(struct image, recipe) },
        { "source", offsetof(struct image, source) },       { "cmdline", offsetof(struct image, cmdline) },
        { "user", offsetof(struct image, user) },           { "login", offsetof(struct image, login) },
        { "catalogue", offsetof(struct image, catalogue) }, { "checksum", offsetof(struct image, checksum) },
        { "trust", offsetof(struct image, trust) },
};

static char **string_field(const struct image *image, size_t i) {
        return (char **)((char *)(uintptr_t)image + strings[i].offset);
}

const char *image_file_kind_name(enum image_file_kind kind) {
        return (size_t)kind < ELEMENTSOF(kind_names) ? kind_names[kind] : "unknown";
}

void image_free(struct image *image) {
        if (!image)
                return;
        for (size_t i = 0; i < ELEMENTSOF(strings); i++)
                free(*string_field(image, i));
        free(image->dir);
        free(image->broken);
        for (size_t i = 0; i < _IMAGE_FILE_MAX; i++)
                free(image->files[i].name);
        free(image);
}

int image_set_string(char **field, const char *value) {
        char *copy = NULL;

        if (value) {
                copy = strdup(value);
                if (!copy)
                        return -ENOMEM;
        }
        free(*field);
        *field = copy;
        return 0;
}

static bool name_char(char c, bool first) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (!first && (c == '.' || c == '-' || c == '_'));
}

bool image_name_is_valid(const char *name) {
        unsigned parts = 1;
        bool first = true;

        if (strlen(name) > NAME_MAX_LEN)
                return false;
        for (const char *p = name; *p; p++) {
                if (*p == '/') {
                        if (first || ++parts > 3)
                                return false;
                        first = true;
                } else if (!name_char(*p, first))
                        return false;
                else
                        first = false;
        }
        return !first;
}

static char *replace_char(const char *text, char from, char to) {
        char *copy = strdup(text);

        for (char *p = copy; p && *p; p++)
                if (*p == from)
                        *p = to;
        return copy;
}

char *image_name_to_dir(const char *name) {
        return replace_char(name, '/', '@');
}

char *image_dir_to_name(const char *dir) {
        _cleanup_free_ char *name = NULL;

        if (strchr(dir, '/'))
                return NULL;
        name = replace_char(dir, '@', '/');
        return name && image_name_is_valid(name) ? TAKE_PTR(name) : NULL;
}

static int bad(struct error *error, const char *what) {
        return error_set(error, -EUCLEAN, "image-metadata",
                         "remove it and build or import it again: lodge image delete NAME",
                         "bad " IMAGE_META_FILE ": %s", what);
}

static bool is_sha256(const char *text) {
        return strlen(text) == SHA256_HEX_SIZE - 1 && strspn(text, "0123456789abcdef") == SHA256_HEX_SIZE - 1;
}

static int load_file(json_t *files, enum image_file_kind kind, int dir_fd, struct image_file *f, struct error *error) {
        json_t *o = json_object_get(files, kind_names[kind]);
        const char *name, *sha256;
        json_int_t size;
        struct stat st;

        if (!o)
                return 0;
        name = json_string_value(json_object_get(o, "name"));
        sha256 = json_string_value(json_object_get(o, "sha256"));
        size = json_integer_value(json_object_get(o, "size"));
        if (!name || !*name || *name == '.' || strchr(name, '/'))
                return bad(error, "a file without a plain name");
        if (!sha256 || !is_sha256(sha256))
                return bad(error, "a file without a digest");
        if (size <= 0)
                return bad(error, "a file without a size");
        if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
                return error_set(error, -EUCLEAN, "image-damaged",
                                 "remove it and build or import it again: lodge image delete NAME",
                                 "file %s is missing", name);
        if (st.st_size != size)
                return error_set(error, -EUCLEAN, "image-damaged",
                                 "remove it and build or import it again: lodge image delete NAME",
                                 "file %s has %jd bytes, %jd are recorded", name, (intmax_t)st.st_size, (intmax_t)size);
        f->size = size;
        memcpy(f->sha256, sha256, SHA256_HEX_SIZE);
        return image_set_string(&f->name, name);
}

static int load_object(json_t *root, int dir_fd, struct image *image, struct error *error) {
        json_t *files = json_object_get(root, "files");
        int r;

        if (!json_is_object(root) || !json_is_object(files))
                return bad(error, "not an image's description");
        if (json_integer_value(json_object_get(root, "metadata-version")) != META_VERSION)
                return error_set(error, -EUCLEAN, "image-metadata", "use the Lodge that made it, or a newer one",
                                 "its metadata version is not %d", META_VERSION);
        for (size_t i = 0; i < ELEMENTSOF(strings); i++) {
                json_t *v = json_object_get(root, strings[i].key);

                if (!v || json_is_null(v) || streq(strings[i].key, "name"))
                        continue; /* the directory's name is the image's */
                if (!json_is_string(v) || json_string_length(v) != strlen(json_string_value(v)))
                        return bad(error, strings[i].key);
                r = image_set_string(string_field(image, i), json_string_value(v));
                if (r < 0)
                        return r;
        }
        image->agent = json_is_true(json_object_get(root, "agent"));
        for (enum image_file_kind kind = 0; kind < _IMAGE_FILE_MAX; kind++) {
                r = load_file(files, kind, dir_fd, &image->files[kind], error);
                if (r < 0)
                        return r;
        }
        if (image->files[IMAGE_FILE_DISK].name && (!image->format || !streq(image->format, "raw")))
                return bad(error, "the disk's format is not recorded as raw");
        if (image->files[IMAGE_FILE_DISK].size % 512 != 0)
                return bad(error, "the disk is not a whole number of sectors");
        if (!image->files[IMAGE_FILE_DISK].name && !image->files[IMAGE_FILE_KERNEL].name)
                return bad(error, "neither a disk nor a kernel");
        return 0;
}

int image_meta_load(int dir_fd, struct image *image, struct error *error) {
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = -EBADF;
        json_error_t je;
        size_t n;
        json_t *root;
        int r;

        fd = openat(dir_fd, IMAGE_META_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0)
                return errno == ENOENT
                               ? bad(error, "the file is missing")
                               : error_set(error, -errno, "image-metadata", NULL, "cannot open " IMAGE_META_FILE);
        r = io_read_all(fd, META_MAX, &text, &n);
        if (r < 0)
                return r == -EFBIG ? bad(error, "too long")
                                   : error_set(error, r, "image-metadata", NULL, "cannot read " IMAGE_META_FILE);
        root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
        if (!root)
                return bad(error, je.text);
        r = load_object(root, dir_fd, image, error);
        json_decref(root);
        return r;
}

char *image_meta_format(const struct image *image) {
        json_t *root = json_object(), *files = json_object();
        char *text;

        json_object_set_new(root, "metadata-version", json_integer(META_VERSION));
        for (size_t i = 0; i < ELEMENTSOF(strings); i++)
                if (*string_field(image, i))
                        json_object_set_new(root, strings[i].key, json_string(*string_field(image, i)));
        json_object_set_new(root, "agent", json_boolean(image->agent));
        for (size_t i = 0; i < _IMAGE_FILE_MAX; i++) {
                const struct image_file *f = &image->files[i];

                if (f->name)
                        json_object_set_new(files, kind_names[i],
                                            json_pack("{s:s, s:I, s:s}", "name", f->name, "size", (json_int_t)f->size,
                                                      "sha256", f->sha256));
        }
        json_object_set_new(root, "files", files);
        text = json_dumps(root, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        json_decref(root);
        return text;
}
