// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * state: the files of networks and ports (network.h names them). A file is replaced whole: temporary file, fsync, rename
 */
#pragma once

#include <stdio.h>

#include "daemon/network/driver.h"

/** state_write() - replace a file below @dir_fd; its temporary is ".NAME.tmp" beside it; -errno. */
int state_write(int dir_fd, const char *name, const char *text, mode_t mode);

/** state_read() - a whole file, NUL-terminated, at most 8 MiB; -errno. */
int state_read(int dir_fd, const char *name, char **ret_text);

/** state_remove() - remove a file; 0 if there is none. */
int state_remove(int dir_fd, const char *name);

/** state_name_ok() - may this be the name of a network or machine? Lower case letters, digits and hyphens: no path leads anywhere else. */
bool state_name_ok(const char *name);

/** state_boot_id() - which boot of the host this is, allocated; NULL if it can't be told. */
char *state_boot_id(void);

/** state_open() - the directory of a network; with @make, it and those below it are made; -errno (-EINVAL: no name). */
int state_open(struct network_ctx *ctx, const char *network, bool make);

/** state_path() - allocated "<state>/NETWORK/NAME"; @name NULL: of the directory. */
char *state_path(struct network_ctx *ctx, const char *network, const char *name);

/** state_networks() - the names of all networks that have a directory; allocated, and each; NULL-terminated. */
int state_networks(struct network_ctx *ctx, char ***ret_names);
void state_names_free(char **names);

/** state_config_load() - the configuration as it was last in force; -ENOENT when it never was. */
int state_config_load(struct network_ctx *ctx, const char *network, struct network_config **ret, struct error *e);
int state_config_save(struct network_ctx *ctx, const struct network_config *c, struct error *e);

/** state_ports_load() - all ports of a network; none when it has no directory. A file that can't be understood is an error. */
int state_ports_load(struct network_ctx *ctx, const char *network, struct network_ports *ret, struct error *e);
void state_ports_clear(struct network_ports *ports);
#define _cleanup_ports_ _cleanup_(state_ports_clear)

/** state_port_find() - or NULL. */
struct network_port *state_port_find(const struct network_ports *ports, const char *machine);

/** state_port_add() - put a port into the list, which owns it from now on (and when this fails, too); -ENOMEM. */
int state_port_add(struct network_ports *ports, struct network_port *port);

/** state_port_save(), state_port_remove() - its file */
int state_port_save(struct network_ctx *ctx, const char *network, const struct network_port *port, struct error *e);
int state_port_remove(struct network_ctx *ctx, const char *network, const char *machine, struct error *e);

/** state_delete() - a network's directory with all in it. */
int state_delete(struct network_ctx *ctx, const char *network, struct error *e);
