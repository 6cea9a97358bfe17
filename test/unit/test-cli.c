// SPDX-License-Identifier: GPL-2.0-or-later
/* cli and what it stands on: the menu key, the tail of the console, children and disk locks */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/spawn.h"
#include "cli/console.h"
#include "cli/terminal.h"
#include "daemon/engine/parts.h"

/* Keys must reach the guest as typed, but for Ctrl-] and the one after it, also when these come in two reads. */
static void test_menu_key(void **state) {
        struct terminal_filter filter = { 0 };
        enum terminal_key key;
        char out[16];
        size_t len;

        assert_int_equal(terminal_filter(&filter, "ab\x03", 3, out, &len, &key), 3);
        assert_int_equal(len, 3);
        assert_int_equal(key, TERMINAL_NONE);
        assert_int_equal(terminal_filter(&filter, "x\x1dk", 3, out, &len, &key), 2);
        assert_int_equal(len, 1);
        assert_int_equal(key, TERMINAL_MENU);
        assert_int_equal(terminal_filter(&filter, "ky", 2, out, &len, &key), 1);
        assert_int_equal(len, 0);
        assert_int_equal(key, TERMINAL_KILL);
        assert_int_equal(terminal_filter(&filter, "k", 1, out, &len, &key), 1);
        assert_int_equal(key, TERMINAL_NONE);
        assert_int_equal(len, 1);
        terminal_filter(&filter, "\x1d", 1, out, &len, &key);
        terminal_filter(&filter, "\x1d", 1, out, &len, &key);
        assert_int_equal(len, 1);
        assert_int_equal(out[0], 0x1d);
        terminal_filter(&filter, "\x1d", 1, out, &len, &key);
        terminal_filter(&filter, "?", 1, out, &len, &key);
        assert_int_equal(key, TERMINAL_HELP);
        terminal_filter(&filter, "p", 1, out, &len, &key); /* help leaves the menu open */
        assert_int_equal(key, TERMINAL_POWER);
}

/* A guest's escape sequences must not reach the person's terminal through the report. */
static void test_tail(void **state) {
        static struct tail tail;
        char *text = NULL, line[32] = "one\ntwo\r\n\n";
        size_t n = 0;
        FILE *f = open_memstream(&text, &n);

        for (int i = 0; i < 5000; i++)
                tail_add(&tail, "0123456789\n", 11);
        assert_int_equal(tail.len, TAIL_MAX);
        tail_add(&tail, "end \033[2J\r\n", 10);
        tail_print(&tail, "console", f);
        fclose(f);
        assert_non_null(strstr(text, "  console| end \\x1b[2J\n"));
        assert_null(strchr(text, '\033'));
        n = 0;
        for (char *p = text; *p; p++)
                n += *p == '\n';
        assert_int_equal(n, 20);
        free(text);
        assert_string_equal(last_line(line, 10), "two");
}

static int run_jailed(const char *script, const int *fds, size_t n_fds, int death_signal,
                      const struct spawn_jail *jail) {
        _cleanup_close_ int pidfd = -EBADF;
        const char *argv[] = { "sh", "-c", script, NULL };
        struct spawn s = {
                .path = "sh",
                .argv = argv,
                .fds = fds,
                .n_fds = n_fds,
                .stdin_fd = -1,
                .stdout_fd = -1,
                .stderr_fd = -1,
                .death_signal = death_signal,
                .jail = jail,
        };
        int status = -1;
        pid_t pid;

        assert_int_equal(spawn_child(&s, &pid, &pidfd, NULL), 0);
        assert_int_equal(spawn_wait(pid, pidfd, 20000, &status), 0);
        return status;
}

static int run_sh(const char *script, const int *fds, size_t n_fds, int death_signal) {
        return run_jailed(script, fds, n_fds, death_signal, NULL);
}

/* A VMM that a guest took over has what its process has: no capability, group or network of root's may be left. */
static void test_spawn_jail(void **state) {
        static const char script[] = "set -e; cat /proc/self/status | grep -c '^Cap.*:.0*$' | grep -qx 5\n"
                                     "grep -q '^Uid:.12345.12345.12345.12345$' /proc/self/status\n"
                                     "grep -q '^Gid:.23456.23456.23456.23456$' /proc/self/status\n"
                                     "grep -q '^Groups:.34567 $' /proc/self/status\n"
                                     "grep -q '^NoNewPrivs:.1$' /proc/self/status\n"
                                     "[ $(grep -c : /proc/net/dev) = 1 ]"; /* lo alone */
        static const gid_t groups[] = { 34567 };
        const char *nowhere[] = { "/nonexistent/lodge" }, *argv[] = { "true", NULL };
        struct spawn_jail jail = {
                .identity = true, .uid = 12345, .gid = 23456, .groups = groups, .n_groups = 1, .alone = true
        };
        struct spawn s = { .path = "true", .argv = argv, .jail = &jail };
        _cleanup_error_ struct error e = ERROR_INIT;
        int pidfd;
        pid_t pid;

        if (geteuid() != 0) {
                assert_true(spawn_child(&s, &pid, &pidfd, &e) < 0); /* rather than run as we are */
                return;
        }
        assert_int_equal(run_jailed(script, NULL, 0, SIGKILL, &jail), 0);
        jail.cgroups = nowhere;
        jail.n_cgroups = 1;
        assert_int_equal(spawn_child(&s, &pid, &pidfd, &e), -ENOENT);
        assert_string_equal(e.id, "spawn-cgroup");
}

