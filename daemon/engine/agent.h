// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * agent: the client side of the guest agent (qemu-guest-agent in the guest, a virtio console port in between)
 *
 * Theory of operation. The port exists before the agent does, and whatever we write waits in it, so the client knocks
 * with guest-sync-delimited and a fresh number, again and again, until that number comes back: the agent is there. Each
 * knock that waited in the port gets its own answers (one of them an error, for the byte in front), so a last guest-sync
 * with the next number follows: when that is answered, all that came before is out of the way. Then one request at a
 * time is open.
 *
 *      agent_new() -> SYNCING --number--> SETTLING --next number--> READY --agent_exec()--> RUNNING --exited--> READY
 *
 * A command is started by guest-exec and its end found by polling guest-exec-status, first every 10 ms, then slower and
 * slower up to 200 ms, since the agent has no event for it. Its output comes with the end, up to 16 MiB a stream.
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

struct agent_ops {
        void (*on_ready)(void *opaque); /* the agent answers; once */
        /*
         * The command given to agent_exec() ended (@result: 0, @value filled, borrowed), or could not be started
         * (@result: -EREMOTEIO, @reason: the agent's words, hostile).
         */
        void (*on_exec)(void *opaque, int result, const struct agent_result *value, const char *reason);
        void (*on_refused)(void *opaque); /* agent_shutdown() was answered by an error */
        void (*on_end)(void *opaque,
                       int reason); /* the port closed (0), or the agent broke the protocol (-EPROTO ...) */
};

/** agent_new() - knock on @fd, a connected stream socket that stays the caller's, until somebody answers. */
int agent_new(struct loop *loop, int fd, const struct agent_ops *ops, void *opaque, struct agent **ret_agent);
void agent_free(struct agent *agent);
DEFINE_CLEANUP(agent, agent_free);

/** agent_exec() - run @command by /bin/sh -c in the guest. Return: 0, -EBUSY when one runs or the agent isn't ready, -errno. */
int agent_exec(struct agent *agent, const char *command);

/** agent_shutdown() - ask the guest to power off. No answer comes: the machine's events tell. Same errors. */
int agent_shutdown(struct agent *agent);

/**
 * agent_decode_base64() - decode RFC 4648 text
 * @ret_data: allocated, NUL-terminated behind the data
 * Return: 0, -EINVAL, -ENOMEM.
 */
int agent_decode_base64(const char *text, size_t n, char **ret_data, size_t *ret_len);
