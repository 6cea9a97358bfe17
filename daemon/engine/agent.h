// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * agent: the client side of the guest agent (qemu-guest-agent in the guest, a virtio console port in between)
 *
 * Theory of operation. The port exists before the agent does, and whatever we write waits in it, so the client knocks
 * with guest-sync-delimited and a fresh number, again and again, until that number comes back: the agent is there. Each
 * knock that waited in the port gets its own answers (one of them an error, for the byte in front), so a last guest-sync
 * with the next number follows: when that is answered, all that came before is out of the way.
 *
 *      agent_new() -> SYNCING --number--> SETTLING --next number--> READY
 *                        ^                                            |
 *                        +-------- no answer for 30 s ----------------+
 *
 * Then requests are sent one at a time, in the order in which they were made: the protocol has no reliable way to say
 * which request an answer belongs to. One that is not answered has failed, and so that its answer, if it still comes, is
 * not taken for another's, the client knocks anew. guest-shutdown is only answered when it fails: it is over when nothing has come for a while.
 *
 * A command is started by guest-exec and its end found by polling guest-exec-status, first every 10 ms, then slower and
 * slower up to 200 ms, since the agent has no event for it. Several may run at once. Their output comes with the end, up to 16 MiB a stream.
 *
 * The agent is the guest: lines are bounded, types checked, a reply of the wrong form ends the conversation.
 */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/loop.h"

struct agent;

struct agent_result {
        int status; /* exit status, or 128+n when signal n ended the command */
        char *out, *err;
        size_t out_len, err_len;
        bool out_truncated, err_truncated;
};

/*
 * A command ended (@result: 0, @value filled, borrowed), or could not be started, or lost (-EREMOTEIO, @reason: the agent's words, hostile, or ours),
 * or the conversation is over (-EPIPE).
 */
typedef void (*agent_exec_fn)(void *opaque, int result, const struct agent_result *value, const char *reason);

/* A request was answered: 0 with what "return" held, borrowed; else as above. */
typedef void (*agent_reply_fn)(void *opaque, int result, json_t *value, const char *reason);

struct agent_ops {
        void (*on_ready)(void *opaque);   /* the agent answers; again after it was lost */
        void (*on_refused)(void *opaque); /* agent_shutdown() was answered by an error */
        void (*on_end)(void *opaque,
                       int reason); /* the port closed (0), or the agent broke the protocol (-EPROTO ...) */
};

/** agent_new() - knock on @fd, a connected stream socket that stays the caller's, until somebody answers. */
int agent_new(struct loop *loop, int fd, const struct agent_ops *ops, void *opaque, struct agent **ret_agent);
void agent_free(struct agent *agent);
DEFINE_CLEANUP(agent, agent_free);

/** agent_exec() - run @command by /bin/sh -c in the guest. Return: 0, and @fn will be called; -EBUSY when the agent isn't ready, or has too much to do; -EPIPE, -errno. */
int agent_exec(struct agent *agent, const char *command, agent_exec_fn fn, void *opaque);

/**
 * agent_call() - any other request that is answered
 * @arguments: taken over, also on failure; NULL: an error, so that json_pack() can be written here
 * @fn:        NULL: nobody cares
 * Return: as agent_exec().
 */
int agent_call(struct agent *agent, const char *command, json_t *arguments, agent_reply_fn fn, void *opaque);

/** agent_forget() - nobody waits for the answers that @opaque was given for. */
void agent_forget(struct agent *agent, const void *opaque);

/** agent_shutdown() - ask the guest to power off. No answer comes: the machine's events tell. Same errors. */
int agent_shutdown(struct agent *agent);
