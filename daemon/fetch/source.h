// SPDX-License-Identifier: GPL-2.0-or-later
/* source: read a server's index, as far as its signature covers it */
#pragma once

#include "base/error.h"
#include "schema/lodge-schema.h"

/**
 * source_read() - download the index and what it names, check the signatures, and list the images
 * @out_fd: gets the list as JSON (fetch_result)
 */
int source_read(const struct fetch_job *job, int out_fd, struct error *e);
