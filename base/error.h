// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * error: what went wrong, for the program (a code), for the person (a message and a fix), and for scripts (a stable id)
 *
 * A function that can fail in a way that a person has to understand takes a `struct error *` as its last parameter and
 * fills it with error_set(), which returns the code, so that `return error_set(...)` is the whole error path. The first
 * error wins: it is nearest to the cause; later layers may add context with error_prefix().
 */
#pragma once

#include <stdarg.h>
#include <stdio.h>

struct error {
        int code;       /* negative errno; 0: no error */
        const char *id; /* stable, kebab-case, a string constant: scripts match on it */
        char *message;  /* one line, no full stop; owned */
        char *fix;      /* what the person can do, one line, may be NULL; owned */
        char *foreign;  /* what id points to when the error came from another process, else NULL; owned */
};

#define ERROR_INIT      ((struct error){ 0 })
#define _cleanup_error_ __attribute__((cleanup(error_clear)))

/**
 * error_set() - record an error
 * @e:      where to; may be NULL, then only the code is returned. If it holds an error already, that one stays.
 * @code:   negative errno
 * @id:     stable id, a string constant
 * @fix:    what to do about it (plain text, copied), or NULL
 * @format: message, printf style, without the errno's text. One that begins with "cannot" tells of something that was tried: when it is
 *          printed, the text follows it. Every other says it all
 *
 * Return: @code, always negative (0 or a positive code becomes -EIO).
 */
int error_set(struct error *e, int code, const char *id, const char *fix, const char *format, ...)
        __attribute__((format(printf, 5, 6)));

/**
 * error_set_foreign() - record an error that another process has told of
 * @id: of what it says only [a-z0-9-] is kept; NULL: none
 * Return: as error_set().
 */
int error_set_foreign(struct error *e, int code, const char *id, const char *fix, const char *message);

/** error_set_fix() - replace the fix of a recorded error by a formatted one. */
void error_set_fix(struct error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** error_prefix() - put "context: " in front of the message. */
void error_prefix(struct error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** error_clear() - release and reset. */
void error_clear(struct error *e);

/**
 * error_print() - write "program: message: errno text  [id]" and "  fix: ..." to @f
 *
 * Control characters in the message are shown escaped: messages quote hostile names.
 */
void error_print(const struct error *e, const char *program, FILE *f);

/** error_exit_status() - the exit code of the CLI for this error: 1 usage, 2 failed, 3 daemon unreachable, 4 try again. */
int error_exit_status(const struct error *e);
