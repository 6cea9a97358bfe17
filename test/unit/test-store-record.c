// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store-record: objects, usage, the audit record, idempotency keys, tokens and clients; and what each forgets when
 * (clock_gettime is wrapped)
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "daemon/store/store.h"
#include "test/unit/store-clock.h"

#define DAY (24 * 3600)

static struct store_object object(const char *kind, const char *project, const char *name) {
        return (struct store_object){
                .kind = (char *)kind, .project = (char *)project, .name = (char *)name, .config = (char *)"{\"a\":1}"
        };
}

static int see_object(void *opaque, const struct store_object *o) {
        strcat(strcat(strcat(opaque, o->project), "/"), o->name);
        return strcat(opaque, " ") == NULL;
}

/* A network may be called as a pool is; a stale ETag is refused; a deleted one's ETag fits no new one. */
static void test_objects(void **state) {
        struct rig *rig = *state;
        struct store_object net = object("network", "default", "lan"), pool = object("pool", "default", "lan"),
                            lab = object("network", "lab", "lan"), global = object("network", "", "wan"), again = net;
        _cleanup_(store_object_freep) struct store_object *found = NULL, *none = NULL;
        _cleanup_error_ struct error e = ERROR_INIT, gone = ERROR_INIT;
        char text[128] = "";
        uint64_t first;

        assert_int_equal(store_object_add(rig->s, &net, NULL), 0);
        assert_int_equal(store_object_add(rig->s, &pool, NULL), 0);
        assert_int_equal(store_object_add(rig->s, &lab, NULL), 0);
        assert_int_equal(store_object_add(rig->s, &global, NULL), 0);
        assert_int_equal(store_object_add(rig->s, &again, &e), -EEXIST);
        assert_string_equal(e.id, "object-exists");
        assert_int_equal(again.generation, 0);
        first = net.generation;
        net.config = (char *)"{\"a\":2}";
        assert_int_equal(store_object_update(rig->s, &net, first, NULL), 0);
        assert_true(net.generation > global.generation);
        assert_int_equal(store_object_update(rig->s, &net, first, NULL), -ESTALE);
        rig_reopen(rig);
        assert_int_equal(store_object_find(rig->s, "network", "default", "lan", &found, NULL), 0);
        assert_string_equal(found->config, "{\"a\":2}");
        assert_int_equal(found->generation, net.generation);
        assert_int_equal(store_object_each(rig->s, "network", NULL, see_object, text, NULL), 0);
        assert_string_equal(text, "default/lan lab/lan /wan ");
        text[0] = '\0';
        assert_int_equal(store_object_each(rig->s, "network", "lab", see_object, text, NULL), 0);
        assert_string_equal(text, "lab/lan ");
        assert_int_equal(store_object_delete(rig->s, "network", "default", "lan", first, NULL), -ESTALE);
        assert_int_equal(store_object_delete(rig->s, "network", "default", "lan", 0, NULL), 0);
        assert_int_equal(store_object_delete(rig->s, "network", "default", "lan", 0, NULL), -ENOENT);
        assert_int_equal(store_object_find(rig->s, "network", "default", "lan", &none, &gone), -ENOENT);
        assert_string_equal(gone.message, "project default has no network lan");
        assert_int_equal(store_object_add(rig->s, &again, NULL), 0);
        assert_true(again.generation > net.generation);
}

static int see_usage(void *opaque, const struct store_usage *u) {
        char *text = opaque;

        sprintf(text + strlen(text), "%s %s %u %llu %llu %llu\n", u->project, u->machine, u->month,
                (unsigned long long)u->cpu_us, (unsigned long long)u->memory_mib_s,
                (unsigned long long)u->storage_mib_s);
        return 0;
}

