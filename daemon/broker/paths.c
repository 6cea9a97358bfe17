// SPDX-License-Identifier: GPL-2.0-or-later
/* paths: the daemon's directories: where they are, and that nobody else can change what is in them */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/io.h"
#include "base/xdg.h"
#include "daemon/broker/broker.h"
#include "daemon/image/image.h"

/* A directory of ours: not a link, not somebody else's, not writable by others. */
static int check_dir(const char *path, uid_t owner, struct error *e) {
        struct stat st;

        if (lstat(path, &st) < 0)
                return error_set(e, -errno, "state-dir", NULL, "cannot look at %s", path);
        if (!S_ISDIR(st.st_mode) || st.st_uid != owner || (st.st_mode & 022)) {
                error_set(e, -EPERM, "state-dir", NULL,
                          "%s must be a directory that belongs to user %u and that nobody else can write to", path,
                          owner);
                error_set_fix(e, "look at it (ls -ld %s), then: chown %u %s; chmod go-w %s", path, owner, path, path);
                return -EPERM;
        }
        return 0;
}

static int dir(const char *path, mode_t mode, uid_t owner, struct error *e) {
        int r = io_make_dirs(path, 0755, mode);

        if (r < 0)
                return error_set(e, r, "state-dir", "choose another one: --state-dir DIR, --run-dir DIR",
                                 "cannot make directory %s", path);
        if (geteuid() == 0 && owner != 0 && lchown(path, owner, owner) < 0)
                return error_set(e, -errno, "state-dir", NULL, "cannot give %s to user %u", path, owner);
        return check_dir(path, owner, e);
}

static char *join(const char *a, const char *b) {
        char *joined;

        return a && asprintf(&joined, "%s/%s", a, b) >= 0 ? joined : NULL;
}

static char *default_state(enum api_scope scope) {
        char *path;

        if (scope == API_SCOPE_SYSTEM)
                return strdup("/var/lib/lodge");
        return xdg_path(XDG_DATA, "lodge", &path) < 0 ? NULL : path;
}

static char *default_run(enum api_scope scope) {
        const char *runtime = getenv("XDG_RUNTIME_DIR");
        char *path;

        if (scope == API_SCOPE_SYSTEM)
                return strdup("/run/lodge");
        if (runtime && runtime[0] == '/')
                return join(runtime, "lodge");
        return asprintf(&path, "/tmp/lodge-%u", geteuid()) < 0 ? NULL : path;
}

void broker_paths_clear(struct broker_paths *p) {
        free(p->state);
        free(p->run);
        free(p->store);
        free(p->socket);
        free(p->machines);
        free(p->images);
        free(p->pools);
        free(p->seeds);
        free(p->devices);
        free(p->networks);
        *p = (struct broker_paths){ 0 };
}

int broker_paths_make(struct broker *b, struct error *e) {
        struct broker_paths *p = &b->paths;
        bool system = b->scope == API_SCOPE_SYSTEM;
        uid_t us = geteuid();
        int r;

        p->state = b->options->state_dir ? strdup(b->options->state_dir) : default_state(b->scope);
        p->run = b->options->run_dir ? strdup(b->options->run_dir) : default_run(b->scope);
        if (!p->state || !p->run)
                return error_set(e, -ENOENT, "state-dir", "set HOME, or choose: --state-dir DIR, --run-dir DIR",
                                 "cannot tell where the daemon's directories are");
        p->store = join(p->state, "store");
        p->images = join(p->state, "images");
        p->pools = join(p->state, "pools");
        p->seeds = join(p->state, "seeds");
        p->devices = join(p->state, "devices");
        p->networks = join(p->state, "networks");
        p->machines = join(p->run, "machines");
        p->socket = join(p->run, "lodged.sock");
        if (!p->store || !p->images || !p->pools || !p->seeds || !p->devices || !p->networks || !p->machines ||
            !p->socket)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot start");
        r = dir(p->state, system ? 0711 : 0700, us, e);
        if (r == 0)
                r = dir(p->run, system ? 0755 : 0700, us, e);
        if (r == 0)
                r = dir(p->store, 0700, b->worker_uid, e);
        if (r == 0)
                r = dir(p->pools, 0711, us, e);
        if (r == 0)
                r = dir(p->seeds, 0700, us, e);
        if (r == 0)
                r = dir(p->devices, 0700, us, e);
        if (r == 0)
                r = dir(p->machines, 0711, us, e);
        return r;
}

void broker_roots_clear(struct broker *b) {
        for (size_t i = 0; i < b->n_roots; i++)
                free(b->roots[i]);
        free(b->roots);
        b->roots = NULL;
        b->n_roots = 0;
}

/* Once, at the start: what a name of the command line leads to later may be somebody else's choice. */
int broker_roots_make(struct broker *b, struct error *e) {
        const char *own[] = { b->paths.pools, b->paths.seeds, image_store_root(b->images) };
        size_t n = ELEMENTSOF(own) + b->options->n_allow_paths;

        b->roots = calloc(n, sizeof(*b->roots));
        for (size_t i = 0; b->roots && i < n; i++) {
                const char *name = i < ELEMENTSOF(own) ? own[i] : b->options->allow_paths[i - ELEMENTSOF(own)];
                char *real = realpath(name, NULL);

                b->roots[i] = real ?: strdup(name);
                if (!b->roots[i])
                        break;
                b->n_roots++;
        }
        return b->n_roots == n ? 0 : error_set(e, -ENOMEM, "memory", NULL, "cannot start");
}
