// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * driver: one type of network. network.c checks, loads and calls; see there for what each operation has to do
 *
 * A driver's functions are idempotent and leave no process, interface or rule that network.h does not name.
 */
#pragma once

#include "daemon/network/network.h"

struct nft_ctx;
struct nl_sock;

struct network_ctx {
        char *state_dir;
        int fd; /* of state_dir */
        struct nl_sock *netlink;
        struct nft_ctx *nft;
};

struct network_ports {
        struct network_port **items; /* sorted by machine */
        size_t n;
};

struct network_driver_ops {
        enum network_type type;
        int (*up)(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                  struct network_notes *repairs, struct error *e);
        int (*down)(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                    struct error *e);
        /* Problems and warnings; *@ret_pieces: how many of its parts are there at all. */
        int (*status)(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                      struct network_status *status, unsigned int *ret_pieces, struct error *e);
        /* @port is in @ports, with its addresses, and is kept already. */
        int (*attach)(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                      struct network_port *port, struct error *e);
        int (*detach)(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                      const struct network_port *port, struct error *e);
        int (*set_forwards)(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                            struct error *e);
};

/* driver-nat.c */
extern const struct network_driver_ops network_driver_nat;
