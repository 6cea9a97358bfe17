// SPDX-License-Identifier: GPL-2.0-or-later
/* probe-speed: see probe-speed.h */
#include "daemon/host/probe-speed.h"

#include "base/cleanup.h"

#define ROUNDS_MIN 5
#define ROUND_US   500.0 /* what a guest's round should take: entering and leaving it doesn't count beside that */
#define TURNS_MAX  32000u

static double mips(const struct probe_speed *s, double us) {
        return (double)s->turns * SPEED_LOOP / MAX(us, 0.1); /* clocks may stand still for so long */
}

bool probe_speed_next(struct probe_speed *s, double host_us, double guest_us, double passed_us) {
        uint64_t turns;

        s->rounds++;
        s->host_mips = MAX(s->host_mips, mips(s, host_us));
        s->guest_mips = MAX(s->guest_mips, mips(s, guest_us));
        /* By the fastest round: were it by the last one, a single slow round would make the next ones too short to be fast. */
        turns = (uint64_t)(s->guest_mips * ROUND_US / SPEED_LOOP);
        turns = MAX(turns, (uint64_t)SPEED_TURNS);
        s->turns = MIN(turns, (uint64_t)TURNS_MAX);
        if (passed_us >= SPEED_US)
                return false;
        return s->rounds < ROUNDS_MIN || s->guest_mips < s->host_mips * SPEED_SURE;
}
