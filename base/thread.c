// SPDX-License-Identifier: GPL-2.0-or-later
/* thread: see thread.h */
#include "base/thread.h"

#include <signal.h>

int thread_spawn(pthread_t *ret_id, size_t stack, void *(*run)(void *opaque), void *opaque) {
        pthread_attr_t attr;
        sigset_t all, saved;
        int r;

        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, stack);
        sigfillset(&all);
        sigdelset(&all, SIGSYS);
        pthread_sigmask(SIG_BLOCK, &all, &saved);
        r = -pthread_create(ret_id, &attr, run, opaque);
        pthread_sigmask(SIG_SETMASK, &saved, NULL);
        pthread_attr_destroy(&attr);
        return r;
}
