// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * complete: `lodge complete machines|images|operations|templates`: names for the shell's completion, one a line
 *
 * A shell asks at each Tab: so it is quick, it says nothing about what went wrong, and it never starts a daemon. What is no plain word is left out: the shells
 * would split or expand it.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cli/ask.h"
#include "daemon/image/image.h"

static void put_name(const char *name) {
        for (const char *p = name; *p; p++)
                if (!isascii((unsigned char)*p) || (!isalnum((unsigned char)*p) && !strchr("._/:-", *p)))
                        return;
        puts(name);
}

static void from_daemon(const struct client_options *options, enum schema_route_id route, const char *key) {
        _cleanup_(client_freep) struct client *client = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        const struct client_call call = { .route = route, .timeout_s = 2 };
        json_auto_t *page = NULL;
        json_t *item;
        size_t i;

        if (client_open(options, false, &client, &e) < 0 || client_call(client, &call, &page, &e) < 0)
                return;
        json_array_foreach(json_object_get(page, "items"), i, item) {
                put_name(json_string_value(json_object_get(item, key)) ?: "?");
        }
}

static void images(void) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct image_store *store = NULL;
        struct image **list;
        size_t n;

        if (image_store_open(NULL, NULL, &store, &e) < 0)
                return;
        if (image_list(store, &list, &n, &e) == 0) {
                for (size_t i = 0; i < n; i++)
                        put_name(list[i]->name);
                image_list_free(list, n);
        }
        image_store_free(store);
}

int cli_complete(int argc, char **argv) {
        _cleanup_(request_options_freep) struct request_options *request = NULL;
        _cleanup_(client_options_freep) struct client_options *client = NULL;
        void *objects[2];
        int status;

        if (request_options_new(&request) < 0 || client_options_new(&client) < 0)
                return CLI_FAILED;
        objects[0] = request;
        objects[1] = client;
        if (cli_parse(&schema_command_complete, argc, argv, objects, &status))
                return status;
        if (streq(request->what, "machines"))
                from_daemon(client, ROUTE_MACHINE_LIST, "name");
        else if (streq(request->what, "operations"))
                from_daemon(client, ROUTE_OPERATION_LIST, "id");
        else if (streq(request->what, "images"))
                images();
        else if (streq(request->what, "templates"))
                for (unsigned int i = 0; i < schema_n_templates; i++)
                        put_name(schema_templates[i].name);
        return CLI_OK;
}
