// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz-seed: any bytes as an SSH key, as user-data, and as cloud-init's answer
 *
 * The first byte chooses. What is refused must have a reason, an accepted key must be one line of plain text, and accepted user-data must
 * make a seed's user-data.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/seed/user-data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void reason(int r, const struct error *e) {
        if (r < 0 && (!e->id || !e->message))
                abort();
}

static void key(const char *text) {
        _cleanup_error_ struct error e = ERROR_INIT;
        int r = ssh_key_check(text, &e);

        reason(r, &e);
        if (r == 0 && strpbrk(text, "\r\n\t\x1b\x7f"))
                abort();
}

static void user_data(const char *text) {
        _cleanup_(cloud_config_freep) struct cloud_config *c = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct seed_warnings w = { 0 };
        _cleanup_free_ char *made = NULL;
        bool login;
        int r = user_data_check(text, &login, &w, &e);

        reason(r, &e);
        seed_warnings_clear(&w);
        if (r < 0 || cloud_config_new(&c) < 0)
                return;
        c->user_data = strdup(text);
        made = seed_user_data(c);
        if (!made)
                abort();
}

static void result(const char *text, size_t len) {
        struct seed_result res;

        if (seed_result_parse(text, len, &res) < 0)
                return;
        for (size_t i = 0; i < res.n_messages; i++)
                if (strlen(res.messages[i]) > SEED_MESSAGE_MAX || strpbrk(res.messages[i], "\n\r\x1b\x7f"))
                        abort();
        seed_result_clear(&res);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_free_ char *text = NULL;

        if (size == 0)
                return 0;
        text = malloc(size);
        if (!text)
                return 0;
        memcpy(text, data + 1, size - 1);
        text[size - 1] = '\0';
        switch (data[0]) {
        case 'k':
                key(text);
                return 0;
        case 'u':
                user_data(text);
                return 0;
        case 'r':
                result(text, size - 1);
                return 0;
        default:
                return -1; /* not worth keeping */
        }
}
