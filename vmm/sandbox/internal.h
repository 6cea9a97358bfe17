// SPDX-License-Identifier: GPL-2.0-or-later
/* internal: what the filters' compiler and their loader share, and nobody else sees */
#pragma once

/* Stands in a filter for the process's own id, which is put in when the filter is loaded. No valid pid is this large. */
#define SANDBOX_PID 0x7f504944u
