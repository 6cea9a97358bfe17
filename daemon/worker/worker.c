// SPDX-License-Identifier: GPL-2.0-or-later
/* worker: see worker.h */
#include "daemon/worker/worker.h"

#include <fcntl.h>
#include <glib-unix.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "daemon/api/api.h"
#include "daemon/machine/machine.h"
#include "daemon/store/store.h"
#include "daemon/worker/sandbox.h"

#define CONFIG_MAX   65536
#define IDLE_TICK_US 1000000

struct worker {
        struct worker_config *config;
        struct loop *loop;
        GMainLoop *main;
        struct store *store;
        struct broker_client *broker;
        struct machines *machines;
        struct api *api;
        struct identity *identity; /* of lodged on the network; NULL: it does not listen there */
        struct loop_source *idle_timer;
        uint64_t idle_connections; /* how many there had been when it was idle last */
        unsigned int idle_s;
        int status;
};

static void stop(struct worker *w, int status) {
        w->status = status;
        g_main_loop_quit(w->main);
}

static void on_signal(void *opaque, int signo) {
        stop(opaque, 0);
}

/* base/loop hangs in GLib's loop as one descriptor. */
static gboolean on_loop_ready(gint fd, GIOCondition condition, gpointer opaque) {
        struct worker *w = opaque;
        int r;

        do
                r = loop_run_once(w->loop, 0);
        while (r > 0);
        return G_SOURCE_CONTINUE;
}

static void on_broker_end(void *opaque, int reason) {
        struct worker *w = opaque;

        log_warning("the broker is gone");
        if (w->machines)
                machines_freeze(w->machines);
        stop(w, 1);
}

static void on_machines_event(void *opaque, const struct store_event *event) {
        struct worker *w = opaque;

        if (w->api)
                api_event(w->api, event);
}

static void on_recovered(void *opaque, int result) {
        struct worker *w = opaque;

        if (result < 0) {
                log_error("cannot take up where the last daemon ended");
                stop(w, 1);
                return;
        }
        if (w->config->ended)
                machines_event(w->machines, "worker-restarted", NULL, NULL, NULL,
                               "the daemon's worker ended with status %u and was started again",
                               (unsigned int)w->config->ended);
        api_ready(w->api);
        log_info("ready: %u machines run", machines_running(w->machines));
}

/* --idle-exit: a status of 0 is the broker's end, too. A client that comes just now starts another daemon. */
static void on_idle_tick(void *opaque) {
        struct worker *w = opaque;
        uint64_t connections;
        bool idle = api_idle(w->api, &connections) && machines_running(w->machines) == 0 &&
                    operations_count(machines_operations(w->machines)) == 0;

        w->idle_s = idle && connections == w->idle_connections ? w->idle_s + 1 : 0;
        w->idle_connections = connections;
        if (w->idle_s >= w->config->idle_exit) {
                log_info("nobody has needed this daemon for %u s: it ends", w->idle_s);
                stop(w, 0);
                return;
        }
        loop_timer_set(w->idle_timer, IDLE_TICK_US);
}

static int watch_idle(struct worker *w) {
        int r;

        if (w->config->idle_exit == 0)
                return 0;
        r = loop_add_timer(w->loop, on_idle_tick, w, &w->idle_timer);
        return r < 0 ? r : loop_timer_set(w->idle_timer, IDLE_TICK_US);
}

