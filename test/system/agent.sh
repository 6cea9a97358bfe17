#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 400
#
# agent.sh: what the daemon does by the guest's agent: commands side by side, files in and out, a shell on a terminal, reboot
#
# usage: agent.sh
#
# Without it a long command could block all others, a copy could be cut off or leave half a file, and a shell could lose keys, flood its guest, or go on when nobody looks.

set -uo pipefail

if [ "$(id -u)" = 0 ] && [ "${LODGE_TEST_NETNS:-}" != 1 ]; then
        exec env LODGE_TEST_NETNS=1 unshare --net -- "$0" "$@"
fi
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/agent.XXXXXX") || exit 1
unset LODGE_SOCKET LODGE_PROJECT
images=$HOME/.local/share/lodge/images
export XDG_RUNTIME_DIR=$work/run XDG_DATA_HOME=$work/data
daemon_pid() { sed -n 's/^\([0-9]*\)$/\1/p' "$XDG_DATA_HOME/lodge/lodged.lock" 2>/dev/null; }
cleanup() {
        local pid
        lodge delete web --disks --force --yes >/dev/null 2>&1
        if pid=$(daemon_pid) && [ -n "$pid" ]; then
                kill "$pid" 2>/dev/null
                sleep 1
        fi
        rm -rf -- "$work"
}
trap cleanup EXIT
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
needs python3
if [ ! -d "$images/tiny" ]; then
        echo "1..0 # SKIP the image tiny is not built"
        exit 0
fi
if [ -S /run/lodge/lodged.sock ]; then
        echo "1..0 # SKIP a system daemon runs here"
        exit 0
fi
[ "$(id -u)" != 0 ] || ip link set lo up
mkdir -m 700 "$work/run" "$work/data" "$work/data/lodge" "$work/data/lodge/images"
cp -a "$images/tiny" "$work/data/lodge/images/"
lodge() { timeout 120 "$build/lodge" "$@" </dev/null; }

# terminal WHAT: lodge shell on a terminal of 33 lines and 99 columns, as test/system/agent_terminal.py says
terminal() { timeout 120 python3 "$top/test/system/agent_terminal.py" "$build/lodge" "$@"; }

fails() { # STATUS TEXT COMMAND...: ends with the status, and says the text
        local want=$1 text=$2 status
        shift 2
        "$@" >"$work/fails" 2>&1
        status=$?
        cat "$work/fails"
        [ "$status" = "$want" ] && grep -qF -- "$text" "$work/fails"
}

launched() { lodge launch tiny web --memory 256M; }
check "a machine to try it on" launched

side_by_side() {
        local began=$SECONDS
        lodge exec web 'sleep 20; echo slept' >"$work/slow" &
        for _ in 1 2 3 4 5; do lodge exec web 'echo quick' | grep -qx quick || return 1; done
        echo "five commands took $((SECONDS - began)) s beside a slow one"
        [ $((SECONDS - began)) -lt 15 ] || return 1
        wait $!
        grep -qx slept "$work/slow"
}
check "a long command does not hold up others" side_by_side

head -c 1600001 /dev/urandom >"$work/blob"
chmod 751 "$work/blob"
into() {
        lodge cp "$work/blob" web:/tmp/ || return 1
        [ "$(lodge exec web 'md5sum </tmp/blob; stat -c %a /tmp/blob; ls -A /tmp' | tr '\n' ' ')" = "$(md5sum <"$work/blob") 751 blob " ]
}
check "a file goes in, whole, with its mode, and leaves nothing beside it" into
out_of() {
        lodge cp web:/tmp/blob "$work/back" && cmp "$work/blob" "$work/back" && [ "$(stat -c %a "$work/back")" = 751 ] &&
                lodge cp web:/tmp/blob - | cmp - "$work/blob"
}
check "and comes out again, to a file and to a pipe" out_of
empty() {
        : >"$work/empty"
        lodge cp "$work/empty" "web:/tmp/with 'quotes' and spaces" && lodge cp "web:/tmp/with 'quotes' and spaces" "$work/e2" && [ -e "$work/e2" ] && [ ! -s "$work/e2" ]
}
check "an empty file, with a name that a shell would take apart" empty
proc() { lodge cp web:/proc/version - | grep -q '^Linux version'; }
check "a file of /proc, which has no size" proc
tree() {
        mkdir -p "$work/tree/deep"
        echo one >"$work/tree/deep/file"
        ln -s deep/file "$work/tree/link"
        lodge cp --recursive "$work/tree" web:/root/ && lodge exec web 'cat /root/tree/link' | grep -qx one &&
                lodge cp --recursive web:/root/tree "$work/tree2" && diff -r "$work/tree" "$work/tree2" &&
                [ "$(readlink "$work/tree2/link")" = deep/file ]
}
check "a directory in both directions" tree
hostile_tree() { # a guest packs what it likes: it gets no second chance in a place, and no programs of other users or devices here
        mkdir "$work/victim"
        lodge exec web "mkdir -p /root/evil/d && cd /root/evil && ln -s $work/victim way && mknod d/zero c 1 5 && mkfifo d/fifo && cp /bin/busybox d/su && chmod 6755 d/su && echo fine >d/ok" || return 1
        lodge cp --recursive web:/root/evil "$work/evil" || return 1
        (cd "$work/evil" && find . -printf '%y %m %P\n' | sort) | tee "$work/found"
        [ "$(stat -c %a "$work/evil/d/su")" = 755 ] && [ ! -e "$work/evil/d/zero" ] && [ ! -e "$work/evil/d/fifo" ] && [ -s "$work/evil/d/ok" ] || return 1
        lodge exec web 'cd /root/evil && rm way && mkdir way && echo bad >way/key' || return 1
        lodge cp --recursive web:/root/evil "$work/evil" || return 1 # into it, by its name
        [ -z "$(ls -A "$work/victim")" ] && [ -L "$work/evil/way" ] && [ -s "$work/evil/evil/way/key" ] &&
                fails 2 "take another place, or remove it" lodge cp --recursive web:/root/evil/ "$work/evil" &&
                fails 2 "copy-exists" lodge cp --recursive web:/root/evil "$work/blob" && [ -z "$(find "$work" -name '*.lodge-*')" ]
}
check "a directory of a hostile guest" hostile_tree
tar_fails() {
        lodge exec web 'rm -rf /tmp/tmp.*' && fails 2 "" lodge cp --recursive web:/nope "$work/x" && [ ! -e "$work/x" ] && [ -z "$(lodge exec web 'ls -A /tmp | grep ^tmp')" ]
}
check "a directory that cannot be packed leaves no archive in the guest" tar_fails
private() {
        { head -c 600000 /dev/zero; sleep 4; } | timeout 60 "$build/lodge" cp - web:/tmp/slow &
        local mode="" copy=$!
        for _ in 1 2 3 4 5 6 7 8; do
                mode=$(lodge exec web 'stat -c "%a %s" /tmp/slow.lodge-* 2>/dev/null')
                [ "${mode#* }" != 524288 ] || break
        done
        echo "mode and size while it is copied: $mode"
        wait "$copy" && [ "$mode" = "600 524288" ] && [ "$(lodge exec web 'stat -c "%a %s" /tmp/slow; rm /tmp/slow')" = "644 600000" ]
}
check "nobody else in the guest reads a file while it is copied" private
missing() {
        fails 2 "No such file" lodge cp web:/nope "$work/x" && fails 2 "no directory /nodir" lodge cp "$work/blob" web:/nodir/x &&
                fails 2 "is a directory" lodge cp web:/tmp "$work/x" && fails 1 "begins with a slash" lodge cp web:tmp "$work/x" &&
                fails 1 "neither" lodge cp a b && fails 2 "cannot open" lodge cp "$work/nothere" web:/tmp/ && [ ! -e "$work/x" ]
}
check "errors say whose file it is and why, and leave nothing" missing
full() {
        lodge exec web 'mkdir /small && mount -t tmpfs -o size=1m none /small' && fails 2 "" lodge cp "$work/blob" web:/small/x &&
                grep -q 'No space\|took only' "$work/fails" && [ -z "$(lodge exec web 'ls -A /small')" ]
}
check "a guest's full disk is said, and the half file is gone" full

