// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * copy: lodge cp: files into a guest and out of it, by its agent
 *
 * A file goes in parts of half a MiB, each a request of its own. It gets its name when it is whole: on this side as base/new-file.h does it; in the guest it is written beside
 * its place and renamed, with the mode of the original. A directory goes as tar(1) packs it, on both sides: "-" on a pipe here, a file that is removed again there.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/new-file.h"
#include "base/spawn.h"
#include "base/text.h"
#include "cli/ask.h"

#define PART_MAX      (512u << 10)
#define GUEST_TIMEOUT 3600 /* seconds, of a command on many files */
#define SHOW_EVERY_NS 200000000u

struct copy {
        struct ask *a;
        char *machine;
        const char *theirs, *ours; /* paths in the guest and here */
        bool recursive, up;
        char *place;   /* in the guest, once it is known whether `theirs` is a directory */
        char *partial; /* in the guest: the file beside it; NULL: none */
        unsigned int mode;
        uint64_t done, total, began_ns, shown_ns;
};

static void copy_clear(struct copy *c) {
        free(c->machine);
        free(c->place);
        free(c->partial);
}

static int out_of_memory(struct error *e) {
        return error_set(e, -ENOMEM, "memory", NULL, "cannot copy");
}

/* ---- the guest's side ------------------------------------------------------------------------------------------------ */

/* A command in the guest; its output is allocated. Return: its status, or -errno. */
static int guest_run(struct copy *c, const char *command, char **ret_output, struct error *e) {
        struct client_call call = { .route = ROUTE_MACHINE_EXEC,
                                    .parameter = c->machine,
                                    .timeout_s = GUEST_TIMEOUT + 60 };
        json_auto_t *body = json_pack("{s:s, s:i}", "command", command, "timeout", GUEST_TIMEOUT), *result = NULL;
        _cleanup_free_ char *text = body ? json_dumps(body, 0) : NULL;
        const char *messages;
        int r;

        if (!text)
                return out_of_memory(e);
        call.body = text;
        r = client_call(c->a->client, &call, &result, e);
        if (r < 0)
                return r;
        if (ret_output) {
                *ret_output = strdup(json_string_value(json_object_get(result, "output")) ?: "");
                if (!*ret_output)
                        return out_of_memory(e);
        }
        r = (int)json_integer_value(json_object_get(result, "status"));
        messages = json_string_value(json_object_get(result, "messages")) ?: "";
        if (r != 0)
                error_set(e, -EPROTO, "guest-file", NULL, "%s: %.*s", c->machine,
                          (int)MIN(strcspn(messages, "\n"), 500u), *messages ? messages : "the guest refuses");
        return r;
}

/* As guest_run(), of a script whose $1 is @word; any status but 0 is a failure. */
static int guest_script(struct copy *c, const char *script, const char *word, const char *word2, char **ret_output,
                        struct error *e) {
        _cleanup_free_ char *one = text_shell_quote(word), *two = text_shell_quote(word2), *command = NULL;
        int r;

        if (!one || !two || asprintf(&command, "set -- %s %s; %s", one, two, script) < 0) {
                command = NULL;
                return out_of_memory(e);
        }
        r = guest_run(c, command, ret_output, e);
        return r > 0 ? -EPROTO : r;
}

static void show(struct copy *c, bool last) {
        char done[TEXT_SIZE_MAX], total[TEXT_SIZE_MAX], rate[TEXT_SIZE_MAX];
        uint64_t now = clock_ns(), ms = (now - c->began_ns) / 1000000;

        if (!isatty(STDERR_FILENO) || !ask_is_people(c->a) || (!last && now - c->shown_ns < SHOW_EVERY_NS))
                return;
        c->shown_ns = now;
        if (last) {
                fputs("\r\033[K", stderr);
                return;
        }
        fprintf(stderr, "\r\033[K%s", text_format_size(c->done, done));
        if (c->total)
                fprintf(stderr, " of %s", text_format_size(c->total, total));
        fprintf(stderr, ", %s/s", text_format_size(c->done * 1000 / (ms ?: 1), rate));
        fflush(stderr);
}

