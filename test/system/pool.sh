#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: both
# seconds: 120
#
# pool.sh: what every pool promises (test/unit/test-pool.c), on file systems that share blocks, that don't, and on a full one
#
# usage: pool.sh
#
# The file systems are made in files and mounted in a mount namespace of this test's own.

set -uo pipefail

if [ "$(id -u)" != 0 ]; then
        echo "1..0 # SKIP mounting needs root"
        exit 0
fi
if [ "${LODGE_TEST_MOUNTS:-}" != 1 ]; then
        exec env LODGE_TEST_MOUNTS=1 unshare --mount --propagation private -- "$0" "$@"
fi
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
test=${LODGE_BUILD:-$top/build}/test/unit/test-pool
work=$(mktemp -d "${TMPDIR:-/tmp}/pool.XXXXXX") || exit 1
trap 'umount "$work"/mnt.* 2>/dev/null; rm -rf -- "$work"' EXIT
export PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"

skip() { # NAME REASON
        count=$((count + 1))
        echo "ok $count - $1 # SKIP $2"
}

# on KIND NAME MKFS...: the unit's promises on a file system of that kind, which shares blocks
on() {
        local kind=$1 name=$2 mnt=$work/mnt.$1
        shift 2
        if ! command -v "$1" >/dev/null; then
                skip "$name" "$1 is not installed"
                return
        fi
        mkdir "$mnt"
        truncate -s 400M "$work/$kind"
        if ! "$@" "$work/$kind" >/dev/null 2>"$work/err" || ! mount -t "$kind" -o loop "$work/$kind" "$mnt" 2>"$work/err"; then
                skip "$name" "$kind can't be mounted here: $(tail -n 1 "$work/err")"
                return
        fi
        check "$name" env TMPDIR="$mnt" LODGE_TEST_REFLINK=1 "$test"
}

on btrfs "on btrfs a volume shares the image's blocks" mkfs.btrfs -q
on xfs "on XFS a volume shares the image's blocks" mkfs.xfs -q -m reflink=1
mkdir "$work/mnt.tmpfs" "$work/mnt.small"
if mount -t tmpfs -o size=200M,mode=700 lodge-test "$work/mnt.tmpfs" 2>/dev/null; then
        check "on tmpfs all is as elsewhere" env TMPDIR="$work/mnt.tmpfs" "$test"
else
        skip "on tmpfs all is as elsewhere" "no tmpfs can be mounted here"
fi
if mount -t tmpfs -o size=64M,mode=700 lodge-test "$work/mnt.small" 2>/dev/null; then
        check "a full file system is called that, and what failed leaves nothing" \
                env TMPDIR="$work/mnt.small" LODGE_TEST_SMALL=1 "$test"
else
        skip "a full file system is called that, and what failed leaves nothing" "no tmpfs can be mounted here"
fi

tap_end
