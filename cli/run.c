// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * run: `lodge run`: one machine in the foreground, without a daemon
 *
 *      options -> image (kernel, initrd, command line, overlay) -> engine -> parts -> process -> session -> exit status
 *
 * What belongs to the machine is held by descriptors or unlinked at once, so that nothing is left however this ends.
 */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/spawn.h"
#include "cli/cli.h"
#include "cli/run-image.h"
#include "cli/session.h"
#include "daemon/engine/engine.h"

#define AGENT_TIMEOUT_MS 300000
#define DEFAULT_APPEND   "console=ttyS0"

struct run {
        struct machine_config *config;
        struct run_options *options;
        struct probe probe;
        struct engine_choice choice;
        double start_us, spawned_ms;
        struct session_result result;
};

static double now_us(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Without --net a machine gets user networking, where passt is installed. */
static int default_net(struct machine_config *c) {
        _cleanup_free_ char *passt = NULL;
        struct machine_net_config *net;

        if (c->n_nets > 0)
                return 0;
        if (spawn_find("passt", &passt) < 0) {
                log_warning("no network: passt is not installed (apt install passt); --net none says so on purpose");
                return 0;
        }
        if (machine_config_add_nets(c, &net) < 0)
                return -ENOMEM;
        net->type = MACHINE_NET_TYPE_USER;
        return 0;
}

static int complete(struct run *run, struct error *e) {
        struct machine_config *c = run->config;
        int r = 0;

        if (!c->name)
                r = cli_default_name(c->image, &c->name);
        if (r == 0 && c->kernel && !c->image && !c->append) {
                c->append = strdup(DEFAULT_APPEND);
                r = c->append ? 0 : -ENOMEM;
        }
        if (r == 0)
                r = default_net(c);
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot prepare the machine");
        return machine_config_check(c, e);
}

static void explain(const struct run *run) {
        const struct probe *p = &run->probe;

        fprintf(stderr, "engine:   %s%s\nwhy:      %s\nKVM:      %s\nevidence: %s\n", engine_name(run->choice.kind),
                run->choice.kind == ENGINE_NATIVE ? " (lodge-vmm)"
                : run->choice.kvm                 ? " (QEMU with KVM)"
                                                  : " (QEMU, emulating)",
                run->choice.reason, probe_verdict_name(p->verdict), p->evidence);
        if (p->cure[0])
                fprintf(stderr, "cure:     %s\n", p->cure);
}

static int choose_engine(struct run *run, struct error *e) {
        int r;

        probe_run(&run->probe);
        r = engine_decide(run->config, &run->probe, &run->choice, e);
        if (r < 0)
                return r;
        if (run->options->explain)
                explain(run);
        else if (run->choice.fallback)
                fprintf(stderr, "lodge: engine qemu%s: %s\n", run->choice.kvm ? "" : ", emulating", run->choice.reason);
        if (run->choice.warning[0])
                fprintf(stderr, "lodge: %s\n", run->choice.warning);
        return 0;
}

static int run_machine(struct run *run, struct error *e) {
        __attribute__((cleanup(engine_clear))) struct engine engine = ENGINE_INIT;
        _cleanup_(run_image_freep) struct run_image *image = NULL;
        _cleanup_(parts_freep) struct parts *parts = NULL;
        struct session_options options = {
                .exec = run->config->exec,
                .console = run->options->console,
                .json = run->options->format == OUTPUT_FORMAT_JSON,
                .start_us = run->start_us,
                .agent_timeout_ms = AGENT_TIMEOUT_MS,
        };
        int r;

        r = complete(run, e);
        if (r < 0)
                return r;
        r = choose_engine(run, e);
        if (r < 0)
                return r;
        if (run->config->image) {
                r = run_image_apply(run->config, &image, e);
                if (r < 0)
                        return r;
        }
        r = parts_open(run->config, NULL, &parts, e);
        if (r < 0)
                return r;
        run_image_opened(image);
        r = engine_start(&run->choice, parts, NULL, &engine, e);
        if (r < 0)
                return r;
        parts_close_files(parts);
        run->spawned_ms = (now_us() - run->start_us) / 1e3;
        return session_run(&options, &engine, parts, &run->result, e);
}

static void add_time(json_t *timings, const char *name, double ms) {
        if (ms >= 0)
                json_object_set_new(timings, name, json_real((double)(long)(ms * 10) / 10));
}

/* Output of a guest command is bytes; what isn't UTF-8 becomes '?', so that there is always valid JSON. */
static json_t *text_json(char *text, size_t n) {
        json_t *value = json_stringn(text ?: "", n);

        if (value)
                return value;
        for (size_t i = 0; i < n; i++)
                if ((unsigned char)text[i] >= 0x80)
                        text[i] = '?';
        return json_stringn(text, n);
}

static int print_json(struct run *run) {
        const struct session_result *res = &run->result;
        json_t *timings = json_object(), *object;

        add_time(timings, "probe_ms", run->probe.ms);
        add_time(timings, "start_ms", run->spawned_ms);
        add_time(timings, "first_output_ms", res->first_output_ms);
        add_time(timings, "agent_ms", res->agent_ms);
        add_time(timings, "exec_ms", res->exec_ms);
        add_time(timings, "total_ms", res->total_ms);
        object = json_pack("{s:s, s:s, s:s, s:b, s:s, s:s, s:i, s:o}", "name", run->config->name, "engine",
                           engine_name(run->choice.kind), "engine_reason", run->choice.reason, "kvm",
                           run->choice.kind == ENGINE_NATIVE || run->choice.kvm, "kvm_verdict",
                           probe_verdict_name(run->probe.verdict), "reason", res->reason, "exit_status",
                           res->exit_status, "timings", timings);
        if (object && run->config->exec) {
                json_object_set_new(object, "stdout", text_json(res->out, res->out_len));
                json_object_set_new(object, "stderr", text_json(res->err, res->err_len));
        }
        if (!object)
                return CLI_FAILED;
        json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
        putchar('\n');
        json_decref(object);
        return res->exit_status;
}

static int finish(struct run *run, const struct error *e) {
        const struct session_result *res = &run->result;
        bool json = run->options->format == OUTPUT_FORMAT_JSON;
        int status = res->exit_status;

        if (e->code < 0) {
                if (json)
                        cli_fail_json(e);
                return cli_fail(e);
        }
        if (json)
                return print_json(run);
        if (res->out_len > 0)
                fwrite(res->out, 1, res->out_len, stdout);
        if (res->err_len > 0)
                fwrite(res->err, 1, res->err_len, stderr);
        return fflush(stdout) == 0 ? status : CLI_FAILED;
}

int cli_run(int argc, char **argv) {
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_(machine_config_freep) struct machine_config *config = NULL;
        _cleanup_(run_options_freep) struct run_options *options = NULL;
        struct run run = { .start_us = now_us() };
        void *objects[2];
        int status;

        if (machine_config_new(&config) < 0 || run_options_new(&options) < 0)
                return CLI_FAILED;
        objects[0] = run.config = config;
        objects[1] = run.options = options;
        if (cli_parse(&schema_command_run, argc, argv, objects, &status))
                return status;
        signal(SIGPIPE, SIG_IGN); /* a reader that went away is an error of write() */
        run_machine(&run, &e);
        status = finish(&run, &e);
        session_result_clear(&run.result);
        return status;
}