static int become(const struct worker_config *c, struct error *e) {
        if (!c->become)
                return 0;
        if (setgroups(0, NULL) < 0 || setresgid((gid_t)c->gid, (gid_t)c->gid, (gid_t)c->gid) < 0 ||
            setresuid((uid_t)c->uid, (uid_t)c->uid, (uid_t)c->uid) < 0)
                return error_set(e, -errno, "worker-user", NULL, "cannot become user %u", (unsigned int)c->uid);
        /* The kernel forgot the tie to the broker with the user. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        return getppid() == (pid_t)c->broker_pid ? 0 : error_set(e, -ECHILD, "broker-gone", NULL, "the broker is gone");
}

static void raise_limits(void) {
        struct rlimit files;

        if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
                files.rlim_cur = files.rlim_max < 65536 ? files.rlim_max : 65536;
                setrlimit(RLIMIT_NOFILE, &files);
        }
}

/* Made at the first use, beside the store. Before the sandbox: GnuTLS looks at the system's settings, and a file gets its name by way of /proc. */
static int load_identity(struct worker *w, struct error *e) {
        _cleanup_close_ int dir = -EBADF;

        if (w->config->n_network_fds == 0)
                return 0;
        dir = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return dir < 0 ? error_set(e, -errno, "tls-identity", NULL, "cannot look into %s", w->config->store_dir)
                       : identity_load(dir, "tls.pem", "lodged", &w->identity, e);
}

static int start(struct worker *w, struct error *e) {
        static const struct broker_client_ops broker_ops = { .on_end = on_broker_end };
        static const int signals[] = { SIGTERM, SIGINT };
        struct api_options options;
        int r;

        raise_limits();
        r = become(w->config, e);
        if (r < 0)
                return r;
        if (chdir(w->config->store_dir) < 0)
                return error_set(e, -errno, "store-open", NULL, "cannot enter %s", w->config->store_dir);
        r = load_identity(w, e);
        if (r < 0)
                return r;
        r = loop_new(&w->loop);
        for (size_t i = 0; i < ELEMENTSOF(signals) && r == 0; i++)
                r = loop_add_signal(w->loop, signals[i], on_signal, w);
        if (r < 0)
                return error_set(e, r, "loop", NULL, "cannot start the worker");
        r = sandbox_enter(w->config->store_dir, e);
        if (r == 0)
                r = store_open(w->config->store_dir, &w->store, e);
        if (r < 0)
                return r;
        w->main = g_main_loop_new(NULL, FALSE);
        g_unix_fd_add(loop_fd(w->loop), G_IO_IN, on_loop_ready, w);
        r = broker_client_new(w->loop, w->config->wire_fd, &broker_ops, w, &w->broker);
        if (r == 0)
                r = machines_new(w->config->scope, w->loop, w->store, w->broker, on_machines_event, w, &w->machines);
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot start the worker");
        options = (struct api_options){ w->config, w->loop, w->store, w->machines, w->broker, w->identity };
        r = api_new(&options, &w->api, e);
        if (r == 0)
                r = watch_idle(w);
        if (r == 0)
                r = machines_recover(w->machines, on_recovered, w);
        return r < 0 ? error_set(e, r, "recover", NULL, "cannot find out which machines run") : 0;
}

static void finish(struct worker *w) {
        loop_source_free(w->idle_timer);
        api_free(w->api);
        identity_free(w->identity);
        machines_free(w->machines);
        broker_client_free(w->broker);
        store_free(w->store);
        loop_free(w->loop);
        if (w->main)
                g_main_loop_unref(w->main);
}

static int load_config(int fd, struct worker_config **ret_config, struct error *e) {
        _cleanup_free_ char *text = NULL;
        size_t n;
        int r = io_read_all(fd, CONFIG_MAX, &text, &n);

        close(fd);
        if (r < 0)
                return error_set(e, r, "worker-config", NULL, "cannot read the worker's configuration");
        return worker_config_parse(text, n, ret_config, e);
}

int worker_run(int config_fd) {
        _cleanup_(worker_config_freep) struct worker_config *config = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct worker w = { .status = WORKER_HOPELESS };
        int r;

        signal(SIGPIPE, SIG_IGN);
        prctl(PR_SET_NAME, "lodged-worker"); /* it was started by a descriptor, whose number would be its name */
        r = load_config(config_fd, &config, &e);
        if (r == 0) {
                w.config = config;
                log_set_level(config->debug ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
                r = start(&w, &e);
        }
        if (r == 0)
                g_main_loop_run(w.main);
        else
                error_print(&e, "lodged", stderr);
        finish(&w);
        return w.status;
}
