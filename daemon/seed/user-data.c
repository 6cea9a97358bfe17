// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * user-data: see user-data.h
 *
 * A #cloud-config is read twice by libyaml. First as a row of events, which says whether the text is YAML and bounds what a
 * text may cost: nesting, nodes, anchors, aliases. Only then as a tree, in which an alias is a reference to its node,
 * so that nothing is ever expanded. Of the tree we look at the keys of the top level, and into those whose
 * mistakes cost a person most: what they hold is checked as cloud-init's own schema has it (cloud-init 22.4, and newer keys).
 */
#include "daemon/seed/user-data.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

#include "base/cleanup.h"

#define DEPTH_MAX   64
#define NODES_MAX   20000
#define ANCHORS_MAX 256
#define ALIASES_MAX 256

#define FIX         "correct it; cloud-init's documentation says what each key takes: https://cloudinit.readthedocs.io/"

struct check {
        yaml_document_t *doc;
        bool login;
        struct seed_warnings *warnings;
        struct error *e;
};

static const char *const known_keys[] = {
        "allow_public_ssh_keys",
        "ansible",
        "apk_repos",
        "apt",
        "apt_pipelining",
        "apt_reboot_if_required",
        "apt_sources",
        "apt_update",
        "apt_upgrade",
        "authkey_hash",
        "autoinstall",
        "bootcmd",
        "byobu_by_default",
        "ca-certs",
        "ca_certs",
        "chef",
        "chpasswd",
        "cloud_config_modules",
        "cloud_final_modules",
        "cloud_init_modules",
        "create_hostname_file",
        "datasource",
        "datasource_list",
        "debug",
        "device_aliases",
        "disable_ec2_metadata",
        "disable_root",
        "disable_root_opts",
        "disk_setup",
        "drivers",
        "fan",
        "final_message",
        "fqdn",
        "fs_setup",
        "groups",
        "growpart",
        "grub-dpkg",
        "grub_dpkg",
        "hostname",
        "keyboard",
        "landscape",
        "launch-index",
        "locale",
        "locale_configfile",
        "lxd",
        "manage_etc_hosts",
        "manage_resolv_conf",
        "mcollective",
        "merge_how",
        "merge_type",
        "migrate",
        "mount_default_fields",
        "mounts",
        "network",
        "no_ssh_fingerprints",
        "ntp",
        "output",
        "package_reboot_if_required",
        "package_update",
        "package_upgrade",
        "packages",
        "password",
        "phone_home",
        "power_state",
        "prefer_fqdn_over_hostname",
        "preserve_hostname",
        "puppet",
        "random_seed",
        "reporting",
        "resize_rootfs",
        "resolv_conf",
        "rh_subscription",
        "rpi",
        "rsyslog",
        "runcmd",
        "salt_minion",
        "snap",
        "spacewalk",
        "ssh",
        "ssh_authorized_keys",
        "ssh_deletekeys",
        "ssh_fp_console_blacklist",
        "ssh_genkeytypes",
        "ssh_import_id",
        "ssh_key_console_blacklist",
        "ssh_keys",
        "ssh_publish_hostkeys",
        "ssh_pwauth",
        "ssh_quiet_keygen",
        "swap",
        "system_info",
        "timezone",
        "ubuntu_advantage",
        "ubuntu_pro",
        "updates",
        "user",
        "users",
        "vendor_data",
        "version",
        "wireguard",
        "write_files",
        "yum_repo_dir",
        "yum_repos",
        "zypper",
};
#define N_KEYS (sizeof(known_keys) / sizeof(*known_keys))

void seed_warn(struct seed_warnings *w, const char *format, ...) {
        va_list ap;

        if (!w || w->n == SEED_WARNINGS_MAX)
                return;
        va_start(ap, format);
        if (vasprintf(&w->text[w->n], format, ap) >= 0)
                w->n++;
        va_end(ap);
}

void seed_warnings_clear(struct seed_warnings *w) {
        for (size_t i = 0; i < w->n; i++)
                free(w->text[i]);
        *w = (struct seed_warnings){ 0 };
}

