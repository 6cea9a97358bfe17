#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 180
#
# events.sh: lodge event list --follow: each event once, as it happens, whatever becomes of the daemon and of whoever reads
#
# usage: events.sh
#
# A session daemon of the test's own. Without this test somebody who watches could miss what happened while the daemon was started again, see it twice, or wait for ever.

set -uo pipefail
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/events.XXXXXX") || exit 1
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
# shellcheck source=test/system/daemon.bash
. "$top/test/system/daemon.bash"
needs curl python3 pgrep
unset LODGE_SOCKET LODGE_PROJECT LODGE_REMOTE
export XDG_CONFIG_HOME=$work/config XDG_RUNTIME_DIR=$work/nothing XDG_DATA_HOME=$work/nothing
socket=$work/run/lodged.sock

lodge() { timeout 60 "$build/lodge" "$@" --socket "$socket" </dev/null; }
follow() { # NAME WORD...: in the background; what it prints is in $work/NAME
        local name=$1
        shift
        : >"$work/$name"
        "$build/lodge" event list --follow --format csv --columns seq,kind,target "$@" </dev/null >>"$work/$name" 2>"$work/$name.err" &
        followers+=($!)
}
follower_end() { # the last one
        kill -CONT "${followers[-1]}" 2>/dev/null
        kill "${followers[-1]}" 2>/dev/null
        wait "${followers[-1]}" 2>/dev/null
        unset 'followers[-1]'
}
followers=()
comes() { # FILE TEXT [TENTHS]: within five seconds
        local i
        for ((i = 0; i < ${3:-50}; i++)); do
                if grep -q -- "$2" "$work/$1"; then return 0; fi
                sleep 0.1
        done
        tail -n 5 "$work/$1" "$work/$1.err"
        return 1
}
each_once() { # NAME: all that the daemon knows, in its order
        lodge event list --format csv --columns seq,kind,target --limit 1000 >"$work/list"
        local after=0
        : >"$work/all"
        while lodge event list --format csv --columns seq,kind,target --limit 1000 --after "$after" --no-header >"$work/list" && [ -s "$work/list" ]; do
                cat "$work/list" >>"$work/all"
                after=$(tail -n 1 "$work/list" | cut -d, -f1)
        done
        tail -n +2 "$work/$1" >"$work/theirs"
        wc -l "$work/all" "$work/theirs"
        diff "$work/all" "$work/theirs" | head -n 20
        cmp "$work/all" "$work/theirs"
}
restart() {
        kill -9 "$daemon"
        wait "$daemon" 2>/dev/null
        "$@"
        rm -rf "$work/run" && mkdir -m 700 "$work/run" && mv "$work/log" "$work/log.before"
        G_DEBUG=fatal-criticals "$build/lodged" --session --state-dir "$work/state" --run-dir "$work/run" --listen 127.0.0.1:0 2>"$work/log" &
        daemon=$!
        local i
        for ((i = 0; i < 200; i++)); do grep -q ready "$work/log" && return; sleep 0.1; done
        return 1
}
start --listen 127.0.0.1:0
define() { lodge define --kernel /boot/vmlinuz "$1" >/dev/null; }

as_it_happens() {
        define before && follow seen --socket "$socket" && comes seen ',machine-defined,before' && define later && comes seen ',machine-defined,later' 20 && each_once seen
}
reads_nothing() { # it waits at the stream, and asks for nothing
        local worker before after
        worker=$(worker)
        before=$(awk '{print $14 + $15}' "/proc/$worker/stat")
        sleep 5
        after=$(awk '{print $14 + $15}' "/proc/$worker/stat")
        echo "$((after - before)) ticks"
        [ "$((after - before))" -lt 3 ]
}
over_a_restart() {
        restart sleep 2 && define after && comes seen ',machine-defined,after' && each_once seen &&
                [ "$(grep -c 'it goes on behind event [0-9]* when the daemon answers' "$work/seen.err")" = 1 ] && ! grep -q 'too slow' "$work/seen.err"
}
too_slow() { # stopped while more happens than the daemon keeps for it
        kill -STOP "${followers[-1]}"
        python3 - "$socket" "$(worker)" <<'P' || return
import http.client, json, socket, sys
name = "m" + "x" * 60
def ask(method, path, body):
    c = http.client.HTTPConnection("x")
    c.sock = socket.socket(socket.AF_UNIX)
    c.sock.connect(sys.argv[1])
    c.request(method, path, json.dumps(body) if body else None, {"X-Request-Id": "r" * 39})
    assert c.getresponse().status < 300
    c.close()
ask("POST", "/v1/machines", {"name": name, "kernel": "/boot/vmlinuz"})
for i in range(6000):
    ask("PATCH", "/v1/machines/" + name, {"notes": str(i % 2)})
P
        define last && kill -CONT "${followers[-1]}" && comes seen ',machine-defined,last' 300 && each_once seen && cat "$work/seen.err" && grep -q 'too slow' "$work/seen.err"
}
reader_goes() { # and with the next event the follower does
        timeout 20 "$build/lodge" event list --follow --socket "$socket" </dev/null | head -n 1 >/dev/null &
        local pid=$! i
        for ((i = 0; i < 5; i++)); do sleep 1; define "reader$i"; kill -0 "$pid" 2>/dev/null || break; done
        wait "$pid"
        [ "$i" -lt 5 ]
}
let_in_no_longer() {
        local token
        token=$(lodge token create eve 2>/dev/null) && "$build/lodge" remote add office "$token" >/dev/null && follow eve --remote office && comes eve ',machine-defined,before' && sleep 1 &&
                lodge client delete eve >/dev/null || return
        timeout 20 tail --pid="${followers[-1]}" -f /dev/null
        cat "$work/eve.err"
        wait "${followers[-1]}"
        local status=$?
        unset 'followers[-1]'
        [ "$status" = 2 ] && grep -q 'let in no longer' "$work/eve.err"
}
nobody_answers() { # at the beginning that is an error
        timeout 10 "$build/lodge" event list --follow --socket "$work/none" >"$work/out" 2>&1
        [ $? = 3 ]
}
check "what was and what happens is told, at once" as_it_happens
check "a daemon that nothing is asked of has nothing to do" reads_nothing
check "a kill -9 and a start later, each event has come once" over_a_restart
check "whoever is too slow is told, and misses nothing" too_slow
follower_end
check "it ends when nobody reads" reader_goes
check "who is let in no longer does not come back" let_in_no_longer
check "no daemon at the beginning: status 3" nobody_answers
tap_end
