// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disk: a file whose power can fail
 *
 * Every change that reaches the file through disk_sys is also kept in a log until the next fdatasync(). A power cut then leaves what was
 * synced, and of what came after any part that the kernel might have written back: any sectors of any writes, in any order. A kill
 * of the process leaves everything. Errors and short transfers are injected at random.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/sys.h"

struct random {
        uint64_t state;
};
uint64_t random_next(struct random *r);
uint64_t random_below(struct random *r, uint64_t n); /* n > 0 */

extern struct sys disk_sys;

/** disk_start() - a file of its own, empty; one at a time. Returns its descriptor. */
int disk_start(struct random *r);
void disk_end(void);

/** disk_faults() - from now on one call in @one_in fails (0: none); and after @calls more changes nothing works any more (0: never). */
void disk_faults(unsigned int one_in, unsigned int calls);
bool disk_is_dead(void);
uint64_t disk_n_failed(void);

/** disk_cut() - the power fails (or, with @kill, only the process dies): the file then holds what is left. Faults end. */
void disk_cut(bool kill);

/** disk_check_qemu() - the exit status of qemu-img check, without backing images (127: not installed). @quiet: without its findings. */
int disk_check_qemu(int fd, bool quiet);
