// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Units of daemon/seed: keys, user-data and cloud-init's answers, as a person gets them wrong and as somebody hostile would
 * write them; and the files of a seed.
 *
 * With arguments it is the tool of test/system/seed.sh: `test-seed make DIR NAME INSTANCE CLOUD-JSON [MAC]...` writes a seed;
 * `test-seed result FILE` says what cloud-init's answer in a file means.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/io.h"
#include "daemon/seed/user-data.h"

#define ED25519 "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGBYW4ViqlgcXJvqeZvqLnoNNS+Ydl8Xay5AlDxzuMk3"
#define RSA                                                                                                            \
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDQvYA+00wMDlxUy3/r4N4rIPNkiwE4IAKH5Cr5M6mv3uJNpllyJisCCIOVQw21pvOW5+2e" \
        "C6OjJ6B7P6Sh7jR64xpfFYsb0fIT245VO0aT57DQND3WLiPh4+DZVILvax2YS/pQtPQCpVkX6KtHIfvHeV79G+Dtie3IAAh9df9hOyg86ZuP" \
        "2K+4URAovytNSqo4Afgsqect+CHYGv44hNGCeUdN7Y3r+fd4N4dmWo9IrUEkUz5jdqYXUkaHRirYptP8cvMs9H9/IbsxLTFnUYMAXT5IbeNO" \
        "TXE3rOk6M1Zw9nJQ/NHkXAc6yPbiOijYtxBit/zectrrwC0tjJyZOWAj"
#define ECDSA                                                                                                          \
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNv3ZGwRGIF6MqVy9CT2qV+vkySXvr6GKlNU" \
        "mt0XVOv/KB+d3l+8TrbO6p4pGMrIFfTazIYxd4Mpo93u4S1rbvo="
#define ECDSA521                                                                                                       \
        "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAFtbJwUdiyaZylEM2BapoTmBUtfvlEnK9C2" \
        "Q2PXjt+W0iLovqiuMVojc7SkWq6vBmFU/eWKCRLdfkbAHYxC1NSPvwAzWNc9j7JX4lKNV+a39op48lrBKDPUkffD4ZZCZWAdOsWtCgiajOKW" \
        "Y2XimSPtsByeiYRwJ4tc/tksFTC3Q8bozQ=="
#define SHA512 "$6$abcdefgh$0123456789abcdefghijklmnopqrstuvwxyz./ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghij"

static struct cloud_config *cloud(void) {
        struct cloud_config *c;

        assert_int_equal(cloud_config_new(&c), 0);
        return c;
}

static void add_key(struct cloud_config *c, const char *key) {
        c->ssh_keys = reallocarray(c->ssh_keys, c->n_ssh_keys + 1, sizeof(char *));
        c->ssh_keys[c->n_ssh_keys++] = strdup(key);
}

