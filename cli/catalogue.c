// SPDX-License-Identifier: GPL-2.0-or-later
/* catalogue: the commands on servers of images, and what they have */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/io.h"
#include "cli/ask.h"

#define SOURCE_COLUMNS    "name,url,type,trust"
#define AVAILABLE_COLUMNS "name,source,version,size,trust,here,title"
#define KEY_MAX           (180u << 10) /* bytes of a file, so that its armour fits */

static int print_sources(struct ask *a, json_t *page, struct error *e) {
        return ask_print_list(a, page, "sources", &image_source_view_schema, SOURCE_COLUMNS, e);
}

/* Keys as the API takes them: in ASCII armour, which is made here of what gpg --export writes. */
static int load_key(const char *path, char **ret_armour, struct error *e) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        _cleanup_free_ char *text = NULL, *body = NULL;
        size_t n;
        int r = fd < 0 ? -errno : io_read_all(fd, KEY_MAX, &text, &n);

        if (r < 0)
                return error_set(e, r, "source-key", "check the path: ls -l", "cannot read %s", path);
        if (strstr(text, "BEGIN PGP PRIVATE KEY"))
                return error_set(e, -EINVAL, "source-key", "export the public one: gpg --armor --export KEY >FILE",
                                 "%s holds a private key", path);
        if (strstr(text, "BEGIN PGP PUBLIC KEY BLOCK")) {
                *ret_armour = TAKE_PTR(text);
                return 0;
        }
        if (n == 0 || !((unsigned char)text[0] & 0x80)) /* every packet begins with that bit (RFC 4880 §4.2) */
                return error_set(e, -EINVAL, "source-key", "export it: gpg --armor --export KEY >FILE",
                                 "%s is no OpenPGP public key", path);
        body = base64_encode(text, n);
        if (!body ||
            asprintf(ret_armour, "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n%s\n-----END PGP PUBLIC KEY BLOCK-----\n",
                     body) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot read the key");
        return 0;
}

int ask_image_source_add(struct ask *a, struct error *e) {
        struct image_source_config *source = ask_object(a, &image_source_config_schema);
        const struct image_source_options *files = ask_object(a, &image_source_options_schema);
        json_auto_t *page = NULL;
        int r = 0;

        if (files->key)
                r = load_key(files->key, &source->key, e);
        if (r == 0)
                r = image_source_config_check(source, e);
        if (r == 0)
                r = ask_send(a, ROUTE_IMAGE_SOURCE_ADD, NULL, &image_source_config_schema, &page, e);
        if (r < 0)
                return r;
        if (!ask_is_people(a))
                return ask_print_object(a, page, &image_source_page_schema, "all", e);
        printf("Source %s is there. See what it has: lodge image available %s\n", source->name, source->name);
        return 0;
}

int ask_image_source_list(struct ask *a, struct error *e) {
        json_auto_t *page = NULL;
        int r = ask_list(a, ROUTE_IMAGE_SOURCE_LIST, NULL, &page, e);

        if (r == 0)
                r = print_sources(a, page, e);
        if (r == 0 && ask_is_people(a) && json_array_size(json_object_get(page, "items")) == 0)
                fputs("there is none yet: lodge image source add NAME URL --key FILE\n", stderr);
        return r;
}

int ask_image_source_delete(struct ask *a, struct error *e) {
        json_auto_t *page = NULL;
        int r = ask_send(a, ROUTE_IMAGE_SOURCE_DELETE, a->request->name, NULL, &page, e);

        if (r < 0)
                return r;
        if (!ask_is_people(a))
                return ask_print_object(a, page, &image_source_page_schema, "all", e);
        render_text(stdout, a->request->name);
        puts(": deleted");
        return 0;
}

int ask_image_available(struct ask *a, struct error *e) {
        const struct catalogue_query *query = ask_object(a, &catalogue_query_schema);
        _cleanup_free_ char *text = NULL;
        json_auto_t *page = NULL;
        json_t *problem;
        size_t i;
        int r = client_query_object(&text, &catalogue_query_schema, query);

        if (r == 0)
                r = client_call(
                        a->client,
                        &(const struct client_call){ .route = ROUTE_CATALOGUE_LIST, .query = text, .timeout_s = 1200 },
                        &page, e);
        if (r == 0)
                r = ask_print_list(a, page, "images that could be had", &catalogue_item_schema, AVAILABLE_COLUMNS, e);
        if (r < 0 || !ask_is_people(a))
                return r;
        json_array_foreach(json_object_get(page, "problems"), i, problem) {
                const char *fix = json_string_value(json_object_get(problem, "fix"));

                fputs("lodge: ", stderr);
                render_text(stderr, json_string_value(json_object_get(problem, "message")) ?: "");
                fprintf(stderr, "  [%s]\n", json_string_value(json_object_get(problem, "id")) ?: "unknown");
                if (fix) {
                        fputs("  fix: ", stderr);
                        render_text(stderr, fix);
                        fputc('\n', stderr);
                }
        }
        return 0;
}

int ask_image_pull(struct ask *a, struct error *e) {
        struct image_pull_request *how = ask_object(a, &image_pull_request_schema);
        const struct image_pull_options *words = ask_object(a, &image_pull_options_schema);
        const char *colon = words->from ? strchr(words->from, ':') : NULL;
        json_auto_t *operation = NULL, *end = NULL;
        int r;

        if (!colon || colon == words->from || !colon[1])
                return error_set(e, -EINVAL, "image-pull-name",
                                 "as SOURCE:NAME; see what there is: lodge image available",
                                 "'%s' does not say from which source", words->from ?: "");
        how->source = strndup(words->from, (size_t)(colon - words->from));
        how->name = strdup(colon + 1);
        if (!how->source || !how->name)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot ask the daemon");
        if (streq(how->source, "builtin")) {
                error_set(e, -EINVAL, "image-pull-name", NULL, "%s is a recipe: it is built, not pulled", how->name);
                error_set_fix(e, "lodge image build %s", how->name);
                return -EINVAL;
        }
        r = image_pull_request_check(how, e);
        if (r == 0)
                r = ask_send(a, ROUTE_IMAGE_PULL, NULL, &image_pull_request_schema, &operation, e);
        return r < 0 ? r : follow_print(a, operation, &end, e);
}
