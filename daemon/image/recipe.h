// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * recipe: what image_build() can build: shell programs that are part of this binary
 *
 * A recipe is run as `bash SCRIPT VERB` in the stage's directory, with
 *
 *      0 /dev/null   1, 2 the log   3 lines for us   4 the script itself   5 the static init and agent for tiny
 *
 * Verbs. `plan` prints to descriptor 1 what the result depends on besides the recipe: one package and version a line.
 * `build` leaves the files in the current directory. On descriptor 3 both may write:
 *
 *      step TEXT               shown to the person
 *      meta KEY VALUE          version, cmdline, user, login: goes into image.json
 *      file KIND NAME          a file of the image: disk, kernel, initrd
 *      fail FIX|MESSAGE        why it is about to end with an error
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct recipe {
        const char *name;
        const char *summary;
        const unsigned char *script, *script_end;
        uint64_t space; /* bytes of disk that building it takes, about */
};

/** recipe_get() - the @i-th recipe, NULL past the last. */
const struct recipe *recipe_get(size_t i);

/* Text that every recipe starts with, and the program for tiny. */
extern const unsigned char recipe_common[], recipe_common_end[];
extern const unsigned char recipe_init[], recipe_init_end[];