/* A key that cloud-init can't use locks a person out; options or a second line would run what nobody saw. */
static void test_ssh_keys(void **state) {
        static const char *const good[] = { ED25519, ED25519 " a b@c", ED25519 " J\xc3\xbcrgen \xf0\x9f\x98\x80", RSA,
                                            ECDSA,   ECDSA521 " x" };
        static const char *const bad[] = {
                "",
                " ",
                "x",
                "ssh-ed25519",
                "ssh-ed25519 ",
                "ssh-ed25519 AAAA",
                "ssh-ed25519 !!!!",
                "command=\"/bin/sh\" " ED25519,
                "no-pty " ED25519,
                " " ED25519,
                "\t" ED25519,
                ED25519 "\n" ED25519,
                ED25519 "\ncommand=\"x\" " ED25519,
                ED25519 "\r",
                ED25519 " a\x1b[2J",
                ED25519 " \x01",
                ED25519 " \xe2\x80\xa8x",
                ED25519 " \xff",
                ED25519 "A",
                ED25519 "AAAA",
                ED25519 "=",
                /* another type inside than outside */
                "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIGBYW4ViqlgcXJvqeZvqLnoNNS+Ydl8Xay5AlDxzuMk3",
                "ecdsa-sha2-nistp384 "
                "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNv3ZGwRGIF6MqVy9CT2qV+vkySXvr6GKlNUmt0X"
                "VOv/KB+d3l+8TrbO6p4pGMrIFfTazIYxd4Mpo93u4S1rbvo=",
                /* lengths that point behind the end, and far behind it */
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIWBYW4ViqlgcXJvqeZvqLnoNNS+Ydl8Xay5AlDxzuMk3",
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5/////2BYW4ViqlgcXJvqeZvqLnoNNS+Ydl8Xay5AlDxzuMk3",
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAAA==",
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
                "ssh-dss AAAAB3NzaC1kc3MAAACBAP",
                "ssh-ed25519-cert-v01@openssh.com AAAA",
                "-----BEGIN OPENSSH PRIVATE KEY-----",
        };
        _cleanup_error_ struct error e = ERROR_INIT;
        char *huge = malloc(20000);

        for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
                if (ssh_key_check(good[i], &e) != 0)
                        fail_msg("%s: %s", good[i], e.message);
        for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
                if (ssh_key_check(bad[i], &e) != -EINVAL)
                        fail_msg("accepted: %s", bad[i]);
                assert_string_equal(e.id, "ssh-key");
                assert_non_null(e.fix);
                error_clear(&e);
        }
        memset(huge, 'A', 19999);
        huge[19999] = '\0';
        memcpy(huge, "ssh-rsa ", 8);
        assert_int_equal(ssh_key_check(huge, NULL), -EINVAL);
        free(huge);
}

/* Base64 that says the same in two ways would let two keys look different. */
static void test_base64(void **state) {
        static const char *const bad[] = { "A",    "AA",   "AAA",  "AAAAA",    "=",    "====",  "A===",
                                           "AB==", "AAB=", "AA=A", "AA==AAAA", "A A=", "AA\n=", "AAA\xff" };
        unsigned char data[64], *back;
        size_t n;

        for (size_t len = 1; len < sizeof(data); len++) {
                _cleanup_free_ char *text = NULL;

                for (size_t i = 0; i < len; i++)
                        data[i] = (unsigned char)(i * 37 + len);
                text = base64_encode(data, len);
                assert_int_equal(base64_decode(text, strlen(text), &back, &n), 0);
                assert_int_equal(n, len);
                assert_memory_equal(back, data, len);
                free(back);
        }
        for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
                assert_int_equal(base64_decode(bad[i], strlen(bad[i]), &back, &n), -EINVAL);
}

static int check(const char *text, bool *ret_login, struct seed_warnings *w, struct error *e) {
        *ret_login = false;
        return user_data_check(text, ret_login, w, e);
}

