// SPDX-License-Identifier: GPL-2.0-or-later
/* shut-in-filter: the system calls that a step may make; a part of shut-in */
#pragma once

#include "daemon/fetch/shut-in.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#        define SANITIZED 1
#elif defined(__has_feature)
#        define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#        define SANITIZED 0
#endif

/** shut_in_filter() - from now on this process, which is to be a step of that kind, makes no other calls. Return: 0 or -errno. */
int shut_in_filter(enum shut_in how);
