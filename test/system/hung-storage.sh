#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: lab
# seconds: 240
#
# hung-storage.sh: a machine whose disk does not answer can still be asked and reset, and goes on when the disk does
#
# usage: hung-storage.sh
#
# What breaks without it: one slow NFS server, and QMP is dead for every machine that has a disk there. The disk is a file on a frozen file
# system, where writes hang until it is thawed; worker threads write, since kernels up to 6.12 let such a write hang io_uring_enter() too.

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
export PATH="$PATH:/usr/sbin:/sbin"
work=$(mktemp -d "${TMPDIR:-/tmp}/hung-storage.XXXXXX") || exit 1
cleanup() {
        fsfreeze -u "$work/fs" 2>/dev/null
        umount "$work/fs" 2>/dev/null
        rm -rf -- "$work"
}
trap cleanup EXIT
count=0 failed=0

for tool in strace cpio busybox fsfreeze mkfs.ext4; do
        command -v "$tool" >/dev/null || { echo "1..0 # SKIP $tool is not installed"; exit 0; }
done
kernel=$("$top/lab/lodge-lab" kernel cloud) || { echo "Bail out! no kernel"; exit 1; }
modules=$("$top/lab/lodge-lab" modules cloud) || { echo "Bail out! no modules"; exit 1; }
truncate -s 96M "$work/storage"
mkdir "$work/fs"
mkfs.ext4 -q -F "$work/storage" || { echo "Bail out! no file system"; exit 1; }
mount -o loop "$work/storage" "$work/fs" || { echo "1..0 # SKIP no loop device"; exit 0; }
truncate -s 32M "$work/fs/disk"

root=$work/root version=$(basename "$modules")
mkdir -p "$root"/{bin,proc,sys,dev,lib/modules/"$version"}
cp "$(command -v busybox)" "$root/bin/busybox"
(cd "$modules" && cp --parents -r kernel/drivers/virtio kernel/drivers/block/virtio_blk.ko "$root/lib/modules/$version/")
depmod -b "$root" "$version" 2>/dev/null
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for m in virtio_pci virtio_blk; do modprobe $m; done
stty -F /dev/ttyS0 -echo 2>/dev/null
sleep 1
while echo READY && read -r line && [ "$line" != off ]; do
        dd if=/dev/zero of=/dev/vda bs=64k count=16 conv=fsync 2>/dev/null && echo WROTE
done
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd"

cat >"$work/play.py" <<'PYTHON'
import json, os, select, socket, subprocess, sys, time

vmm, kernel, initrd, fs, threads = sys.argv[1:]

class Lines:
    """What comes from a socket, line by line."""
    def __init__(self, sock):
        self.sock, self.data = sock, b""
    def get(self, seconds):
        end = time.monotonic() + seconds
        while b"\n" not in self.data:
            if not select.select([self.sock], [], [], max(end - time.monotonic(), 0))[0]:
                return None
            data = self.sock.recv(4096)
            if not data:
                return None
            self.data += data
        line, self.data = self.data.split(b"\n", 1)
        return line.decode(errors="replace").strip()

class Qmp(Lines):
    events = ()
    def run(self, command, seconds=3):
        self.sock.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while (line := self.get(seconds)) is not None:
            reply = json.loads(line)
            if "event" in reply:
                self.events += (reply["event"],)
            elif "return" in reply or "error" in reply:
                return reply
        sys.exit(f"no answer to {command} within {seconds} s")
    def event(self, name, seconds):
        end = time.monotonic() + seconds
        while name not in self.events and (line := self.get(max(end - time.monotonic(), 0))) is not None:
            self.events += (json.loads(line).get("event"),)
        seen, self.events = name in self.events, ()
        return seen

def say(text, seconds):
    while (line := serial.get(seconds)) is not None:
        if line == text:
            return
    sys.exit(f"the guest did not say {text}")

def expect(what, ok):
    print(f"{what}: {'yes' if ok else 'NO'}", flush=True)
    if not ok:
        sys.exit(1)

def freeze(on):
    subprocess.run(["fsfreeze", "-f" if on else "-u", fs], check=True)

listener = socket.socket(socket.AF_UNIX)
listener.bind(f"{fs}/../qmp.{threads}")
listener.listen(4)
ours, theirs = socket.socketpair()
serial = Lines(ours)
fds = {n: os.open(p, f) for n, p, f in (("kvm", "/dev/kvm", os.O_RDWR), ("kernel", kernel, os.O_RDONLY),
                                        ("initrd", initrd, os.O_RDONLY), ("disk", fs + "/disk", os.O_RDWR))}
config = {"version": 1, "name": "hung", "cpus": 2, "memory": 256 << 20, "kvm_fd": fds["kvm"], "kernel_fd": fds["kernel"],
          "initrd_fd": fds["initrd"], "append": "console=ttyS0 quiet", "control_fd": listener.fileno(),
          "serial": {"in_fd": theirs.fileno(), "out_fd": theirs.fileno()},
          "disks": [{"fd": fds["disk"], "iothreads": int(threads)}]}
memfd = os.memfd_create("config")
os.write(memfd, json.dumps(config).encode())
os.lseek(memfd, 0, os.SEEK_SET)
process = subprocess.Popen(["strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=io_uring_setup",
                            "-e", "inject=io_uring_setup:error=ENOSYS", vmm, "--config-fd", str(memfd)],
                           pass_fds=[memfd, listener.fileno(), theirs.fileno(), *fds.values()])
try:
    client = socket.socket(socket.AF_UNIX)
    client.connect(f"{fs}/../qmp.{threads}")
    qmp = Qmp(client)
    qmp.get(10)
    qmp.run("qmp_capabilities")
    say("READY", 120)
    ours.sendall(b"write\n")
    say("WROTE", 30)

    freeze(True)
    ours.sendall(b"write\n")
    time.sleep(1)
    expect("a pause that can't be is refused", "error" in qmp.run("stop", 15))
    expect("and the machine runs on", qmp.run("query-status")["return"]["status"] == "running")
    expect("a reset is accepted", "return" in qmp.run("system_reset"))
    expect("the machine answers meanwhile", qmp.run("query-status")["return"]["status"] == "running")
    expect("the reset waits for the disk", not qmp.event("RESET", 2))
    freeze(False)
    expect("and comes when the disk has answered", qmp.event("RESET", 20))
    say("READY", 120)
    ours.sendall(b"write\n")
    say("WROTE", 30)
    expect("pause", "return" in qmp.run("stop", 15))
    freeze(True) # nothing is written while the machine is paused: this does not hang anything
    freeze(False)
    expect("resume", "return" in qmp.run("cont"))
    ours.sendall(b"write\n")
    say("WROTE", 30)
    ours.sendall(b"off\n")
    expect("power-off", process.wait(60) == 0)
finally:
    subprocess.run(["fsfreeze", "-u", fs], stderr=subprocess.DEVNULL)
    if process.poll() is None:
        process.terminate()
PYTHON

for threads in 0 2; do
        count=$((count + 1))
        if timeout 200 python3 "$work/play.py" "$build/lodge-vmm" "$kernel" "$work/initrd" "$work/fs" $threads >"$work/log" 2>&1; then
                echo "ok $count - storage that hangs, $threads I/O threads"
        else
                echo "not ok $count - storage that hangs, $threads I/O threads"
                failed=$((failed + 1))
        fi
        sed 's/^/# /' "$work/log" | tail -20
done
echo "1..$count"
[ $failed = 0 ]
