// SPDX-License-Identifier: GPL-2.0-or-later
/* capability: give up what root can (capabilities(7)); system calls only, so that it may be called between fork and exec */
#pragma once

#include <stdint.h>

/**
 * capability_bound() - nothing that is executed from now on gets any
 * Without CAP_SETPCAP the bounding set stays, which does no harm beside no_new_privs.
 */
void capability_bound(void);

/** capability_keep() - have no others than these from now on, as bits by number (0 to 31), and hand none down; -errno. */
int capability_keep(uint32_t keep);

/** capability_renounce() - have none, and no way to any: no_new_privs, too; and nobody of the same user may look in (PR_SET_DUMPABLE); -errno. */
int capability_renounce(void);