static int put_part(struct copy *c, const char *data, size_t n, struct error *e) {
        struct client_call call = { .route = ROUTE_MACHINE_FILE_WRITE, .parameter = c->machine };
        _cleanup_free_ char *b64 = base64_encode(data, n), *text = NULL;
        json_auto_t *body = json_pack("{s:s, s:I, s:s*}", "path", c->partial, "offset", (json_int_t)c->done, "content",
                                      n > 0 ? b64 : NULL),
                    *answer = NULL;
        int r;

        text = b64 && body ? json_dumps(body, 0) : NULL;
        if (!text)
                return out_of_memory(e);
        call.body = text;
        r = client_call(c->a->client, &call, &answer, e);
        if (r == 0 && (size_t)json_integer_value(json_object_get(answer, "size")) != n)
                r = error_set(e, -ENOSPC, "guest-file", "make room in the guest", "the guest took only a part of %s",
                              c->ours);
        return r;
}

/* All that comes from @fd, into the partial file: a new one, which the guest's other users cannot read. */
static int put_all(struct copy *c, int fd, struct error *e) {
        _cleanup_free_ char *buf = malloc(PART_MAX);
        size_t n;
        int r = buf ? guest_script(c, "umask 077; set -C; : >\"$1\"", c->partial, "", NULL, e) : out_of_memory(e);

        do {
                for (n = 0; r == 0 && n < PART_MAX;) {
                        ssize_t got = read(fd, buf + n, PART_MAX - n);

                        if (got == 0)
                                break;
                        if (got < 0 && errno != EINTR)
                                r = error_set(e, -errno, "copy-read", NULL, "cannot read %s", c->ours);
                        if (got > 0)
                                n += (size_t)got;
                }
                if (r == 0 && (n > 0 || c->done == 0)) {
                        r = put_part(c, buf, n, e);
                        c->done += n;
                        show(c, false);
                }
        } while (r == 0 && n == PART_MAX);
        return r;
}

static int get_part(struct copy *c, const char *path, unsigned char **ret_data, size_t *ret_n, bool *ret_eof,
                    struct error *e) {
        struct client_call call = { .route = ROUTE_MACHINE_FILE_READ, .parameter = c->machine };
        _cleanup_free_ char *query = NULL, *offset = NULL;
        json_auto_t *answer = NULL;
        const char *content;
        int r;

        if (asprintf(&offset, "%llu", (unsigned long long)c->done) < 0) {
                offset = NULL;
                return out_of_memory(e);
        }
        if (client_query_add(&query, "path", path) < 0 || client_query_add(&query, "offset", offset) < 0)
                return out_of_memory(e);
        call.query = query;
        r = client_call(c->a->client, &call, &answer, e);
        if (r < 0)
                return r;
        content = json_string_value(json_object_get(answer, "content")) ?: "";
        *ret_eof = json_is_true(json_object_get(answer, "eof"));
        if (base64_decode(content, strlen(content), ret_data, ret_n) < 0)
                return error_set(e, -EPROTO, "daemon-answer", NULL, "the daemon's answer is no part of a file");
        return 0;
}

/* All of a file in the guest, to @fd. */
static int get_all(struct copy *c, const char *path, int fd, struct error *e) {
        bool eof = false;
        int r = 0;

        while (r == 0 && !eof) {
                _cleanup_free_ unsigned char *data = NULL;
                size_t n = 0;

                r = get_part(c, path, &data, &n, &eof, e);
                if (r == 0 && n > 0)
                        r = io_write_all(fd, data, n);
                if (r < 0 && e->code == 0)
                        error_set(e, r, "copy-write", NULL, "cannot write %s", c->ours);
                c->done += n;
                eof = eof || n == 0;
                show(c, false);
        }
        return r;
}

/* ---- up -------------------------------------------------------------------------------------------------------------- */

static const char *base_of(const char *path) {
        const char *slash = strrchr(path, '/');

        return slash && slash[1] ? slash + 1 : path;
}

/* Where it goes: into a directory, under the name that it has here. And the file beside that. */
static int place_find(struct copy *c, struct error *e) {
        static const char script[] =
                "if [ -d \"$1\" ]; then p=${1%/}/$2; else p=$1; fi; d=${p%/*}; [ -d \"${d:-/}\" ] || {"
                " echo \"there is no directory ${d:-/}\" >&2; exit 1; }; printf %s \"$p\"";
        unsigned int random;
        int r = guest_script(c, script, c->theirs, streq(c->ours, "-") ? "stdin" : base_of(c->ours), &c->place, e);

        if (r < 0)
                return r;
        if (getrandom(&random, sizeof(random), 0) != sizeof(random) ||
            asprintf(&c->partial, "%s.lodge-%08x", c->place, random) < 0) {
                c->partial = NULL;
                return out_of_memory(e);
        }
        return 0;
}