__attribute__((format(printf, 3, 4))) static int bad(struct error *e, const yaml_mark_t *at, const char *format, ...) {
        _cleanup_free_ char *text = NULL;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);
        return error_set(e, -EINVAL, "user-data", FIX, "user-data line %zu, column %zu: %s", at->line + 1,
                         at->column + 1, text ?: "wrong");
}

static int yaml_failed(const yaml_parser_t *p, struct error *e) {
        yaml_mark_t at = p->problem_mark;

        if (p->error == YAML_MEMORY_ERROR)
                return error_set(e, -ENOMEM, "no-memory", NULL, "out of memory");
        if (p->error == YAML_READER_ERROR)
                return error_set(e, -EINVAL, "user-data", "write it as UTF-8 text", "user-data byte %zu: %s",
                                 p->problem_offset, p->problem ?: "no text");
        return bad(e, &at, "%s%s%s", p->context ?: "", p->context ? ": " : "", p->problem ?: "no YAML");
}

/* What one event adds to a text's cost. */
static int count(const yaml_event_t *ev, unsigned int n[static 5], struct error *e) {
        enum { DEPTH, NODES, ANCHORS, ALIASES, DOCUMENTS };
        const yaml_char_t *anchor = NULL;

        switch (ev->type) {
        case YAML_DOCUMENT_START_EVENT:
                if (n[DOCUMENTS]++ > 0)
                        return bad(e, &ev->start_mark, "a second document begins; there may be one only");
                return 0;
        case YAML_SEQUENCE_START_EVENT:
                anchor = ev->data.sequence_start.anchor;
                n[DEPTH]++;
                break;
        case YAML_MAPPING_START_EVENT:
                anchor = ev->data.mapping_start.anchor;
                n[DEPTH]++;
                break;
        case YAML_SEQUENCE_END_EVENT:
        case YAML_MAPPING_END_EVENT:
                n[DEPTH]--;
                return 0;
        case YAML_SCALAR_EVENT:
                anchor = ev->data.scalar.anchor;
                break;
        case YAML_ALIAS_EVENT:
                n[ALIASES]++;
                break;
        default:
                return 0;
        }
        n[NODES]++;
        n[ANCHORS] += anchor ? 1 : 0;
        if (n[DEPTH] > DEPTH_MAX)
                return bad(e, &ev->start_mark, "it is nested more than %d times", DEPTH_MAX);
        if (n[NODES] > NODES_MAX)
                return bad(e, &ev->start_mark, "it has more than %d values", NODES_MAX);
        if (n[ANCHORS] > ANCHORS_MAX || n[ALIASES] > ALIASES_MAX)
                return bad(e, &ev->start_mark, "it has more than %d anchors or aliases", ANCHORS_MAX);
        return 0;
}

static int check_bounds(const char *text, size_t len, struct error *e) {
        unsigned int n[5] = { 0 };
        yaml_parser_t p;
        bool end = false;
        int r = 0;

        if (!yaml_parser_initialize(&p))
                return error_set(e, -ENOMEM, "no-memory", NULL, "out of memory");
        yaml_parser_set_input_string(&p, (const unsigned char *)text, len);
        yaml_parser_set_encoding(&p, YAML_UTF8_ENCODING);
        while (r == 0 && !end) {
                yaml_event_t ev;

                if (!yaml_parser_parse(&p, &ev)) {
                        r = yaml_failed(&p, e);
                        break;
                }
                end = ev.type == YAML_STREAM_END_EVENT;
                r = count(&ev, n, e);
                yaml_event_delete(&ev);
        }
        yaml_parser_delete(&p);
        return r;
}

static const char *kind_name(const yaml_node_t *n) {
        return n->type == YAML_SEQUENCE_NODE ? "a list" : n->type == YAML_MAPPING_NODE ? "a mapping" : "a single value";
}

static const char *text_of(const yaml_node_t *n) {
        return n->type == YAML_SCALAR_NODE ? (const char *)n->data.scalar.value : NULL;
}

