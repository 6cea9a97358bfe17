# SPDX-License-Identifier: GPL-2.0-or-later
"""daemon_probe: a lodged of a test's own, and what must be true of it whatever was killed

Used by kill-steps, kill-soak and daemon-bad. Every process of the daemon carries the environment variable TAG, so that none is overlooked and none of somebody else is touched.
"""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time

TAG = "LODGE_TEST_DAEMON"
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("LODGE_BUILD", os.path.join(TOP, "build"))
UNFINISHED = ("running", "undoing", "waiting")


class Refused(Exception):
    """the daemon answered with an error"""

    def __init__(self, status, body):
        super().__init__(f"{status} {body}")
        self.status, self.body = status, body


class Gone(Exception):
    """the daemon did not answer"""


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("lodged", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


def find_images():
    """the directory of the images, with a tiny in it; None: it is not built"""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    path = os.path.join(data, "lodge/images")
    return path if os.path.isdir(os.path.join(path, "tiny")) else None


def make_images(target):
    """tiny, and disk: the same with a disk, so that machines of it have volumes"""
    os.makedirs(target, 0o755)
    source = os.path.join(find_images(), "tiny")
    shutil.copytree(source, os.path.join(target, "tiny"), copy_function=shutil.copy2)
    made = os.path.join(target, "disk")
    os.mkdir(made)
    meta = json.load(open(os.path.join(source, "image.json")))
    del meta["files"]["vmlinux"]
    for file in meta["files"].values():
        shutil.copy2(os.path.join(source, file["name"]), made)
    with open(os.path.join(made, "disk.raw"), "wb") as out:
        out.write(os.urandom(1 << 20) + bytes(7 << 20))
    import hashlib
    digest = hashlib.sha256(open(os.path.join(made, "disk.raw"), "rb").read()).hexdigest()
    meta.update({"name": "disk", "format": "raw"})
    meta["files"]["disk"] = {"name": "disk.raw", "size": 8 << 20, "sha256": digest}
    with open(os.path.join(made, "image.json"), "w") as out:
        json.dump(meta, out)


class Daemon:
    def __init__(self, work, system=False, options=()):
        self.work, self.system, self.options = work, system, options
        self.state, self.run = os.path.join(work, "state"), os.path.join(work, "run")
        self.socket = os.path.join(self.run, "lodged.sock")
        self.log_path = os.path.join(work, "log")
        self.process = None
        if not os.path.isdir(self.state):
            os.makedirs(self.state, 0o700 if not system else 0o711)
            make_images(os.path.join(self.state, "images"))

    # ---- its life

    def start(self, fault=None, ready=True):
        env = dict(os.environ, **{TAG: self.work})
        if fault:
            env["LODGED_TEST_KILL"] = fault
            env["LODGED_TEST_SAMPLE_MS"] = "0"  # what it asks the broker would be points, too, at no certain place
        scope = [] if self.system else ["--session"]
        self.mark = os.path.getsize(self.log_path) if os.path.exists(self.log_path) else 0
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([os.path.join(BUILD, "lodged"), *scope, "--state-dir", self.state, "--run-dir", self.run, *self.options],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        if ready:
            self.wait_ready()

    def wait_ready(self, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if "ready: " in self.log() or self.process.poll() is not None:
                break
            time.sleep(0.01)
        if self.process.poll() is None and "ready: " not in self.log():
            raise Gone("the daemon does not become ready\n" + self.log()[-2000:])

    def log(self):
        """what it said since its start"""
        with open(self.log_path, "rb") as log:
            log.seek(self.mark)
            return log.read().decode(errors="replace")

    def points(self):
        """the fault points that were passed: (process, number, name)"""
        return [(p, int(n), name) for p, n, name in re.findall(r"^fault: (\w+) (\d+) (\S+)$", self.log(), re.M)]

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
        if self.process:
            self.process.wait(20)

    def kill(self):
        """the broker, and with it the worker"""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self.wait_for(lambda: not self.daemons(), 5)

    @staticmethod
    def wait_for(condition, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.02)
        return False

    # ---- asking

    def ask(self, method, path, body=None):
        connection = Connection(self.socket)
        try:
            connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body),
                               {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Gone(str(error)) from error
        finally:
            connection.close()
        value = json.loads(text) if text else {}
        if answer.status >= 400:
            raise Refused(answer.status, value)
        return value

    def operations(self):
        return self.ask("GET", "/v1/operations?limit=1000")["items"]

    def machines(self):
        return {m["name"]: m for m in self.ask("GET", "/v1/machines")["items"]}

    def operation_end(self, operation, seconds=40):
        """wait for it; returns it as it ended"""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = self.ask("GET", f"/v1/operations/{operation['id']}")
            if now["status"] not in UNFINISHED:
                return now
            time.sleep(0.03)
        raise Gone(f"operation {operation['kind']} does not end: {now}")

    def quiet(self, seconds=40):
        """until no operation is unfinished and none is about to begin"""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if all(o["status"] not in UNFINISHED for o in self.operations()):
                return
            time.sleep(0.03)
        raise Gone(f"operations do not end: {[o for o in self.operations() if o['status'] in UNFINISHED]}")

    # ---- what there is

    def processes(self):
        """pid -> what it is: broker, worker, task, keeper, vmm, passt, ..."""
        found, needle = {}, f"{TAG}={self.work}\0".encode()
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if needle not in file.read() + b"\0":
                        continue
                with open(f"/proc/{name}/stat") as file:
                    if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                        continue
                program = os.path.basename(os.readlink(f"/proc/{name}/exe"))
            except OSError:
                continue
            found[int(name)] = program.split(".")[0]
        return found

    def daemons(self):
        return [pid for pid, program in self.processes().items() if program in ("lodged", "lodged-worker")]

    def worker(self):
        return next((pid for pid, program in self.processes().items() if program == "lodged-worker"), None)

    def keepers(self):
        """uuid -> pid, by the runtime directory that each has open"""
        found = {}
        for pid, program in self.processes().items():
            if program != "lodge-keeper":
                continue
            place = "?"
            try:
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    target = os.readlink(f"/proc/{pid}/fd/{fd}")
                    if target.startswith(os.path.join(self.run, "machines/")):
                        place = target.split("/machines/")[1].split("/")[0]
            except OSError:
                pass
            found.setdefault(place, []).append(pid)
        return found

    def vmms(self):
        return [pid for pid, program in self.processes().items() if program.startswith("qemu-system") or program == "lodge-vmm"]

    def store_rows(self):
        copy = os.path.join(self.work, "copy")  # the daemon has the store to itself
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(os.path.join(self.state, "store"), copy)
        db = sqlite3.connect(os.path.join(copy, "lodge.db"))
        try:
            cursor = db.execute("SELECT m.uuid, m.name, m.wanted, c.running, c.facts FROM machines m JOIN machine_configs c USING (number)")
            return [dict(zip([c[0] for c in cursor.description], row)) for row in cursor]
        finally:
            db.close()

    def files(self, *parts):
        path = os.path.join(*parts)
        return sorted(n for n in os.listdir(path)) if os.path.isdir(path) else []

    @staticmethod
    def net():
        """taps, bridges and rules of the network namespace"""
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=False).stdout
        rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False).stdout if shutil.which("nft") else ""
        return sorted(re.findall(r"^\d+: ([^:@]+)", links, re.M)), re.sub(r"packets \d+ bytes \d+", "", rules).strip()

    @staticmethod
    def cgroups(uuids):
        found = []
        for top, dirs, _ in os.walk("/sys/fs/cgroup"):
            found += [os.path.join(top, d) for d in dirs for u in uuids if u in d]
        return found

    def left_over(self, baseline_net=None, kept_volumes=()):
        """what contradicts what: a list of texts, empty when all is well"""
        wrong = []
        rows = {r["uuid"]: r for r in self.store_rows()}
        shown = {m["uuid"]: m for m in self.machines().values()}
        keepers = self.keepers()
        running = {u for u, m in shown.items() if m["status"] in ("running", "paused")}
        if set(rows) != set(shown):
            wrong.append(f"the store has {sorted(rows)}, the API shows {sorted(shown)}")
        for uuid, machine in shown.items():
            if machine["status"] in ("starting", "stopping"):
                wrong.append(f"{machine['name']} says {machine['status']} without an operation")
            row = rows.get(uuid, {})
            if bool(row.get("running")) != (uuid in running):
                wrong.append(f"{machine['name']}: the row says running={bool(row.get('running'))}, the API {machine['status']}")
        for uuid in running - set(keepers):
            wrong.append(f"{shown[uuid]['name']} says {shown[uuid]['status']} without a keeper")
        for uuid, pids in keepers.items():
            if uuid not in running or len(pids) != 1:
                wrong.append(f"keepers {pids} of machine {uuid}, which is {shown.get(uuid, {}).get('status')}")
        if len(self.vmms()) != len(running):
            wrong.append(f"{len(self.vmms())} VMMs for {len(running)} running machines")
        passts = [p for p, n in self.processes().items() if n.startswith("passt")]
        if len(passts) > len(running):
            wrong.append(f"{len(passts)} passts for {len(running)} running machines")
        swtpms = [p for p, n in self.processes().items() if n == "swtpm"]
        if len(swtpms) > len(running):
            wrong.append(f"{len(swtpms)} swtpms for {len(running)} running machines")
        if len(self.daemons()) != 2:
            wrong.append(f"{len(self.daemons())} processes of lodged instead of 2")
        for uuid in self.files(self.run, "machines"):
            if uuid not in rows:
                wrong.append(f"runtime directory {uuid} of no machine: {self.files(self.run, 'machines', uuid)}")
        for uuid in self.files(self.state, "seeds"):
            if uuid not in rows:
                wrong.append(f"seed {uuid} of no machine")
        for uuid in self.files(self.state, "devices"):
            if uuid not in rows:
                wrong.append(f"what devices of {uuid} remember, of no machine: {self.files(self.state, 'devices', uuid)}")
            wrong += [f"{uuid}/{n} is half done" for n in self.files(self.state, "devices", uuid) if n.endswith(".new") and uuid not in running]
        known = {json.loads(r["facts"]).get("volume") for r in rows.values() if r["facts"]} | set(kept_volumes)
        volumes = self.volumes()
        for name in volumes:
            if name.rsplit(".", 1)[0] not in known:
                wrong.append(f"volume {name} of no machine")
        for name in known - {None} - {v.rsplit(".", 1)[0] for v in volumes}:
            wrong.append(f"volume {name} is known and not there")
        for name in self.files(self.state, "images"):
            if name.startswith((".part-", ".tmp-", ".upload-")):
                wrong.append(f"{name} of no image")
        for operation in self.operations():
            if operation["status"] in UNFINISHED:
                wrong.append(f"operation {operation['kind']} is {operation['status']}")
            elif operation["status"] != "done" and not (operation["error"] and operation["error"][0].get("message") and
                                                        operation["error"][0].get("id")):
                wrong.append(f"operation {operation['kind']} is {operation['status']} without an error")
        found = self.cgroups([u for u in rows if u not in running])
        if found:
            wrong.append(f"control groups {found}")
        if baseline_net is not None and not running and self.net() != baseline_net:
            known = [n["bridge"] for n in self.ask("GET", "/v1/networks")["items"] if n.get("bridge")] if self.system else []
            links, rules = self.net()
            if [link for link in links if link not in baseline_net[0] + known]:
                wrong.append(f"links {links} instead of {baseline_net[0]} and {known}")
            tables = {t for t in re.findall(r"^table \w+ (\S+)", rules, re.M)} - set(known)
            if tables - set(re.findall(r"^table \w+ (\S+)", baseline_net[1], re.M)) or "dport" in rules:
                wrong.append(f"rules {rules} instead of {baseline_net[1]}")
        return wrong

    def volumes(self):
        return [n for n in self.files(self.state, "pools", "default") if n not in (".lock", "lock")]

    def settled(self, seconds=5, **how):
        """left_over(), given a moment: a process that was killed takes one to be gone"""
        end = time.monotonic() + seconds
        while True:
            wrong = self.left_over(**how)
            if not wrong or time.monotonic() > end:
                return wrong
            time.sleep(0.1)

    def end_all(self):
        """every process that carries the tag; for the test's own end"""
        for _ in range(50):
            pids = self.processes()
            if not pids:
                return
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if self.process:
                self.process.poll()
            time.sleep(0.05)


def own_namespaces(script, *more):
    """as root: start again in a network namespace of its own, and @more"""
    if os.geteuid() == 0 and os.environ.get("LODGE_TEST_NETNS") != "1":
        os.environ["LODGE_TEST_NETNS"] = "1"
        os.execvp("unshare", ["unshare", "--net", *more, "--", sys.executable, script, *sys.argv[1:]])
    if os.environ.get("LODGE_TEST_NETNS") == "1":
        subprocess.run(["ip", "link", "set", "lo", "up"], check=False)


class Tap:
    def __init__(self):
        self.count = self.failed = 0

    def check(self, name, wrong):
        self.count += 1
        print(f"{'not ok' if wrong else 'ok'} {self.count} - {name}", flush=True)
        for line in wrong or []:
            for part in str(line).split("\n"):
                print(f"# {part}", flush=True)
        self.failed += bool(wrong)

    def end(self):
        print(f"1..{self.count}")
        return 1 if self.failed else 0