/* A mistake that cloud-init would find at boot, and tell nobody, must be named with its place. */
static void test_user_data_mistakes(void **state) {
        static const struct {
                const char *text, *where;
        } bad[] = {
                { "packages: [a]\n", "line 1, column 1" },
                { "# cloud-config\n", "line 1, column 1" },
                { " #cloud-config\n", "line 1, column 1" },
                { "#cloud-configuration\n", "line 1, column 1" },
                { "\xef\xbb\xbf#cloud-config\n", "line 1, column 1" },
                { "#cloud-config\n- a\n", "line 2, column 1" },
                { "#cloud-config\nhello\n", "line 2, column 1" },
                { "#cloud-config\npackages: vim\n", "line 2, column 11" },
                { "#cloud-config\npackages:\n  vim: 1\n", "line 3, column 3" },
                { "#cloud-config\npackages:\n- vim\n-\n", "line 4" },
                { "#cloud-config\npackages:\n- [a, b, c]\n", "line 3, column 3" },
                { "#cloud-config\nruncmd: reboot\n", "line 2, column 9" },
                { "#cloud-config\nruncmd:\n- echo a: b\n", "line 3, column 3" },
                { "#cloud-config\nruncmd:\n- [a, {b: c}]\n", "line 3, column 7" },
                { "#cloud-config\nwrite_files:\n  path: /a\n", "line 3, column 3" },
                { "#cloud-config\nwrite_files:\n- /a\n", "line 3, column 3" },
                { "#cloud-config\nwrite_files:\n- content: x\n", "line 3, column 3" },
                { "#cloud-config\nwrite_files:\n- path: a\n", "line 3, column 3" },
                { "#cloud-config\nssh_authorized_keys: " ED25519 "\n", "line 2, column 22" },
                { "#cloud-config\nssh_authorized_keys:\n- {a: b}\n", "line 3, column 3" },
                { "#cloud-config\nssh_authorized_keys:\n- |\n  -----BEGIN OPENSSH PRIVATE KEY-----\n",
                  "line 3, column 3" },
                { "#cloud-config\nusers:\n- ssh_authorized_keys: [x]\n", "line 3, column 3" },
                { "#cloud-config\nusers:\n- name: a\n  ssh_authorized_keys: {a: b}\n", "line 4, column 24" },
                { "#cloud-config\nusers:\n- [a]\n", "line 3, column 3" },
                { "#cloud-config\nuser: [a]\n", "line 2, column 7" },
                { "#cloud-config\na: 1\na: 2\n", "line 3, column 1" },
                { "#cloud-config\n? [a]\n: b\n", "line 2, column 3" },
                { "#cloud-config\na: b: c\n", "line 2" },
                { "#cloud-config\n\ta: b\n", "line 2" },
                { "#cloud-config\na: [b\n", "line 3" },
                { "#cloud-config\na: *b\n", "line 2" },
                { "#cloud-config\na: 1\n---\nb: 2\n", "line 3" },
                { "#cloud-config\na: \"\\q\"\n", "line 2" },
                { "#cloud-config\na: \xff\n", "byte" },
        };

        for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
                _cleanup_error_ struct error e = ERROR_INIT;
                bool login;

                if (check(bad[i].text, &login, NULL, &e) != -EINVAL)
                        fail_msg("accepted: %s", bad[i].text);
                assert_string_equal(e.id, "user-data");
                assert_non_null(e.fix);
                if (!strstr(e.message, bad[i].where))
                        fail_msg("%s\n%s", bad[i].text, e.message);
        }
}

