#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 180
#
# api-limits.sh: clients that are many, slow, large, odd, gone or at odds with each other: each gets a clear answer or is cut, others are
# served, and the worker lives on
#
# usage: api-limits.sh
#
# Without this test one client could keep lodged from all others, or end its worker. The clients are in test/api/limits.py.

set -uo pipefail
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/api-limits.XXXXXX") || exit 1
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
# shellcheck source=test/system/daemon.bash
. "$top/test/system/daemon.bash"
needs python3 pgrep
ulimit -n 8192 2>/dev/null || ulimit -n "$(ulimit -Hn)"

memory() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status"; }

client() { # WHAT: what it has to say stands below its result
        timeout 90 python3 "$top/test/api/limits.py" "$work/run/lodged.sock" "$1" >"$work/said"
        local r=$?
        ((r == 0)) || tail -n 5 "$work/log"
        return "$r"
}

scene() { # WHAT NAME
        check "$2" client "$1"
        cat "$work/said"
}

quiet() { ! grep -E 'CRITICAL|WARNING|ERROR|runtime error|<[0-3]>' "$work/log"; }

descriptors() { find "/proc/$first/fd" -mindepth 1 | wc -l; }

closed() { # whoever has gone is let go, and so is who takes nothing
        local now i
        for ((i = 0; i < 60; i++)); do
                now=$(descriptors)
                if ((now <= open_before)); then return 0; fi
                sleep 0.5
        done
        echo "it had $open_before descriptors, it has $now"
        return 1
}

sane() { # LIMIT: in KiB
        local now
        now=$(memory "$first")
        echo "it has $now KiB"
        ((now < $1))
}

check "lodged starts" start
first=$(worker)
client dry # the first requests take memory that stays
before=$(memory "$first") open_before=$(descriptors)
scene crowd "1,000 idle and 200 busy clients, and another one is served"
scene flood "2,500 connections: the newest is served"
scene slow "clients that send or take slowly are cut, others are served"
scene large "bodies and heads that are too large, lengths that lie"
scene bombs "JSON that is deep, wide, long or none"
scene paths "paths, queries and names that lead elsewhere"
scene methods "methods that there are not, and what is no HTTP"
scene http10 "HTTP/1.0, pipelines, and clients that have said all"
scene gone "clients that are gone in the middle"
scene match "an ETag that is stale or none"
scene race "50 clients define one name"
scene again "a request with an Idempotency-Key is done once"
check "the worker is still the same process" test "$(worker)" = "$first"
check "no connection is left over" closed
echo "# the worker's memory: $before KiB before, $(memory "$first") KiB after"
[ -n "${LODGE_SANITIZED:-}" ] || check "it has given its memory back" sane $((before + 65536))
check "nothing was logged as a warning of a library's" quiet
tap_end
