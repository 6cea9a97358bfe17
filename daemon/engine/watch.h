// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * watch: what whoever started a machine has to look after while it runs, in the foreground or in a keeper
 *
 *      the VMM's process       its end
 *      what it writes          kept, the last of it, for the report when something fails
 *      swtpm                   its end, and what it said before: the guest's TPM answers no more
 *      passt                   its end, and what it said before: the machine runs on without that interface
 *      lodge-vmm's requests    for connections to the back ends of vhost-user disks, which are answered here
 *
 * Everything is told once: a back end that is lost when its loss is noticed, and when it is back.
 */
#pragma once

#include "base/cleanup.h"
#include "base/loop.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/parts.h"
#include "daemon/engine/tail.h"

struct watch;

/* Each may be NULL. */
struct watch_ops {
        void (*on_end)(void *opaque); /* the VMM has ended; it is not reaped */
        void (*on_net_dead)(void *opaque, size_t index, int status, const char *reason); /* @reason: hostile */
        void (*on_tpm_dead)(void *opaque, int status, const char *reason);               /* as on_net_dead */
        void (*on_backend)(void *opaque, size_t index, bool lost);
};

/**
 * watch_new() - begin
 * @engine, @parts: borrowed, until watch_free()
 * Return: 0 or -errno.
 */
int watch_new(struct loop *loop, const struct engine *engine, struct parts *parts, const struct watch_ops *ops,
              void *opaque, struct watch **ret_watch);

/** watch_drain() - read what the VMM had left to say when it ended. */
void watch_drain(struct watch *watch);

/** watch_log() - the last of what the VMM wrote; NULL when there was nothing. */
const struct tail *watch_log(const struct watch *watch);

/** watch_free() - NULL is fine. */
void watch_free(struct watch *watch);
DEFINE_CLEANUP(watch, watch_free);