/* What cloud-init takes must not be refused, and whether it lets somebody in must be seen. */
static void test_user_data_good(void **state) {
        static const struct {
                const char *text;
                bool login;
                size_t warnings;
        } good[] = {
                { NULL, false, 0 },
                { "", false, 0 },
                { "#cloud-config", false, 0 },
                { "#cloud-config\r\npackages:\r\n- vim\r\n", false, 0 },
                { "#cloud-config\n# nothing\n", false, 0 },
                { "#cloud-config\n{\"packages\": [\"vim\", [\"a\", \"1.0\"]]}\n", false, 0 },
                { "#cloud-config\npackages: [vim, {snap: [x]}]\nruncmd:\n- echo a\n- [sh, -c, 'a: b']\n- 'a: b'\n-\n",
                  false, 0 },
                { "#cloud-config\nbootcmd: [a]\nwrite_files: [{path: /a, content: b}]\n", false, 0 },
                { "#cloud-config\nssh_authorized_keys:\n- " ED25519 " me\n", true, 0 },
                { "#cloud-config\nssh_authorized_keys:\n- from=\"10.0.0.1\" " ED25519 "\n", true, 1 },
                { "#cloud-config\nssh_authorized_keys: []\n", false, 0 },
                { "#cloud-config\nusers:\n- default\n- name: a\n  ssh_authorized_keys:\n  - " ED25519 "\n", true, 0 },
                { "#cloud-config\nusers:\n- name: a\n  hashed_passwd: x\n", true, 0 },
                { "#cloud-config\nusers:\n- name: a\n  ssh_import_id: [gh:a]\n", true, 0 },
                { "#cloud-config\nusers:\n- name: a\n", false, 0 },
                { "#cloud-config\nusers: alice, bob\n", false, 1 },
                { "#cloud-config\npassword: secret\nchpasswd: {expire: false}\n", true, 0 },
                { "#cloud-config\nuser: {name: a, plain_text_passwd: b}\n", true, 0 },
                { "#cloud-config\nuser: a\n", false, 0 },
                { "#cloud-config\npakages: [a]\nfoo_bar_baz: 1\n", false, 2 },
                { "#cloud-config\nk: &k ["
                  "\"" ED25519 "\"]\nssh_authorized_keys: *k\n",
                  true, 1 },
                { "#!/bin/sh\necho : - [\n", true, 0 },
                { "Content-Type: multipart/mixed; boundary=x\n\n--x--\n", true, 0 },
                { "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--x--\n", true, 0 },
        };

        for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
                _cleanup_error_ struct error e = ERROR_INIT;
                struct seed_warnings w = { 0 };
                bool login;

                if (check(good[i].text, &login, &w, &e) != 0)
                        fail_msg("%s\n%s", good[i].text, e.message);
                assert_int_equal(login, good[i].login);
                if (w.n != good[i].warnings)
                        fail_msg("%s\n%zu warnings", good[i].text, w.n);
                if (good[i].text && strstr(good[i].text, "pakages"))
                        assert_non_null(strstr(w.text[0], "did you mean 'packages'"));
                seed_warnings_clear(&w);
        }
}

static char *repeat(const char *head, const char *piece, size_t n, const char *tail) {
        size_t h = strlen(head), p = strlen(piece);
        char *text = malloc(h + p * n + strlen(tail) + 1), *q = text;

        q = stpcpy(q, head);
        while (n--)
                q = stpcpy(q, piece);
        strcpy(q, tail);
        return text;
}

/* What a daemon reads for a person must cost no more time and memory than its length allows. */
static void test_user_data_bombs(void **state) {
        static const char laughs[] = "#cloud-config\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
                                     "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
                                     "e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n"
                                     "users: *f\nruncmd: *f\n";
        struct timespec begin, end;
        struct seed_warnings w = { 0 };
        struct {
                char *text;
                int want; /* 1: whatever */
        } bombs[] = {
                { strdup(laughs), 1 },
                { strdup("#cloud-config\nusers: &a\n- *a\n- &b {name: *b, ssh_authorized_keys: *a}\n"), 1 },
                { repeat("#cloud-config\na: [[[[[[[[[[", "[", 60,
                         "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n"),
                  -EINVAL },
                { repeat("#cloud-config\na: [[[[[[[[[[", "[", 40,
                         "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n"),
                  0 },
                { repeat("#cloud-config\na: ", "[", 200000, ""), -EINVAL },
                { repeat("#cloud-config\na: ", "{", 200000, ""), -EINVAL },
                { repeat("#cloud-config\na: ", "{a: ", 60000, ""), -EINVAL },
                { repeat("#cloud-config\n", "- ", 100000, "a\n"), -EINVAL },
                { repeat("#cloud-config\n", "? ", 100000, "a\n"), -EINVAL },
                { repeat("#cloud-config\na: [", "&a a,", 10000, "]\n"), -EINVAL },
                { repeat("#cloud-config\na: &a b\nc: [", "*a ,", 300, "]\n"), -EINVAL },
                { repeat("#cloud-config\na: &a b\nc: [", "*a ,", 200, "]\n"), 0 },
                { repeat("#cloud-config\na: [", "b,", 120000, "]\n"), -EINVAL },
                { repeat("#cloud-config\na: [", "b: c,", 19000, "]\n"), 1 },
                { repeat("#cloud-config\nx", "x", 250000, ": b\n"), 1 },
                { repeat("#cloud-config\n", "a: b\n", 9000, ""), -EINVAL },
                { repeat("#cloud-config\na: |\n", "  line\n", 37000, ""), 0 },
                { repeat("#cloud-config\na: \"", "\\u0041", 43000, "\"\n"), 0 },
                { repeat("#cloud-config\n", "#", 300000, "\n"), -EINVAL },
                { repeat("#!/bin/sh\n", "x", SEED_USER_DATA_MAX, ""), -EINVAL },
                { repeat("#cloud-config\n%TAG ! tag:x,2000:\n---\n", "!!a ", 60000, "b\n"), -EINVAL },
        };

        for (size_t i = 0; i < sizeof(bombs) / sizeof(*bombs); i++) {
                double seconds;
                bool login;
                int r;

                clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
                r = check(bombs[i].text, &login, &w, NULL);
                clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
                seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
                if (bombs[i].want != 1 && r != bombs[i].want)
                        fail_msg("bomb %zu: %d", i, r);
                if (seconds > 5)
                        fail_msg("bomb %zu took %.1f s", i, seconds);
                free(bombs[i].text);
        }
        assert_true(w.n <= SEED_WARNINGS_MAX);
        seed_warnings_clear(&w);
}