check "a shell: size, user, keys, output, exit status" terminal session
check "a shell that floods its terminal is held up, and answers after that" terminal flood
check "more is pasted than a terminal holds" terminal paste
full_terminal() { # who reads it shows more than it is given: both directions are full at once
        lodge exec web "{ seq 1 5000; sleep 1; } | timeout 30 lodge-pty 'while read -r l; do echo \$l-\$l-\$l-\$l; done' | grep -c -- -" | grep -qx 5000
}
check "nor does a terminal that is full in both directions lock up" full_terminal
check "a command on a terminal, with its status" terminal command
check "no such user in the guest" terminal nobody
# shellcheck disable=SC2016 # the guest's shell expands it; the guest has no pgrep
sleepers() { # SECONDS: the processes in the guest that sleep so long
        lodge exec web 'for p in /proc/[0-9]*; do case $(tr "\0" " " <$p/cmdline) in "sleep '"$1"' "*) echo ${p#/proc/} ;; esac; done 2>/dev/null'
}
cleared() { # nothing of a shell is left in the guest, within 10 s
        for _ in $(seq 50); do
                [ -z "$(lodge exec web 'ls /run/lodge-shell')$(sleepers 4711)" ] && return
                sleep 0.2
        done
        lodge exec web 'ls /run/lodge-shell; ps'
        return 1
}
hung_up() {
        terminal leave && cleared
}
check "who leaves ends its processes and files" hung_up
after_kill() { # and a new daemon clears what one that was killed left
        terminal leave-killed "$(daemon_pid)" || return 1
        sleep 1
        # shellcheck disable=SC2016 # the guest's shell expands it: a number that is another process's by now
        lodge exec web 'cd /run/lodge-shell/* || exit 1; sleep 4712 >/dev/null 2>&1 </dev/null & echo $! 1 >>pids' || return 1
        lodge exec web 'ls /run/lodge-shell' | grep -q . || { echo "nothing was left, so nothing is shown"; return 1; }
        [ -n "$(sleepers 4711)" ] || { echo "no process was left, so nothing is shown"; return 1; }
        terminal session && cleared && [ -n "$(sleepers 4712)" ]
}
check "so does the next daemon's first shell, for one that was killed, which was no success" after_kill

rebooted() {
        local before after
        before=$(lodge exec web cat /proc/sys/kernel/random/boot_id) || return 1
        lodge set web memory=272M >/dev/null && lodge reboot web | grep -qx 'web: rebooted' || return 1
        lodge wait web --for agent || return 1
        after=$(lodge exec web cat /proc/sys/kernel/random/boot_id)
        [ -n "$before" ] && [ "$before" != "$after" ] && [ -z "$(lodge info web --format json | python3 -c 'import json,sys; print(" ".join(json.load(sys.stdin)["state"].get("pending", [])))')" ] &&
                [ "$(lodge exec web "awk '/MemTotal/ { print (\$2 > 230000) }' /proc/meminfo")" = 1 ]
}
check "reboot: another boot, and what was changed takes effect" rebooted
check "a stopped machine is not rebooted" eval 'lodge kill web >/dev/null; fails 2 "does not run" lodge reboot web && fails 2 "lodge start web" lodge cp web:/etc/passwd - && fails 2 "does not run" lodge shell web'

tap_end
