// SPDX-License-Identifier: GPL-2.0-or-later
/* pace: see pace.h */
#include "base/pace.h"

#include "base/cleanup.h"

bool pace_needs_clock(const struct pace *p) {
        return p->patient || p->began == 0 || p->wakes + 1 >= PACE_WAKES;
}

static bool change(struct pace *p) {
        p->patient = !p->patient;
        return true;
}

/* The end of an eager window: is it time for a trial? */
static bool consider(struct pace *p, bool alone, uint64_t rate) {
        if (rate < PACE_RATE || !alone)
                return false;
        if (p->skip > 0) {
                p->skip--;
                return false;
        }
        p->eager_rate = rate;
        return change(p);
}

/* The end of a patient window: does it pay? */
static bool judge(struct pace *p, bool alone, uint64_t rate) {
        if (!alone && rate >= p->eager_rate) {
                p->backoff = 0;
                p->eager_rate = PACE_RATE / 2; /* the trial is over: from now on it must only stay worth while */
                return false;
        }
        p->backoff = MIN(p->backoff > 0 ? p->backoff * 2 : 1, PACE_SKIP_MAX);
        p->skip = p->backoff;
        return change(p);
}

bool pace_woken(struct pace *p, uint64_t work, uint64_t now) {
        uint64_t ns, rate;
        bool alone, changed;

        if (p->began == 0) {
                p->began = now;
                return false;
        }
        p->wakes++;
        p->work += work;
        if (p->wakes < PACE_WAKES && !(p->patient && now - p->began >= PACE_TRIAL_NS))
                return false;
        ns = now > p->began ? now - p->began : 1;
        rate = p->work * 1000000000u / ns;
        alone = p->work < 2 * (uint64_t)p->wakes;
        changed = p->patient ? judge(p, alone, rate) : consider(p, alone, rate);
        p->wakes = 0;
        p->work = 0;
        p->began = now;
        return changed;
}
