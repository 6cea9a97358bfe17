// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fetch: run lodge-fetch, which reads what strangers have made: indexes, downloads, disk images of foreign formats
 *
 * Its descriptors have fixed numbers; what it may do is in its job (schema: fetch_job). What it finds, or why it failed, is a JSON object
 * (fetch_result) in the result's file; whoever reads that holds it for hostile.
 */
#pragma once

#include "base/error.h"
#include "daemon/image/image.h"
#include "schema/lodge-schema.h"

enum {
        FETCH_FD_PROGRESS = 1, /* lines for the person */
        FETCH_FD_JOB = 3,
        FETCH_FD_RESULT,
        FETCH_FD_FILE, /* download: where to; unpack: where from */
        FETCH_FD_NOTE, /* download: what is needed to go on with it later */
        FETCH_FD_DISK, /* unpack: where to */
        _FETCH_FD_MAX
};

#define FETCH_RESULT_MAX (4u << 20)

struct fetch_files {
        int result, file, note, disk; /* -EBADF: not for this task */
};

/** fetch_result_file() - an empty file in memory for the result; or -errno. */
int fetch_result_file(void);

/**
 * fetch_run() - run it to its end
 * @job: without become and uid, which are filled in here: root's is run as another user
 *
 * Return: 0; -EINTR "cancelled"; or -errno, with @e from the result.
 */
int fetch_run(struct fetch_job *job, const struct fetch_files *files, const struct image_progress *progress,
              struct error *e);

/**
 * fetch_unpack() - make the empty file @to a raw disk of @from
 * @job: its format, import, own_files and reserve; the rest is filled in. Return: as fetch_run()
 */
int fetch_unpack(struct fetch_job *job, int from, int to, const struct image_progress *progress, struct error *e);

/** fetch_result_load() - read a result; what it holds of an error becomes @e and the return value. */
int fetch_result_load(int fd, struct fetch_result **ret, struct error *e);
