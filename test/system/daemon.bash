# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# daemon.bash: a session daemon of the test's own below $work, which ends with it. Sourced by a test that has $work and $build; sets $daemon.

: "${work:?}" "${build:?}"
daemon=""

daemon_cleanup() {
        [ -z "$daemon" ] || kill "$daemon" 2>/dev/null
        wait
        rm -rf -- "$work"
}
trap daemon_cleanup EXIT

start() { # OPTION...: of lodged; it is ready within 20 s; a warning of GLib's ends it
        mkdir -m 700 "$work/state" "$work/run" || return
        G_DEBUG=fatal-criticals "$build/lodged" --session --state-dir "$work/state" --run-dir "$work/run" "$@" 2>"$work/log" &
        daemon=$!
        local i
        for ((i = 0; i < 200; i++)); do
                if grep -q ready "$work/log"; then return 0; fi
                sleep 0.1
        done
        cat "$work/log"
        return 1
}

worker() { pgrep -P "$daemon" -x lodged-worker; } # and no process of a task
