// SPDX-License-Identifier: GPL-2.0-or-later
/* xdg: a person's own directories (XDG Base Directory Specification 0.8) */
#pragma once

enum xdg { XDG_CONFIG, XDG_DATA, XDG_CACHE };

/**
 * xdg_path() - where a file or directory of ours belongs: "lodge/images" in XDG_DATA is ~/.local/share/lodge/images
 * @below: what comes below the person's directory
 *
 * Variables that hold a relative path are passed over, as the specification says.
 * Return: 0 with @ret_path, allocated; -ENOENT when neither the variable nor HOME says where; -ENOMEM.
 */
int xdg_path(enum xdg kind, const char *below, char **ret_path);
