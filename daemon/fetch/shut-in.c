// SPDX-License-Identifier: GPL-2.0-or-later
/* shut-in: see shut-in.h */
#include "daemon/fetch/shut-in.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/landlock.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/text.h"
#include "daemon/fetch/shut-in-filter.h"
#include "daemon/wire/wire.h"

#define MEMORY_MAX      (2ull << 30) /* bytes of address space for a step */
#define ERROR_TEXT_MAX  (64u << 10)
#define ROOM_TICK_MS    20 /* what can be written in that time is far less than what is left free */
#define LANDLOCK_FS_ALL ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)
#define READ            (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define READ_FILE       LANDLOCK_ACCESS_FS_READ_FILE
#define RUN             (READ | LANDLOCK_ACCESS_FS_EXECUTE)

/* What headers of an older kernel don't have: <linux/landlock.h> of 6.2 and of 6.12. */
#define LANDLOCK_TRUNCATE  (1ull << 14) /* ABI 3 */
#define LANDLOCK_SCOPE_ALL 3ull         /* ABI 6: abstract unix sockets, signals */
#define WRITE              (READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_TRUNCATE)

struct ruleset { /* struct landlock_ruleset_attr of ABI 6 */
        uint64_t fs, net, scoped;
};

struct place {
        const char *path;
        uint64_t access; /* a file gets what of it is for files */
};

/* What resolving a name and checking a certificate read. */
static const struct place network_places[] = {
        { "/etc/resolv.conf", READ_FILE },
        { "/etc/hosts", READ_FILE },
        { "/etc/host.conf", READ_FILE },
        { "/etc/nsswitch.conf", READ_FILE },
        { "/etc/gai.conf", READ_FILE },
        { "/etc/services", READ_FILE },
        { "/etc/ld.so.cache", READ_FILE },
        { "/etc/localtime", READ_FILE },
        { "/etc/ssl/certs", READ },
        { "/etc/ca-certificates", READ },
        { "/etc/pki", READ },
        { "/etc/crypto-policies", READ },
        { "/etc/gnutls", READ },
        { "/usr/share/ca-certificates", READ },
        { "/usr/local/share/ca-certificates", READ },
        { "/usr/share/p11-kit", READ },
        { "/run/systemd/resolve", READ },
        { "/dev/urandom", READ_FILE },
        { "/usr/lib", READ },
        { "/usr/lib64", READ },
        { NULL },
};

static const struct place program_places[] = {
        { "/usr/bin", RUN },
        { "/usr/lib", RUN },
        { "/usr/lib64", RUN },
        { "/etc/ld.so.cache", READ_FILE },
        { "/dev/urandom", READ_FILE },
        { "/dev/null", READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE },
        { NULL },
};

static int allow(int ruleset, int fd, uint64_t access) {
        const struct landlock_path_beneath_attr beneath = { .allowed_access = access, .parent_fd = fd };

        return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0 ? -errno : 0;
}

static int allow_files(int ruleset, const int *files, size_t n, uint64_t access) {
        int r = 0;

        for (size_t i = 0; i < n && r == 0; i++) {
                r = allow(ruleset, files[i], access);
                if (r == -EBADFD) /* one in memory: Landlock does not look at those */
                        r = 0;
        }
        return r;
}

