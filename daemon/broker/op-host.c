// SPDX-License-Identifier: GPL-2.0-or-later
/* op-host: what the broker knows of the host: KVM, engines */
#include <string.h>

#include "daemon/broker/broker.h"
#include "daemon/engine/engine.h"

/* Once: it runs a guest. A person who has changed something starts the daemon again. */
const struct probe *broker_probe(struct broker *b) {
        if (!b->probed)
                probe_run(&b->probe);
        b->probed = true;
        return &b->probe;
}

static int host_facts(struct broker_call *call, void *args, struct error *e) {
        const struct probe *p = broker_probe(call->broker);

        call->result = json_pack("{s:s, s:s, s:s}", "kvm", probe_verdict_name(p->verdict), "kvm_evidence", p->evidence,
                                 "kvm_cure", p->cure);
        return call->result ? 0 : -ENOMEM;
}

json_t *engine_json(const struct engine_choice *choice) {
        return json_pack("{s:s, s:s, s:b, s:b, s:s}", "engine", engine_name(choice->kind), "engine_reason",
                         choice->reason, "kvm", choice->kind == ENGINE_NATIVE || choice->kvm, "fallback",
                         choice->fallback, "warning", choice->warning);
}

static int engine_which(struct broker_call *call, void *args, struct error *e) {
        const struct broker_decide_args *a = args;
        struct engine_choice choice;
        int r = engine_decide(&a->machine, broker_probe(call->broker), &choice, e);

        if (r < 0)
                return r;
        call->result = engine_json(&choice);
        return call->result ? 0 : -ENOMEM;
}

const struct broker_op broker_host_ops[] = {
        { "host-facts", NULL, host_facts },
        { "engine-decide", &broker_decide_args_schema, engine_which },
        { 0 },
};
