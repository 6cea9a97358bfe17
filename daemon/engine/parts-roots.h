// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * parts-roots: does an open file lie where this machine's files may lie?
 *
 * A name proves nothing: it may lead through a link, and a qcow2 image's backing file is named by whoever could write the
 * image, such as a guest that took over its VMM and wrote "/etc/shadow" into its own disk's header. So what is looked at
 * is the file that is open: the kernel's own name for it, /proc/self/fd, against the name of each root. That has to be a real one, without links:
 * who may write to the directory above a root could else put a link to everything in its place.
 */
#pragma once

#include "base/error.h"
#include "daemon/engine/parts.h"

/**
 * parts_check_roots() - must @fd be refused?
 * @options: NULL, or without roots: no limit
 * @what:    "disk", for the message
 * @path:    the name by which it was opened
 *
 * Return: 0, -EPERM with "path-outside", or -errno with "path-check".
 */
int parts_check_roots(const struct parts_options *options, int fd, const char *what, const char *path, struct error *e);
