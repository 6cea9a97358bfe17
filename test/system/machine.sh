#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: both
# seconds: 400
#
# machine.sh: a stock Debian kernel's life under the engine that this place has: start, commands, 8 CPUs, reset, power button,
# power-off, panic
#
# usage: machine.sh
#
# In the lab the engine is lodge-vmm, on a host without KVM it is QEMU: what a person sees must be the same.

set -uo pipefail
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
lodge=${LODGE_BUILD:-$top/build}/lodge
work=$(mktemp -d "${TMPDIR:-/tmp}/machine.XXXXXX") || exit 1
trap 'rm -rf -- "$work"' EXIT
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"

# ends STATUS COMMAND...: the command ends with that status; its stdout is kept in $work/out
ends() {
        local want=$1 got
        shift
        "$@" >"$work/out" 2>"$work/err" </dev/null
        got=$?
        [ "$got" = "$want" ] && return
        echo "status $got, not $want"
        tail -5 "$work/out" "$work/err"
        return 1
}

# says TEXT COMMAND...: the command ends with 0 and its stdout has that line
says() {
        local text=$1
        shift
        ends 0 "$@" || return
        grep -qxF -- "$text" "$work/out" && return
        echo "not in its output: $text"
        cat "$work/out"
        return 1
}

# Types at a machine's console as a person would: in a terminal, waiting for each answer.
cat >"$work/type.py" <<'PYTHON'
import os, pty, select, sys, time

def main(lodge, limit, *steps):
    """Steps: expect=TEXT waits for TEXT in new output, send=TEXT types it (\\r is return, ^] the menu key)."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(lodge, [lodge, "run", "tiny", "--net", "none"])
    end, seen = time.monotonic() + limit, b""
    for step in steps:
        kind, _, text = step.partition("=")
        data = text.replace("\\r", "\r").replace("^]", "\x1d").encode()
        if kind == "send":
            os.write(fd, data)
            continue
        while data not in seen:
            ready = select.select([fd], [], [], max(0, end - time.monotonic()))[0]
            try:
                new = os.read(fd, 65536) if ready else b""
            except OSError:
                new = b""
            if not new:
                os.kill(pid, 15)
                os.waitpid(pid, 0)
                sys.exit(f"no {text!r}; the console ended with {seen[-300:]!r}")
            seen += new
        seen = seen[seen.index(data) + len(data):]
    while True:
        try:
            if not select.select([fd], [], [], max(0, end - time.monotonic()))[0] or not os.read(fd, 65536):
                break
        except OSError:
            break
    done, status = os.waitpid(pid, os.WNOHANG)
    while not done and time.monotonic() < end:
        time.sleep(0.1)
        done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        os.kill(pid, 15)
        os.waitpid(pid, 0)
        sys.exit("the machine did not end")
    sys.exit(os.waitstatus_to_exitcode(status))

main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:])
PYTHON
types() {
        python3 "$work/type.py" "$lodge" 120 "$@"
}

check "tiny is there" "$lodge" image show tiny
check "tiny runs a command" says "Linux" "$lodge" run tiny --exec uname
# shellcheck disable=SC2016 # the guest's shell expands it
check "a command's status is ours, and 8 CPUs are up" ends 7 "$lodge" run tiny --cpus 8 --exec 'test $(nproc) = 8 && exit 7'
# shellcheck disable=SC2016,SC2046 # the guest's shell expands it
check "two NUMA nodes are two in the guest" says "0-1 2" "$lodge" run tiny --net none --cpus 3 --memory 512M \
        --numa cpus=0-1,memory=256M --numa cpus=2,memory=256M --exec 'echo $(cat /sys/devices/system/node/node*/cpulist)'
check "a guest's power-off is a clean end" types "expect=# " "send=poweroff -f\\r"
check "the power button is heard" types "expect=# " "send=^]" "send=p"
check "a reset starts it again, and the console goes on" \
        types "expect=# " "send=reboot -f\\r" "expect=Restarting system" "expect=# " "send=poweroff -f\\r"
check "debian/12 is there" "$lodge" image show debian/12
# shellcheck disable=SC2016 # the guest's shell expands it
check "debian/12 runs a command" says "Debian GNU/Linux 12 (bookworm)" \
        "$lodge" run debian/12 --exec '. /etc/os-release; echo "$PRETTY_NAME"'
check "a panic ends debian/12 with a failure" \
        ends 2 "$lodge" run debian/12 --exec 'modprobe pvpanic-mmio; sync; echo c >/proc/sysrq-trigger; sleep 60'
check "and is called a panic" grep -qi panic "$work/err"

tap_end
