// SPDX-License-Identifier: GPL-2.0-or-later
/* fault: see fault.h */
#include "base/fault.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void fault_arm(struct fault *f, const char *process) {
        const char *at = getenv(FAULT_ENVIRONMENT);
        size_t n = strlen(process);

        *f = (struct fault){ 0 };
        for (; at && *at; at += strcspn(at, ","), at += *at == ',') {
                if (strncmp(at, process, n) != 0 || at[n] != ':')
                        continue;
                f->process = process;
                snprintf(f->point, sizeof(f->point), "%.*s", (int)strcspn(at + n + 1, ","), at + n + 1);
                return;
        }
}

/* Where the sandbox allows no signals, the end that runs nothing and writes nothing is the same. */
static void die(void) {
        kill(getpid(), SIGKILL);
        _exit(128 + SIGKILL);
}

void fault_point(struct fault *f, const char *what, const char *when) {
        char name[sizeof(f->point)], number[32], line[160];
        int n;

        if (!f->process)
                return;
        snprintf(name, sizeof(name), "%s.%s", what, when);
        snprintf(number, sizeof(number), "%lu", ++f->count);
        n = snprintf(line, sizeof(line), "fault: %s %s %s\n", f->process, number, name);
        (void)!write(STDERR_FILENO, line, (size_t)n);
        if (strcmp(f->point, name) == 0 || strcmp(f->point, number) == 0)
                die();
}