/* A plain scalar that YAML takes for "nothing". */
static bool is_null(const yaml_node_t *n) {
        const char *t = text_of(n);

        return t && n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
               (t[0] == '\0' || streq(t, "~") || strcasecmp(t, "null") == 0);
}

static size_t list_len(const yaml_node_t *n) {
        return (size_t)(n->data.sequence.items.top - n->data.sequence.items.start);
}

static const yaml_node_t *list_at(struct check *c, const yaml_node_t *n, size_t i) {
        return yaml_document_get_node(c->doc, n->data.sequence.items.start[i]);
}

static const yaml_node_t *find(struct check *c, const yaml_node_t *map, const char *key) {
        for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++) {
                const char *t = text_of(yaml_document_get_node(c->doc, p->key));

                if (t && streq(t, key))
                        return yaml_document_get_node(c->doc, p->value);
        }
        return NULL;
}

static int need_list(struct check *c, const yaml_node_t *n, const char *key) {
        return n->type == YAML_SEQUENCE_NODE
                       ? 0
                       : bad(c->e, &n->start_mark,
                             "%s must be a list, and is %s: write each item on a line of its own, "
                             "behind \"- \"",
                             key, kind_name(n));
}

/* A list of keys: they may have options, so one that we don't know is odd only. */
static int check_ssh_keys(struct check *c, const yaml_node_t *n, const char *key) {
        int r = need_list(c, n, key);

        for (size_t i = 0; r == 0 && i < list_len(n); i++) {
                const yaml_node_t *item = list_at(c, n, i);
                const char *t = text_of(item);

                if (!t || is_null(item))
                        return bad(c->e, &item->start_mark, "each item of %s must be a key, and this is %s", key,
                                   t ? "nothing" : kind_name(item));
                if (strstr(t, "PRIVATE KEY"))
                        return bad(c->e, &item->start_mark,
                                   "this is a private SSH key: only the public one belongs here");
                if (ssh_key_check(t, NULL) < 0)
                        seed_warn(c->warnings, "user-data line %zu: this is no SSH key that is known here",
                                  item->start_mark.line + 1);
                c->login = true;
        }
        return r;
}

static int check_user(struct check *c, const yaml_node_t *n) {
        static const char *const gives_login[] = { "passwd", "hashed_passwd", "plain_text_passwd", "ssh_import_id" };
        const yaml_node_t *keys = find(c, n, "ssh_authorized_keys") ?: find(c, n, "ssh-authorized-keys");
        const yaml_node_t *name = find(c, n, "name") ?: find(c, n, "snapuser");

        if (!name || !text_of(name) || is_null(name))
                return bad(c->e, &n->start_mark, "a user has no name");
        for (size_t i = 0; i < sizeof(gives_login) / sizeof(*gives_login); i++) {
                const yaml_node_t *v = find(c, n, gives_login[i]);

                c->login |= v && !is_null(v);
        }
        /* cloud-init takes a single key here, too. */
        if (keys && keys->type == YAML_SCALAR_NODE && !is_null(keys)) {
                c->login = true;
                return 0;
        }
        return keys ? check_ssh_keys(c, keys, "ssh_authorized_keys") : 0;
}

static int check_users(struct check *c, const yaml_node_t *n, const char *key) {
        int r = 0;

        /* "users: alice, bob" and "users: {alice: ...}" are old ways, which cloud-init still takes. */
        if (n->type != YAML_SEQUENCE_NODE) {
                seed_warn(c->warnings, "user-data line %zu: users should be a list", n->start_mark.line + 1);
                return 0;
        }
        for (size_t i = 0; r == 0 && i < list_len(n); i++) {
                const yaml_node_t *item = list_at(c, n, i);

                if (item->type == YAML_MAPPING_NODE)
                        r = check_user(c, item);
                else if (item->type == YAML_SEQUENCE_NODE || is_null(item))
                        r = bad(c->e, &item->start_mark,
                                "each item of users must be a name or a mapping, and this is %s",
                                item->type == YAML_SEQUENCE_NODE ? "a list" : "nothing");
        }
        return r;
}

