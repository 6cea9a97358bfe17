# SPDX-License-Identifier: GPL-2.0-or-later
"""daemon_starts: a VMM started by us as a daemon started it: what a machine's start costs without the daemon

Theory of operation. VMMs get their sockets as inherited descriptors. An Alone is made from a VMM that runs: its command line, in which each
descriptor is replaced by a new one of the same kind (a listening socket, one half of a pair, the same file). lodge-vmm's command line says nothing,
so its configuration is written here, with the devices that lodged gives to a machine without disks and networks.

The end of a start is what both daemons wait for: an answer to qmp_capabilities, and to cont where the machine was started with -S.
"""

import json
import os
import re
import socket
import subprocess
import tempfile
import time

# A guest that does nothing: 32-bit code behind a PVH note (Xen's public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY), which lodge-vmm and QEMU boot.
HALT = """
        .section .note.pvh, "a", @note
        .long 4, 4, 18
        .asciz "Xen"
        .long _start
        .text
        .code32
        .globl _start
_start: cli
1:      hlt
        jmp 1b
"""


def make_kernel(path):
    subprocess.run(["cc", "-x", "assembler", "-", "-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x200000,--build-id=none", "-o", path],
                   input=HALT.encode(), check=True)


class Alone:
    """How to start a VMM like one that runs."""

    def __init__(self, pid, kernel):
        self.program, self.kernel = os.readlink(f"/proc/{pid}/exe"), kernel
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            self.words = [w.decode() for w in f.read().split(b"\0")[:-1]]
        self.files = {n: os.readlink(f"/proc/{pid}/fd/{n}") for w in self.words for n in re.findall(r"/proc/self/fd/(\d+)", w)}
        self.env = {**os.environ}

    def listen(self, path):
        s = socket.socket(socket.AF_UNIX)
        s.bind(path)
        s.listen(1)
        return s.detach()

    def pair(self, keep):
        ours, theirs = socket.socketpair()
        keep.append(ours)
        return theirs.detach()

    def qemu(self, path, keep):
        """The command line with descriptors of our own."""
        words, fds = [], []
        for word in self.words:
            for n in re.findall(r"(?<=\bfd=)\d+|(?<=/proc/self/fd/)\d+", word):
                if n in self.files:
                    fd = os.open(self.files[n], os.O_RDONLY)
                elif "server=on" in word:
                    fd = self.listen(path)
                else:
                    fd = self.pair(keep)
                fds.append(fd)
                word = re.sub(rf"(\bfd=|/proc/self/fd/){n}\b", rf"\g<1>{fd}", word)
            words.append(word)
        return words, fds

    def lodge_vmm(self, path, keep):
        fds = [os.open("/dev/kvm", os.O_RDWR), os.open(self.kernel, os.O_RDONLY), self.pair(keep), self.pair(keep), self.listen(path),
               os.memfd_create("config")]
        config = {"version": 1, "name": "alone", "cpus": 1, "memory": 64 << 20, "kvm_fd": fds[0], "kernel_fd": fds[1], "append": "",
                  "serial": {"in_fd": fds[2], "out_fd": fds[2]}, "ports": [{"fd": fds[3], "name": "org.qemu.guest_agent.0"}], "control_fd": fds[4]}
        os.write(fds[5], json.dumps(config).encode())
        os.lseek(fds[5], 0, os.SEEK_SET)
        return [self.words[0], "--config-fd", str(fds[5])], fds

    def start(self):
        """Start one and end it. Returns the milliseconds until it is ready."""
        keep = []
        with tempfile.TemporaryDirectory(prefix="alone-") as directory, tempfile.TemporaryFile() as log:
            path = f"{directory}/control"
            words, fds = (self.lodge_vmm if "lodge-vmm" in self.program else self.qemu)(path, keep)
            begin = time.perf_counter()
            proc = subprocess.Popen(words, executable=self.program, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds, env=self.env)
            for fd in fds:
                os.close(fd)
            try:
                with socket.socket(socket.AF_UNIX) as control:
                    control.settimeout(120)
                    control.connect(path)
                    answers = control.makefile("rb")
                    answers.readline()
                    for command in ("qmp_capabilities", "cont") if "-S" in words else ("qmp_capabilities",):
                        control.sendall(json.dumps({"execute": command}).encode() + b"\n")
                        line = answers.readline()
                        while line and b'"return"' not in line and b'"error"' not in line:
                            line = answers.readline()
                        if b'"return"' not in line:
                            log.seek(0)
                            raise OSError(f"{self.program}, started alone: {line!r} {log.read()[-300:]!r}")
                    return (time.perf_counter() - begin) * 1000
            finally:
                proc.kill()
                proc.wait()
                for s in keep:
                    s.close()
