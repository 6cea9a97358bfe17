// SPDX-License-Identifier: GPL-2.0-or-later
/* render: answers with hostile texts as table, CSV, YAML and JSON; and the client's HTTP against a server that misbehaves */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "cli/http.h"
#include "cli/render.h"
#include "cli/yaml.h"

static json_t *page_of(const char *name) {
        return json_pack("{s:s, s:[{s:s, s:s, s:I, s:i, s:[s,s], s:n}], s:i}", "scope", "session", "items", "name",
                         name, "status", "running", "memory", (json_int_t)1536 << 20, "cpus", 2, "addresses",
                         "10.0.0.2", "fd00::2", "image", "total", 1);
}

/* What a list prints, as text; to be freed. */
static char *rendered(const struct render *how, json_t *page) {
        struct render r = *how;
        _cleanup_error_ struct error e = ERROR_INIT;
        char *text = NULL;
        size_t n;

        r.file = open_memstream(&text, &n);
        r.object = &machine_summary_schema;
        r.columns = r.columns ?: "name,status,memory,image,addresses";
        assert_int_equal(render_list(&r, page, &e), 0);
        fclose(r.file);
        json_decref(page);
        return text;
}

/* A name or note with escape sequences must not move the cursor, colour the terminal or hide a line of a table. */
static void test_table_escapes_what_a_terminal_would_obey(void **state) {
        const struct render how = { .format = TABLE_FORMAT_TABLE };
        _cleanup_free_ char *text = rendered(&how, page_of("a\033[2J\n\xc2\x9b\xe2\x80\xae\x7f"));

        assert_string_equal(
                text, "NAME                                  STATUS   MEMORY   IMAGE  ADDRESSES\n"
                      "a\\x1b[2J\\x0a\\xc2\\x9b\\xe2\\x80\\xae\\x7f  running  1.5 GiB  -      10.0.0.2,fd00::2\n");
}

/* Columns are aligned by characters, not by bytes. */
static void test_table_counts_characters(void **state) {
        const struct render how = { .format = TABLE_FORMAT_TABLE, .columns = "name,cpus", .no_header = true };
        _cleanup_free_ char *text = rendered(&how, page_of("\xc3\xa4\xc3\xb6"));

        assert_string_equal(text, "\xc3\xa4\xc3\xb6  2\n");
}

/* A disk in a table is what its owner said of it: not twenty defaults in JSON, no request counted in bytes. */
static void test_objects_for_people(void **state) {
        static const char config[] = "{\"config\":{\"disks\":[{\"path\":\"/"
                                     "a\",\"type\":\"file\",\"readonly\":false,\"iothreads\":2,\"throttle\":"
                                     "{\"bps\":1048576,\"iops\":100,\"iops_read\":0}},{\"path\":\"/"
                                     "b\\n\"}],\"labels\":[{\"key\":\"k\",\"value\":"
                                     "\"v\"}]}}";
        json_auto_t *machine = json_loads(config, 0, NULL);
        struct render r = { .object = &machine_view_schema, .columns = "config.disks,config.labels" };
        char *text = NULL;
        size_t n;

        r.file = open_memstream(&text, &n);
        assert_int_equal(render_object(&r, machine, NULL), 0);
        fclose(r.file);
        assert_string_equal(text, "disks:   /a,iothreads=2,throttle.bps=1 MiB,throttle.iops=100\n"
                                  "         /b\\x0a\n"
                                  "labels:  k=v\n");
        free(text);
}

/* CSV must come back from any parser as it was (RFC 4180): quotes doubled, what holds separators quoted, sizes in bytes. */
static void test_csv_quotes(void **state) {
        const struct render how = { .format = TABLE_FORMAT_CSV };
        _cleanup_free_ char *text = rendered(&how, page_of("a,\"b\"\nc"));
        _cleanup_free_ char *terminal =
                rendered(&(const struct render){ .format = TABLE_FORMAT_CSV, .terminal = true }, page_of("a\033,"));

        assert_string_equal(text, "name,status,memory,image,addresses\n"
                                  "\"a,\"\"b\"\"\nc\",running,1610612736,,\"10.0.0.2,fd00::2\"\n");
        assert_non_null(strstr(terminal, "\"a\\x1b,\","));
}

