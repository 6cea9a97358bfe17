// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * result: what cloud-init says of itself; see seed.h
 *
 *      cloud-init status --format json     {"status": "done", "detail": "...", "errors": []}, since 22.4
 *      /run/cloud-init/result.json         {"v1": {"datasource": "...", "errors": []}}, there when it has ended
 *
 * Newer versions say "degraded done" and "extended_status", and collect "recoverable_errors" by level: worth showing, no error.
 */
#include <jansson.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "daemon/seed/seed.h"

#define RESULT_MAX (1u << 20)

/* Adds a text, one line of which is kept as far as it is plain. */
static int add(struct seed_result *result, const char *text) {
        size_t n = 0;
        char *line;
        bool plain;

        if (!text || !*text || result->n_messages == SEED_MESSAGES_MAX)
                return 0;
        line = malloc(SEED_MESSAGE_MAX + 1);
        if (!line)
                return -ENOMEM;
        while (*text) {
                size_t len = text_char(text, &plain);

                if (n + len > SEED_MESSAGE_MAX)
                        break;
                if (plain)
                        memcpy(line + n, text, len);
                else
                        line[n] = ' ';
                n += plain ? len : 1;
                text += len;
        }
        line[n] = '\0';
        result->messages[result->n_messages++] = line;
        return 0;
}

static int add_list(struct seed_result *result, const json_t *list) {
        int r = 0;

        for (size_t i = 0; r == 0 && i < json_array_size(list); i++)
                r = add(result, json_string_value(json_array_get(list, i)));
        return r;
}

static int add_recoverable(struct seed_result *result, json_t *levels) {
        const char *level;
        json_t *list;
        int r = 0;

        json_object_foreach(levels, level, list) if (r == 0) r = add_list(result, list);
        return r;
}

static bool state_of(const char *status, enum seed_state *ret) {
        static const struct {
                const char *text;
                enum seed_state state;
        } states[] = {
                { "not run", SEED_RUNNING },
                { "not started", SEED_RUNNING },
                { "running", SEED_RUNNING },
                { "degraded running", SEED_RUNNING },
                { "done", SEED_DONE },
                { "degraded done", SEED_DONE },
                { "error", SEED_ERROR },
                { "error - done", SEED_ERROR },
                { "error - running", SEED_ERROR },
                { "disabled", SEED_OFF },
        };

        for (size_t i = 0; status && i < sizeof(states) / sizeof(*states); i++)
                if (streq(status, states[i].text)) {
                        *ret = states[i].state;
                        return true;
                }
        return false;
}

static int read_status(json_t *root, struct seed_result *result) {
        json_t *errors = json_object_get(root, "errors");
        int r;

        if (!state_of(json_string_value(json_object_get(root, "status")), &result->state))
                return -EINVAL;
        r = add_list(result, errors);
        if (r == 0)
                r = add_recoverable(result, json_object_get(root, "recoverable_errors"));
        if (r == 0 && result->state == SEED_ERROR && result->n_messages == 0)
                r = add(result, json_string_value(json_object_get(root, "detail")));
        return r;
}

static int read_result(json_t *v1, struct seed_result *result) {
        json_t *errors = json_object_get(v1, "errors");

        if (!json_is_array(errors))
                return -EINVAL;
        result->state = json_array_size(errors) > 0 ? SEED_ERROR : SEED_DONE;
        return add_list(result, errors);
}

int seed_result_parse(const char *text, size_t len, struct seed_result *ret_result) {
        struct seed_result result = { .state = SEED_RUNNING };
        json_t *root, *v1;
        int r;

        if (len > RESULT_MAX)
                return -EINVAL;
        root = json_loadb(text, len, 0, NULL);
        if (!root)
                return -EINVAL;
        v1 = json_object_get(root, "v1");
        r = json_is_object(v1) ? read_result(v1, &result) : read_status(root, &result);
        json_decref(root);
        if (r < 0) {
                seed_result_clear(&result);
                return r;
        }
        *ret_result = result;
        return 0;
}

void seed_result_clear(struct seed_result *result) {
        for (size_t i = 0; i < result->n_messages; i++)
                free(result->messages[i]);
        *result = (struct seed_result){ 0 };
}

const char *seed_state_name(enum seed_state state) {
        static const char *const names[] = {
                [SEED_RUNNING] = "running", [SEED_DONE] = "done", [SEED_ERROR] = "error", [SEED_OFF] = "off"
        };

        return names[state];
}
