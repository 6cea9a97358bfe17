// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pty: run a command on a terminal of its own, for the image tiny, whose busybox has no script(1)
 *
 *      lodge-pty COMMAND       stdin -> the terminal -> stdout; the exit status is the command's
 */
#pragma once

/** pty_run() - @command by /bin/sh -c. Return: its exit status, 128 + n for signal n, or 127. */
int pty_run(const char *command);