/* A machine that nobody can log in to is of no use to anyone; a plain password is of use to too many. */
static void test_validate(void **state) {
        static const char *const bad_hashes[] = { "secret",
                                                  "$1$abcdefgh$0123456789012345678901",
                                                  "$6$",
                                                  "$6$short$x",
                                                  "$6$a$b c",
                                                  "$6$abcdefghijklmnopqrstuvwxyz0123456789",
                                                  "$6$abcd:fgh$0123456789012345678901",
                                                  "!",
                                                  "*" };
        _cleanup_(cloud_config_freep) struct cloud_config *c = cloud();
        _cleanup_error_ struct error e = ERROR_INIT;

        assert_string_equal(c->user, "lodge");
        assert_int_equal(seed_validate(c, false, NULL, &e), -EINVAL);
        assert_string_equal(e.id, "no-login");
        assert_non_null(strstr(e.fix, "--ssh-key"));
        error_clear(&e);
        assert_int_equal(seed_validate(c, true, NULL, NULL), 0);
        c->user_data = strdup("#cloud-config\npackages: [vim]\n");
        assert_int_equal(seed_validate(c, false, NULL, NULL), -EINVAL);
        free(c->user_data);
        c->user_data = strdup("#cloud-config\npassword: x\n");
        assert_int_equal(seed_validate(c, false, NULL, NULL), 0);
        c->password_hash = strdup(SHA512);
        assert_int_equal(seed_validate(c, false, NULL, NULL), 0);
        for (size_t i = 0; i < sizeof(bad_hashes) / sizeof(*bad_hashes); i++) {
                free(c->password_hash);
                c->password_hash = strdup(bad_hashes[i]);
                assert_int_equal(seed_validate(c, true, NULL, &e), -EINVAL);
                assert_string_equal(e.id, "password-hash");
                assert_null(strstr(e.message, bad_hashes[i])); /* it may be a password */
                error_clear(&e);
        }
        free(c->password_hash);
        c->password_hash = NULL;
        free(c->user_data);
        c->user_data = NULL;
        add_key(c, ED25519);
        assert_int_equal(seed_validate(c, false, NULL, NULL), 0);
        add_key(c, "nonsense");
        assert_int_equal(seed_validate(c, true, NULL, &e), -EINVAL);
        assert_string_equal(e.id, "ssh-key");
        error_clear(&e);
        c->n_ssh_keys = 1;
        free(c->ssh_keys[1]);
        free(c->user);
        c->user = strdup("root");
        assert_int_equal(seed_validate(c, true, NULL, &e), -EINVAL);
        assert_string_equal(e.id, "cloud-user");
}