/* A text must stay a text in YAML: `no`, 1e3, ~, a leading dash, a colon, newlines, controls, line separators. */
static void test_yaml_keeps_texts_texts(void **state) {
        static const struct {
                const char *text, *yaml;
        } cases[] = {
                { "web", "web" },
                { "debian/12", "debian/12" },
                { "no", "\"no\"" },
                { "Null", "\"Null\"" },
                { "1e3", "\"1e3\"" },
                { "", "\"\"" },
                { "~", "\"~\"" },
                { "- a", "\"- a\"" },
                { "a: b", "\"a: b\"" },
                { "a #b", "\"a #b\"" },
                { "l1\nl2", "\"l1\\nl2\"" },
                { "q\"\\", "\"q\\\"\\\\\"" },
                { "\033[", "\"\\x1b[\"" },
                { "\xc2\x85", "\"\\x85\"" },
                { "\xe2\x80\xa8", "\"\\u2028\"" },
                { "2026-11-29", "\"2026-11-29\"" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                json_auto_t *value = json_string(cases[i].text);
                _cleanup_free_ char *text = NULL, *want = NULL;
                size_t n;
                FILE *f = open_memstream(&text, &n);

                assert_int_equal(yaml_write(f, value), 0);
                fclose(f);
                assert_true(asprintf(&want, "%s\n", cases[i].yaml) > 0);
                assert_string_equal(text, want);
        }
}

/* Lists in objects in lists: the indentation carries the meaning. */
static void test_yaml_nests(void **state) {
        json_auto_t *value = json_pack("{s:[{s:i, s:[s, b]}, {s:{}}, []], s:{s:n}, s:f}", "items", "a", 1, "b", "x", 1,
                                       "empty", "o", "n", "r", 0.5);
        _cleanup_free_ char *text = NULL;
        size_t n;
        FILE *f = open_memstream(&text, &n);

        assert_int_equal(yaml_write(f, value), 0);
        fclose(f);
        assert_string_equal(text,
                            "items:\n- a: 1\n  b:\n  - x\n  - true\n- empty: {}\n- []\no:\n  \"n\": null\nr: 0.5\n");
}

/* What a person writes is what JSON has and nothing more: what could mean two things, or that is read and not seen, is an error with its line. */
static void test_yaml_reads(void **state) {
        static const struct {
                const char *text, *json; /* or the beginning of the error */
        } cases[] = {
                { "", "null" },
                { "# nothing\n", "null" },
                { "a: 1\nb: -2\nc: 007x\n", "{\"a\":1,\"b\":-2,\"c\":\"007x\"}" },
                { "a: no\nb: true\nc: 'true'\nd: 52:54:00:12:34:56\n",
                  "{\"a\":\"no\",\"b\":true,\"c\":\"true\",\"d\":\"52:54:00:12:34:56\"}" },
                { "a:\nb: ~\nc: ''\n", "{\"c\":\"\"}" },
                { "a: |\n  x\n   y\nb:\n- c: [1, {d: 2}]\n", "{\"a\":\"x\\n y\\n\",\"b\":[{\"c\":[1,{\"d\":2}]}]}" },
                { "{\"a\": [true, \"b\"]}", "{\"a\":[true,\"b\"]}" },
                { "a: 99999999999999999999\n", "{\"a\":1e20}" },
                { "a: 1\nb: 2\na: 3\n", "line 13: a was there before" },
                { "a:\nb: 2\na: 3\n", "line 13: a was there before" },
                { "x:\n  a: 1\n  a: 1\n", "line 13: x.a was there before" },
                { "a: &x 1\n", "line 11: anchors" },
                { "a: 1\nb: *x\n", "line 12: anchors" },
                { "a: !!str 1\n", "line 11: tags" },
                { "a: 1\n---\nb: 1\n", "line 12: there is a second" },
                { "[a]: 1\n", "line 11: a list or a mapping" },
                { "a: [\n", "line 12: " },
                { "a: \xff\n", "line 1" },
                { "[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]", "line 11: too much" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_error_ struct error e = ERROR_INIT;
                _cleanup_free_ char *json = NULL;
                json_auto_t *value = NULL;
                struct yaml_lines lines;

                if (yaml_read(cases[i].text, strlen(cases[i].text), &value, 10, &lines, &e) == 0) {
                        json = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
                        assert_string_equal(json, cases[i].json);
                } else {
                        assert_string_equal(e.id, "yaml");
                        assert_true(strncmp(e.message, cases[i].json, strlen(cases[i].json)) == 0);
                }
                yaml_lines_clear(&lines);
        }
}

/* An error of the schema's must be found in the text, also when it is about something that is not there. */
static void test_yaml_lines(void **state) {
        static const char text[] = "a: 1\ndisks:\n- path: x\n- path: y\n  format: z\n";
        json_auto_t *value = NULL;
        struct yaml_lines lines;

        assert_int_equal(yaml_read(text, strlen(text), &value, 0, &lines, NULL), 0);
        assert_int_equal(yaml_line_of(&lines, "m.disks[1].format: is none"), 5);
        assert_int_equal(yaml_line_of(&lines, "m.disks[1].size: is missing"), 4);
        assert_int_equal(yaml_line_of(&lines, "m.disks[0].path: is none"), 3);
        assert_int_equal(yaml_line_of(&lines, "m.disksize: is none"), 0);
        assert_int_equal(yaml_line_of(&lines, "the daemon: is none"), 0);
        yaml_lines_clear(&lines);
}

/* What is opened in the editor must come back as it was, whatever the texts hold. */
static void test_yaml_explained_comes_back(void **state) {
        json_auto_t *value = json_pack("{s:s, s:I, s:[{s:s, s:s}, {s:s, s:s}], s:s, s:{s:s, s:[s, s]}, s:s, s:[]}",
                                       "name", "no", "memory", (json_int_t)(1536u << 20), "labels", "key", "k", "value",
                                       "a: b # c", "key", "l", "value", "", "notes", "one\n\n  two # x\n", "cloud",
                                       "user", "~", "ssh_keys", "a b", "- c", "append", "x\n\n", "nets"),
                    *back = NULL;
        _cleanup_free_ char *text = NULL;
        struct yaml_lines lines;
        size_t n;
        FILE *f = open_memstream(&text, &n);

        assert_int_equal(yaml_write_explained(f, value, &machine_definition_schema), 0);
        fclose(f);
        assert_non_null(strstr(text, "memory: 1536M  # memory\n"));
        assert_non_null(strstr(text, "notes: |  # anything to remember\n  one\n\n    two # x\n"));
        assert_non_null(strstr(text, "\n#kernel:  # "));
        assert_int_equal(yaml_read(text, n, &back, 0, &lines, NULL), 0);
        json_object_set_new(value, "memory", json_string("1536M"));
        assert_true(json_equal(value, back));
        yaml_lines_clear(&lines);
}

/* --columns selects in JSON, too, by path; a column that is not there is told with its neighbour, before anything is printed. */
static void test_columns(void **state) {
        const struct render how = { .format = TABLE_FORMAT_JSON, .columns = "name,image", .chosen = true };
        _cleanup_free_ char *text = rendered(&how, page_of("web"));
        _cleanup_error_ struct error e = ERROR_INIT, e2 = ERROR_INIT;
        json_auto_t *read = json_loads(text, 0, NULL);
        const json_t *item = json_array_get(json_object_get(read, "items"), 0);
        struct render bad = { .object = &machine_view_schema, .columns = "name,state.stats" };

        assert_int_equal(json_object_size(item), 2);
        assert_true(json_is_null(json_object_get(item, "image")));
        assert_string_equal(json_string_value(json_object_get(read, "scope")), "session");
        assert_int_equal(render_check(&bad, &e), -EINVAL);
        assert_non_null(strstr(e.message, "did you mean status?"));
        bad.columns = "name.x,,";
        assert_int_equal(render_check(&bad, &e2), -EINVAL);
}

/* ---- HTTP -------------------------------------------------------------------------------------------------------------- */

/* What http_ask() makes of bytes that a server sends, then closing. */
static int answer_of(const char *bytes, size_t n, struct http_answer *ret) {
        const struct http_request q = { .method = "GET", .target = "/v1", .timeout_ms = 2000 };
        struct http h = HTTP_INIT;
        int pair[2], r;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        assert_int_equal(send(pair[1], bytes, n, 0), n);
        shutdown(pair[1], SHUT_WR);
        h.fd = pair[0];
        r = http_ask(&h, &q, ret);
        http_close(&h);
        close(pair[1]);
        return r;
}

/* Answers as HTTP allows them: a body by its length, in chunks, none; 1xx before it; header names in any case. */
static void test_http_answers(void **state) {
        static const struct {
                const char *text, *body;
                unsigned int status;
        } cases[] = {
                { "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nETag: \"7\"\r\n\r\n{}", "{}", 200 },
                { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", "abcde",
                  200 },
                { "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\nx", "x", 404 },
                { "HTTP/1.1 204 Nothing\r\n\r\n", "", 204 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                struct http_answer answer = { 0 };

                assert_int_equal(answer_of(cases[i].text, strlen(cases[i].text), &answer), 0);
                assert_int_equal(answer.status, cases[i].status);
                assert_string_equal(answer.body, cases[i].body);
                if (i == 0)
                        assert_string_equal(answer.etag, "\"7\"");
                http_answer_clear(&answer);
        }
}

/* Whatever listens there: bytes that are no answer cost an error, not memory, a crash or a wait for ever. */
static void test_http_nonsense(void **state) {
        static const char *const cases[] = {
                "SSH-2.0-OpenSSH_9.2\r\n\r\n",
                "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}",
                "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 268435457\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab",
                "HTTP/1.1 200 OK\r\nContent-Length: 2",
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                struct http_answer answer = { 0 };

                assert_int_equal(answer_of(cases[i], strlen(cases[i]), &answer), -EBADMSG);
        }
        assert_int_equal(answer_of("", 0, &(struct http_answer){ 0 }), -ECONNRESET);
}

/* Ctrl-C must end the wait for an answer that does not come. */
static void test_http_stops(void **state) {
        const struct http_request q = { .method = "GET", .target = "/v1", .timeout_ms = 5000 };
        struct http h = HTTP_INIT;
        int pair[2], stop[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        assert_int_equal(pipe(stop), 0);
        assert_int_equal(write(stop[1], "x", 1), 1);
        h.fd = pair[0];
        h.stop_fd = stop[0];
        assert_int_equal(http_ask(&h, &q, &(struct http_answer){ 0 }), -ECANCELED);
        http_close(&h);
        close(pair[1]);
        close(stop[0]);
        close(stop[1]);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_table_escapes_what_a_terminal_would_obey),
                cmocka_unit_test(test_table_counts_characters),
                cmocka_unit_test(test_objects_for_people),
                cmocka_unit_test(test_csv_quotes),
                cmocka_unit_test(test_yaml_keeps_texts_texts),
                cmocka_unit_test(test_yaml_nests),
                cmocka_unit_test(test_yaml_reads),
                cmocka_unit_test(test_yaml_lines),
                cmocka_unit_test(test_yaml_explained_comes_back),
                cmocka_unit_test(test_columns),
                cmocka_unit_test(test_http_answers),
                cmocka_unit_test(test_http_nonsense),
                cmocka_unit_test(test_http_stops),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
