# SPDX-License-Identifier: GPL-2.0-or-later
"""daemon_peers: the daemons that bench/daemon compares, each with the same methods

Theory of operation. A peer runs its daemon in directories of its own, as one user's daemon (lodged --session, qemu:///session), and is asked over one
connection that lasts (libvirtd) or one for each request (lodged, as it serves them). Its methods are the work that is timed: what they return is checked by the caller, so that nothing is timed that did not happen.

lodged is asked over HTTP on its socket, in Python. libvirt is asked by its own client library, in C, which ctypes calls: that favours libvirt.

libvirtd as root is the system's daemon, whatever its directories are. So that it is a user's, it runs in a user namespace that calls root by
the name nobody; files that it makes are root's, and it may open /dev/kvm as root may. stdio_handler is "file", which spares it virtlogd.
It leaves its QEMUs to process 1, and waits for that to reap them. A process 1 that is no real init may take seconds for it, so libvirtd runs
below reap(), which does it at once.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NOBODY = 65534


class PeerError(Exception):
    """A daemon that did not do what it was asked; the text says what was seen."""


def descendants(pid):
    """A process and all that it started, itself first."""
    found, todo = [], [pid]
    while todo:
        p = todo.pop(0)
        found.append(p)
        try:
            for task in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{task}/children", encoding="ascii") as f:
                    todo += [int(c) for c in f.read().split()]
        except OSError:
            pass
    return found


def comm(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as f:
            return f.read().strip()
    except OSError:
        return ""


def memory_kib(pids):
    """Pss and private memory of some processes, in KiB."""
    pss = private = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
                for line in f:
                    words = line.split()
                    pss += int(words[1]) if words[0] == "Pss:" else 0
                    private += int(words[1]) if words[0] in ("Private_Clean:", "Private_Dirty:") else 0
        except OSError:
            pass
    return {"pss": pss, "private": private}


class Peer:
    """What both have: a process that is started and ended, and its log."""

    def __init__(self, directory, limit):
        self.directory, self.limit, self.proc = directory, limit, None
        self.log = f"{directory}/log"
        os.makedirs(directory)

    def spawn(self, command, sock, env):
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True)
        deadline = time.monotonic() + self.limit
        while not os.path.exists(sock):
            if self.proc.poll() is not None or time.monotonic() > deadline:
                raise PeerError(f"{command[0]} did not start: {self.last_words()}")
            time.sleep(0.05)

    def last_words(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return " / ".join(f.read().splitlines()[-3:])

    def stop(self):
        """End the daemon, and the machines that a run that failed has left."""
        if not self.proc or self.proc.poll() is not None:
            return
        machines = [(p, comm(p)) for p in descendants(self.proc.pid) if comm(p).startswith(("lodge-", "qemu-system"))]
        self.proc.send_signal(signal.SIGTERM)
        try:
            self.proc.wait(30)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
        for pid, name in machines:
            if comm(pid) == name:
                os.kill(pid, signal.SIGKILL)

    def pids(self):
        """The daemon's processes. The VMMs, lodge-vmm or QEMU, are none of them: what a machine takes is not the daemon's."""
        return [p for p in descendants(self.proc.pid) if comm(p).startswith(self.processes)]

    def memory(self):
        return memory_kib(self.pids())

    def memory_parts(self):
        """Where the memory is, in words: for each name of a process how many there are, and the Pss of all."""
        parts = {}
        for pid in self.pids():
            parts.setdefault(comm(pid), []).append(pid)
        return ", ".join(f"{len(pids)} {name} {memory_kib(pids)['pss'] / 1024:.1f} MiB" for name, pids in parts.items())


class Lodge(Peer):
    """lodged, and lodge."""

    name = "lodge"
    processes = ("lodged", "lodge-keeper")
    lists = {"list-api": "api_list", "list-bulk": "api_list"}

    def start(self):
        self.socket = f"{self.directory}/run/lodged.sock"
        self.spawn([f"{TOP}/build/lodged", "--session", "--state-dir", f"{self.directory}/state", "--run-dir", f"{self.directory}/run",
                    "--allow-path", "/"], self.socket, os.environ)
        self.env = {**os.environ, "LODGE_SOCKET": self.socket}
        deadline = time.monotonic() + self.limit
        while True:
            try:
                self.connect()
                break
            except OSError as e:
                if time.monotonic() > deadline:
                    raise PeerError(f"lodged does not answer: {e}") from e
                time.sleep(0.05)
        while "pid" not in self.ask("GET", "/v1"):
            time.sleep(0.05)
        return "-"

    def connect(self):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(self.socket)

    def ask(self, method, path, body=None):
        """One request, on a connection of its own, as lodged has it; the answer's object."""
        text = json.dumps(body).encode() if body is not None else b""
        self.connection.close()
        self.connect()
        self.connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: lodge\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.receive()
        head, _, data = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        chunks, left = [data], int(fields[b"content-length"]) - len(data)
        while left > 0:
            chunks.append(self.receive())
            left -= len(chunks[-1])
        status = int(head.split(b" ", 2)[1])
        answer = json.loads(b"".join(chunks))
        if status >= 300:
            raise PeerError(f"{method} {path}: {status} {answer}")
        return answer

    def receive(self):
        data = self.connection.recv(1 << 20)
        if not data:
            raise PeerError("lodged closed the connection")
        return data

    def operation(self, answer):
        """Wait for an operation's end."""
        deadline = time.monotonic() + self.limit
        while answer["status"] not in ("done", "failed", "cancelled"):
            if time.monotonic() > deadline:
                raise PeerError(f"operation {answer['kind']} of {answer.get('target')} does not end")
            answer = self.ask("GET", f"/v1/operations/{answer['id']}?wait=60")
        if answer["status"] != "done":
            raise PeerError(f"{answer['kind']} of {answer.get('target')}: {answer['error']}")

    def machine(self, name, guest):
        config = {"name": name, "cpus": 1, "memory": "64M", "kernel": guest["kernel"], "nets": [{"type": "none"}]}
        if guest.get("initrd"):
            config |= {"initrd": guest["initrd"], "append": guest["append"]}
        return config

    def define(self, name, guest):
        self.ask("POST", "/v1/machines", self.machine(name, guest))

    def delete(self, name):
        self.operation(self.ask("DELETE", f"/v1/machines/{name}"))

    def api_list(self):
        """Names and states of all, by pages."""
        found, after = [], ""
        while after is not None:
            page = self.ask("GET", "/v1/machines?limit=1000" + (f"&after={urllib.parse.quote(after)}" if after else ""))
            found += [(m["name"], m["status"]) for m in page["items"]]
            after = page.get("next")
        return len(found)

    def api_inspect(self, name):
        return self.ask("GET", f"/v1/machines/{name}")["config"]["name"] == name

    def run(self, name):
        self.operation(self.ask("POST", f"/v1/machines/{name}/start"))

    def end(self, name):
        self.operation(self.ask("POST", f"/v1/machines/{name}/stop", {"way": "force"}))

    def vmm(self, name):
        return self.ask("GET", f"/v1/machines/{name}")["state"]["pid"]

    def command(self, what, name=None):
        words = {"list": ["list"], "inspect": ["info", name]}[what]
        return [f"{TOP}/build/lodge", *words], self.env

    def stop(self):
        super().stop()
        if self.proc:
            self.connection.close()