static json_t *parse(const char *text) {
        json_t *root = json_loads(text, 0, NULL);

        assert_non_null(root);
        return root;
}

/* What is in the seed decides over who gets in and which address the machine has. */
static void test_texts(void **state) {
        static const char *const macs[] = { "52:54:00:00:00:01", "52:54:00:00:00:02" };
        struct seed_machine m = { .instance_id = "i-1", .name = "web", .macs = macs, .n_macs = 2 };
        _cleanup_(cloud_config_freep) struct cloud_config *c = cloud();
        char *text;
        json_t *root, *nics;

        add_key(c, ED25519 " \"}\\u0000: [");
        text = seed_user_data(c);
        assert_int_equal(strncmp(text, "#cloud-config\n{", 15), 0);
        root = parse(text + 14);
        assert_string_equal(json_string_value(json_object_get(json_object_get(root, "user"), "name")), "lodge");
        assert_null(json_object_get(json_object_get(root, "user"), "hashed_passwd"));
        assert_null(json_object_get(root, "ssh_pwauth"));
        assert_string_equal(json_string_value(json_array_get(json_object_get(root, "ssh_authorized_keys"), 0)),
                            c->ssh_keys[0]);
        json_decref(root);
        free(text);

        text = seed_meta_data(c, &m);
        root = parse(text);
        assert_string_equal(json_string_value(json_object_get(root, "local-hostname")), "web");
        assert_string_equal(json_string_value(json_object_get(root, "instance-id")), "i-1");
        json_decref(root);
        free(text);

        text = seed_network_config(c, &m);
        root = parse(text);
        nics = json_object_get(root, "ethernets");
        assert_int_equal(json_object_size(nics), 2);
        assert_string_equal(json_string_value(json_object_get(json_object_get(json_object_get(nics, "nic1"), "match"),
                                                              "macaddress")),
                            macs[1]);
        assert_string_equal(json_string_value(json_object_get(json_object_get(nics, "nic0"), "dhcp-identifier")),
                            "mac");
        json_decref(root);
        free(text);
        c->network = CLOUD_NETWORK_NONE;
        assert_null(seed_network_config(c, &m));

        c->user_data = strdup("#!/bin/sh\necho hello\n");
        text = seed_user_data(c);
        assert_int_equal(strncmp(text, "Content-Type: multipart/mixed; boundary=\"lodge-", 47), 0);
        assert_non_null(strstr(text, "text/x-shellscript"));
        assert_non_null(strstr(text, "\n\nIyEvYmluL3NoCmVjaG8gaGVsbG8K\n"));
        free(text);
}