static void partial_drop(struct copy *c) {
        _cleanup_error_ struct error e = ERROR_INIT;

        c->a->client->stop_fd = -EBADF; /* also after Ctrl-C */
        if (c->partial)
                guest_script(c, "rm -f \"$1\"", c->partial, "", NULL, &e);
}

static int tar_start(struct copy *c, const char *const *argv, bool writes, int *ret_fd, pid_t *ret_pid, int *ret_pidfd,
                     struct error *e) {
        _cleanup_close_ int ours = -EBADF, theirs = -EBADF;
        int pair[2], r;

        if (pipe2(pair, O_CLOEXEC) < 0)
                return error_set(e, -errno, "copy-tar", NULL, "cannot run tar");
        ours = pair[writes ? 0 : 1];
        theirs = pair[writes ? 1 : 0];
        r = spawn_child(&(struct spawn){ .path = "tar",
                                         .argv = argv,
                                         .stdin_fd = writes ? -1 : theirs,
                                         .stdout_fd = writes ? theirs : -1,
                                         .stderr_fd = STDERR_FILENO,
                                         .death_signal = SIGTERM },
                        ret_pid, ret_pidfd, e);
        if (r == 0)
                *ret_fd = TAKE_FD(ours);
        return r;
}

static int tar_wait(struct copy *c, pid_t pid, int pidfd, int r, struct error *e) {
        int status = 0;

        if (r < 0) {
                spawn_end(pid, pidfd, 1000);
                return r;
        }
        r = spawn_wait(pid, pidfd, -1, &status);
        if (r == 0 && status != 0)
                r = error_set(e, -EIO, "copy-tar", NULL, "tar failed on %s", c->ours);
        return r;
}

static int up_tree(struct copy *c, struct error *e) {
        const char *const argv[] = { "tar", "-C", c->ours, "-cf", "-", ".", NULL };
        _cleanup_close_ int fd = -EBADF, pidfd = -EBADF;
        pid_t pid;
        int r = place_find(c, e);

        if (r == 0)
                r = tar_start(c, argv, true, &fd, &pid, &pidfd, e);
        if (r < 0)
                return r;
        r = tar_wait(c, pid, pidfd, put_all(c, fd, e), e);
        if (r == 0)
                r = guest_script(c, "mkdir -p \"$2\" && tar -xf \"$1\" -C \"$2\" && rm -f \"$1\"", c->partial, c->place,
                                 NULL, e);
        return r;
}

static int up_file(struct copy *c, struct error *e) {
        bool std = streq(c->ours, "-");
        _cleanup_close_ int fd = std ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : open(c->ours, O_RDONLY | O_CLOEXEC);
        char script[96];
        struct stat st;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0)
                return error_set(e, -errno, "copy-open", "check that the file is there and that you may read it",
                                 "cannot open %s", c->ours);
        if (S_ISDIR(st.st_mode))
                return error_set(e, -EISDIR, "copy-directory", "copy all that is in it: lodge cp --recursive",
                                 "%s is a directory", c->ours);
        c->mode = S_ISREG(st.st_mode) ? st.st_mode & 0777 : 0644;
        c->total = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
        r = place_find(c, e);
        if (r == 0)
                r = put_all(c, fd, e);
        snprintf(script, sizeof(script), "chmod %o \"$1\" && mv -f \"$1\" \"$2\"", c->mode);
        return r < 0 ? r : guest_script(c, script, c->partial, c->place, NULL, e);
}

/* ---- down ------------------------------------------------------------------------------------------------------------ */

