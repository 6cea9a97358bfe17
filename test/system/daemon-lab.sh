#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: lab
# seconds: 300
#
# daemon-lab.sh: the system's daemon on a host with real KVM: machines under lodge-vmm, in a network, in control groups, through the daemon's death
#
# usage: daemon-lab.sh

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/daemon-lab.XXXXXX") || exit 1
chmod 755 "$work"
daemon=""
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
export LODGE_SOCKET=$work/run/lodged.sock

cleanup() {
        lodge delete web db oom --force --disks --yes >/dev/null 2>&1
        [ -z "$daemon" ] || kill "$daemon" 2>/dev/null
        [ ! -f "$work/state/networks/default/dnsmasq.pid" ] || kill "$(<"$work/state/networks/default/dnsmasq.pid")" 2>/dev/null
        rm -rf -- "$work"
}
trap cleanup EXIT

lodge() { timeout 120 "$build/lodge" "$@"; }

begin() {
        "$build/lodged" --state-dir "$work/state" --run-dir "$work/run" --debug 2>>"$work/log" </dev/null &
        daemon=$!
        local i
        for ((i = 0; i < 100; i++)); do
                lodge daemon show >/dev/null 2>&1 && return
                sleep 0.2
        done
        return 1
}

state() { lodge info "$1" --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)["state"].get(sys.argv[1]))' "$2"; }
is() { [ "$(state "$1" "$2")" = "$3" ]; }
group_says() { # UUID FILE TEXT
        local f
        f=$(find /sys/fs/cgroup -path "*/machines/$1/$2" 2>/dev/null | head -n 1)
        [ -n "$f" ] && [ "$(<"$f")" = "$3" ]
}
none_left() { ! ip -br link | grep -q '^lt' && ! pgrep -x lodge-vmm >/dev/null && [ -z "$(ls "$work/run/machines")" ]; }
apart() { [ "$(stat -c %u "/proc/$(state web pid)")" != "$(stat -c %u "/proc/$(state db pid)")" ] && [ "$(stat -c %u "/proc/$(state web pid)")" != 0 ]; }

store=$("$build/lodge" image show tiny --format json 2>/dev/null | python3 -c 'import json, sys; print(json.load(sys.stdin)["directory"])' 2>/dev/null)
[ -d "${store:-}" ] || store=$HOME/.local/share/lodge/images/tiny
[ -d "$store" ] || { echo "1..0 # SKIP the image tiny is not built"; exit 0; }
mkdir -p "$work/state/images"
cp -r "$store" "$work/state/images/tiny"

check "the system's daemon starts" begin
check "a machine is launched and its guest answers" lodge launch tiny web --publish 18080:80 --label tier=front
check "another one" lodge launch tiny db
listed() { lodge list --format csv --columns name,addresses 2>/dev/null | grep -q '^web,.*10\.'; }
check "the list shows their addresses" listed
check "lodge-vmm runs it: real KVM is there" is web engine native
check "each has a user of its own, and none is root" apart
check "they find each other by name" lodge exec web 'ping -c 1 -W 5 db'
namesake() { ! lodge launch tiny web --project other 2>"$work/said" && grep 'network-name' "$work/said" && lodge exec web 'ping -c 1 -W 5 db'; }
check "a machine of that name in another project would take its addresses: refused" namesake
check "limits that are asked for hold" bash -c "'$build/lodge' stop db --way force && '$build/lodge' set db limits.cpu_quota=50 limits.memory_max=1G && '$build/lodge' start db"
uuid=$(lodge info db --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)["uuid"])')
check "the CPU quota is in its control group" group_says "$uuid" cpu.max "50000 100000"
check "and the memory ceiling" group_says "$uuid" memory.max 1073741824
out_of_memory() {
        lodge define tiny oom --memory 512M && lodge set oom limits.memory_max=160M && lodge start oom && lodge wait oom --for agent || return 1
        lodge exec oom --timeout 30 'dd if=/dev/zero of=/run/fill bs=1M count=220' && return 1
        local i
        for ((i = 0; i < 50; i++)); do is oom status failed && break; sleep 0.2; done
        lodge info oom
        is oom status failed && lodge info oom | grep -q 'more memory than its limit' && lodge event list --format csv | grep -q 'machine-failed.*oom.*more memory' &&
                is web status running && lodge delete oom --disks --yes
}
check "one that takes more memory than it may is ended, the reason is said, and the others run on" out_of_memory
clock_jumps() { # this host is the test's own
        local now
        now=$(date +%s)
        date -s "@$((now + 400 * 86400))" >/dev/null
        sleep 7
        lodge exec web true && lodge event list --format csv | grep -q 'clock-jumped.*forward' && curl -sS --fail --unix-socket "$LODGE_SOCKET" http://lodge/v1/audit | grep -q machine_launch || return 1
        date -s "@$((now - 400 * 86400))" >/dev/null
        sleep 7
        lodge exec web true && lodge event list --format csv | grep -q 'clock-jumped.*back' && lodge pause web && lodge resume web || return 1
        lodge stop db --way force && lodge start db || return 1
        date -s "@$((now + 15))" >/dev/null
        lodge list
}
check "a clock that is set by a year and back loses nothing and stops nothing" clock_jumps
pid=$(state web pid)
kill -9 "$daemon"
wait "$daemon" 2>/dev/null
check "the daemon starts again after kill -9" begin
check "and finds the machine as it was" is web pid "$pid"
check "and its guest" lodge exec web true
check "a machine that is killed by hand has failed" bash -c "kill -9 $pid; sleep 2; '$build/lodge' info web --format json | grep -q '\"failed\"'"
check "all is deleted" lodge delete web db --force --disks --yes
check "and nothing of them is left on the host" none_left
[ "${failed:-0}" = 0 ] || tail -n 30 "$work/log" >&2
tap_end