/* A guest says what it likes; the answer is shown to a person. */
static void test_result(void **state) {
        static const struct {
                const char *text;
                int r;
                enum seed_state state;
                size_t n;
                const char *message;
        } cases[] = {
                { "{\"status\": \"done\", \"errors\": [], \"detail\": \"DataSourceNoCloud\"}\n", 0, SEED_DONE, 0,
                  NULL },
                { "{\"status\": \"running\"}", 0, SEED_RUNNING, 0, NULL },
                { "{\"status\": \"not run\"}", 0, SEED_RUNNING, 0, NULL },
                { "{\"status\": \"disabled\"}", 0, SEED_OFF, 0, NULL },
                { "{\"status\": \"error\", \"errors\": [\"a\", \"b\"]}", 0, SEED_ERROR, 2, "a" },
                { "{\"status\": \"error\", \"detail\": \"d\", \"errors\": []}", 0, SEED_ERROR, 1, "d" },
                { "{\"status\": \"degraded done\", \"errors\": [], \"recoverable_errors\": {\"WARNING\": [\"w\"]}}", 0,
                  SEED_DONE, 1, "w" },
                { "{\"v1\": {\"datasource\": \"x\", \"errors\": []}}", 0, SEED_DONE, 0, NULL },
                { "{\"v1\": {\"errors\": [\"bad\\u001b[2J\\nthing\", 5, null]}}", 0, SEED_ERROR, 1, "bad [2J thing" },
                { "", -EINVAL, 0, 0, NULL },
                { "{", -EINVAL, 0, 0, NULL },
                { "[]", -EINVAL, 0, 0, NULL },
                { "{}", -EINVAL, 0, 0, NULL },
                { "null", -EINVAL, 0, 0, NULL },
                { "{\"status\": 5}", -EINVAL, 0, 0, NULL },
                { "{\"status\": \"fine\"}", -EINVAL, 0, 0, NULL },
                { "{\"v1\": {\"errors\": 5}}", -EINVAL, 0, 0, NULL },
                { "{\"v1\": {}}", -EINVAL, 0, 0, NULL },
                { "{\"status\": \"error\", \"errors\": {\"a\": 1}, \"recoverable_errors\": [\"x\"]}", 0, SEED_ERROR, 0,
                  NULL },
        };
        struct seed_result result;
        char *text;

        for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
                if (seed_result_parse(cases[i].text, strlen(cases[i].text), &result) != cases[i].r)
                        fail_msg("%s", cases[i].text);
                if (cases[i].r < 0)
                        continue;
                assert_int_equal(result.state, cases[i].state);
                assert_int_equal(result.n_messages, cases[i].n);
                if (cases[i].message)
                        assert_string_equal(result.messages[0], cases[i].message);
                seed_result_clear(&result);
        }
        text = repeat("{\"v1\": {\"errors\": [\"", "x", 5000, "\"");
        char *more = repeat(text, ", \"y\"", 100, "]}}");
        assert_int_equal(seed_result_parse(more, strlen(more), &result), 0);
        assert_int_equal(result.n_messages, SEED_MESSAGES_MAX);
        assert_int_equal(strlen(result.messages[0]), SEED_MESSAGE_MAX);
        seed_result_clear(&result);
        free(text);
        free(more);
        text = repeat("", "[", 900000, "");
        assert_int_equal(seed_result_parse(text, strlen(text), &result), -EINVAL);
        free(text);
        text = repeat("", " ", 2000000, "{}");
        assert_int_equal(seed_result_parse(text, strlen(text), &result), -EINVAL);
        free(text);
}

static void write_file(const char *path, const char *text) {
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

        assert_true(fd >= 0);
        assert_int_equal(io_write_all(fd, text, strlen(text)), 0);
}

/* The keys that a person has are what lets them in without being asked; a broken or private one must not be among them. */
static void test_find_keys(void **state) {
        char home[] = "/tmp/lodge-test-seed-XXXXXX", path[128];
        char **keys;
        size_t n;

        assert_non_null(mkdtemp(home));
        assert_int_equal(ssh_keys_find(home, &keys, &n), 0);
        assert_int_equal(n, 0);
        ssh_keys_free(keys, n);
        snprintf(path, sizeof(path), "%s/.ssh", home);
        assert_int_equal(mkdir(path, 0700), 0);
        assert_int_equal(chdir(path), 0);
        write_file("id_rsa.pub", RSA " me\n");
        write_file("id_ed25519.pub", ED25519 " me\r\n");
        write_file("id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----\n");
        write_file("id_broken.pub", "ssh-rsa AAAA\n");
        write_file("id_two.pub", ED25519 "\n" RSA "\n");
        write_file("known_hosts.pub", ED25519 "\n");
        write_file("id_.pub", ED25519 "\n");
        assert_int_equal(mkfifo("id_fifo.pub", 0600), 0);
        assert_int_equal(ssh_keys_find(home, &keys, &n), 0);
        assert_int_equal(n, 2);
        assert_string_equal(keys[0], ED25519 " me");
        assert_string_equal(keys[1], RSA " me");
        ssh_keys_free(keys, n);
        assert_int_equal(chdir("/"), 0);
        snprintf(path, sizeof(path), "rm -r %s", home);
        assert_int_equal(system(path), 0);
}

