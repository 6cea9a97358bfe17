// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lodge image: the images that machines start from
 *
 * Exit status: 0, or as error_exit_status() says. Steps are shown on a terminal only; results go to the standard output, errors to the
 * standard error. Ctrl-C, SIGTERM and a terminal that goes away stop a build or an import, which then cleans up, unless they are ignored.
 */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/text.h"
#include "cli/disk-work.h"
#include "daemon/image/image.h"

struct context {
        const struct image_options *options;
        struct image_store *store;
        bool json;
        struct image_progress progress;
        struct timespec start;
};

static void show_step(void *opaque, const char *text) {
        struct context *c = opaque;
        struct timespec now;

        if (!isatty(STDERR_FILENO))
                return;
        clock_gettime(CLOCK_MONOTONIC, &now);
        fprintf(stderr, "[%3jd s] %s\n", (intmax_t)(now.tv_sec - c->start.tv_sec), text);
}

/* Signals that should end a long operation become a descriptor; the caller's mask is back when the process ends. */
static int watch_signals(void) {
        sigset_t set;

        disk_stop_signals(&set);
        sigprocmask(SIG_BLOCK, &set, NULL);
        return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static json_t *image_json(const struct image *i) {
        json_t *o = json_object(), *files = json_object();
        const struct {
                const char *key, *value;
        } fields[] = {
                { "name", i->name },       { "directory", i->dir },   { "broken", i->broken },
                { "version", i->version }, { "created", i->created }, { "arch", i->arch },
                { "format", i->format },   { "recipe", i->recipe },   { "source", i->source },
                { "cmdline", i->cmdline }, { "user", i->user },       { "login", i->login },
        };

        for (size_t k = 0; k < ELEMENTSOF(fields); k++)
                json_object_set_new(o, fields[k].key, fields[k].value ? json_string(fields[k].value) : json_null());
        json_object_set_new(o, "agent", json_boolean(i->agent));
        for (size_t k = 0; k < _IMAGE_FILE_MAX; k++)
                if (i->files[k].name)
                        json_object_set_new(files, image_file_kind_name(k),
                                            json_pack("{s:s, s:I, s:s}", "name", i->files[k].name, "size",
                                                      (json_int_t)i->files[k].size, "sha256", i->files[k].sha256));
        json_object_set_new(o, "files", files);
        return o;
}

static void print_json(json_t *o) {
        json_dumpf(o, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        putchar('\n');
        json_decref(o);
}

static int do_list(struct context *c, struct error *error) {
        struct image **images = NULL;
        size_t n = 0;
        int r;

        r = image_list(c->store, &images, &n, error);
        if (r < 0)
                return r;
        if (c->json) {
                json_t *all = json_array();

                for (size_t i = 0; i < n; i++)
                        json_array_append_new(all, image_json(images[i]));
                print_json(json_pack("{s:s, s:o}", "store", image_store_root(c->store), "images", all));
        } else if (n == 0)
                printf("No images in %s yet. Make one: lodge image build debian/12\n", image_store_root(c->store));
        else
                printf("%-20s %-14s %-10s %-6s %s\n", "NAME", "VERSION", "DISK", "AGENT", "CREATED");
        for (size_t i = 0; i < n && !c->json; i++) {
                char size[TEXT_SIZE_MAX] = "-";
                const struct image *m = images[i];

                if (m->broken) {
                        printf("%-20s broken: ", m->name);
                        disk_print_text(m->broken);
                        putchar('\n');
                        continue;
                }
                if (m->files[IMAGE_FILE_DISK].name)
                        text_format_size(m->files[IMAGE_FILE_DISK].size, size);
                printf("%-20s ", m->name);
                disk_print_text(m->version ?: "-");
                printf("%*s %-10s %-6s ", (int)MAX(0, 14 - (int)strlen(m->version ?: "-")), "", size,
                       m->agent ? "yes" : "no");
                disk_print_text(m->created ?: "-");
                putchar('\n');
        }
        image_list_free(images, n);
        return 0;
}

static void print_field(const char *label, const char *value) {
        if (!value)
                return;
        printf("%-10s ", label);
        disk_print_text(value);
        putchar('\n');
}

static int do_show(struct context *c, struct error *error) {
        _cleanup_(image_freep) struct image *m = NULL;
        int r;

        r = image_find(c->store, c->options->name, &m, error);
        if (r == 0 && c->options->verify)
                r = image_verify(m, error);
        if (r < 0)
                return r;
        if (c->json) {
                print_json(image_json(m));
                return 0;
        }
        print_field("name", m->name);
        print_field("version", m->version);
        print_field("created", m->created);
        print_field("source", m->source);
        print_field("recipe", m->recipe);
        print_field("arch", m->arch);
        print_field("format", m->format);
        print_field("agent", m->agent ? "yes" : "no");
        print_field("login", m->login);
        print_field("cmdline", m->cmdline);
        print_field("directory", m->dir);
        for (size_t k = 0; k < _IMAGE_FILE_MAX; k++) {
                char size[TEXT_SIZE_MAX];

                if (!m->files[k].name)
                        continue;
                printf("%-10s ", image_file_kind_name(k));
                disk_print_text(m->files[k].name);
                printf(", %s, sha256 ", text_format_size(m->files[k].size, size));
                disk_print_done("", m->files[k].sha256, "");
        }
        if (c->options->verify)
                puts("Every file is what was recorded.");
        return 0;
}

static int do_delete(struct context *c, struct error *error) {
        int r = image_delete(c->store, c->options->name, error);

        if (r < 0)
                return r;
        if (c->json)
                print_json(json_pack("{s:s, s:s}", "result", "deleted", "name", c->options->name));
        else
                printf("Deleted image %s.\n", c->options->name);
        return 0;
}

static int show_result(struct context *c, const char *name, const char *verb, struct error *error) {
        _cleanup_(image_freep) struct image *m = NULL;
        struct timespec now;
        int r;

        r = image_find(c->store, name, &m, error);
        if (r < 0)
                return r;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (c->json)
                print_json(json_pack("{s:s, s:f, s:o}", "result", verb, "seconds",
                                     (double)(now.tv_sec - c->start.tv_sec) +
                                             (double)(now.tv_nsec - c->start.tv_nsec) / 1e9,
                                     "image", image_json(m)));
        else if (streq(verb, "cached"))
                printf("Image %s is up to date: the same packages and recipe. (--rebuild builds it all the same.)\n",
                       name);
        else
                printf("Image %s is ready, after %.1f s. Start a machine: lodge run %s\n", name,
                       (double)(now.tv_sec - c->start.tv_sec) + (double)(now.tv_nsec - c->start.tv_nsec) / 1e9, name);
        return 0;
}

static int do_build(struct context *c, struct error *error) {
        bool cached = false;
        int r;

        c->progress.cancel_fd = watch_signals();
        r = image_build(c->store, c->options->name, c->options->rebuild, &c->progress, &cached, error);
        return r < 0 ? r : show_result(c, c->options->name, cached ? "cached" : "built", error);
}

static int do_import(struct context *c, struct error *error) {
        const struct image_options *o = c->options;
        const struct image_import import = {
                .name = o->name,
                .format = o->disk_format == IMAGE_IMPORT_FORMAT_UNKNOWN ? NULL
                                                                      : image_import_format_to_string(o->disk_format),
                .kernel = o->kernel,
                .initrd = o->initrd,
                .cmdline = o->append,
                .agent = o->agent,
                .lock = disk_claim,
        };
        _cleanup_free_ char *name = NULL;
        int r;

        c->progress.cancel_fd = watch_signals();
        r = image_import(c->store, o->file, &import, &c->progress, &name, error);
        return r < 0 ? r : show_result(c, name, "imported", error);
}

static int image_command(const struct schema_command *command, int argc, char **argv,
                         int (*run)(struct context *c, struct error *error)) {
        _cleanup_(image_options_freep) struct image_options *options = NULL;
        _cleanup_(image_store_freep) struct image_store *store = NULL;
        _cleanup_error_ struct error error = ERROR_INIT;
        struct context c = { .progress = { .step = show_step, .opaque = &c, .cancel_fd = -EBADF } };
        void *objects[1];
        int r, status;

        if (image_options_new(&options) < 0)
                return CLI_FAILED;
        objects[0] = options;
        if (cli_parse(command, argc, argv, objects, &status))
                return status;
        c.options = options;
        c.json = options->format == OUTPUT_FORMAT_JSON;
        clock_gettime(CLOCK_MONOTONIC, &c.start);
        r = image_options_check(options, &error);
        if (r == 0)
                r = image_store_open(NULL, NULL, &store, &error);
        c.store = store;
        if (r == 0)
                r = run(&c, &error);
        if (r == 0)
                return CLI_OK;
        if (error.code == 0)
                error_set(&error, r, "failed", NULL, "lodge %s", command->name);
        return c.json ? cli_fail_json(&error) : cli_fail(&error);
}

int cli_image_build(int argc, char **argv) {
        return image_command(&schema_command_image_build, argc, argv, do_build);
}

int cli_image_list(int argc, char **argv) {
        return image_command(&schema_command_image_list, argc, argv, do_list);
}

int cli_image_show(int argc, char **argv) {
        return image_command(&schema_command_image_show, argc, argv, do_show);
}

int cli_image_delete(int argc, char **argv) {
        return image_command(&schema_command_image_delete, argc, argv, do_delete);
}

int cli_image_import(int argc, char **argv) {
        return image_command(&schema_command_image_import, argc, argv, do_import);
}
