// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * welcome: `lodge` alone: what is here, and what to do next on this host
 *
 * It looks, cheaply, and starts nothing: at the daemon, at the images, at /dev/kvm. Then it names the one next command.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "cli/ask.h"
#include "daemon/image/image.h"

struct situation {
        json_t *daemon, *machines; /* answers, NULL without a daemon */
        struct error refused;      /* why there is none */
        size_t n_images;
        char image[256]; /* the first one */
        char remote[64]; /* whose daemon it is; "": this host's */
        int kvm;         /* 0, or -errno of opening /dev/kvm */
};

static void look_at_daemon(struct situation *s) {
        _cleanup_(client_options_freep) struct client_options *options = NULL;
        _cleanup_(client_freep) struct client *client = NULL;
        const struct client_call show = { .route = ROUTE_DAEMON_SHOW, .timeout_s = 5 };
        const struct client_call list = { .route = ROUTE_MACHINE_LIST, .query = "limit=1", .timeout_s = 5 };

        if (client_options_new(&options) < 0 || client_open(options, false, &client, &s->refused) < 0 ||
            client_call(client, &show, &s->daemon, &s->refused) < 0)
                return;
        if (client->remote)
                snprintf(s->remote, sizeof(s->remote), "%s", client->remote->config->name);
        client_call(client, &list, &s->machines, &s->refused);
}

static void look_at_images(struct situation *s) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct image_store *store = NULL;
        struct image **list;

        if (image_store_open(NULL, NULL, &store, &e) < 0)
                return;
        if (image_list(store, &list, &s->n_images, &e) == 0) {
                for (size_t i = 0; i < s->n_images && !s->image[0]; i++)
                        if (!list[i]->broken)
                                snprintf(s->image, sizeof(s->image), "%s", list[i]->name);
                image_list_free(list, s->n_images);
        }
        image_store_free(store);
}

static void look_at_kvm(struct situation *s) {
        int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

        s->kvm = fd < 0 ? -errno : 0;
        safe_close(fd);
}

static long long number(const json_t *object, const char *key) {
        return (long long)json_integer_value(json_object_get(object, key));
}

static void print_here(const struct situation *s) {
        fputs("daemon   ", stdout);
        if (s->daemon) {
                const char *scope = json_string_value(json_object_get(s->daemon, "scope"));

                fputs("runs (", stdout);
                if (s->remote[0])
                        printf("remote %s, ", s->remote);
                render_text(stdout, scope ?: "?");
                printf("); machines: %lld, running: %lld\n", number(s->daemon, "machines"),
                       number(s->daemon, "running"));
        } else if (s->refused.code == -EACCES)
                puts("runs, and refuses you: see below");
        else
                puts("does not run; the first command starts one of your own, systemctl start lodged the system's");
        printf("images   %zu\n", s->n_images);
        if (s->kvm == 0)
                puts("KVM      can be opened; lodge host probe says what it is worth");
        else if (s->kvm == -EACCES)
                puts("KVM      is closed to you: sudo usermod -aG kvm $USER, then log in again");
        else
                puts("KVM      is missing: machines are emulated, which is slow; lodge host probe says why");
}

static void print_next(const struct situation *s) {
        const char *name =
                json_string_value(json_object_get(json_array_get(json_object_get(s->machines, "items"), 0), "name"));

        puts("\nnext");
        if (!s->image[0] && !name)
                puts("  lodge launch debian/12 web    build a Debian image, make a machine of it, start it\n"
                     "  lodge launch tiny web         the same with a small system: ready in half a minute");
        else if (!name)
                printf("  lodge launch %-16s make a machine of it and start it\n", s->image);
        else {
                puts("  lodge list                    your machines");
                printf("  lodge info %-18s one of them\n", name);
        }
        puts("\nevery command: lodge --help");
}

int cli_welcome(void) {
        struct situation s = { .refused = ERROR_INIT };

        look_at_daemon(&s);
        look_at_images(&s);
        look_at_kvm(&s);
        puts("Lodge runs virtual machines with KVM.\n");
        print_here(&s);
        print_next(&s);
        if (s.refused.code == -EACCES) {
                putchar('\n');
                fflush(stdout);
                error_print(&s.refused, "lodge", stderr);
        }
        json_decref(s.daemon);
        json_decref(s.machines);
        error_clear(&s.refused);
        return CLI_OK;
}
