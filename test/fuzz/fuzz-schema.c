// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz-schema: any bytes as JSON, and as a command line
 *
 * The first byte chooses: a machine or vmm object as JSON, or words of `lodge run` between newlines. What is accepted
 * must be written as JSON that is accepted again and written as the same text: a field that changes on the way to
 * lodge-vmm would be a machine that nobody asked for.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "schema/lodge-schema.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void json_round_trip(const struct schema_object *o, const char *text, size_t len) {
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_free_ char *first = NULL, *second = NULL;
        void *a, *b;

        if (schema_parse(o, text, len, &a, &e) < 0) {
                if (!e.id || !e.message)
                        abort(); /* refused without a reason */
                return;
        }
        first = schema_format(o, a);
        if (!first || schema_parse(o, first, strlen(first), &b, &e) < 0)
                abort();
        second = schema_format(o, b);
        if (!second || !streq(first, second))
                abort();
        schema_free(o, a);
        schema_free(o, b);
}

static void command_line(const char *text, size_t len) {
        _cleanup_(machine_config_freep) struct machine_config *m = NULL;
        _cleanup_(run_options_freep) struct run_options *run = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_free_ char *copy = strndup(text, len), *json = NULL;
        char *argv[64], *rest = copy, *word;
        int argc = 0, r;

        if (!copy || machine_config_new(&m) < 0 || run_options_new(&run) < 0)
                return;
        while (argc < 64 && (word = strsep(&rest, "\n")))
                argv[argc++] = word;
        r = schema_command_parse(&schema_command_run, argc, argv, (void *[]){ m, run }, &e);
        if (r < 0 || machine_config_check(m, &e) < 0) {
                if (!e.id || !e.message)
                        abort();
                return;
        }
        json = machine_config_format(m);
        if (!json)
                abort();
        json_round_trip(&machine_config_schema, json, strlen(json));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        if (size == 0)
                return 0;
        switch (data[0]) {
        case 'm':
                json_round_trip(&machine_config_schema, (const char *)data + 1, size - 1);
                return 0;
        case 'v':
                json_round_trip(&vmm_config_schema, (const char *)data + 1, size - 1);
                return 0;
        case 'r':
                command_line((const char *)data + 1, size - 1);
                return 0;
        default:
                return -1; /* not worth keeping */
        }
}
