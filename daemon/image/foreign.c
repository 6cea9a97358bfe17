// SPDX-License-Identifier: GPL-2.0-or-later
/* foreign: see foreign.h */
#include "daemon/image/foreign.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/sys.h"
#include "vmm/block/qcow2/qcow2.h"

static int refuse(struct error *error, int code, const char *fix, const char *file, const char *what) {
        return error_set(error, code, "image-import", fix, "%s %s", file, what);
}

/* A GPT says where its copy at the disk's end is: a disk that ends before that was cut short (UEFI 2.10 §5.3.2). */
static int check_gpt(const char *file, int fd, uint64_t size, struct error *error) {
        struct {
                char signature[8];
                uint32_t rest[6];
                uint64_t alternate_lba;
        } h;

        if (io_read_at(&sys_real, fd, &h, sizeof(h), 512) < 0 || memcmp(h.signature, "EFI PART", 8) != 0)
                return 0;
        if (le64toh(h.alternate_lba) < size / 512)
                return 0;
        return refuse(error, -EUCLEAN, "it was cut short: copy it again, and compare with its checksum", file,
                      "is shorter than its partition table says");
}

int foreign_open_qcow2(const char *name, int fd, struct layer **ret_layer, struct error *error) {
        const struct qcow2_options options = { .readonly = true };
        _cleanup_(file_freep) struct file *file = NULL;
        _cleanup_(layer_freep) struct layer *layer = NULL;
        _cleanup_free_ char *strings = NULL;
        struct qcow2_check check = { 0 };
        struct qcow2_info info;
        uint64_t size;
        int r;

        r = file_open(&(struct file_options){ .fd = fd, .readonly = true }, &file, error);
        if (r == 0)
                r = qcow2_peek(file, &info, &strings, error);
        if (r == 0 && info.backing_file)
                return refuse(error, -ENOTSUP,
                              "make one file of the chain, where you trust it: lodge image convert FILE NEW", name,
                              "has a backing file");
        if (r == 0)
                r = qcow2_open(file, &options, &layer, error);
        if (r == 0) {
                TAKE_PTR(file);
                r = qcow2_check(layer->file, 0, &check, error);
        }
        if (r < 0) {
                error_prefix(error, "%s", name);
                if (error && error->id && streq(error->id, "qcow2-magic"))
                        error_set_fix(error, "is it raw? then say --disk-format raw");
                return r;
        }
        if (check.corruptions || check.errors)
                return refuse(
                        error, -EUCLEAN,
                        "copy it again; or see what is wrong, and mend a copy: lodge image check --repair all COPY",
                        name, "is damaged or was cut short");
        size = atomic_load(&layer->size);
        if (size == 0 || size > FOREIGN_DISK_MAX)
                return refuse(error, -EUCLEAN, "copy it again", name, "has a size that can't be");
        *ret_layer = TAKE_PTR(layer);
        return 0;
}

int foreign_check_raw(const char *name, int fd, uint64_t size, struct error *error) {
        if (size == 0)
                return refuse(error, -EUCLEAN, "copy it again", name, "is empty");
        if (size % 512 != 0)
                return refuse(error, -EUCLEAN, "it was cut short: copy it again, and compare with its checksum", name,
                              "is not a whole number of 512-byte sectors");
        return check_gpt(name, fd, size, error);
}
