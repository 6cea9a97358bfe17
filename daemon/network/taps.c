// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * taps: what went through machines' taps (network.h)
 *
 * The kernel counts, for both engines alike, and keeps the counters for as long as the tap is there: it is made anew at each start of its machine.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/network/driver.h"
#include "daemon/network/link.h"
#include "daemon/network/state.h"

/* "lodge NETWORK MACHINE" */
static bool tap_of(const struct link_info *l, struct network_tap *ret_tap) {
        struct network_tap t = { .counters = l->counters };
        int end = 0;

        if (!streq(l->kind, "tun") || sscanf(l->alias, "lodge %63s %63s%n", t.network, t.machine, &end) != 2 ||
            l->alias[end] != '\0' || !state_name_ok(t.network) || !state_name_ok(t.machine))
                return false;
        memcpy(t.interface, l->name, sizeof(t.interface));
        *ret_tap = t;
        return true;
}

int network_taps(struct network_ctx *ctx, struct network_tap **ret_taps, size_t *ret_n, struct error *e) {
        _cleanup_free_ struct link_info *links = NULL;
        struct network_tap *taps;
        size_t n_links, n = 0;
        int r = link_list(ctx->netlink, &links, &n_links);

        if (r < 0)
                return error_set(e, r, "network-link", NULL, "cannot list the host's interfaces");
        taps = calloc(n_links + 1, sizeof(*taps));
        if (!taps)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot list the host's interfaces");
        for (size_t i = 0; i < n_links; i++)
                if (tap_of(&links[i], &taps[n]))
                        n++;
        *ret_taps = taps;
        *ret_n = n;
        return 0;
}