/* Where the directory goes: into one that is there, under its name in the guest. What is there already is left alone. */
static int down_place(const struct copy *c, char **ret_place, struct error *e) {
        _cleanup_free_ char *name = strdup(c->theirs), *place = NULL;
        struct stat st;
        bool into = stat(c->ours, &st) == 0 && S_ISDIR(st.st_mode);

        if (!name)
                return out_of_memory(e);
        for (size_t n = strlen(name); n > 1 && name[n - 1] == '/'; n--)
                name[n - 1] = '\0';
        if (asprintf(&place, "%s%s%s", c->ours, into ? "/" : "", into ? base_of(name) : "") < 0) {
                place = NULL;
                return out_of_memory(e);
        }
        for (size_t n = strlen(place); n > 1 && place[n - 1] == '/'; n--)
                place[n - 1] = '\0';
        if (lstat(place, &st) == 0)
                return error_set(e, -EEXIST, "copy-exists", "take another place, or remove it", "%s is there already",
                                 place);
        *ret_place = TAKE_PTR(place);
        return 0;
}

static int run_tool(const char *const *argv, struct error *e) {
        _cleanup_close_ int pidfd = -EBADF;
        int status = 0, r;
        pid_t pid;

        r = spawn_child(
                &(struct spawn){
                        .path = argv[0], .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = STDERR_FILENO },
                &pid, &pidfd, e);
        if (r == 0)
                r = spawn_wait(pid, pidfd, -1, &status);
        return r == 0 && status != 0 ? error_set(e, -EIO, "copy-tar", NULL, "%s failed on what was copied", argv[0])
                                     : r;
}

/*
 * What a guest packs is not trusted: its tree must have no bits that run its programs as somebody else, and no devices, FIFOs or sockets. Tools that have no limit of depth
 * do it; no other user can reach the tree yet.
 */
static int tree_tame(const char *tree, struct error *e) {
        const char *const modes[] = { "chmod", "-R", "ug-s,u+rwX", "--", tree, NULL };
        const char *const nodes[] = { "find", tree, "!",     "-type", "d",       "!", "-type",
                                      "f",    "!",  "-type", "l",     "-delete", NULL };
        int r = run_tool(modes, e);

        return r < 0 ? r : run_tool(nodes, e);
}

/* What the guest's tar has packed, as @fresh/tree. */
static int tree_unpack(struct copy *c, const char *tree, struct error *e) {
        const char *const argv[] = { "tar", "-C", tree, "--no-same-owner", "--no-same-permissions", "-xf", "-", NULL };
        _cleanup_close_ int fd = -EBADF, pidfd = -EBADF;
        pid_t pid;
        int r;

        if (mkdir(tree, 0777) < 0)
                return error_set(e, -errno, "copy-write", NULL, "cannot make directory %s", tree);
        r = tar_start(c, argv, false, &fd, &pid, &pidfd, e);
        if (r < 0)
                return r;
        signal(SIGPIPE, SIG_IGN);
        r = get_all(c, c->partial, fd, e);
        fd = safe_close(fd);
        return tar_wait(c, pid, pidfd, r, e);
}

/* A directory of its own beside the place, which is closed to others: a link that an earlier copy has left cannot lead out of it. */
static int down_tree(struct copy *c, struct error *e) {
        static const char pack[] = "t=$(mktemp) && { tar -C \"$1\" -cf \"$t\" . || { s=$?; rm -f \"$t\"; exit $s; }; } "
                                   "&& printf %s \"$t\"";
        _cleanup_free_ char *place = NULL, *fresh = NULL, *tree = NULL;
        int r = down_place(c, &place, e);

        if (r == 0)
                r = guest_script(c, pack, c->theirs, "", &c->partial, e);
        if (r < 0)
                return r;
        if (asprintf(&fresh, "%s%s.lodge-XXXXXX", place[0] == '/' ? "" : "./", place) < 0) {
                fresh = NULL;
                return out_of_memory(e);
        }
        if (!mkdtemp(fresh))
                return error_set(e, -errno, "copy-write", NULL, "cannot make a directory beside %s", place);
        if (asprintf(&tree, "%s/tree", fresh) < 0) {
                tree = NULL;
                r = out_of_memory(e);
        }
        if (r == 0)
                r = tree_unpack(c, tree, e);
        if (r == 0)
                r = tree_tame(tree, e);
        if (r == 0 && rename(tree, place) < 0)
                r = error_set(e, -errno, "copy-write", NULL, "cannot make directory %s", place);
        if (r < 0)
                run_tool((const char *const[]){ "chmod", "-R", "u+rwX", "--", fresh, NULL }, NULL);
        run_tool((const char *const[]){ "rm", "-rf", "--", fresh, NULL }, NULL);
        return r;
}