/* A descriptor too many is a hole in the VMM's jail; one too few a machine without its disk. */
static void test_spawn_passes_exactly_those(void **state) {
        _cleanup_close_ int a = open("/dev/null", O_RDONLY | O_CLOEXEC), b = open("/dev/null", O_RDONLY);
        char script[128];

        assert_true(a > 2 && b > 2);
        snprintf(script, sizeof(script), "[ -e /proc/self/fd/%d ] && [ ! -e /proc/self/fd/%d ]", a, b);
        assert_int_equal(run_sh(script, &a, 1, SIGKILL), 0);
        assert_int_equal(run_sh("exit 7", NULL, 0, 0), 7);
        assert_int_equal(run_sh("kill -TERM $$", NULL, 0, 0), 143);
}

static void test_spawn_missing(void **state) {
        _cleanup_error_ struct error e = ERROR_INIT;
        const char *argv[] = { "x", NULL };
        struct spawn s = {
                .path = "no-such-program-of-lodge", .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1
        };
        int pidfd;
        pid_t pid;

        assert_int_equal(spawn_child(&s, &pid, &pidfd, &e), -ENOENT);
        assert_string_equal(e.id, "spawn-missing");
        error_clear(&e);
        s.path = "/etc/passwd/x";
        assert_true(spawn_child(&s, &pid, &pidfd, &e) < 0);
}

/* An update between two starts of lodged's worker must not pair it with a broker of another version. */
static void test_spawn_open_program(void **state) {
        char dir[] = "/tmp/lodge-test-spawn-XXXXXX", command[128], path[64];
        const char *argv[] = { "program", NULL };
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_close_ int fd = -EBADF;
        struct spawn s = { .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1 };
        int pidfd, status = -1;
        pid_t pid;

        assert_non_null(mkdtemp(dir));
        snprintf(path, sizeof(path), "%s/program", dir);
        snprintf(command, sizeof(command), "cp /bin/true %s", path);
        assert_int_equal(run_sh(command, NULL, 0, SIGKILL), 0);
        fd = open(path, O_PATH | O_CLOEXEC);
        assert_true(fd >= 0);
        snprintf(command, sizeof(command), "cd %s; cp /bin/false new; mv new program", dir);
        assert_int_equal(run_sh(command, NULL, 0, SIGKILL), 0);
        for (int i = 0; i < 2; i++) { /* the file that is there now, and the one that was opened */
                s.path = path;
                s.exec_fd = i == 0 ? 0 : fd;
                assert_int_equal(spawn_child(&s, &pid, &pidfd, &e), 0);
                assert_int_equal(spawn_wait(pid, pidfd, 20000, &status), 0);
                assert_int_equal(status, i == 0 ? 1 : 0);
                close(pidfd);
        }
        unlink(path);
        rmdir(dir);
}

/* Two machines that write to one disk destroy it; readers may share, but not with a writer. */
static void test_disk_locks(void **state) {
        static const bool readonly[] = { false, true };
        char path[] = "/tmp/lodge-test-lock-XXXXXX";
        _cleanup_close_ int fd = mkstemp(path);

        assert_true(fd >= 0);
        for (size_t i = 0; i < 2; i++)
                for (size_t j = 0; j < 2; j++) {
                        _cleanup_error_ struct error e = ERROR_INIT;
                        _cleanup_close_ int first = open(path, O_RDWR | O_CLOEXEC),
                                            second = open(path, O_RDWR | O_CLOEXEC);
                        bool both_read = readonly[i] && readonly[j];

                        assert_int_equal(disk_lock(first, readonly[i], path, &e), 0);
                        assert_int_equal(disk_lock(second, readonly[j], path, &e), both_read ? 0 : -EBUSY);
                        if (!both_read) {
                                assert_string_equal(e.id, "disk-busy");
                                assert_non_null(strstr(e.message, "given twice")); /* not: in use by ourselves */
                        }
                }
        unlink(path);
}

/* What is no kernel must be refused before a machine is started with it. */
static void test_kernel_identify(void **state) {
        char path[] = "/tmp/lodge-test-kernel-XXXXXX", head[1024] = { 0 };
        _cleanup_close_ int fd = mkstemp(path);
        static const uint32_t multiboot[3] = { 0x1BADB002, 0, (uint32_t)-0x1BADB002 };

        assert_true(fd >= 0);
        unlink(path);
        assert_null(kernel_identify(fd));
        assert_int_equal(pwrite(fd, head, sizeof(head), 0), sizeof(head));
        assert_null(kernel_identify(fd));
        assert_int_equal(pwrite(fd, "\177ELF", 4, 0), 4);
        assert_string_equal(kernel_identify(fd), "ELF");
        assert_int_equal(pwrite(fd, "\x55\xaa", 2, 0x1fe), 2);
        assert_int_equal(pwrite(fd, "HdrS", 4, 0x202), 4);
        assert_string_equal(kernel_identify(fd), "bzImage");
        assert_int_equal(pwrite(fd, head, sizeof(head), 0), sizeof(head));
        assert_int_equal(pwrite(fd, multiboot, sizeof(multiboot), 512), sizeof(multiboot));
        assert_string_equal(kernel_identify(fd), "multiboot");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_menu_key),
                cmocka_unit_test(test_tail),
                cmocka_unit_test(test_spawn_passes_exactly_those),
                cmocka_unit_test(test_spawn_jail),
                cmocka_unit_test(test_spawn_missing),
                cmocka_unit_test(test_spawn_open_program),
                cmocka_unit_test(test_disk_locks),
                cmocka_unit_test(test_kernel_identify),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
