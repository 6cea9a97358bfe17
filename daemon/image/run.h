// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * run: a program with all its descendants, that ends when we end
 *
 * Theory of operation. A build calls mmdebstrap, which has dozens of children, mounts and a temporary directory of
 * its own. When the person presses Ctrl-C, or we are killed, nothing of that may stay. So between us and the program
 * stands a keeper: the leader of a process group, told by the kernel when its parent dies (PR_SET_PDEATHSIG). It
 * passes SIGTERM to the group, gives it ten seconds to clean up, and then kills it.
 */
#pragma once

#include <stddef.h>

struct run_fd {
        int from; /* a descriptor of ours */
        int as;   /* its number in the program: 0..19 */
};

/**
 * run_program() - run and wait
 * @argv:      program (looked up in PATH) and arguments
 * @fds:       what it gets besides; 0, 1 and 2 are /dev/null unless they are named
 * @dir:       its working directory
 * @line_fd:   read end of a pipe to be read while it runs, line by line, or -EBADF
 * @line:      called with each line
 * @cancel_fd: when it becomes readable, the program is ended; or -EBADF
 *
 * Return: its exit status (128 + signal for a death by signal), -EINTR when it was cancelled, or -errno.
 */
int run_program(const char *const *argv, const struct run_fd *fds, size_t n_fds, const char *dir, int line_fd,
                void (*line)(void *opaque, char *text), void *opaque, int cancel_fd);