/* Small amounts add up exactly, month by month; a figure that can't be is refused and spoils nothing. */
static void test_usage(void **state) {
        struct rig *rig = *state;
        struct store_usage u = { .project = (char *)"a",
                                 .machine = (char *)"m1",
                                 .month = 202611,
                                 .cpu_us = 1,
                                 .memory_mib_s = 2,
                                 .storage_mib_s = 3 };
        _cleanup_error_ struct error e = ERROR_INIT;
        char text[512] = "";

        assert_int_equal(store_begin(rig->s, NULL), 0);
        for (unsigned int i = 0; i < 1000; i++)
                assert_int_equal(store_usage_add(rig->s, &u, NULL), 0);
        assert_int_equal(store_commit(rig->s, NULL), 0);
        u.month = 202612;
        assert_int_equal(store_usage_add(rig->s, &u, NULL), 0);
        u.project = (char *)"b";
        assert_int_equal(store_usage_add(rig->s, &u, NULL), 0);
        u.cpu_us = INT64_MAX;
        assert_int_equal(store_usage_add(rig->s, &u, NULL), -EINVAL);
        u.cpu_us = UINT64_MAX;
        assert_int_equal(store_usage_add(rig->s, &u, &e), -EINVAL);
        assert_string_equal(e.id, "store-value");
        assert_int_equal(store_usage_each(rig->s, NULL, 0, see_usage, text, NULL), 0);
        assert_string_equal(text, "a m1 202611 1000 2000 3000\na m1 202612 1 2 3\nb m1 202612 1 2 3\n");
        text[0] = '\0';
        u.machine = (char *)"m2";
        u.cpu_us = 5;
        assert_int_equal(store_usage_add(rig->s, &u, NULL), 0);
        assert_int_equal(store_usage_sum(rig->s, 202612, see_usage, text, NULL), 0);
        assert_string_equal(text, "a  202612 1 2 3\nb  202612 6 4 6\n");
        text[0] = '\0';
        assert_int_equal(store_usage_expire(rig->s, 202612, NULL), 0);
        assert_int_equal(store_usage_each(rig->s, "a", 0, see_usage, text, NULL), 0);
        assert_string_equal(text, "a m1 202612 1 2 3\n");
        assert_int_equal(store_usage_month(0), 197001);
        assert_int_equal(store_usage_month(1764547199LL * 1000000), 202511);
        assert_int_equal(store_usage_month(1764547200LL * 1000000), 202512);
        assert_int_equal(store_usage_month(INT64_MAX), store_usage_month(INT64_MIN)); /* what no calendar has */
}

struct audit_seen {
        uint64_t n, last;
};

static int see_audit(void *opaque, const struct store_audit *a) {
        struct audit_seen *seen = opaque;

        assert_true(a->seq > seen->last);
        assert_string_equal(a->principal, "uid:1000");
        assert_string_equal(a->action, "machine.delete");
        assert_int_equal(a->status, 204);
        assert_null(a->detail);
        seen->last = a->seq;
        seen->n++;
        return 0;
}

/* Kept 400 days; a clock that jumps ahead takes at most 1,000 entries with each call. */
static void test_audit(void **state) {
        struct rig *rig = *state;
        const struct store_audit a = { .principal = (char *)"uid:1000",
                                       .action = (char *)"machine.delete",
                                       .project = (char *)"default",
                                       .target = (char *)"web",
                                       .status = 204 };
        struct audit_seen seen = { 0 };
        uint64_t seq = 0;

        assert_int_equal(store_begin(rig->s, NULL), 0);
        for (unsigned int i = 0; i < 1500; i++)
                assert_int_equal(store_audit_add(rig->s, &a, &seq, NULL), 0);
        assert_int_equal(store_commit(rig->s, NULL), 0);
        assert_int_equal(seq, 1500);
        clock_offset = 399 * DAY;
        assert_int_equal(store_audit_expire(rig->s, NULL), 0);
        assert_int_equal(store_audit_each(rig->s, 0, NULL, 0, see_audit, &seen, NULL), 0);
        assert_int_equal(seen.n, 1500);
        clock_offset = 401 * DAY;
        assert_int_equal(store_audit_expire(rig->s, NULL), 0);
        seen = (struct audit_seen){ 0 };
        assert_int_equal(store_audit_each(rig->s, 0, "default", 0, see_audit, &seen, NULL), 0);
        assert_true(seen.n == 500 && seen.last == 1500);
        assert_int_equal(store_audit_expire(rig->s, NULL), 0);
        assert_int_equal(store_audit_add(rig->s, &a, &seq, NULL), 0);
        assert_int_equal(seq, 1501); /* numbers go on although all before it are gone */
        seen = (struct audit_seen){ 0 };
        assert_int_equal(store_audit_each(rig->s, 0, "other", 0, see_audit, &seen, NULL), 0);
        assert_int_equal(seen.n, 0);
}

