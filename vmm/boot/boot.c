// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * boot: tell the kernel's format and hand it to its loader
 *
 * Formats are tried in the order of the table below; each looks at its own magic first. A bzImage comes first since its
 * header cannot be anything else; multiboot comes last since its magic may be anywhere in the first 8 KiB, so also
 * in a kernel that offers something better.
 */
#include "vmm/boot/boot.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "vmm/boot/loader.h"

static int (*const formats[])(struct loader *l, struct boot_entry *entry, struct error *e) = {
        bzimage_load,
        elf_load,
        multiboot_load,
};

/* What people pass by mistake, by how it starts. */
static const struct {
        const char *magic;
        size_t n;
        const char *what;
} lookalikes[] = {
        { "\x1f\x8b", 2, "a gzip file" },
        { "\xfd"
          "7zXZ",
          5, "an xz file" },
        { "\x28\xb5\x2f\xfd", 4, "a zstd file" },
        { "070701", 6, "an initrd (cpio archive)" },
        { "QFI\xfb", 4, "a qcow2 disk image" },
        { "MZ", 2, "an EFI program without a Linux boot header" },
        { "\177ELF", 4, "an ELF file for another purpose or machine" },
        { "#!", 2, "a script" },
};

static int unknown_format(struct loader *l, struct error *e) {
        const char *what = l->kernel_size == 0 ? "an empty file" : "something else";
        char head[8] = "";

        if (l->kernel_size >= sizeof(head) && loader_read(l, head, sizeof(head), 0, NULL) == 0)
                for (size_t i = 0; i < ELEMENTSOF(lookalikes); i++)
                        if (memcmp(head, lookalikes[i].magic, lookalikes[i].n) == 0) {
                                what = lookalikes[i].what;
                                break;
                        }
        return error_set(e, -ENOEXEC, "kernel-format",
                         "give a Linux bzImage, an ELF kernel with a PVH note, or a multiboot kernel",
                         "the kernel is in no known format: it looks like %s", what);
}

int boot_load(struct memory *memory, const struct boot_source *source, const struct kvm_sregs *sregs,
              struct boot_entry *ret_entry, struct error *e) {
        struct boot_entry entry = { .sregs = *sregs };
        struct loader l;
        int r;

        r = loader_init(&l, memory, source, e);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(formats); i++) {
                r = formats[i](&l, &entry, e);
                if (r < 0)
                        return r;
                if (r > 0) {
                        *ret_entry = entry;
                        return 0;
                }
        }
        return unknown_format(&l, e);
}
