// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fault: the n-th allocation, read or write of a thread fails
 *
 * Allocations are met through the linker's --wrap (meson.build names them), the others through a table of calls. What is counted is
 * counted in the thread that armed the fault only, so that it happens at the same place each time.
 */
#pragma once

#include <stdbool.h>

#include "base/sys.h"

enum fault {
        NOTHING,
        MEMORY,      /* one allocation */
        READ_ERROR,  /* one read, with -EIO */
        WRITE_ERROR, /* one change or sync, with -EIO */
        LATE_ERROR,  /* one write, with -EIO, but it arrives all the same */
        NO_SPACE,    /* every change and sync from then on, with -ENOSPC */
        FAULT_COUNT
};

/** fault_arm() - the @n-th call of its kind fails, counted from now on, from 1 */
void fault_arm(enum fault kind, unsigned int n);

/** fault_disarm() - nothing fails any more; did it happen? */
bool fault_disarm(void);

/** fault_sys() - the calls for a file */
struct sys fault_sys(void);
