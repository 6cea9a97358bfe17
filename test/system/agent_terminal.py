# SPDX-License-Identifier: GPL-2.0-or-later
"""agent_terminal: lodge shell on a terminal of 33 lines and 99 columns, with somebody at it; for agent.sh

usage: python3 agent_terminal.py LODGE session|flood|paste|command|nobody|leave|leave-killed [PID]
"""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time


class Terminal:
    def __init__(self, *argv):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
            os.environ["TERM"] = "xterm"
            os.execv(argv[0], argv)
        self.text = b""

    def read(self, timeout):
        if not select.select([self.fd], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            data = b""
        self.text += data
        return bool(data)

    def expect(self, pattern, seconds=30):
        end = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            if time.monotonic() > end or not self.read(0.2):
                sys.exit(f"no {pattern!r} in {self.text[-2000:]!r}")
        self.text = self.text[re.search(pattern, self.text).end():]

    def say(self, keys):
        os.write(self.fd, keys)

    def end(self, status, seconds=20):
        end = time.monotonic() + seconds
        while self.read(0.2) and time.monotonic() < end:
            pass
        got = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if got != status:
            sys.exit(f"status {got}, not {status}: {self.text[-2000:]!r}")


PROMPT = rb"# "


def session(lodge):
    t = Terminal(lodge, "shell", "web")
    t.expect(PROMPT)
    t.say(b"tty; stty size; echo $TERM; id -un; pwd\r")
    t.expect(rb"/dev/pts/\d+\s+33 99\s+xterm\s+root\s+/root\s")
    fcntl.ioctl(t.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 70, 0, 0))
    os.kill(t.pid, signal.SIGWINCH)
    time.sleep(1)
    t.say(b"stty size; cat\r")
    t.expect(rb"20 70\s")
    t.say(b"typed\r")
    t.expect(rb"typed\s+typed\s")
    t.say(b"\x03")  # Ctrl-C ends cat, not the shell
    t.expect(PROMPT)
    t.say(b"exit 7\r")
    t.end(7)


def flood(lodge):
    t = Terminal(lodge, "shell", "web")
    t.expect(PROMPT)
    t.say(b"stty -echo; seq 1 20000; echo 'that is' all; df -k /run | awk 'END { print \"used\", ($3 < 2000) }'\r")
    t.expect(rb"that is all\s", 60)
    t.expect(rb"used 1\s")
    t.say(b"yes\r")
    time.sleep(3)
    while t.read(0):
        t.text = t.text[-100:]
        if not select.select([t.fd], [], [], 0)[0]:
            break
    t.say(b"\x03\x03")
    t.say(b"\recho still here\r")
    end = time.monotonic() + 40
    while b"still here" not in t.text and time.monotonic() < end:
        t.read(0.2)
        t.text = t.text[-100000:]
    t.expect(rb"still here")
    t.say(b"exit\r")
    t.end(0)


def paste(lodge):
    """cat shows what it is given, so it waits for the terminal while the terminal waits for it; wc says whether all has come.

    The terminal's own echo is no proof: Linux leaves the last of it undone when the output was full, until something else is typed or written."""
    t = Terminal(lodge, "shell", "web")
    t.expect(PROMPT)
    for command, key, shown in (b"cat", b"\x03", b"%078d" % 2531), (b"wc -c", b"\x04", rb"\s200028\s"):
        t.say(command + b"\r")
        time.sleep(1)
        left = b"".join(b"%078d\r" % i for i in range(2532))  # 200 KB
        os.set_blocking(t.fd, False)
        end = time.monotonic() + 60
        while left and time.monotonic() < end:
            if select.select([t.fd], [t.fd], [], 1)[1]:
                left = left[os.write(t.fd, left[:2048]):]
            while select.select([t.fd], [], [], 0)[0] and t.read(0):
                t.text = t.text[-100000:]
        if left:
            sys.exit(f"{len(left)} bytes were not taken: {t.text[-300:]!r}")
        os.set_blocking(t.fd, True)
        if key == b"\x03":
            t.expect(shown, 60)
            t.say(key)
        else:
            t.say(key)
            t.expect(shown, 60)
        t.say(b"\recho still $((40 + 2)) here\r")
        t.expect(rb"still 42 here", 60)
    t.say(b"exit 0\r")
    t.end(0)


def command(lodge):
    t = Terminal(lodge, "shell", "web", "--", "sh", "-c", 'tty; echo "it\'s $0 $1"; exit 3', "a b", "c")
    t.expect(rb"/dev/pts/\d+\s+it's a b c\s")
    t.end(3)


def nobody(lodge):
    t = Terminal(lodge, "shell", "web", "--user", "nosuch")
    t.expect(rb"no such user")
    t.end(2)


def begin_sleep(lodge):
    t = Terminal(lodge, "shell", "web")
    t.expect(PROMPT)
    t.say(b"echo begun; sleep 4711\r")
    t.expect(rb"begun\s+begun\s|begun\r\n")
    return t


def leave(lodge):
    t = begin_sleep(lodge)
    t.say(b"\x1dd")  # Ctrl-] d
    t.end(0)


def leave_killed(lodge, pid):
    t = begin_sleep(lodge)
    os.kill(int(pid), signal.SIGKILL)
    t.expect(rb"shell-lost|the machine or the daemon has ended")
    t.end(2)


if __name__ == "__main__":
    globals()[sys.argv[2].replace("-", "_")](sys.argv[1], *sys.argv[3:])
