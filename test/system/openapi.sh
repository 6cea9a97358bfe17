#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 240
#
# openapi.sh: lodged's OpenAPI document is valid, is what lodged serves, and holds for some thousand random requests made from it
#
# usage: openapi.sh [SEED [REQUESTS]]
#
# The validators, the random generators and the judge of the answers are packages of npm's, pinned in test/api/package-lock.json and put into the
# build directory. Without this test the document could promise what lodged does not do, and lodged do what the document forbids.

set -uo pipefail
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/openapi.XXXXXX") || exit 1
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
# shellcheck source=test/system/daemon.bash
. "$top/test/system/daemon.bash"
needs node npm curl pgrep
socket=$work/run/lodged.sock document=$work/openapi.json
export NODE_PATH=$build/test-api/node_modules

# Without the network there is nothing to judge with, unless it was fetched before.
fetch() {
        local stamp=$build/test-api/stamp
        if [ -f "$stamp" ] && cmp -s -- "$stamp" "$top/test/api/package-lock.json"; then return 0; fi
        mkdir -p -- "$build/test-api" && cp -- "$top"/test/api/package*.json "$build/test-api/" &&
                (cd -- "$build/test-api" && timeout 120 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) >&2 &&
                cp -- "$top/test/api/package-lock.json" "$stamp"
}
if ! fetch; then
        echo "1..0 # SKIP npm cannot fetch the validators"
        exit 0
fi

get() { curl -sS --fail --unix-socket "$socket" "$@"; }

served() { # as it lies in the build directory, and not sent again to whoever has it
        get -D "$work/head" -o "$document" http://localhost/v1/openapi.json && cmp -- "$document" "$build/schema/openapi.json" || return
        local tag
        tag=$(tr -d '\r' <"$work/head" | sed -n 's/^ETag: //p')
        grep -q '^Content-Type: application/json' "$work/head" && [ -n "$tag" ] &&
                [ "$(get -o /dev/null -w '%{http_code}' -H "If-None-Match: $tag" http://localhost/v1/openapi.json)" = 304 ]
}

exercised() {
        timeout 150 node "$top/test/api/exercise.js" "$socket" "$document" "$@" >"$work/exercise"
        local r=$?
        cat "$work/exercise"
        return "$r"
}

examples() { # of doc/api.md, in their order, in one shell
        mkdir -p "$work/examples" && cd "$work/examples" || return
        # shellcheck disable=SC2016 # the marks of a block of code
        { echo 'set -euxo pipefail'; sed -n '/^```sh$/,/^```$/p' "$top/doc/api.md" | grep -v '^```'; } >"$work/examples.sh"
        [ "$(grep -c curl "$work/examples.sh")" -gt 8 ] && socket=$socket bash "$work/examples.sh"
}

quiet() { # no warning of GLib's or libsoup's, and nothing of ours that is an error
        ! grep -E 'CRITICAL|WARNING|<[0-4]>' "$work/log"
}

check "lodged starts" start --listen 127.0.0.1:0
first=$(worker)
check "it serves the document that the build made" served
check "two validators that are not ours find nothing in it" node "$top/test/api/validate.js" "$document"
check "the examples of doc/api.md do what they say" examples
check "random requests are answered as it says, with no unexplained 5xx" exercised "${1:-1}" "${2:-9000}"
grep '^#' "$work/exercise" | tail -n 2
check "the worker is still the same process" test "$(worker)" = "$first"
check "nothing was logged as a warning or worse" quiet
tap_end
