// SPDX-License-Identifier: GPL-2.0-or-later
/* host: `lodge host probe` */
#include <jansson.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "daemon/host/probe.h"

static int print_json(const struct probe *p) {
        json_t *object =
                json_pack("{s:s, s:s, s:s, s:f, s:f, s:I, s:f}", "verdict", probe_verdict_name(p->verdict), "evidence",
                          p->evidence, "cure", p->cure, "guest_mips", p->facts.guest_mips, "host_mips",
                          p->facts.host_mips, "max_cpus", (json_int_t)p->facts.max_vcpus, "probe_ms", p->ms);

        if (!object)
                return CLI_FAILED;
        json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(5));
        putchar('\n');
        json_decref(object);
        return CLI_OK;
}

int cli_host_probe(int argc, char **argv) {
        _cleanup_(host_options_freep) struct host_options *options = NULL;
        void *objects[1];
        struct probe p;
        int status;

        if (host_options_new(&options) < 0)
                return CLI_FAILED;
        objects[0] = options;
        if (cli_parse(&schema_command_host_probe, argc, argv, objects, &status))
                return status;
        probe_run(&p);
        if (options->format == OUTPUT_FORMAT_JSON)
                return print_json(&p);
        printf("KVM:      %s\nevidence: %s\n", probe_verdict_name(p.verdict), p.evidence);
        if (p.cure[0])
                printf("cure:     %s\n", p.cure);
        printf("engine:   %s\n", p.verdict == PROBE_HARDWARE ? "native (lodge-vmm)" : "qemu, which emulates");
        return CLI_OK;
}
