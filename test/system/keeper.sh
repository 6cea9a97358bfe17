#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: both
# seconds: 400
#
# keeper.sh: a machine with a keeper outlives whoever started it, and is found again with its state, console and end
#
# usage: keeper.sh
#
# Each run of keeper-client is a daemon that lives for one call. Runs in a network namespace of its own, for passt.

set -uo pipefail

if [ "$(id -u)" = 0 ] && [ "${LODGE_TEST_NETNS:-}" != 1 ]; then
        exec env LODGE_TEST_NETNS=1 unshare --net -- "$0" "$@"
fi
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/keeper.XXXXXX") || exit 1
keeper="" group=""
cleanup() {
        [ -z "$keeper" ] || kill "$keeper" 2>/dev/null
        if [ -n "$group" ]; then
                sleep 1
                rmdir -- "$group"
        fi
        rm -rf -- "$work"
}
trap cleanup EXIT
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
needs qemu-img python3
run=$work/run files=$work/files
mkdir -m 700 "$run"
mkdir "$files" "$work/elsewhere"
[ "$(id -u)" != 0 ] || ip link set lo up

client() { timeout 60 "$build/test/keeper/keeper-client" "$@"; }

# eventually COMMAND...: within 20 s
eventually() {
        local i
        for ((i = 0; i < 200; i++)); do
                "$@" && return
                sleep 0.1
        done
        return 1
}

gone() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null; }

