// SPDX-License-Identifier: GPL-2.0-or-later
/* frame: see frame.h */
#include "vmm/control/frame.h"

static bool is_space(char c) {
        return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void forget(struct frame *frame) {
        frame->len = 0;
        frame->depth = 0;
        frame->in_string = frame->escaped = frame->done = false;
}

/* A byte between objects: FRAME_MORE, or FRAME_BAD once for each line of rubbish. */
static enum frame_result between(struct frame *frame, char c) {
        if (frame->skipping) {
                frame->skipping = c != '\n';
                return FRAME_MORE;
        }
        if (is_space(c))
                return FRAME_MORE;
        frame->skipping = true;
        return FRAME_BAD;
}

/* The effect of one byte of an object on where its end is. */
static void scan(struct frame *frame, char c) {
        if (frame->in_string) {
                if (frame->escaped)
                        frame->escaped = false;
                else if (c == '\\')
                        frame->escaped = true;
                else if (c == '"')
                        frame->in_string = false;
        } else if (c == '"')
                frame->in_string = true;
        else if (c == '{' || c == '[')
                frame->depth++;
        else if (c == '}' || c == ']')
                frame->depth--;
}

enum frame_result frame_feed(struct frame *frame, const char *bytes, size_t n, size_t *at) {
        if (frame->done)
                forget(frame);
        while (*at < n) {
                char c = bytes[(*at)++];

                if (frame->depth == 0 && (frame->skipping || (c != '{' && c != '['))) {
                        enum frame_result r = between(frame, c);

                        if (r != FRAME_MORE)
                                return r;
                        continue;
                }
                if (frame->len == FRAME_SIZE_MAX)
                        return FRAME_TOO_BIG;
                frame->text[frame->len++] = c;
                scan(frame, c);
                if (frame->depth > FRAME_DEPTH_MAX)
                        return FRAME_TOO_BIG;
                if (frame->depth == 0) {
                        frame->done = true;
                        return FRAME_OBJECT;
                }
        }
        return FRAME_MORE;
}
