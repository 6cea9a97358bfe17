// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * statements: all SQL that the store runs, in one table (but for the lists of machines, which store-machine.c puts
 * together from constant pieces, and the migrations). Values only ever come as parameters.
 */
#include "daemon/store/internal.h"

#define MACHINE_SUMMARY                                                                                                \
        "m.number, m.uuid, m.name, m.project, m.generation, m.created, m.changed, m.wanted, m.cpus, m.memory, "        \
        "m.image, m.labels"
#define MACHINE_WHOLE                                                                                                  \
        "SELECT " MACHINE_SUMMARY ", c.config, c.running, c.facts"                                                     \
        " FROM machines AS m JOIN machine_configs AS c USING (number)"
#define OP_WHOLE                                                                                                       \
        "SELECT id, kind, project, target, target_uuid, state, step, n_steps, requester, request_id, created,"         \
        " changed, args, result, error FROM operations"
#define OP_FILTER    " AND (?2 IS NULL OR project = ?2) AND (?3 IS NULL OR target = ?3) ORDER BY seq"
#define EVENT_WHOLE  "SELECT seq, time, kind, project, target, request_id, data FROM events WHERE seq > ?1"
#define OBJECT_WHOLE "SELECT kind, project, name, generation, created, changed, config FROM objects"
#define CLIENT_WHOLE "SELECT fingerprint, name, role, projects, created, revoked FROM clients"

