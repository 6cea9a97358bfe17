// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * frame: cut a stream of bytes into JSON objects
 *
 * QMP puts no length and no separator between objects, so the end of one is where its outermost bracket closes outside of a
 * string. Only brackets and strings are looked at here, one byte at a time and each once; whether the text is JSON is for the
 * parser to say.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define FRAME_SIZE_MAX  65536u /* bytes of one object */
#define FRAME_DEPTH_MAX 32u    /* nested brackets in it */

enum frame_result {
        FRAME_MORE,    /* all bytes were taken; the object goes on */
        FRAME_OBJECT,  /* @frame->text[0 .. @frame->len) is one whole object or array */
        FRAME_BAD,     /* something that begins no object; all up to the end of its line is skipped */
        FRAME_TOO_BIG, /* longer or deeper than allowed: there is no way to go on */
};

struct frame {
        size_t len;
        unsigned int depth;
        bool in_string, escaped, skipping, done;
        char text[FRAME_SIZE_MAX];
};

/**
 * frame_feed() - take bytes until an object ends or they do
 * @frame: zeroed at first; its text stays valid until the next call
 * @at:    in and out: how many of @n bytes are taken
 */
enum frame_result frame_feed(struct frame *frame, const char *bytes, size_t n, size_t *at);
