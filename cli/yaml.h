// SPDX-License-Identifier: GPL-2.0-or-later
/* yaml: JSON values as YAML 1.2 in block style, such as every YAML parser reads back as the same values */
#pragma once

#include <jansson.h>
#include <stdio.h>

/** yaml_write() - write a value as a document, with a newline at its end; -EIO. */
int yaml_write(FILE *f, const json_t *value);