class Libvirt(Peer):
    """Debian's libvirtd, and virsh."""

    name = "libvirt"
    processes = ("libvirtd", "virtlogd")
    lists = {"list-api": "api_list", "list-bulk": "api_list_bulk"}
    need = "apt-get install libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients"
    xml = ("<domain type='{type}'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type>"
           "<kernel>{kernel}</kernel>{boot}</os><devices><serial type='pty'/><controller type='usb' model='none'/></devices></domain>")

    def start(self):
        d = self.directory
        for part in ("run", "config/libvirt", "cache", "data"):
            os.makedirs(f"{d}/{part}", exist_ok=True)
        with open(f"{d}/libvirtd.conf", "w", encoding="ascii") as f:
            f.write('auth_unix_rw = "none"\n')
        with open(f"{d}/config/libvirt/qemu.conf", "w", encoding="ascii") as f:
            f.write('stdio_handler = "file"\n')
        self.env = {**os.environ, "HOME": d, "XDG_RUNTIME_DIR": f"{d}/run", "XDG_CONFIG_HOME": f"{d}/config", "XDG_CACHE_HOME": f"{d}/cache",
                    "XDG_DATA_HOME": f"{d}/data"}
        self.socket = f"{d}/run/libvirt/libvirt-sock"
        self.uri = f"qemu:///session?socket={self.socket}"
        alias = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"] if os.geteuid() == 0 else []
        self.spawn([sys.executable, os.path.abspath(__file__), *alias, "/usr/sbin/libvirtd", "-f", f"{d}/libvirtd.conf"], self.socket, self.env)
        self.lib = library()
        # Virtualization is probed at the first question about it, by starting QEMU several times: uncounted, and cached from then on.
        begin = time.monotonic()
        self.connection = None
        while not self.connection:
            self.connection = self.lib.virConnectOpen(self.uri.encode())
            if time.monotonic() > begin + self.limit:
                raise PeerError(f"libvirtd does not answer: {self.last_words()}")
        text = self.lib.virConnectGetCapabilities(self.connection)
        self.check(text, "virConnectGetCapabilities")
        self.kvm = b"type='kvm'" in ctypes.string_at(text)
        self.lib.free(text)
        return f"QEMU probed in {time.monotonic() - begin:.1f} s"

    def check(self, good, what):
        if good:
            return
        error = self.lib.virGetLastErrorMessage()
        raise PeerError(f"{what}: {error.decode(errors='replace') if error else 'failed'}")

    def find(self, name):
        dom = self.lib.virDomainLookupByName(self.connection, name.encode())
        self.check(dom, "virDomainLookupByName")
        return dom

    def define(self, name, guest):
        boot = f"<initrd>{guest['initrd']}</initrd><cmdline>{guest['append']}</cmdline>" if guest.get("initrd") else ""
        xml = self.xml.format(type="kvm" if guest.get("kvm") else "qemu", name=name, kernel=guest["kernel"], boot=boot)
        dom = self.lib.virDomainDefineXML(self.connection, xml.encode())
        self.check(dom, "virDomainDefineXML")
        self.lib.virDomainFree(dom)

    def on(self, name, what):
        dom = self.find(name)
        r = getattr(self.lib, what)(dom)
        self.lib.virDomainFree(dom)
        self.check(r == 0, what)

    def delete(self, name):
        self.on(name, "virDomainUndefine")

    def run(self, name):
        self.on(name, "virDomainCreate")

    def end(self, name):
        self.on(name, "virDomainDestroy")

    def api_list(self):
        """Names and states of all, as virsh does it: a call for the list, and one for each state."""
        doms = ctypes.POINTER(ctypes.c_void_p)()
        n = self.lib.virConnectListAllDomains(self.connection, ctypes.byref(doms), 0)
        self.check(n >= 0, "virConnectListAllDomains")
        state, found = ctypes.c_int(), []
        for i in range(n):
            self.check(self.lib.virDomainGetState(doms[i], ctypes.byref(state), None, 0) == 0, "virDomainGetState")
            found.append((self.lib.virDomainGetName(doms[i]), state.value))
            self.lib.virDomainFree(doms[i])
        self.lib.free(doms)
        return len(found)

    def api_list_bulk(self):
        """The same by libvirt's one call for the statistics of all."""
        stats = ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))()
        n = self.lib.virConnectGetAllDomainStats(self.connection, 1, ctypes.byref(stats), 0)
        self.check(n >= 0, "virConnectGetAllDomainStats")
        found = [self.lib.virDomainGetName(stats[i][0]) for i in range(n)]
        self.lib.virDomainStatsRecordListFree(stats)
        return len(found)

    def api_inspect(self, name):
        dom, info = self.find(name), ctypes.create_string_buffer(64)
        self.check(self.lib.virDomainGetInfo(dom, info) == 0, "virDomainGetInfo")
        xml = self.lib.virDomainGetXMLDesc(dom, 0)
        self.check(xml, "virDomainGetXMLDesc")
        good = f"<name>{name}</name>".encode() in ctypes.string_at(xml)
        self.lib.free(xml)
        self.lib.virDomainFree(dom)
        return good

    def vmm(self, name):
        with open(f"{self.directory}/run/libvirt/qemu/run/{name}.pid", encoding="ascii") as f:
            return int(f.read())

    def command(self, what, name=None):
        words = {"list": ["list", "--all"], "inspect": ["dominfo", name]}[what]
        return ["virsh", "-c", self.uri, *words], self.env

    def stop(self):
        if getattr(self, "connection", None):
            self.lib.virConnectClose(self.connection)
        super().stop()


