// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lodge image map, measure: where the parts of a disk lie, and how much they are
 *
 * Both walk the disk from front to back and ask the chain about what comes next; neighbours that differ in nothing are one entry.
 */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "cli/disk-work.h"

struct entry {
        uint64_t start, length, offset;
        unsigned int depth;
        bool present, zero, data, compressed, has_offset;
};

static unsigned int depth_of(const struct chain *c, const struct layer *layer) {
        for (unsigned int i = 0; i < c->n; i++)
                if (c->images[i].layer == layer)
                        return i;
        return c->n - 1;
}

static struct entry entry_of(const struct chain *c, uint64_t start, const struct extent *extent,
                             const struct layer *owner) {
        struct entry n = { .start = start, .length = extent->length, .depth = depth_of(c, owner), .zero = true };
        bool raw = streq(c->images[n.depth].format, "raw");

        if (!owner)
                return n;
        if (start >= atomic_load(&owner->size)) {
                n.depth--; /* there is nothing below the image that is longer */
                return n;
        }
        n.present = true;
        n.zero = extent->kind == EXTENT_ZERO;
        n.data = extent->kind == EXTENT_DATA || extent->kind == EXTENT_COMPRESSED;
        n.compressed = extent->kind == EXTENT_COMPRESSED;
        n.has_offset = extent->kind == EXTENT_DATA || (extent->kind == EXTENT_ZERO && (extent->allocated || raw));
        n.offset = n.has_offset ? extent->host : 0;
        return n;
}

static bool goes_on(const struct entry *a, const struct entry *b) {
        return a->depth == b->depth && a->present == b->present && a->zero == b->zero && a->data == b->data &&
               a->compressed == b->compressed && a->has_offset == b->has_offset &&
               (!a->has_offset || a->offset + a->length == b->offset);
}

static void print_json(const struct chain *c, const struct entry *n) {
        json_t *entry = json_pack("{s:I, s:I, s:i, s:b, s:b, s:b, s:b}", "start", (json_int_t)n->start, "length",
                                  (json_int_t)n->length, "depth", (int)n->depth, "present", n->present, "zero", n->zero,
                                  "data", n->data, "compressed", n->compressed);

        if (n->has_offset)
                json_object_set_new(entry, "offset", json_integer((json_int_t)n->offset));
        disk_json_item(entry, n->start == 0);
}

static void print_text(const struct chain *c, const struct entry *n) {
        const char *content = n->compressed ? "compressed" : n->data ? "data" : n->present ? "zero" : "nothing";

        printf("%18ju %18ju  %-10s ", (uintmax_t)n->start, (uintmax_t)n->length, content);
        if (n->has_offset)
                printf("%18ju  ", (uintmax_t)n->offset);
        else
                printf("%18s  ", "-");
        disk_print_text(n->present ? c->images[n->depth].path : "-");
        putchar('\n');
}

/* Each entry is printed as soon as it is known where it ends: an image can have more of them than fit into memory. @print NULL: none is. */
static int walk(const struct chain *c, void (*print)(const struct chain *c, const struct entry *n), struct error *e) {
        uint64_t size = atomic_load(&chain_top(c)->size);
        struct entry last = { 0 };

        for (uint64_t at = 0; at < size;) {
                struct layer *owner;
                struct extent extent;
                struct entry entry;
                int r = layer_status(chain_top(c), NULL, NULL, at, size - at, &extent, &owner);

                if (r < 0)
                        return disk_read_failed(r, at, e);
                entry = entry_of(c, at, &extent, owner);
                at += extent.length;
                if (last.length > 0 && goes_on(&last, &entry)) {
                        last.length += entry.length;
                        continue;
                }
                if (last.length > 0 && print)
                        print(c, &last);
                last = entry;
        }
        if (last.length > 0 && print)
                print(c, &last);
        return 0;
}

static void begin_json(const struct chain *c) {
        json_t *images = json_array();

        for (unsigned int i = 0; i < c->n; i++)
                json_array_append_new(images, json_pack("{s:o, s:s}", "file", disk_json_name(c->images[i].path),
                                                        "format", c->images[i].format));
        disk_json_begin(json_pack("{s:o, s:I, s:o}", "file", disk_json_name(c->images[0].path), "size",
                                  (json_int_t)atomic_load(&chain_top(c)->size), "images", images),
                        "map");
}

static int do_map(const struct disk_file_options *o, bool json, struct error *e) {
        _cleanup_(chain_freep) struct chain *c = NULL;
        struct chain_options options = { 0 };
        int r = disk_open_chain(o->file, o->disk_format, &options, &c, e);

        if (r == 0 && json)
                r = walk(c, NULL, e); /* an error is to come instead of the map, not within it */
        if (r < 0)
                return r;
        if (json)
                begin_json(c);
        else
                printf("%18s %18s  %-10s %18s  %s\n", "START", "LENGTH", "CONTENT", "AT", "IN");
        r = walk(c, json ? print_json : print_text, e);
        if (json)
                disk_json_end(atomic_load(&chain_top(c)->size) > 0);
        return r;
}

/* Bytes in clusters of the new file that would hold data. */
static int count_data(const struct chain *c, uint64_t cluster, uint64_t *ret_data, struct error *e) {
        uint64_t size = atomic_load(&chain_top(c)->size), counted = 0, n = 0;

        for (uint64_t at = 0; at < size;) {
                struct layer *owner;
                struct extent extent;
                int r = layer_status(chain_top(c), NULL, NULL, at, size - at, &extent, &owner);

                if (r < 0)
                        return disk_read_failed(r, at, e);
                if (extent.kind == EXTENT_DATA || extent.kind == EXTENT_COMPRESSED) {
                        uint64_t first = MAX(at / cluster, counted), end = (at + extent.length - 1) / cluster + 1;

                        n += end > first ? end - first : 0;
                        counted = MAX(end, counted);
                }
                at += extent.length;
        }
        *ret_data = n * cluster;
        return 0;
}

static int do_measure(const struct disk_file_options *o, bool json, struct error *e) {
        _cleanup_(chain_freep) struct chain *c = NULL;
        char required_text[TEXT_SIZE_MAX], full_text[TEXT_SIZE_MAX];
        struct chain_options options = { 0 };
        struct qcow2_create create;
        uint64_t required, full, data = 0;
        int r = disk_open_chain(o->file, o->disk_format, &options, &c, e);

        if (r < 0)
                return r;
        required = full = atomic_load(&chain_top(c)->size);
        create = disk_creation(o, full);
        if (o->to == MACHINE_DISK_FORMAT_QCOW2) {
                r = qcow2_measure(&create, 0, &required, &full, e); /* its options, before they are used */
                if (r == 0)
                        r = count_data(c, create.cluster, &data, e);
                if (r == 0)
                        r = qcow2_measure(&create, data, &required, &full, e);
                if (r < 0)
                        return r;
        }
        if (json)
                disk_json_print(json_pack("{s:o, s:s, s:I, s:I}", "file", disk_json_name(o->file), "format",
                                          machine_disk_format_to_string(o->to), "required", (json_int_t)required,
                                          "fully_allocated", (json_int_t)full));
        else
                printf("%-16s %s (%ju bytes)\n%-16s %s (%ju bytes)\n", "required",
                       text_format_size(required, required_text), (uintmax_t)required, "fully allocated",
                       text_format_size(full, full_text), (uintmax_t)full);
        return 0;
}

int cli_image_map(int argc, char **argv) {
        return disk_command(&schema_command_image_map, argc, argv, do_map);
}

int cli_image_measure(int argc, char **argv) {
        return disk_command(&schema_command_image_measure, argc, argv, do_measure);
}
