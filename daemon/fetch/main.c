// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lodge-fetch: read what strangers have made
 *
 * Started by the broker's child that pulls an image, and by `lodge image import`; does one job (daemon/image/fetch.h) and ends. It gives up its user, where it is
 * root's, and all privileges first; what parses foreign bytes then runs in children that are shut in further: shut-in.h. vmdk and vhdx are opened again by
 * qemu-img by their descriptor, which another user may not do: for these, which only a person brings, the user stays, and Landlock alone says what can be opened.
 *
 * Threads: one.
 */
#include <errno.h>
#include <grp.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/capability.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "daemon/fetch/download.h"
#include "daemon/fetch/sha512.h"
#include "daemon/fetch/shut-in.h"
#include "daemon/fetch/source.h"
#include "daemon/fetch/unpack.h"
#include "daemon/image/fetch.h"

#define JOB_MAX (1u << 20)

static int load_job(struct fetch_job **ret, struct error *e) {
        _cleanup_free_ char *text = NULL;
        size_t n;
        int r = io_read_all(FETCH_FD_JOB, JOB_MAX, &text, &n);

        return r < 0 ? error_set(e, r, "fetch-job", NULL, "cannot read the job") : fetch_job_parse(text, n, ret, e);
}

static int become(const struct fetch_job *job, struct error *e) {
        bool same = job->task == FETCH_TASK_UNPACK && job->import && !job->own_files &&
                    (job->format == FETCH_FORMAT_VMDK || job->format == FETCH_FORMAT_VHDX);
        int r;

        if (job->become && !same) {
                gid_t gid = (gid_t)job->uid;
                uid_t uid = (uid_t)job->uid;

                if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
                        return error_set(e, -errno, "fetch-user", NULL, "cannot become user %u", uid);
        }
        r = capability_renounce();
        return r < 0 ? error_set(e, r, "fetch-sandbox", NULL, "cannot give up privileges") : 0;
}

static int check_digest(const char *url, const char *digest, struct error *e) {
        char hex[SHA512_HEX_SIZE] = "";
        int r = strlen(digest) == SHA256_HEX_SIZE - 1 ? sha256_fd(FETCH_FD_FILE, hex, NULL)
                                                      : sha512_fd(FETCH_FD_FILE, hex);

        if (r < 0)
                return error_set(e, r, "fetch", NULL, "cannot read what has come");
        if (!streq(hex, digest))
                return error_set(
                        e, -EBADMSG, "fetch-checksum",
                        "pull it again: the server may have had a new one meanwhile; if this comes again, don't use it",
                        "%s is not what its index says: its checksum is another", url);
        return 0;
}

static int do_download(const struct fetch_job *job, struct error *e) {
        int r;

        if (!job->url || !job->digest)
                return error_set(e, -EINVAL, "fetch-job", NULL, "the job names no file, or no checksum");
        r = download_run(&(const struct download){ .url = job->url,
                                                   .fd = FETCH_FD_FILE,
                                                   .note_fd = FETCH_FD_NOTE,
                                                   .size = job->size,
                                                   .reserve = job->reserve,
                                                   .own_user = job->become,
                                                   .size_max = job->size > 0 ? job->size : job->size_max },
                         e);
        if (r < 0)
                return r;
        dprintf(FETCH_FD_PROGRESS, "comparing the checksum\n");
        return check_digest(job->url, job->digest, e);
}

static int do_job(const struct fetch_job *job, struct error *e) {
        switch (job->task) {
        case FETCH_TASK_INDEX:
                return job->url ? source_read(job, FETCH_FD_RESULT, e)
                                : error_set(e, -EINVAL, "fetch-job", NULL, "the job names no source");
        case FETCH_TASK_DOWNLOAD:
                return do_download(job, e);
        case FETCH_TASK_UNPACK:
                dprintf(FETCH_FD_PROGRESS, "unpacking the disk\n");
                if (!job->import && (job->format == FETCH_FORMAT_VMDK || job->format == FETCH_FORMAT_VHDX))
                        return error_set(e, -EINVAL, "fetch-job", NULL, "only an import may be vmdk or vhdx");
                return unpack_run(job->format, FETCH_FD_FILE, FETCH_FD_DISK, job->reserve, e);
        default:
                return error_set(e, -EINVAL, "fetch-job", NULL, "there is no such task");
        }
}

/* The words for whoever started us; what an index had in it before is no more. */
static void say(int r, const struct error *e) {
        json_t *object = json_object();
        char *text;

        if (r < 0)
                json_object_set_new(object, "error",
                                    json_pack("{s:s?, s:s?, s:s*, s:i}", "id", e->id, "message", e->message, "fix",
                                              e->fix, "code", -r));
        text = json_dumps(object, JSON_COMPACT);
        if (text && ftruncate(FETCH_FD_RESULT, 0) == 0)
                (void)!pwrite(FETCH_FD_RESULT, text, strlen(text), 0);
        free(text);
        json_decref(object);
}

int main(void) {
        _cleanup_(fetch_job_freep) struct fetch_job *job = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        int r;

        signal(SIGPIPE, SIG_IGN);
        prctl(PR_SET_NAME, "lodge-fetch");
        umask(077);
        for (int fd = FETCH_FD_JOB; fd < _FETCH_FD_MAX; fd++)
                io_set_cloexec(fd, true); /* programs get what they are to have, and no more */
        r = load_job(&job, &e);
        if (r == 0)
                r = become(job, &e);
        if (r == 0)
                r = do_job(job, &e);
        if (r < 0)
                error_set(&e, r, "fetch", NULL, "cannot do it");
        if (r < 0 || job->task != FETCH_TASK_INDEX)
                say(r, &e);
        return r < 0 ? 2 : 0;
}
