#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 120
#
# taken-over.sh: a worker that somebody has taken over gets no file of its choice from the broker, and can't harm it
#
# usage: taken-over.sh
#
# test/broker/taken-over.c plays the worker of a real broker; this looks from outside whether the file that it wants was read, by its access time. Without this test a
# new operation of the broker could take a path from the worker, and nobody would see that the two processes protect nothing any more.

set -uo pipefail

if [ "$(id -u)" = 0 ] && [ "${LODGE_TEST_NETNS:-}" != 1 ]; then
        exec env LODGE_TEST_NETNS=1 unshare --net -- "$0" "$@"
fi
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/taken-over.XXXXXX") || exit 1
trap 'rm -rf -- "$work"' EXIT
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
needs python3
mkdir "$work/state"
mkdir -p "$work/elsewhere"
echo "the secret" >"$work/elsewhere/secret"
touch -a -d "2001-01-01" "$work/elsewhere/secret"

FORBIDDEN=$work/elsewhere/secret timeout 120 "$build/test/broker/taken-over" --session --state-dir "$work/state" --run-dir "$work/run" 2>"$work/out"
status=$?
seen=$(stat -c %X "$work/elsewhere/secret")
# count_of PATTERN -eq|-ge NUMBER: of lines
count_of() {
        local n
        n=$(grep -c "$1" "$work/out")
        case $2 in
        -eq) ((n == $3)) ;;
        -ge) ((n >= $3)) ;;
        *) return 2 ;;
        esac
}
none_refused() { ! grep "^not ok" "$work/out"; }
unread() { [ "$(stat -c %X "$work/elsewhere/secret")" = "$(date -d 2001-01-01 +%s)" ]; }
empty() { ! find "$work/state/pools" "$work/state/seeds" "$work/state/images" -type f ! -name "*lock*" 2>/dev/null | grep .; }
no_machine() { [ -z "$(find "$work/run/machines" -name keeper.sock)" ]; }

check "every call for a file, and every wrong one, is refused" none_refused
check "there were some: at least 250" count_of '^ok' -ge 250
check "each of six breaches ends the worker, and the broker starts the next" count_of 'the broker has started the next worker' -eq 7
check "the broker ends well in the end" test "$status" = 0
if [ "$(cat "$work/elsewhere/secret"; stat -c %X "$work/elsewhere/secret")" = "the secret"$'\n'"$(date -d 2001-01-01 +%s)" ]; then
        count=$((count + 1))
        echo "ok $count - the file was never read # SKIP no access times in this file system"
else
        touch -a -d "@$seen" "$work/elsewhere/secret"
        check "the file was never read" unread
fi
check "nothing was made in the pools, seeds and images" empty
check "no machine was started" no_machine
tap_end
