// SPDX-License-Identifier: GPL-2.0-or-later
/* notes: see notes.h */
#include "daemon/network/notes.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int note_add(struct network_notes *notes, const char *id, const char *fix, const char *format, ...) {
        struct network_note note = { .id = id }, *items;
        va_list ap;
        int r;

        if (!notes)
                return 0;
        va_start(ap, format);
        r = vasprintf(&note.message, format, ap);
        va_end(ap);
        if (r < 0)
                return -ENOMEM;
        note.fix = fix ? strdup(fix) : NULL;
        items = !fix || note.fix ? reallocarray(notes->items, notes->n + 1, sizeof(*items)) : NULL;
        if (!items) {
                free(note.message);
                free(note.fix);
                return -ENOMEM;
        }
        notes->items = items;
        items[notes->n++] = note;
        return 0;
}

void network_notes_clear(struct network_notes *notes) {
        for (size_t i = 0; i < notes->n; i++) {
                free(notes->items[i].message);
                free(notes->items[i].fix);
        }
        free(notes->items);
        *notes = (struct network_notes){ 0 };
}
