// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * root: hand over to the system on a disk
 */
#pragma once

/**
 * root_switch() - if the kernel's command line has root=, mount that and become its init; else return
 *
 * Understands root=/dev/NAME and root=UUID=, the latter of ext4 file systems, and the words ro and rw. Waits for the
 * disk as long as it takes.
 */
void root_switch(void);