static const char *const statements[STMT_MAX] = {
        [STMT_BEGIN] = "BEGIN IMMEDIATE",
        [STMT_COMMIT] = "COMMIT",
        [STMT_ROLLBACK] = "ROLLBACK",
        [STMT_STEP] = "SAVEPOINT step",
        [STMT_STEP_DONE] = "RELEASE step",
        [STMT_STEP_UNDO] = "ROLLBACK TO step",
        [STMT_GENERATION] = "UPDATE counters SET value = value + 1 WHERE name = 'generation' RETURNING value",

        [STMT_NUMBER_TAKE] = "DELETE FROM free_numbers WHERE number = (SELECT min(number) FROM free_numbers)"
                             " RETURNING number",
        [STMT_NUMBER_NEXT] = "SELECT coalesce(max(number), 0) + 1 FROM machines",
        [STMT_NUMBER_FREE] = "INSERT INTO free_numbers VALUES (?1)",

        [STMT_MACHINE_ADD] = "INSERT INTO machines (number, uuid, name, project, generation, created, changed, wanted,"
                             " cpus, memory, image, labels)"
                             " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7, ?8, ?9, ?10, ?11)",
        [STMT_MACHINE_ADD_CONFIG] = "INSERT INTO machine_configs (number, config, running, facts)"
                                    " VALUES (?1, ?2, ?3, ?4)",
        [STMT_MACHINE_BY_UUID] = MACHINE_WHOLE " WHERE m.uuid = ?1 AND (?2 IS NULL OR m.project = ?2)",
        [STMT_MACHINE_BY_NAME] = MACHINE_WHOLE " WHERE m.name = ?1 AND m.project = ?2",
        [STMT_MACHINE_BY_NAME_ONLY] = MACHINE_WHOLE " WHERE m.name = ?1",
        [STMT_MACHINE_GENERATION] = "SELECT number, generation, name FROM machines WHERE uuid = ?1",
        [STMT_MACHINE_UPDATE] = "UPDATE machines SET name = ?2, project = ?3, generation = ?4, changed = ?5,"
                                " wanted = ?6, cpus = ?7, memory = ?8, image = ?9, labels = ?10 WHERE number = ?1",
        /* What is the same is not written again: a config may be large, and facts change often. */
        [STMT_MACHINE_UPDATE_CONFIG] = "UPDATE machine_configs SET config = ?2, running = ?3, facts = ?4"
                                       " WHERE number = ?1"
                                       " AND (config IS NOT ?2 OR running IS NOT ?3 OR facts IS NOT ?4)",
        [STMT_MACHINE_DELETE] = "DELETE FROM machines WHERE number = ?1",
        [STMT_MACHINE_NAMES] = "SELECT name FROM machines WHERE ?1 IS NULL OR project = ?1",
        [STMT_MACHINE_COUNT] = "SELECT count(*) FROM machines WHERE project = ?1",
        [STMT_MACHINE_COUNT_ALL] = "SELECT count(*) FROM machines",

        [STMT_LABELS_CHECK] = "SELECT CASE WHEN NOT json_valid(?1) THEN 0 WHEN json_type(?1) <> 'array' THEN 0"
                              " ELSE NOT EXISTS (SELECT 1 FROM json_each(?1) WHERE type <> 'text') END",
        [STMT_LABELS_SAME] = "SELECT labels = ?2 FROM machines WHERE number = ?1",
        [STMT_LABELS_DELETE] = "DELETE FROM machine_labels WHERE number = ?1",
        [STMT_LABELS_ADD] = "INSERT INTO machine_labels (label, number) SELECT DISTINCT value, ?1 FROM json_each(?2)",

        [STMT_OP_ADD] = "INSERT INTO operations (id, kind, project, target, target_uuid, state, step, n_steps,"
                        " requester, request_id, created, changed, args, result, error)"
                        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11, ?12, ?13, ?14)",
        [STMT_OP_UPDATE] = "UPDATE operations SET target_uuid = ?2, state = ?3, step = ?4, n_steps = ?5, changed = ?6,"
                           " args = ?7, result = ?8, error = ?9 WHERE id = ?1 AND state < 2",
        [STMT_OP_FIND] = OP_WHOLE " WHERE id = ?1",
        [STMT_OP_SEQ] = "SELECT seq FROM operations WHERE id = ?1",
        [STMT_OP_EACH] = OP_WHOLE " WHERE seq > ?1" OP_FILTER " LIMIT ?4",
        [STMT_OP_EACH_UNFINISHED] = OP_WHOLE " WHERE seq > ?1 AND state < 2" OP_FILTER " LIMIT ?4",
        [STMT_OP_NEWEST] = OP_WHOLE " WHERE seq < ?1" OP_FILTER " DESC LIMIT ?4",
        [STMT_OP_NEWEST_UNFINISHED] = OP_WHOLE " WHERE seq < ?1 AND state < 2" OP_FILTER " DESC LIMIT ?4",
        [STMT_OP_EXPIRE_TIME] = "DELETE FROM operations WHERE state >= 2 AND changed < ?1",
        [STMT_OP_EXPIRE_COUNT] = "DELETE FROM operations WHERE state >= 2 AND seq <="
                                 " (SELECT seq FROM operations WHERE state >= 2 ORDER BY seq DESC LIMIT 1 OFFSET ?1)",

        [STMT_EVENT_ADD] = "INSERT INTO events (time, kind, project, target, request_id, data)"
                           " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        [STMT_EVENT_EXPIRE] = "DELETE FROM events WHERE seq <= ?1",
        [STMT_EVENT_EACH] = EVENT_WHOLE " ORDER BY seq LIMIT ?2",
        [STMT_EVENT_EACH_PROJECT] = EVENT_WHOLE " AND (project = ?3 OR project IS NULL) ORDER BY seq LIMIT ?2",
        [STMT_EVENT_RANGE] = "SELECT coalesce((SELECT min(seq) FROM events), 0),"
                             " coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)",

        [STMT_OBJECT_ADD] = "INSERT INTO objects (kind, project, name, generation, created, changed, config)"
                            " VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6)",
        [STMT_OBJECT_FIND] = OBJECT_WHOLE " WHERE kind = ?1 AND project = ?2 AND name = ?3",
        [STMT_OBJECT_UPDATE] = "UPDATE objects SET generation = ?4, changed = ?5, config = ?6"
                               " WHERE kind = ?1 AND project = ?2 AND name = ?3",
        [STMT_OBJECT_DELETE] = "DELETE FROM objects WHERE kind = ?1 AND project = ?2 AND name = ?3",
        [STMT_OBJECT_EACH] = OBJECT_WHOLE " WHERE kind = ?1 AND (?2 IS NULL OR project = ?2) ORDER BY name, project",

        [STMT_USAGE_ADD] = "INSERT INTO usage (project, machine, month, cpu_us, memory_mib_s, storage_mib_s)"
                           " VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET cpu_us = cpu_us + ?4,"
                           " memory_mib_s = memory_mib_s + ?5, storage_mib_s = storage_mib_s + ?6",
        [STMT_USAGE_EACH] = "SELECT project, machine, month, cpu_us, memory_mib_s, storage_mib_s FROM usage"
                            " WHERE (?1 IS NULL OR project = ?1) AND (?2 = 0 OR month = ?2)"
                            " ORDER BY project, machine, month",
        [STMT_USAGE_SUM] = "SELECT project, '', month, sum(cpu_us), sum(memory_mib_s), sum(storage_mib_s) FROM usage"
                           " WHERE month = ?1 GROUP BY project ORDER BY project",
        [STMT_USAGE_EXPIRE] = "DELETE FROM usage WHERE month < ?1",

        [STMT_AUDIT_ADD] = "INSERT INTO audit (time, principal, action, project, target, status, request_id, detail)"
                           " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        [STMT_AUDIT_EACH] = "SELECT seq, time, principal, action, project, target, status, request_id, detail"
                            " FROM audit WHERE seq > ?1 AND (?3 IS NULL OR project = ?3) ORDER BY seq LIMIT ?2",
        [STMT_AUDIT_EXPIRE] = "DELETE FROM audit WHERE seq IN"
                              " (SELECT seq FROM audit WHERE time < ?1 ORDER BY time LIMIT 1000)",

        [STMT_IDEMPOTENCY_FIND] = "SELECT digest, status, body FROM idempotency"
                                  " WHERE principal = ?1 AND key = ?2 AND created >= ?3",
        [STMT_IDEMPOTENCY_FORGET] = "DELETE FROM idempotency WHERE principal = ?1 AND key = ?2 AND created < ?3",
        [STMT_IDEMPOTENCY_ADD] = "INSERT INTO idempotency (principal, key, digest, status, created, body)"
                                 " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        [STMT_IDEMPOTENCY_TRIM] = "DELETE FROM idempotency WHERE principal = ?1 AND seq <= (SELECT seq FROM idempotency"
                                  " WHERE principal = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
        [STMT_IDEMPOTENCY_EXPIRE] = "DELETE FROM idempotency WHERE created < ?1",

        [STMT_TOKEN_ADD] = "INSERT INTO tokens (digest, name, role, projects, created, expires)"
                           " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        [STMT_TOKEN_DIGESTS] = "SELECT digest FROM tokens",
        [STMT_TOKEN_TAKE] = "DELETE FROM tokens WHERE digest = ?1 RETURNING name, role, projects, created, expires",
        [STMT_TOKEN_DELETE] = "DELETE FROM tokens WHERE name = ?1",
        [STMT_TOKEN_EACH] = "SELECT name, role, projects, created, expires FROM tokens ORDER BY name",

        [STMT_CLIENT_ADD] = "INSERT INTO clients (fingerprint, name, role, projects, created, revoked)"
                            " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        [STMT_CLIENT_FIND] = CLIENT_WHOLE " WHERE fingerprint = ?1",
        [STMT_CLIENT_FIND_NAME] = CLIENT_WHOLE " WHERE name = ?1 AND revoked = 0",
        [STMT_CLIENT_GRANT] = "UPDATE clients SET role = ?2, projects = ?3 WHERE name = ?1 AND revoked = 0",
        [STMT_CLIENT_REVOKE] = "UPDATE clients SET revoked = ?2 WHERE name = ?1 AND revoked = 0",
        [STMT_CLIENT_EACH] = CLIENT_WHOLE " ORDER BY name, created",
};

const char *statement_sql(enum statement id) {
        return statements[id];
}
