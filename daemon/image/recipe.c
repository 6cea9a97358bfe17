// SPDX-License-Identifier: GPL-2.0-or-later
/* recipe: the table, and the files that the build puts into this binary; see recipe.h */
#include "daemon/image/recipe.h"

#include "base/cleanup.h"
#include "daemon/image/recipe-stamp.h"

/* RECIPE_DIR and RECIPE_INIT come from meson.build, which also makes this file depend on what is included here. */
#define EMBED(symbol, path)                                                                                            \
        __asm__(".pushsection .rodata\n"                                                                               \
                ".global " #symbol ", " #symbol "_end\n"                                                               \
                ".hidden " #symbol ", " #symbol "_end\n" #symbol ":\n"                                                 \
                ".incbin \"" path "\"\n" #symbol "_end:\n"                                                             \
                ".popsection\n")

extern const unsigned char recipe_debian_12[], recipe_debian_12_end[];
extern const unsigned char recipe_tiny[], recipe_tiny_end[];

EMBED(recipe_common, RECIPE_DIR "/common.sh");
EMBED(recipe_debian_12, RECIPE_DIR "/debian-12.sh");
EMBED(recipe_tiny, RECIPE_DIR "/tiny.sh");
EMBED(recipe_init, RECIPE_INIT);

static const struct recipe recipes[] = {
        { .name = "debian/12",
          .summary = "Debian 12 with systemd, cloud-init, SSH and the guest agent",
          .script = recipe_debian_12,
          .script_end = recipe_debian_12_end,
          .space = 3ULL << 30 },
        { .name = "tiny",
          .summary = "Debian's cloud kernel with busybox and a guest agent: starts in a second or two, keeps nothing",
          .script = recipe_tiny,
          .script_end = recipe_tiny_end,
          .space = 300ULL << 20 },
};

const struct recipe *recipe_get(size_t i) {
        return i < ELEMENTSOF(recipes) ? &recipes[i] : NULL;
}