/* The same request gets the same answer, another one under its key is refused, and a day later the key is free. */
static void test_idempotency(void **state) {
        struct rig *rig = *state;
        uint8_t one[STORE_DIGEST_SIZE] = { 1 }, two[STORE_DIGEST_SIZE] = { 2 };
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_free_ char *body = NULL;
        int32_t status = 0;

        assert_int_equal(store_idempotency_find(rig->s, "uid:1", "k", one, &status, &body, NULL), 0);
        assert_int_equal(store_idempotency_add(rig->s, "uid:1", "k", one, 202, "{\"id\":1}", NULL), 0);
        rig_reopen(rig);
        assert_int_equal(store_idempotency_find(rig->s, "uid:1", "k", one, &status, &body, NULL), 1);
        assert_int_equal(status, 202);
        assert_string_equal(body, "{\"id\":1}");
        assert_int_equal(store_idempotency_find(rig->s, "uid:1", "k", two, &status, &body, &e), -EEXIST);
        assert_string_equal(e.id, "idempotency-conflict");
        assert_int_equal(store_idempotency_find(rig->s, "uid:2", "k", two, &status, &body, NULL), 0); /* not theirs */
        assert_int_equal(store_idempotency_add(rig->s, "uid:1", "k", two, 200, NULL, NULL), -EEXIST);
        clock_offset = DAY + 10;
        assert_int_equal(store_idempotency_find(rig->s, "uid:1", "k", two, &status, &body, NULL), 0);
        assert_int_equal(store_idempotency_add(rig->s, "uid:1", "k", two, 200, NULL, NULL), 0);
        clock_offset = 3 * DAY;
        assert_int_equal(store_idempotency_expire(rig->s, NULL), 0);
        clock_offset = DAY + 10;
        assert_int_equal(store_idempotency_find(rig->s, "uid:1", "k", one, &status, &body, NULL), 0);
}

/* One who sends a new key with every request fills his own room only. */
static void test_idempotency_is_bounded(void **state) {
        struct rig *rig = *state;
        const uint8_t digest[STORE_DIGEST_SIZE] = { 1 };
        int32_t status = 0;
        char *body = NULL;

        assert_int_equal(store_begin(rig->s, NULL), 0);
        assert_int_equal(store_idempotency_add(rig->s, "quiet", "k", digest, 200, NULL, NULL), 0);
        for (unsigned int i = 0; i < STORE_IDEMPOTENCY_KEEP + 5; i++) {
                char key[16];

                snprintf(key, sizeof(key), "%u", i);
                assert_int_equal(store_idempotency_add(rig->s, "loud", key, digest, 200, NULL, NULL), 0);
        }
        assert_int_equal(store_commit(rig->s, NULL), 0);
        assert_int_equal(store_idempotency_find(rig->s, "quiet", "k", digest, &status, &body, NULL), 1);
        assert_int_equal(store_idempotency_find(rig->s, "loud", "4", digest, &status, &body, NULL), 0);
        assert_int_equal(store_idempotency_find(rig->s, "loud", "5", digest, &status, &body, NULL), 1);
        assert_null(body);
}

static int see_token(void *opaque, const struct store_token *t) {
        strcat(strcat(opaque, t->name), " ");
        return 0;
}

/* A token lets one in, once, until it expires; with the transaction undone, it is not used. */
static void test_tokens(void **state) {
        struct rig *rig = *state;
        const uint8_t one[STORE_DIGEST_SIZE] = { 1 }, two[STORE_DIGEST_SIZE] = { 2 };
        struct store_token t = { .name = (char *)"laptop",
                                 .role = (char *)"operator",
                                 .projects = (char *)"[\"lab\"]" };
        _cleanup_(store_token_freep) struct store_token *taken = NULL, *undone = NULL, *none = NULL;
        _cleanup_error_ struct error e = ERROR_INIT, expired = ERROR_INIT;
        char text[64] = "";

        t.expires = ((int64_t)time(NULL) + 3600) * 1000000;
        assert_int_equal(store_token_add(rig->s, one, &t, NULL), 0);
        assert_int_equal(store_token_add(rig->s, two, &t, NULL), -EEXIST);
        t.name = (char *)"desk";
        assert_int_equal(store_token_add(rig->s, one, &t, NULL), -EEXIST);
        assert_int_equal(store_token_add(rig->s, two, &t, NULL), 0);
        assert_int_equal(store_token_each(rig->s, see_token, text, NULL), 0);
        assert_string_equal(text, "desk laptop ");

        assert_int_equal(store_begin(rig->s, NULL), 0);
        assert_int_equal(store_token_take(rig->s, one, &undone, NULL), 0);
        store_rollback(rig->s);
        assert_int_equal(store_token_take(rig->s, one, &taken, NULL), 0);
        assert_string_equal(taken->name, "laptop");
        assert_string_equal(taken->role, "operator");
        assert_string_equal(taken->projects, "[\"lab\"]");
        assert_int_equal(store_token_take(rig->s, one, &none, &e), -ENOENT);
        assert_string_equal(e.id, "token-unknown");
        clock_offset = 3601;
        assert_int_equal(store_token_take(rig->s, two, &none, &expired), -EKEYEXPIRED);
        assert_string_equal(expired.id, "token-expired");
        clock_offset = 0; /* no clock that goes back brings it back */
        assert_int_equal(store_token_take(rig->s, two, &none, NULL), -ENOENT);
        assert_int_equal(store_token_delete(rig->s, "desk", NULL), -ENOENT);
        assert_null(none);
}

