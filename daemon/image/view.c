// SPDX-License-Identifier: GPL-2.0-or-later
/* view: see view.h */
#include "daemon/image/view.h"

#include <errno.h>

static json_t *files_json(const struct image *image) {
        json_t *files = json_array();

        for (size_t i = 0; i < _IMAGE_FILE_MAX; i++) {
                const struct image_file *f = &image->files[i];

                if (f->name)
                        json_array_append_new(files,
                                              json_pack("{s:s, s:s, s:I, s:s}", "kind", image_file_kind_name(i), "name",
                                                        f->name, "size", (json_int_t)f->size, "sha256", f->sha256));
        }
        return files;
}

json_t *image_view_json(const struct image *image) {
        const struct {
                const char *key, *value;
        } texts[] = {
                { "name", image->name },           { "version", image->version },   { "created", image->created },
                { "arch", image->arch },           { "format", image->format },     { "source", image->source },
                { "catalogue", image->catalogue }, { "checksum", image->checksum }, { "trust", image->trust },
                { "recipe", image->recipe },       { "broken", image->broken },     { "user", image->user },
                { "login", image->login },         { "cmdline", image->cmdline },   { "directory", image->dir },
        };
        const struct image_file *files = image->files;
        json_t *o = json_object();
        uint64_t size = 0;

        for (size_t i = 0; i < _IMAGE_FILE_MAX; i++)
                size += files[i].name ? files[i].size : 0;
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                if (texts[i].value)
                        json_object_set_new(o, texts[i].key, json_string(texts[i].value));
        json_object_set_new(o, "agent", json_boolean(image->agent));
        json_object_set_new(o, "disk", json_boolean(files[IMAGE_FILE_DISK].name != NULL));
        json_object_set_new(o, "kernel", json_boolean(files[IMAGE_FILE_KERNEL].name || files[IMAGE_FILE_VMLINUX].name));
        json_object_set_new(o, "size", json_integer((json_int_t)size));
        json_object_set_new(o, "disk_size",
                            json_integer(files[IMAGE_FILE_DISK].name ? (json_int_t)files[IMAGE_FILE_DISK].size : 0));
        json_object_set_new(o, "files", files_json(image));
        return o;
}

int image_page_json(struct image_store *store, json_t **ret, struct error *e) {
        json_t *items = json_array();
        struct image **images;
        size_t n;
        int r = image_list(store, &images, &n, e);

        if (r < 0) {
                json_decref(items);
                return r;
        }
        for (size_t i = 0; i < n; i++)
                json_array_append_new(items, image_view_json(images[i]));
        image_list_free(images, n);
        *ret = json_pack("{s:o}", "items", items);
        return *ret ? 0 : -ENOMEM;
}