static int check_packages(struct check *c, const yaml_node_t *n, const char *key) {
        int r = need_list(c, n, key);

        for (size_t i = 0; r == 0 && i < list_len(n); i++) {
                const yaml_node_t *item = list_at(c, n, i);

                if (is_null(item))
                        return bad(c->e, &item->start_mark, "an item of packages is empty");
                if (item->type == YAML_SEQUENCE_NODE && list_len(item) != 2)
                        return bad(c->e, &item->start_mark,
                                   "a package is a name, or a list of name and version; this list has %zu items",
                                   list_len(item));
        }
        return r;
}

/* runcmd and bootcmd */
static int check_commands(struct check *c, const yaml_node_t *n, const char *key) {
        int r = need_list(c, n, key);

        for (size_t i = 0; r == 0 && i < list_len(n); i++) {
                const yaml_node_t *item = list_at(c, n, i);

                if (item->type == YAML_MAPPING_NODE)
                        return bad(c->e, &item->start_mark,
                                   "this command is a mapping, because of a colon in it: put the whole command into "
                                   "quotes");
                for (size_t k = 0; item->type == YAML_SEQUENCE_NODE && k < list_len(item); k++)
                        if (!text_of(list_at(c, item, k)))
                                return bad(c->e, &list_at(c, item, k)->start_mark,
                                           "each word of a command must be a single value, and this is %s",
                                           kind_name(list_at(c, item, k)));
        }
        return r;
}

static int check_write_files(struct check *c, const yaml_node_t *n, const char *key) {
        int r = need_list(c, n, key);

        for (size_t i = 0; r == 0 && i < list_len(n); i++) {
                const yaml_node_t *item = list_at(c, n, i), *path;

                if (item->type != YAML_MAPPING_NODE)
                        return bad(c->e, &item->start_mark,
                                   "each item of write_files must be a mapping with path and content, and this is %s",
                                   kind_name(item));
                path = find(c, item, "path");
                if (!path || !text_of(path) || text_of(path)[0] != '/')
                        return bad(c->e, &item->start_mark, "this file has no path that begins with /");
        }
        return r;
}

static int check_login(struct check *c, const yaml_node_t *n, const char *key) {
        c->login |= !is_null(n);
        return 0;
}

/* The user dictionary: cloud-init's default user. */
static int check_default_user(struct check *c, const yaml_node_t *n, const char *key) {
        if (n->type == YAML_SEQUENCE_NODE)
                return bad(c->e, &n->start_mark,
                           "user must be a name or a mapping, and is a list: for more than one, users");
        return n->type == YAML_MAPPING_NODE && find(c, n, "name") ? check_user(c, n) : 0;
}

static const struct {
        const char *key;
        int (*check)(struct check *c, const yaml_node_t *value, const char *key);
} checks[] = {
        { "bootcmd", check_commands },        { "chpasswd", check_login },    { "packages", check_packages },
        { "password", check_login },          { "runcmd", check_commands },   { "ssh_authorized_keys", check_ssh_keys },
        { "ssh_import_id", check_login },     { "user", check_default_user }, { "users", check_users },
        { "write_files", check_write_files },
};

static const char *known_key(const void *table, unsigned int i) {
        return ((const char *const *)table)[i];
}

static int check_pair(struct check *c, const yaml_node_t *key, const yaml_node_t *value) {
        const char *name = text_of(key), *near;
        bool known = false;

        if (!name)
                return bad(c->e, &key->start_mark, "a key must be a word, and this is %s", kind_name(key));
        for (size_t i = 0; i < sizeof(checks) / sizeof(*checks); i++)
                if (streq(checks[i].key, name))
                        return checks[i].check(c, value, name);
        for (size_t i = 0; i < N_KEYS; i++)
                known |= streq(known_keys[i], name);
        near = known ? NULL : schema_suggest(name, known_key, known_keys, N_KEYS);
        if (!known)
                seed_warn(c->warnings, "user-data line %zu: cloud-init knows no key '%.60s'%s%s%s",
                          key->start_mark.line + 1, name, near ? ": did you mean '" : "", near ?: "", near ? "'?" : "");
        return 0;
}

