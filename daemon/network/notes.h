// SPDX-License-Identifier: GPL-2.0-or-later
/* notes: lists of struct network_note */
#pragma once

#include "daemon/network/network.h"

/** note_add() - append; @notes may be NULL, @fix is copied and may be NULL. -ENOMEM. */
int note_add(struct network_notes *notes, const char *id, const char *fix, const char *format, ...)
        __attribute__((format(printf, 4, 5)));