/* The seed must be there whole, for nobody else to read, and nothing beside it. */
static void test_make(void **state) {
        struct seed_machine m = { .instance_id = "i-1", .name = "web" };
        _cleanup_(cloud_config_freep) struct cloud_config *c = cloud();
        _cleanup_error_ struct error e = ERROR_INIT;
        char dir[] = "/tmp/lodge-test-seed-XXXXXX", *path, id[32], command[128];
        struct stat st, again;
        int fd;

        assert_non_null(mkdtemp(dir));
        add_key(c, ED25519);
        assert_int_equal(seed_make(c, &m, dir, &path, &e), 0);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        fd = open(path, O_RDONLY);
        assert_int_equal(pread(fd, id, sizeof(id), 0x8000 + 40),
                         sizeof(id)); /* ECMA-119 8.4.7: the volume identifier */
        assert_memory_equal(id, "cidata                          ", 32);
        close(fd);
        assert_int_equal(seed_make(c, &m, dir, NULL, &e), 0);
        assert_int_equal(stat(path, &again), 0);
        assert_int_not_equal(st.st_ino, again.st_ino);
        free(path);
        m.instance_id = "a b";
        assert_int_equal(seed_make(c, &m, dir, NULL, NULL), -EINVAL);
        m.instance_id = "i-1";
        assert_int_equal(seed_make(c, &m, "/nonexistent", NULL, &e), -ENOENT);
        assert_string_equal(e.id, "seed-io");
        assert_int_equal(seed_sweep(dir), 0);
        snprintf(command, sizeof(command), "rm %s/seed.iso && rmdir %s", dir, dir);
        assert_int_equal(system(command), 0);
}

static int make(int argc, char **argv) {
        struct seed_machine m = { .name = argv[3],
                                  .instance_id = argv[4],
                                  .macs = (const char *const *)argv + 6,
                                  .n_macs = (size_t)argc - 6 };
        _cleanup_(cloud_config_freep) struct cloud_config *c = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct seed_warnings w = { 0 };
        int r = cloud_config_parse(argv[5], strlen(argv[5]), &c, &e);

        if (r == 0)
                r = seed_validate(c, false, &w, &e);
        if (r == 0)
                r = seed_make(c, &m, argv[2], NULL, &e);
        for (size_t i = 0; i < w.n; i++)
                fprintf(stderr, "warning: %s\n", w.text[i]);
        seed_warnings_clear(&w);
        if (r < 0)
                error_print(&e, "test-seed", stderr);
        return r < 0 ? 1 : 0;
}

static int show_result(const char *path) {
        _cleanup_close_ int fd = open(path, O_RDONLY);
        _cleanup_free_ char *text = NULL;
        struct seed_result result;
        size_t len;

        if (fd < 0 || io_read_all(fd, 1 << 20, &text, &len) < 0 || seed_result_parse(text, len, &result) < 0)
                return 1;
        puts(seed_state_name(result.state));
        for (size_t i = 0; i < result.n_messages; i++)
                printf("message: %s\n", result.messages[i]);
        seed_result_clear(&result);
        return 0;
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_ssh_keys),
                cmocka_unit_test(test_base64),
                cmocka_unit_test(test_user_data_mistakes),
                cmocka_unit_test(test_user_data_good),
                cmocka_unit_test(test_user_data_bombs),
                cmocka_unit_test(test_validate),
                cmocka_unit_test(test_texts),
                cmocka_unit_test(test_result),
                cmocka_unit_test(test_find_keys),
                cmocka_unit_test(test_make),
        };

        if (argc >= 6 && strcmp(argv[1], "make") == 0)
                return make(argc, argv);
        if (argc == 3 && strcmp(argv[1], "result") == 0)
                return show_result(argv[2]);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
