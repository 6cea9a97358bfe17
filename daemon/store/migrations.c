// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * migrations: how the schema came to be, one step after the other
 *
 * Entry i leads from version i to version i + 1 (user_version of the file), in one transaction. An entry that was
 * released never changes: stores of that version exist. A change is a new entry at the end, and a dump of the version
 * before it under test/unit/store/, which the tests then migrate.
 *
 * machines holds only what a list shows, so that the rows of 10,000 machines fit the page cache; the JSON, which may be
 * large, is in machine_configs. machines.labels is what is shown, machine_labels the same to be searched.
 */
#include "daemon/store/internal.h"

static const char *const migrations[] = {
        /* 1: machines, operations, events */
        "CREATE TABLE counters ("
        "        name TEXT PRIMARY KEY,"
        "        value INTEGER NOT NULL"
        ") STRICT, WITHOUT ROWID;"
        "INSERT INTO counters VALUES ('generation', 0);"

        "CREATE TABLE machines ("
        "        number INTEGER PRIMARY KEY CHECK (number > 0),"
        "        uuid TEXT NOT NULL UNIQUE,"
        "        name TEXT NOT NULL,"
        "        project TEXT NOT NULL,"
        "        generation INTEGER NOT NULL,"
        "        created INTEGER NOT NULL,"
        "        changed INTEGER NOT NULL,"
        "        wanted INTEGER NOT NULL CHECK (wanted IN (0, 1)),"
        "        cpus INTEGER NOT NULL,"
        "        memory INTEGER NOT NULL,"
        "        image TEXT,"
        "        labels TEXT NOT NULL,"
        "        UNIQUE (project, name)"
        ") STRICT;"
        "CREATE INDEX machines_by_name ON machines (name, project);"
        "CREATE INDEX machines_by_image ON machines (image) WHERE image IS NOT NULL;"

        "CREATE TABLE machine_configs ("
        "        number INTEGER PRIMARY KEY REFERENCES machines ON DELETE CASCADE,"
        "        config TEXT NOT NULL,"
        "        running TEXT,"
        "        facts TEXT"
        ") STRICT;"

        "CREATE TABLE machine_labels ("
        "        label TEXT NOT NULL,"
        "        number INTEGER NOT NULL REFERENCES machines ON DELETE CASCADE,"
        "        PRIMARY KEY (label, number)"
        ") STRICT, WITHOUT ROWID;"
        "CREATE INDEX machine_labels_by_machine ON machine_labels (number);"

        /* Numbers below the highest that nobody has: the lowest free one is found without looking at every machine. */
        "CREATE TABLE free_numbers (number INTEGER PRIMARY KEY) STRICT;"

        "CREATE TABLE operations ("
        "        seq INTEGER PRIMARY KEY AUTOINCREMENT,"
        "        id TEXT NOT NULL UNIQUE,"
        "        kind TEXT NOT NULL,"
        "        project TEXT NOT NULL,"
        "        target TEXT NOT NULL,"
        "        target_uuid TEXT,"
        "        state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 4),"
        "        step INTEGER NOT NULL,"
        "        n_steps INTEGER NOT NULL,"
        "        requester TEXT,"
        "        request_id TEXT,"
        "        created INTEGER NOT NULL,"
        "        changed INTEGER NOT NULL,"
        "        args TEXT,"
        "        result TEXT,"
        "        error TEXT"
        ") STRICT;"
        "CREATE INDEX operations_unfinished ON operations (seq) WHERE state < 2;"
        "CREATE INDEX operations_finished ON operations (changed) WHERE state >= 2;"

        "CREATE TABLE events ("
        "        seq INTEGER PRIMARY KEY AUTOINCREMENT,"
        "        time INTEGER NOT NULL,"
        "        kind TEXT NOT NULL,"
        "        project TEXT,"
        "        target TEXT,"
        "        request_id TEXT,"
        "        data TEXT"
        ") STRICT;",

        /* 2: objects, usage, audit, idempotency keys, tokens, clients */
        "CREATE TABLE objects ("
        "        kind TEXT NOT NULL,"
        "        name TEXT NOT NULL,"
        "        project TEXT NOT NULL,"
        "        generation INTEGER NOT NULL,"
        "        created INTEGER NOT NULL,"
        "        changed INTEGER NOT NULL,"
        "        config TEXT NOT NULL,"
        "        UNIQUE (kind, name, project)"
        ") STRICT;"

        "CREATE TABLE usage ("
        "        project TEXT NOT NULL,"
        "        machine TEXT NOT NULL,"
        "        month INTEGER NOT NULL,"
        "        cpu_us INTEGER NOT NULL,"
        "        memory_mib_s INTEGER NOT NULL,"
        "        storage_mib_s INTEGER NOT NULL,"
        "        PRIMARY KEY (project, machine, month)"
        ") STRICT, WITHOUT ROWID;"

        "CREATE TABLE audit ("
        "        seq INTEGER PRIMARY KEY AUTOINCREMENT,"
        "        time INTEGER NOT NULL,"
        "        principal TEXT NOT NULL,"
        "        action TEXT NOT NULL,"
        "        project TEXT,"
        "        target TEXT,"
        "        status INTEGER NOT NULL,"
        "        request_id TEXT,"
        "        detail TEXT"
        ") STRICT;"
        "CREATE INDEX audit_by_time ON audit (time);"

        "CREATE TABLE idempotency ("
        "        seq INTEGER PRIMARY KEY,"
        "        principal TEXT NOT NULL,"
        "        key TEXT NOT NULL,"
        "        digest BLOB NOT NULL CHECK (length(digest) = 32),"
        "        status INTEGER NOT NULL,"
        "        created INTEGER NOT NULL,"
        "        body TEXT,"
        "        UNIQUE (principal, key)"
        ") STRICT;"
        "CREATE INDEX idempotency_by_principal ON idempotency (principal, seq);"
        "CREATE INDEX idempotency_by_time ON idempotency (created);"

        "CREATE TABLE tokens ("
        "        digest BLOB NOT NULL PRIMARY KEY CHECK (length(digest) = 32),"
        "        name TEXT NOT NULL UNIQUE,"
        "        role TEXT NOT NULL,"
        "        projects TEXT,"
        "        created INTEGER NOT NULL,"
        "        expires INTEGER NOT NULL"
        ") STRICT, WITHOUT ROWID;"

        "CREATE TABLE clients ("
        "        fingerprint BLOB NOT NULL PRIMARY KEY CHECK (length(fingerprint) = 32),"
        "        name TEXT NOT NULL,"
        "        role TEXT NOT NULL,"
        "        projects TEXT,"
        "        created INTEGER NOT NULL,"
        "        revoked INTEGER NOT NULL"
        ") STRICT, WITHOUT ROWID;"
        "CREATE UNIQUE INDEX clients_by_name ON clients (name) WHERE revoked = 0;",
};

const char *migration_sql(int i) {
        return i >= 0 && (size_t)i < ELEMENTSOF(migrations) ? migrations[i] : NULL;
}

int store_schema_version(void) {
        return (int)ELEMENTSOF(migrations);
}
