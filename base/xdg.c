// SPDX-License-Identifier: GPL-2.0-or-later
/* xdg: see xdg.h */
#include "base/xdg.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

int xdg_path(enum xdg kind, const char *below, char **ret_path) {
        static const struct {
                const char *variable, *home;
        } kinds[] = {
                [XDG_CONFIG] = { "XDG_CONFIG_HOME", "/.config" },
                [XDG_DATA] = { "XDG_DATA_HOME", "/.local/share" },
                [XDG_CACHE] = { "XDG_CACHE_HOME", "/.cache" },
        };
        const char *base = getenv(kinds[kind].variable), *inside = "";

        if (!base || base[0] != '/') {
                base = getenv("HOME");
                inside = kinds[kind].home;
        }
        if (!base || base[0] != '/')
                return -ENOENT;
        return asprintf(ret_path, "%s%s/%s", base, inside, below) < 0 ? -ENOMEM : 0;
}
