// SPDX-License-Identifier: GPL-2.0-or-later
/* base/fault: a process dies where it was told to and nowhere else: without this the kill tests could pass because nothing is ever killed */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fault.h"

/* Return: how many points were passed alive by @process under @environment, of three. */
static int passed(const char *environment, const char *process) {
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                struct fault f;

                if (environment)
                        setenv(FAULT_ENVIRONMENT, environment, 1);
                close(STDERR_FILENO);
                fault_arm(&f, process);
                fault_point(&f, "disk", "made");
                fault_point(&f, "disk", "known");
                fault_point(&f, "disk", "made");
                _exit((int)f.count);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void test_where(void **state) {
        assert_int_equal(passed(NULL, "worker"), 0);
        assert_int_equal(passed("worker:0", "worker"), 3);
        assert_int_equal(passed("worker:3", "worker"), -SIGKILL);
        assert_int_equal(passed("worker:4", "worker"), 3);
        assert_int_equal(passed("worker:disk.known", "worker"), -SIGKILL);
        assert_int_equal(passed("worker:disk.know", "worker"), 3);
        assert_int_equal(passed("broker:1,worker:disk.made", "worker"), -SIGKILL);
        assert_int_equal(passed("broker:1", "worker"), 0);
        assert_int_equal(passed("broker:1,worker", "worker"), 0);
        assert_int_equal(passed(",,:,worker:", "worker"), 3);
}

int main(void) {
        static const struct CMUnitTest tests[] = { cmocka_unit_test(test_where) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