static int down_file(struct copy *c, struct error *e) {
        _cleanup_(new_file_drop) struct new_file file = NEW_FILE_INIT;
        _cleanup_free_ char *facts = NULL, *place = NULL, *dir = NULL;
        _cleanup_close_ int dir_fd = -EBADF;
        struct stat st;
        int r;

        if (c->ours && streq(c->ours, "-"))
                return get_all(c, c->theirs, STDOUT_FILENO, e);
        r = guest_script(c,
                         "if [ -d \"$1\" ]; then echo \"$1 is a directory: use --recursive\" >&2; exit 1; fi; stat -c "
                         "'%a %s' \"$1\"",
                         c->theirs, "", &facts, e);
        if (r < 0)
                return r;
        if (sscanf(facts, "%o %lu", &c->mode, &c->total) != 2)
                c->mode = 0644;
        if (asprintf(&place, "%s%s%s", c->ours, stat(c->ours, &st) == 0 && S_ISDIR(st.st_mode) ? "/" : "",
                     stat(c->ours, &st) == 0 && S_ISDIR(st.st_mode) ? base_of(c->theirs) : "") < 0)
                place = NULL;
        dir = place ? strdup(place) : NULL;
        if (!dir)
                return out_of_memory(e);
        if (strrchr(dir, '/'))
                strrchr(dir, '/')[1] = '\0';
        dir_fd = open(strrchr(dir, '/') ? dir : ".", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
        r = dir_fd < 0 ? -errno : new_file_open(&file, dir_fd, c->mode & 0777);
        if (r < 0)
                return error_set(e, r, "copy-write", NULL, "cannot write %s", place);
        r = get_all(c, c->theirs, file.fd, e);
        if (r < 0)
                return r;
        r = new_file_keep(&file, base_of(place), true);
        return r < 0 ? error_set(e, r, "copy-write", NULL, "cannot write %s", place) : 0;
}

/* ---- the command ----------------------------------------------------------------------------------------------------- */

/* MACHINE:PATH, unless a slash comes before the colon; NULL: a path here. */
static const char *guest_path(const char *text, char **ret_machine) {
        const char *colon = strchr(text, ':'), *slash = strchr(text, '/');

        if (!colon || colon == text || (slash && slash < colon))
                return NULL;
        *ret_machine = strndup(text, (size_t)(colon - text));
        return colon + 1;
}

static int words_take(struct copy *c, struct error *e) {
        const struct copy_options *o = ask_object(c->a, &copy_options_schema);
        const char *to = guest_path(o->to, &c->machine), *from = to ? NULL : guest_path(o->from, &c->machine);
        _cleanup_free_ char *second = NULL;

        if (!to && !from)
                return error_set(e, -EINVAL, "usage", "lodge cp FILE MACHINE:/tmp/ or lodge cp MACHINE:/etc/hosts FILE",
                                 "neither %s nor %s is in a machine", o->from, o->to);
        if (to && guest_path(o->from, &second))
                return error_set(e, -EINVAL, "usage", "copy it here first, then there",
                                 "both %s and %s are in machines", o->from, o->to);
        c->up = to != NULL;
        c->theirs = to ?: from;
        c->ours = to ? o->from : o->to;
        c->recursive = o->recursive;
        if (!c->machine)
                return out_of_memory(e);
        if (c->theirs[0] != '/')
                return error_set(e, -EINVAL, "usage", "write the whole path, as web:/root/file",
                                 "%s is no path in a guest: it begins with a slash", c->theirs);
        return 0;
}

int ask_machine_copy(struct ask *a, struct error *e) {
        __attribute__((cleanup(copy_clear))) struct copy c = { .a = a, .began_ns = clock_ns() };
        int r = words_take(&c, e);

        if (r < 0)
                return r;
        a->client->stop_fd = ask_interrupt_fd();
        if (c.up)
                r = c.recursive ? up_tree(&c, e) : up_file(&c, e);
        else
                r = c.recursive ? down_tree(&c, e) : down_file(&c, e);
        show(&c, true);
        if (r < 0 || (!c.up && c.partial))
                partial_drop(&c);
        if (r == -ECANCELED && e->code == 0)
                error_set(e, -EPROTO, "interrupted", NULL, "stopped; nothing was changed");
        return r;
}