static int check_tree(struct check *c) {
        const yaml_node_t *root = yaml_document_get_root_node(c->doc);
        yaml_node_pair_t *first;
        int r = 0;

        if (!root || is_null(root)) /* nothing but comments */
                return 0;
        if (root->type != YAML_MAPPING_NODE)
                return bad(c->e, &root->start_mark, "a #cloud-config must be a mapping (key: value), and this is %s",
                           kind_name(root));
        first = root->data.mapping.pairs.start;
        for (yaml_node_pair_t *p = first; r == 0 && p < root->data.mapping.pairs.top; p++) {
                const yaml_node_t *key = yaml_document_get_node(c->doc, p->key);

                r = check_pair(c, key, yaml_document_get_node(c->doc, p->value));
                if (r == 0 && find(c, root, text_of(key)) != yaml_document_get_node(c->doc, p->value))
                        r = bad(c->e, &key->start_mark, "the key %.60s is there twice: only one of them would count",
                                text_of(key));
        }
        return r;
}

static int check_cloud_config(const char *text, size_t len, bool *ret_login, struct seed_warnings *warnings,
                              struct error *e) {
        yaml_document_t doc;
        yaml_parser_t p;
        int r = check_bounds(text, len, e);

        if (r < 0)
                return r;
        if (!yaml_parser_initialize(&p))
                return error_set(e, -ENOMEM, "no-memory", NULL, "out of memory");
        yaml_parser_set_input_string(&p, (const unsigned char *)text, len);
        yaml_parser_set_encoding(&p, YAML_UTF8_ENCODING);
        if (!yaml_parser_load(&p, &doc)) {
                r = yaml_failed(&p, e);
        } else {
                struct check c = { .doc = &doc, .warnings = warnings, .e = e };

                r = check_tree(&c);
                if (r == 0)
                        *ret_login = c.login;
                yaml_document_delete(&doc);
        }
        yaml_parser_delete(&p);
        return r;
}

static bool begins(const char *text, const char *with) {
        return strncasecmp(text, with, strlen(with)) == 0;
}

int user_data_kind(const char *text, enum user_data_kind *ret_kind, struct error *e) {
        static const char config[] = "#cloud-config";
        size_t n = strlen(config);

        if (!text || text[0] == '\0')
                *ret_kind = USER_DATA_NONE;
        else if (strncmp(text, config, n) == 0 && (text[n] == '\0' || strchr(" \t\r\n", text[n])))
                *ret_kind = USER_DATA_CLOUD_CONFIG;
        else if (strncmp(text, "#!", 2) == 0)
                *ret_kind = USER_DATA_SCRIPT;
        else if (begins(text, "Content-Type: multipart/") || begins(text, "MIME-Version:"))
                *ret_kind = USER_DATA_MIME;
        else
                return error_set(
                        e, -EINVAL, "user-data",
                        "let its first line be #cloud-config, without a space in it or before it; or #! and an "
                        "interpreter for a script",
                        "user-data line 1, column 1: cloud-init would not know what this is");
        return 0;
}

int user_data_check(const char *text, bool *ret_login, struct seed_warnings *warnings, struct error *e) {
        size_t len = text ? strnlen(text, SEED_USER_DATA_MAX + 1) : 0;
        enum user_data_kind kind;
        int r;

        if (len > SEED_USER_DATA_MAX)
                return error_set(e, -EINVAL, "user-data", "let it fetch what is large, by runcmd",
                                 "user-data is larger than %u KiB", SEED_USER_DATA_MAX >> 10);
        r = user_data_kind(text, &kind, e);
        if (r < 0)
                return r;
        if (kind == USER_DATA_CLOUD_CONFIG)
                return check_cloud_config(text, len, ret_login, warnings, e);
        *ret_login = kind != USER_DATA_NONE;
        return 0;
}
