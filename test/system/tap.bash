# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tap.bash: what the system tests say their results with. Sourced by a test that has a directory $work of its own.

: "${work:?}"
count=0 failed=0

needs() { # PROGRAM...: without them there is nothing to test
        local program
        for program; do
                command -v "$program" >/dev/null && continue
                echo "1..0 # SKIP $program is not installed"
                exit 0
        done
}

check() { # NAME COMMAND...: its output is shown when it fails
        local name=$1
        shift
        count=$((count + 1))
        if "$@" >"$work/check" 2>&1 </dev/null; then
                echo "ok $count - $name"
        else
                failed=$((failed + 1))
                echo "not ok $count - $name"
                tail -n 20 -- "$work/check" | sed 's/^/# /'
        fi
}

said() { # LINE: $work/out holds exactly this line
        grep -qxF -- "$1" "$work/out" && return
        echo "not in the guest's output: $1"
        return 1
}

tap_end() { # the plan, and the exit status of the test
        echo "1..$count"
        [ "$failed" = 0 ]
}
