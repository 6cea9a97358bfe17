// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * probe-speed: how fast is a guest beside its host, on a machine that does other things too?
 *
 * Theory of operation. Host and guest run the same loop by turns, in rounds so short (tens of microseconds) that most of them pass
 * between two decisions of a scheduler, also of one that we don't see because it is our hypervisor's. A round that something else cut
 * into looks slower than it was, never faster; so the fastest round of each side is its speed, and a single slow round says nothing.
 *
 *      - A guest that was fast once is fast: when it has come close to the host's best, SPEED_SURE, a few rounds suffice.
 *      - That a guest is slow takes many rounds: the measurement goes on until SPEED_US have passed. An interpreter is slow in each.
 *
 * A round's length follows what the guest needs for it: long enough that entering and leaving the guest doesn't count, short enough
 * that an interpreter, too, gets some rounds.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define SPEED_LOOP  10       /* instructions in a turn of the loop */
#define SPEED_US    350000.0 /* a slow guest is measured for so long */
#define SPEED_SURE  0.2      /* guest / host: above it, no more rounds are needed */
#define SPEED_TURNS 250u     /* in the first round, and the fewest */

struct probe_speed {
        uint64_t turns; /* of the loop in the next round, the host's and the guest's */
        unsigned int rounds;
        double host_mips, guest_mips; /* millions of instructions a second, the fastest round so far */
};

#define PROBE_SPEED_INIT ((struct probe_speed){ .turns = SPEED_TURNS })

/**
 * probe_speed_next() - a round is over
 * @s:          from PROBE_SPEED_INIT
 * @host_us:    what the host needed for @s->turns turns of the loop
 * @guest_us:   what the guest needed for the same
 * @passed_us:  since the first round began
 *
 * Return: true when there is another round, of @s->turns turns.
 */
bool probe_speed_next(struct probe_speed *s, double host_us, double guest_us, double passed_us);