def library():
    """libvirt.so.0 with the types of what we call; OSError where it is not installed."""
    lib = ctypes.CDLL("libvirt.so.0")
    p, pp, text, n = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    table = {"virConnectOpen": (p, text), "virConnectClose": (n, p), "virConnectGetCapabilities": (p, p), "virGetLastErrorMessage": (text,),
             "virDomainLookupByName": (p, p, text), "virDomainDefineXML": (p, p, text), "virDomainFree": (n, p), "virDomainUndefine": (n, p),
             "virDomainCreate": (n, p), "virDomainDestroy": (n, p), "virConnectListAllDomains": (n, p, pp, ctypes.c_uint),
             "virDomainGetState": (n, p, pp, pp, ctypes.c_uint), "virDomainGetName": (text, p), "virDomainGetInfo": (n, p, pp),
             "virDomainGetXMLDesc": (p, p, ctypes.c_uint), "virConnectGetAllDomainStats": (n, p, ctypes.c_uint, pp, ctypes.c_uint),
             "virDomainStatsRecordListFree": (None, pp), "free": (None, pp)}
    for name, (result, *arguments) in table.items():
        getattr(lib, name).restype, getattr(lib, name).argtypes = result, arguments
    # Errors are returned, not printed.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    lib.quiet = handler(lambda opaque, error: None)
    lib.virSetErrorFunc.argtypes = (ctypes.c_void_p, handler)
    lib.virSetErrorFunc(None, lib.quiet)
    return lib


PEERS = {"lodge": Lodge, "libvirt": Libvirt}


def reap(command):
    """Be the parent of a program and of all that its processes leave behind, until the program ends."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    with subprocess.Popen(command) as proc:
        signal.signal(signal.SIGTERM, lambda signo, frame: proc.send_signal(signo))
        while True:
            pid, status = os.wait()
            if pid == proc.pid:
                os._exit(os.waitstatus_to_exitcode(status) & 0xff)


if __name__ == "__main__":
    reap(sys.argv[1:])
