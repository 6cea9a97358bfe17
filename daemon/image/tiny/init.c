// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * init: process 1 of the image tiny, and of the initramfs of debian/12, which has root= on its command line (root.c)
 *
 * Theory of operation. The initramfs is the whole system. In C and not in shell, because each fork and exec of a
 * shell costs an emulated processor more than all that is done here: mount, load the modules in /lib/modules in the
 * order of their names, start the guest agent (this program again, with another task), ask for an address on each
 * network card, and put a shell on the console. Then wait: reap what dies, start the agent and the shell again when
 * they end, and power off when asked, by the power button (an input device), by the agent, or by busybox's poweroff,
 * halt and reboot, which send SIGUSR2, SIGUSR1 and SIGTERM.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <linux/reboot.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/image/tiny/agent.h"
#include "daemon/image/tiny/pty.h"
#include "daemon/image/tiny/root.h"

#define PORT_NAME  "org.qemu.guest_agent.0"
#define BUTTON_MAX 8
#define NAMES_MAX  64

static void say(const char *what, const char *name) {
        dprintf(2, "init: %s %s: %s\n", what, name, strerror(errno));
}

static void mount_all(void) {
        static const struct {
                const char *type, *where, *options;
                unsigned long flags;
        } mounts[] = {
                { "devtmpfs", "/dev", NULL, MS_NOSUID },
                { "proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
                { "sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
                { "tmpfs", "/run", "mode=755", MS_NOSUID | MS_NODEV },
                { "devpts", "/dev/pts", "mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC },
        };

        for (size_t i = 0; i < sizeof(mounts) / sizeof(*mounts); i++) {
                mkdir(mounts[i].where, 0755);
                if (mount(mounts[i].type, mounts[i].where, mounts[i].type, mounts[i].flags, mounts[i].options) < 0 &&
                    errno != EBUSY)
                        say("cannot mount", mounts[i].where);
        }
}

static int by_text(const void *a, const void *b) {
        return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in a directory, sorted; at most NAMES_MAX. */
static size_t list(const char *path, const char *prefix, char *names[NAMES_MAX]) {
        DIR *d = opendir(path);
        struct dirent *de;
        size_t n = 0;

        while (d && n < NAMES_MAX && (de = readdir(d)))
                if (de->d_name[0] != '.' && strncmp(de->d_name, prefix, strlen(prefix)) == 0)
                        names[n++] = strdup(de->d_name);
        if (d)
                closedir(d);
        qsort(names, n, sizeof(*names), by_text);
        return n;
}

static void load_modules(void) {
        char *names[NAMES_MAX], path[300];
        size_t n = list("/lib/modules", "", names);

        for (size_t i = 0; i < n; i++) {
                snprintf(path, sizeof(path), "/lib/modules/%s", names[i]);
                int fd = open(path, O_RDONLY | O_CLOEXEC);
                if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST && errno != ENODEV))
                        say("cannot load", path);
                close(fd);
                free(names[i]);
        }
}

/* In the child: signals as a program expects them, its own session. */
static void become_program(void) {
        sigset_t none;

        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        setsid();
}

static pid_t start_agent(void) {
        pid_t pid = fork();

        if (pid == 0) {
                become_program();
                agent_run(PORT_NAME);
                _exit(1);
        }
        return pid;
}

/* The terminal behind /dev/console: only a real one can be a controlling terminal, which Ctrl-C needs. */
static void console_path(char path[64]) {
        char active[64] = "", *last;
        int fd = open("/sys/class/tty/console/active", O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, active, sizeof(active) - 1);

        close(fd);
        if (n > 0)
                active[strcspn(active, "\n")] = '\0';
        last = strrchr(active, ' ') ? strrchr(active, ' ') + 1 : active;
        snprintf(path, 64, "/dev/%.50s", *last ? last : "console");
}

static pid_t start_shell(void) {
        pid_t pid = fork();
        char path[64];
        int fd;

        if (pid != 0)
                return pid;
        become_program();
        console_path(path);
        fd = open(path, O_RDWR);
        if (fd < 0)
                _exit(1);
        ioctl(fd, TIOCSCTTY, 0);
        for (int i = 0; i < 3; i++)
                dup2(fd, i);
        if (fd > 2)
                close(fd);
        if (chdir("/root") < 0)
                (void)!chdir("/");
        execl("/bin/sh", "-sh", NULL);
        _exit(127);
}

/* udhcpc stays in the background: it asks until somebody answers, and renews. */
static void start_network(void) {
        char *names[NAMES_MAX];
        size_t n;
        struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        ioctl(fd, SIOCSIFFLAGS, &ifr);
        close(fd);
        n = list("/sys/class/net", "e", names);
        for (size_t i = 0; i < n; i++) {
                if (fork() == 0) {
                        int null = open("/dev/null", O_RDWR);

                        become_program();
                        for (int k = 0; k < 3; k++)
                                dup2(null, k);
                        execl("/bin/udhcpc", "udhcpc", "-s", "/etc/udhcpc/default.script", "-f", "-S", "-t", "5", "-A",
                              "3", "-i", names[i], NULL);
                        _exit(127);
                }
                free(names[i]);
        }
}

static size_t open_buttons(struct pollfd *fds) {
        char *names[NAMES_MAX], path[300];
        size_t n = list("/dev/input", "event", names), opened = 0;

        for (size_t i = 0; i < n; i++) {
                snprintf(path, sizeof(path), "/dev/input/%s", names[i]);
                if (opened < BUTTON_MAX) {
                        fds[opened].fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
                        fds[opened].events = POLLIN;
                        opened += fds[opened].fd >= 0;
                }
                free(names[i]);
        }
        return opened;
}

static bool power_pressed(int fd) {
        struct input_event e;

        while (read(fd, &e, sizeof(e)) == sizeof(e))
                if (e.type == EV_KEY && e.code == KEY_POWER && e.value == 1)
                        return true;
        return false;
}

_Noreturn static void go_down(unsigned how) {
        kill(-1, SIGTERM);
        for (int i = 0; i < 20 && waitpid(-1, NULL, WNOHANG) >= 0; i++)
                usleep(10 * 1000);
        kill(-1, SIGKILL);
        sync();
        reboot(how);
        for (;;)
                pause();
}

static void obey(int signo) {
        if (signo == SIGUSR2)
                go_down(RB_POWER_OFF);
        if (signo == SIGUSR1)
                go_down(RB_HALT_SYSTEM);
        if (signo == SIGTERM || signo == SIGINT)
                go_down(RB_AUTOBOOT);
}

/* Starts a program again that has ended, but not more than once in a second. */
static void reap(pid_t *agent, pid_t *shell) {
        int status;
        pid_t pid;

        while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
                if (pid == *agent) {
                        *agent = 0;
                        /* Its commands are lost, and the host will wonder. */
                        fprintf(stderr, "init: the agent ended with %s %d\n", WIFSIGNALED(status) ? "signal" : "status",
                                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
                }
                if (pid == *shell)
                        *shell = 0;
        }
}

static void prepare(void) {
        int fd = open("/etc/hostname", O_RDONLY | O_CLOEXEC);
        char name[64];
        ssize_t n = fd < 0 ? -1 : read(fd, name, sizeof(name));

        close(fd);
        if (n > 1)
                sethostname(name, n - 1);
        setenv("PATH", "/bin", 1);
        setenv("HOME", "/root", 1);
        setenv("TERM", "vt102", 1);
        reboot(LINUX_REBOOT_CMD_CAD_OFF);
        (void)!symlink("/proc/self/fd", "/dev/fd");
        (void)!symlink("/proc/self/fd/0", "/dev/stdin");
        (void)!symlink("/proc/self/fd/1", "/dev/stdout");
        (void)!symlink("/proc/self/fd/2", "/dev/stderr");
}

int main(int argc, char **argv) {
        struct pollfd fds[1 + BUTTON_MAX] = { 0 };
        pid_t agent, shell;
        sigset_t all;
        size_t n;

        if (strcmp(basename(argv[0]), "lodge-pty") == 0)
                return pty_run(argc > 1 ? argv[1] : "exec /bin/sh");
        if (getpid() != 1) { /* for trying the agent by hand */
                int r = agent_run(argc > 1 ? argv[1] : PORT_NAME);
                fprintf(stderr, "agent: %s\n", strerror(-r));
                return 1;
        }
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, NULL);
        mount_all();
        load_modules();
        root_switch();
        prepare();
        agent = start_agent();
        start_network();
        shell = start_shell();

        fds[0].fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
        fds[0].events = POLLIN;
        n = open_buttons(fds + 1);
        for (;;) {
                struct signalfd_siginfo info;

                poll(fds, 1 + n, agent && shell ? -1 : 1000);
                while (read(fds[0].fd, &info, sizeof(info)) == sizeof(info))
                        obey((int)info.ssi_signo);
                for (size_t i = 1; i <= n; i++)
                        if (fds[i].revents && power_pressed(fds[i].fd))
                                go_down(RB_POWER_OFF);
                if (agent == 0)
                        agent = start_agent();
                if (shell == 0)
                        shell = start_shell();
                reap(&agent, &shell);
        }
}
