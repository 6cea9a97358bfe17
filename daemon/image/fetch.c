// SPDX-License-Identifier: GPL-2.0-or-later
/* fetch: see fetch.h */
#include "daemon/image/fetch.h"

#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "base/spawn.h"
#include "base/sys.h"
#include "daemon/image/run.h"

#define FETCH_USER   "lodge-fetch"
#define FALLBACK_UID 61444 /* an id that distributions give to nobody, beside the worker's */

int fetch_result_file(void) {
        int fd = memfd_create("lodge-fetch-result", MFD_CLOEXEC);

        return fd < 0 ? -errno : fd;
}

static int job_file(const struct fetch_job *job) {
        _cleanup_free_ char *text = fetch_job_format(job);
        _cleanup_close_ int fd = memfd_create("lodge-fetch-job", MFD_CLOEXEC);
        int r = !text ? -ENOMEM : fd < 0 ? -errno : io_write_all(fd, text, strlen(text));

        if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
                r = -errno;
        return r < 0 ? r : TAKE_FD(fd);
}

static int choose_user(struct fetch_job *job, struct error *e) {
        const struct passwd *user;

        job->become = geteuid() == 0;
        if (!job->become)
                return 0;
        user = getpwnam(FETCH_USER);
        job->uid = user ? user->pw_uid : FALLBACK_UID;
        if (!user && getpwuid(FALLBACK_UID))
                return error_set(e, -EEXIST, "fetch-user", "make a user for it: useradd --system " FETCH_USER,
                                 "there is no user " FETCH_USER ", and id %d belongs to somebody", FALLBACK_UID);
        return 0;
}

/* Programs open their files once more, by name: as that user, they may only if the files are its. */
static int give_files(const struct fetch_job *job, const struct fetch_files *files, struct error *e) {
        uid_t uid = (uid_t)job->uid;

        if (!job->become || (fchown(files->file, uid, uid) == 0 && fchown(files->disk, uid, uid) == 0))
                return 0;
        return error_set(e, -errno, "fetch-user", NULL, "cannot give the files to user %u", uid);
}

/* What was made is ours. */
static int take_disk_back(const struct fetch_job *job, const struct fetch_files *files, struct error *e) {
        if (!job->own_files || !job->become || fchown(files->disk, geteuid(), getegid()) == 0)
                return 0;
        return error_set(e, -errno, "fetch-user", NULL, "cannot take the disk back from user %u", (uid_t)job->uid);
}

int fetch_result_load(int fd, struct fetch_result **ret, struct error *e) {
        _cleanup_(fetch_result_freep) struct fetch_result *result = NULL;
        _cleanup_free_ char *text = NULL;
        struct stat st;
        int r = fstat(fd, &st) < 0 ? -errno : 0;

        if (r == 0 && (st.st_size <= 0 || st.st_size > FETCH_RESULT_MAX))
                r = -EPROTO;
        if (r == 0 && !(text = malloc((size_t)st.st_size)))
                r = -ENOMEM;
        if (r == 0)
                r = io_read_at(&sys_real, fd, text, (size_t)st.st_size, 0);
        if (r == 0)
                r = fetch_result_parse(text, (size_t)st.st_size, &result, NULL);
        if (r < 0)
                return error_set(e, r == -ENOMEM ? r : -EIO, "fetch-lost", "try again; the daemon's log may say more",
                                 "lodge-fetch ended before it was done");
        if (result->error.code > 0)
                return error_set_foreign(e, -(int)result->error.code, result->error.id, result->error.fix,
                                         result->error.message ?: "it failed");
        *ret = TAKE_PTR(result);
        return 0;
}

static void on_line(void *opaque, char *text) {
        const struct image_progress *p = opaque;

        if (p && p->step)
                p->step(p->opaque, text);
}

static int run(int job_fd, const struct fetch_files *files, const struct image_progress *progress, struct error *e) {
        static const char *const places[] = { ".", "../..", "../libexec/lodge", NULL };
        _cleanup_close_ int line_read = -EBADF, line_write = -EBADF;
        _cleanup_free_ char *path = NULL;
        const char *argv[] = { NULL, NULL };
        struct run_fd fds[_FETCH_FD_MAX + 1] = { { job_fd, FETCH_FD_JOB }, { STDERR_FILENO, STDERR_FILENO } };
        const struct run_fd given[] = { { files->result, FETCH_FD_RESULT },
                                        { files->file, FETCH_FD_FILE },
                                        { files->note, FETCH_FD_NOTE },
                                        { files->disk, FETCH_FD_DISK } };
        size_t n = 2;
        int p[2], r = spawn_find_beside("lodge-fetch", places, &path);

        if (r < 0)
                return error_set(e, r, "fetch-missing", "install Lodge anew", "lodge-fetch is not beside this program");
        if (pipe2(p, O_CLOEXEC) < 0)
                return -errno;
        line_read = p[0], line_write = p[1];
        fds[n++] = (struct run_fd){ line_write, FETCH_FD_PROGRESS };
        for (size_t i = 0; i < ELEMENTSOF(given); i++)
                if (given[i].from >= 0)
                        fds[n++] = given[i];
        argv[0] = path;
        return run_program(argv, fds, n, "/", line_read, on_line, (void *)(uintptr_t)progress,
                           progress ? progress->cancel_fd : -EBADF);
}

int fetch_run(struct fetch_job *job, const struct fetch_files *files, const struct image_progress *progress,
              struct error *e) {
        _cleanup_(fetch_result_freep) struct fetch_result *result = NULL;
        _cleanup_close_ int job_fd = -EBADF;
        int status, r = choose_user(job, e);

        if (r == 0 && job->own_files)
                r = give_files(job, files, e);
        if (r == 0)
                r = job_fd = job_file(job);
        if (r >= 0)
                r = run(job_fd, files, progress, e);
        if (r == -EINTR)
                return error_set(e, r, "cancelled", NULL, "it was stopped");
        if (r < 0)
                return error_set(e, r, "fetch", NULL, "cannot run lodge-fetch");
        /* Its own word about how it went; a status without one is a death. */
        if (r == 0 && job->task == FETCH_TASK_INDEX)
                return 0;
        status = r;
        r = fetch_result_load(files->result, &result, e);
        if (r == 0 && status != 0)
                r = error_set(e, -EIO, "fetch-lost", "try again; the daemon's log may say more",
                              "lodge-fetch ended with status %d", status);
        return r < 0 ? r : take_disk_back(job, files, e);
}

int fetch_unpack(struct fetch_job *job, int from, int to, const struct image_progress *progress, struct error *e) {
        _cleanup_close_ int result = fetch_result_file();
        const struct fetch_files files = { .result = result, .file = from, .note = -EBADF, .disk = to };

        job->task = FETCH_TASK_UNPACK;
        return result < 0 ? error_set(e, result, "fetch", NULL, "cannot run lodge-fetch")
                          : fetch_run(job, &files, progress, e);
}
