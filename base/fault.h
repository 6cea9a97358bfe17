// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fault: points at which a process of the daemon kills itself, for the tests that kill it everywhere
 *
 * Theory of operation. A daemon that is started with LODGED_TEST_KILL in its environment, which is its administrator's, counts the points that it passes, tells of
 * each on its standard error ("fault: broker 3 machine-start.done"), and dies by SIGKILL at the one that was chosen:
 *
 *      LODGED_TEST_KILL=PROCESS:POINT[,PROCESS:POINT...]
 *      PROCESS     broker, worker, or task: a child of the broker that does something that lasts
 *      POINT       N, the N-th one that is passed; WHAT.WHEN, the first one of that name; 0: none, only tell
 *
 * So a test counts the points of an operation first, and then kills at each of them. Whoever starts a process again after its death does so without the variable:
 * it must not die for ever. Without the variable a point costs one comparison.
 */
#pragma once

#include <stdbool.h>

#define FAULT_ENVIRONMENT "LODGED_TEST_KILL"

/* All zero: no faults. */
struct fault {
        const char *process; /* NULL: not armed */
        char point[64];
        unsigned long count;
};

/** fault_arm() - look into the environment whether this @process (a constant) is to die, and where. */
void fault_arm(struct fault *f, const char *process);

/** fault_point() - a place where a kill could matter; @what, @when: a few words without spaces. */
void fault_point(struct fault *f, const char *what, const char *when);