# value FILE KEY: of a JSON object
value() { python3 -c 'import json, sys; v = json.load(open(sys.argv[1]))
for k in sys.argv[2].split("."): v = v[k]
print(v)' "$@"; }

"$build/lodge" image show tiny --format json >"$work/tiny" 2>/dev/null || {
        echo "1..0 # SKIP the image tiny is not built"
        exit 0
}
tiny=$(value "$work/tiny" directory)
engine=qemu
"$build/lodge" host probe --format json >"$work/probe"
[ "$(value "$work/probe" verdict)" != hardware ] || engine=native

# Where nothing keeps us from it, the VMM is another user, in a control group.
jail="" uid=$(id -u)
if [ "$uid" = 0 ]; then
        uid=64123
        jail="\"uid\": $uid, "
        for dir in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/pids; do
                if [ -w "$dir/cgroup.procs" ] && mkdir "$dir/lodge-test-$$" 2>/dev/null; then
                        group=$dir/lodge-test-$$
                        jail+="\"cgroups\": [\"$group\"], "
                        break
                fi
        done
fi

# config DISKS NETS: what the broker hands over, into $work/config
config() {
        cat >"$work/config" <<JSON
{"version": 1, "engine": "$engine", "run_dir": "$run", $jail"roots": ["$files", "$tiny"],
 "machine": {"name": "kept", "kernel": "${kernel:-$tiny/vmlinux}", "initrd": "$tiny/initrd", "append": "console=ttyS0",
             "memory": "256M", "disks": [$1], "nets": [$2]}}
JSON
}

start() {
        local r
        client start "$work/config" >"$work/pid" 2>"$work/err"
        r=$?
        cat "$work/err"
        [ "$r" = 0 ] || return
        keeper=$(cat "$work/pid")
        client status "$run" >"$work/status" || return
        vmm=$(value "$work/status" pid)
}

refused() { # ID: no VMM was started, and it says why, also to a daemon that comes later
        if start; then
                kill "$keeper"
                echo "it was started"
                return 1
        fi
        grep -qF "[$1]" "$work/err" && client exit "$run" >"$work/exit" && [ "$(value "$work/exit" cause)" = failed ] &&
                [ "$(value "$work/exit" error.id)" = "$1" ] && [ ! -e "$run/keeper.sock" ] && [ ! -e "$run/control.sock" ]
}

confined() { # what the VMM's process may do
        local status=/proc/$vmm/status
        [ "$(awk '/^Uid:/ { print $2 $3 $4 $5 }' "$status")" = "$uid$uid$uid$uid" ] || return
        [ "$(awk '/^CapEff:|^CapPrm:|^CapBnd:/ { print $2 }' "$status" | sort -u)" = 0000000000000000 ] || return
        [ -z "$(awk '/^Groups:/ { print $2 }' "$status")" ] || return
        grep -q '^NoNewPrivs:.*1' "$status" "/proc/$keeper/status" || return
        [ "$(readlink "/proc/$vmm/ns/net")" != "$(readlink /proc/self/ns/net)" ] || return
        [ -z "$group" ] || grep -qx "$vmm" "$group/cgroup.procs" || return
        [ -z "$group" ] || ! grep -qx "$keeper" "$group/cgroup.procs"
}

both_viewers() { # they read the same, and what one types both see answered
        client console "$run" 100000 <"$work/typed" >"$work/first" &
        local first=$!
        exec 8>"$work/typed"
        client console "$run" 100000 </dev/null >"$work/second" &
        local second=$!
        eventually grep -q '~ #' "$work/second" || return
        # shellcheck disable=SC2016 # the guest's shell expands it
        echo 'echo six is $((2 * 3)); head -c 5 /dev/vda; echo' >&8
        eventually grep -q 'six is 6' "$work/first" && eventually grep -q 'six is 6' "$work/second" &&
                eventually grep -q '^BELOW' "$work/second"
        local r=$?
        exec 8>&-
        kill "$first" "$second"
        return "$r"
}

late_viewer() { # one that comes after all that
        (client console "$run" 100000 </dev/null >"$work/third" &)
        eventually grep -q 'six is 6' "$work/third"
}

half_a_command() { # a daemon that dies while it writes a command leaves no broken stream to the next
        client control "$run" '{"execute": "qmp_capabilities"}' - >"$work/qmp" || return
        client control "$run" '{"execute": "qmp_capabilities"}' '{"execute": "query-status"}' >"$work/qmp" || return
        grep -q '"status": *"running"' "$work/qmp"
}

hung_up() {
        kill -HUP "$keeper" && kill -PIPE "$keeper" && sleep 0.2 && client status "$run" >"$work/status" &&
                [ "$(value "$work/status" state)" = running ]
}

ended() { # CAUSE SIGNAL: all that is left says so
        eventually gone "$keeper" && eventually gone "$vmm" || return
        client exit "$run" >"$work/exit" || return
        cat "$work/exit"
        [ "$(value "$work/exit" cause)" = "$1" ] && [ "$(value "$work/exit" signal)" = "$2" ] &&
                [ ! -e "$run/keeper.sock" ] && [ ! -e "$run/control.sock" ] && [ -e "$run/console.last" ]
}

killed_vmm() {
        (client events "$run" >"$work/events" &)
        eventually grep -q listening "$work/events" || return
        kill -KILL "$vmm"
        ended ended 9 && grep -q '"event":"exited".*"signal":9' "$work/events" && grep -q 'six is 6' "$run/console.last"
}

helpers() { pgrep -P "$keeper" | wc -l; }

killed_keeper() { # whatever it held goes with it
        local children
        children=$(pgrep -P "$keeper")
        [ "$(helpers)" = "$1" ] || return
        kill -KILL "$keeper"
        local child
        for child in $children; do
                eventually gone "$child" || return
        done
        ! client status "$run" && [ ! -e "$run/exit.json" ]
}

lost_passt() { # the machine runs on, and whoever listens is told
        local passt
        (client events "$run" >"$work/events" &)
        eventually grep -q listening "$work/events" || return
        passt=$(pgrep -P "$keeper" | grep -vx "$vmm")
        kill -KILL "$passt" && eventually grep -q '"event":"net-dead".*"status":137' "$work/events" && client status "$run"
}

stopped() { kill "$keeper" && ended stopped 0; }

mkfifo "$work/typed"
printf BELOW >"$files/base" && truncate -s 1M "$files/base"
disk() { printf '{"path": "%s", "format": "%s"}' "$1" "$2"; }
overlay() { # NAME BACKING FORMAT
        qemu-img create -q -f qcow2 -u -b "$2" -F "$3" "$1" 1M
}
overlay "$files/middle" "$files/base" raw
overlay "$files/top" "$files/middle" qcow2
chmod 600 "$files"/*

kernel=$tiny/vmlinux
config "$(disk "$files/top" qcow2)" '{"type": "none"}'
check "a keeper starts a machine, and who asked it to may end" start
[ "$uid" = "$(id -u)" ] || check "the VMM is a user of its own, without capabilities, network and groups" confined
check "two viewers see the console and type, a disk's chain is read through descriptors" both_viewers
check "a later viewer sees what was shown before" late_viewer
check "a daemon that dies in the middle of a command leaves no broken stream" half_a_command
check "the guest agent is reached" client agent "$run"
check "a hang-up and a broken pipe end nothing" hung_up
check "the VMM's end by kill -9 is recorded and told" killed_vmm

nets='{"type": "none"}' children=1
if [ "$(id -u)" = 0 ] && command -v passt >/dev/null; then
        nets='{"type": "user"}' children=2
fi
config "$(disk "$files/top" qcow2)" "$nets"
check "its directory serves the next keeper" start
[ "$children" = 1 ] || check "an interface whose passt died is told of" lost_passt
[ "$children" = 1 ] || { kill "$keeper"; eventually gone "$keeper"; check "and once more" start; }
check "a keeper's end by kill -9 is the machine's" killed_keeper "$children"
check "what it left does not hinder the next" start
check "a request to kill the machine" client kill "$run"
check "is recorded as one" ended killed 9
check "and once more" start
check "SIGTERM to the keeper ends the machine in order" stopped

cp "$files/base" "$work/elsewhere/disk"
config "$(disk "$work/elsewhere/disk" raw)" '{"type": "none"}'
check "a disk outside of the roots is refused" refused path-outside
ln -s "$work/elsewhere/disk" "$files/link"
config "$(disk "$files/link" raw)" '{"type": "none"}'
check "so is one behind a link" refused path-outside
overlay "$files/hostile" /etc/passwd raw
config "$(disk "$files/hostile" qcow2)" '{"type": "none"}'
check "so is a backing file that the guest could have named" refused path-outside
overlay "$files/hostile-middle" "$files/hostile" qcow2
config "$(disk "$files/hostile-middle" qcow2)" '{"type": "none"}'
check "so is one further down" refused path-outside
kernel=$work/elsewhere/kernel
cp "$tiny/vmlinuz" "$kernel"
config "$(disk "$files/top" qcow2)" '{"type": "none"}'
check "so is a kernel" refused path-outside
kernel=$files/kernel
cp /bin/true "$kernel"
config "$(disk "$files/top" qcow2)" '{"type": "none"}'
check "a VMM that gives up at once is a failed start, with its words" refused vmm-failed

tap_end