/* As much as this kernel's Landlock knows; shut_in_filter() refuses the calls that an old one lets by. */
static int landlock(const struct place *places, const struct shut_in_limits *limits) {
        long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
        const struct ruleset attr = { .fs = LANDLOCK_FS_ALL | (abi >= 3 ? LANDLOCK_TRUNCATE : 0),
                                      .scoped = abi >= 6 ? LANDLOCK_SCOPE_ALL : 0 };
        _cleanup_close_ int ruleset = -EBADF;
        int r = 0;

        if (abi >= 0)
                ruleset =
                        (int)syscall(SYS_landlock_create_ruleset, &attr, abi >= 6 ? sizeof(attr) : sizeof(attr.fs), 0);
        if (ruleset < 0)
                return errno == ENOSYS || errno == EOPNOTSUPP ? -EOPNOTSUPP : -errno;
        for (; places && places->path && r == 0; places++) {
                _cleanup_close_ int fd =
                        open(places->path, O_PATH | O_CLOEXEC); /* links of the system's are followed */

                if (fd >= 0)
                        r = allow(ruleset, fd, places->access);
        }
        if (r == 0)
                r = allow_files(ruleset, limits->read_files, limits->n_read_files, READ_FILE);
        if (r == 0)
                r = allow_files(ruleset, limits->write_files, limits->n_write_files, WRITE & attr.fs);
        if (r == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
                r = -errno;
        return r;
}

static int limit(int what, uint64_t value) {
        const struct rlimit l = { .rlim_cur = value, .rlim_max = value };

        return setrlimit(what, &l) < 0 ? -errno : 0;
}

static int enter(enum shut_in how, const struct shut_in_limits *limits) {
        static const struct place *const places[] = {
                [SHUT_IN_NETWORK] = network_places, [SHUT_IN_COMPUTE] = NULL, [SHUT_IN_PROGRAM] = program_places
        };
        int r = limit(RLIMIT_CORE, 0);

        signal(SIGXFSZ, SIG_IGN);
        if (r == 0)
                r = limit(RLIMIT_FSIZE, limits->file_bytes);
        if (r == 0)
                r = limit(RLIMIT_CPU, limits->cpu_seconds);
        if (r == 0 && !SANITIZED)
                r = limit(RLIMIT_AS, MEMORY_MAX);
        if (r == 0)
                r = landlock(places[how], limits);
        if (r == -EOPNOTSUPP && (how == SHUT_IN_COMPUTE || (how == SHUT_IN_NETWORK && limits->own_user)))
                r = 0;
        return r < 0 ? r : shut_in_filter(how);
}

_Noreturn static void child(enum shut_in how, const struct shut_in_limits *limits, shut_in_fn fn, void *opaque,
                            int error_fd) {
        _cleanup_error_ struct error e = ERROR_INIT;
        json_t *json;
        char *text;
        int r;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        r = enter(how, limits);
        if (r < 0)
                error_set(&e, r, "fetch-sandbox",
                          r == -EOPNOTSUPP ? "use a kernel with Landlock, 5.13 or newer, that is on (lsm=landlock)"
                                           : NULL,
                          "cannot shut in what reads foreign data");
        else
                r = fn(opaque, &e);
        if (r < 0) {
                error_set(&e, r, "fetch", NULL, "cannot do it");
                json = wire_error(&e);
                text = json ? json_dumps(json, JSON_COMPACT) : NULL;
                if (text)
                        io_write_all(error_fd, text, strlen(text));
        }
        _exit(r < 0 ? 1 : 0);
}

static int load_error(const char *text, size_t n, struct error *e) {
        json_t *json = json_loadb(text, n, 0, NULL);
        int r = json_is_object(json) ? wire_load_error(json, e) : -EIO;

        json_decref(json);
        return r < 0 ? r : -EIO;
}

static bool has_room(const struct shut_in_limits *limits) {
        struct statvfs fs;

        return limits->room_bytes == 0 || fstatvfs(limits->room_fd, &fs) < 0 ||
               (uint64_t)fs.f_bavail * fs.f_frsize >= limits->room_bytes;
}

/* What it says, up to its end, as long as there is room. Return: 0, -ENOSPC, -E2BIG, -errno. */
static int follow(pid_t pid, int said, const struct shut_in_limits *limits, char text[static ERROR_TEXT_MAX],
                  size_t *n) {
        _cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        struct pollfd p[2] = { { .fd = said, .events = POLLIN }, { .fd = pidfd, .events = POLLIN } };

        if (pidfd < 0)
                return -errno;
        for (;;) {
                int r = poll(p, 2, limits->room_bytes > 0 ? ROOM_TICK_MS : -1);

                if (r < 0 && errno != EINTR)
                        return -errno;
                if (!has_room(limits))
                        return -ENOSPC;
                if (r > 0 && p[0].revents) {
                        ssize_t k = read(said, text + *n, ERROR_TEXT_MAX - *n);

                        if (k <= 0)
                                p[0].fd = -1; /* a program has none of it */
                        else if ((*n += (size_t)k) == ERROR_TEXT_MAX)
                                return -E2BIG;
                } else if (r > 0 && p[1].revents)
                        return 0;
        }
}

static int no_room(const struct shut_in_limits *limits, struct error *e) {
        char size[TEXT_SIZE_MAX];

        return error_set(e, -ENOSPC, "image-no-space",
                         "delete images that you don't use (lodge image list), or make room: df -h",
                         "the disk is nearly full, and it would leave less than %s free",
                         text_format_size(limits->room_bytes, size));
}

int shut_in_run(enum shut_in how, const struct shut_in_limits *limits, shut_in_fn fn, void *opaque, int *ret_status,
                struct error *e) {
        _cleanup_close_ int error_read = -EBADF;
        _cleanup_free_ char *text = malloc(ERROR_TEXT_MAX);
        int p[2], status = 0, r;
        size_t n = 0;
        pid_t pid;

        if (!text || pipe2(p, O_CLOEXEC) < 0)
                return error_set(e, -errno, "fetch", NULL, "cannot make a pipe");
        error_read = p[0];
        pid = fork();
        if (pid == 0)
                child(how, limits, fn, opaque, p[1]);
        close(p[1]);
        if (pid < 0)
                return error_set(e, -errno, "fetch", NULL, "cannot start a process");
        r = follow(pid, error_read, limits, text, &n);
        if (r < 0)
                kill(pid, SIGKILL);
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return error_set(e, -errno, "fetch", NULL, "cannot wait for a process");
        if (r == -ENOSPC)
                return no_room(limits, e);
        if (n > 0)
                return load_error(text, n, e);
        status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (ret_status)
                *ret_status = status;
        if (r < 0 || (!ret_status && status != 0))
                return error_set(e, -EIO, "fetch-lost", "try again; the daemon's log may say more",
                                 "what read the foreign data ended with status %d", status);
        return 0;
}

int shut_in_seal(int fd) {
        return fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ? -errno : 0;
}

/* ---- programs ---------------------------------------------------------------------------------------------------------- */

static int become_program(void *opaque, struct error *e) {
        static char *const env[] = { (char *)"PATH=/usr/bin", (char *)"LC_ALL=C", (char *)"HOME=/nonexistent", NULL };
        const struct shut_in_program *p = opaque;
        const int given[3] = { p->stdin_fd, p->stdout_fd, p->stderr_fd };
        int moved[3], null = open("/dev/null", O_RDWR | O_CLOEXEC);

        for (int i = 0; i < 3; i++) {
                moved[i] = fcntl(given[i] >= 0 ? given[i] : null, F_DUPFD_CLOEXEC, 64);
                if (moved[i] < 0)
                        return error_set(e, -errno, "fetch", NULL, "cannot prepare a program");
        }
        for (int i = 0; i < 3; i++)
                if (dup2(moved[i], i) < 0)
                        return error_set(e, -errno, "fetch", NULL, "cannot prepare a program");
        for (size_t i = 0; i < p->n_keep; i++)
                io_set_cloexec(p->keep[i], 0);
        execve(p->path, (char *const *)p->argv, env);
        return error_set(e, -errno, "fetch-program", NULL, "cannot run %s", p->path);
}

int shut_in_program(const struct shut_in_program *program, const struct shut_in_limits *limits, int *ret_status,
                    struct error *e) {
        return shut_in_run(SHUT_IN_PROGRAM, limits, become_program, (void *)(uintptr_t)program, ret_status, e);
}
