// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * thread: a thread that works for us and is left alone by signals
 */
#pragma once

#include <pthread.h>
#include <stddef.h>

/**
 * thread_spawn() - a thread in which all signals are blocked but SIGSYS, by which a system call filter says what was forbidden
 * @stack: bytes
 *
 * Return: 0, or -errno.
 */
int thread_spawn(pthread_t *ret_id, size_t stack, void *(*run)(void *opaque), void *opaque);