static int see_client(void *opaque, const struct store_client *c) {
        char *text = opaque;

        sprintf(text + strlen(text), "%s%s%u ", c->name, c->revoked ? "-" : "+", c->fingerprint[0]);
        return 0;
}

/* Revoked is for good, also for one of the same name that comes later. */
static void test_clients(void **state) {
        struct rig *rig = *state;
        struct store_client c = { .fingerprint = { 1 }, .name = (char *)"laptop", .role = (char *)"admin" };
        _cleanup_(store_client_freep) struct store_client *found = NULL, *revoked = NULL, *none = NULL, *named = NULL;
        char text[64] = "";

        assert_int_equal(store_client_add(rig->s, &c, NULL), 0);
        assert_int_equal(store_client_add(rig->s, &c, NULL), -EEXIST);
        c.fingerprint[0] = 2;
        assert_int_equal(store_client_add(rig->s, &c, NULL), -EEXIST); /* the name */
        c.fingerprint[0] = 1;
        assert_int_equal(store_client_find(rig->s, c.fingerprint, &found, NULL), 0);
        assert_int_equal(found->revoked, 0);
        assert_null(found->projects);
        assert_int_equal(store_client_grant(rig->s, "laptop", "viewer", "[\"a\"]", NULL), 0);
        assert_int_equal(store_client_find_name(rig->s, "laptop", &named, NULL), 0);
        assert_string_equal(named->role, "viewer");
        assert_string_equal(named->projects, "[\"a\"]");
        assert_int_equal(store_client_revoke(rig->s, "laptop", NULL), 0);
        assert_int_equal(store_client_revoke(rig->s, "laptop", NULL), -ENOENT);
        assert_int_equal(store_client_grant(rig->s, "laptop", "admin", NULL, NULL), -ENOENT); /* who is out stays out */
        c.name = (char *)"other";
        assert_int_equal(store_client_add(rig->s, &c, NULL), -EEXIST); /* the certificate */
        c.name = (char *)"laptop";
        c.fingerprint[0] = 2;
        assert_int_equal(store_client_add(rig->s, &c, NULL), 0);
        rig_reopen(rig);
        c.fingerprint[0] = 1;
        assert_int_equal(store_client_find(rig->s, c.fingerprint, &revoked, NULL), 0);
        assert_true(revoked->revoked > 0);
        c.fingerprint[0] = 3;
        assert_int_equal(store_client_find(rig->s, c.fingerprint, &none, NULL), -ENOENT);
        assert_int_equal(store_client_each(rig->s, see_client, text, NULL), 0);
        assert_string_equal(text, "laptop-1 laptop+2 ");
}

static int count_op(void *opaque, const struct store_op *op) {
        ++*(unsigned int *)opaque;
        return 0;
}

/* A finished operation goes after a week, one that is under way never. */
static void test_operations_expire_by_time(void **state) {
        struct rig *rig = *state;
        struct store_op a = { .kind = (char *)"k", .project = (char *)"p", .target = (char *)"t" }, b = a;
        unsigned int n = 0;

        assert_int_equal(store_op_add(rig->s, &a, NULL), 0);
        assert_int_equal(store_op_add(rig->s, &b, NULL), 0);
        b.state = STORE_OP_CANCELLED;
        assert_int_equal(store_op_update(rig->s, &b, NULL), 0);
        clock_offset = 6 * DAY;
        assert_int_equal(store_op_expire(rig->s, NULL), 0);
        assert_int_equal(store_op_each(rig->s, NULL, count_op, &n, NULL), 0);
        assert_int_equal(n, 2);
        clock_offset = 8 * DAY;
        assert_int_equal(store_op_expire(rig->s, NULL), 0);
        assert_int_equal(store_op_each(rig->s, NULL, count_op, &n, NULL), 0);
        assert_int_equal(n, 3);
        assert_int_equal(store_op_update(rig->s, &b, NULL), -ENOENT);
        free(a.id);
        free(b.id);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_objects, rig_setup_open, clock_teardown),
                cmocka_unit_test_setup_teardown(test_usage, rig_setup_open, clock_teardown),
                cmocka_unit_test_setup_teardown(test_audit, rig_setup_open, clock_teardown),
                cmocka_unit_test_setup_teardown(test_idempotency, rig_setup_open, clock_teardown),
                cmocka_unit_test_setup_teardown(test_idempotency_is_bounded, rig_setup_open, clock_teardown),
                cmocka_unit_test_setup_teardown(test_tokens, rig_setup_open, clock_teardown),
                cmocka_unit_test_setup_teardown(test_clients, rig_setup_open, clock_teardown),
                cmocka_unit_test_setup_teardown(test_operations_expire_by_time, rig_setup_open, clock_teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
