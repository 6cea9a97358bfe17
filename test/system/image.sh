#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 900
#
# image.sh: both recipes are built (or found built), what they make is sound, and it boots under plain QEMU
#
# The builds go to the user's own store, where `./try` finds them; imports and deletions happen in a store of this test's.

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
lodge=${LODGE_BUILD:-$top/build}/lodge
work=$(mktemp -d "${TMPDIR:-/tmp}/image.XXXXXX") || exit 1
trap 'rm -rf -- "$work"' EXIT
export PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"

field() { # NAME FIELD: of `lodge image show`
        "$lodge" image show "$1" --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$2"
}

says() { # TEXT COMMAND...: it succeeds and prints that
        local text=$1 out
        shift
        out=$("$@") || { echo "$out"; return 1; }
        grep -qF -- "$text" <<<"$out" || { echo "$out"; return 1; }
}

refuses() { # ID COMMAND...: it fails with that id and a fix
        local id=$1 out
        shift
        if out=$("$@" 2>&1); then
                echo "it did not fail: $out"
                return 1
        fi
        if ! grep -qF -- "[$id]" <<<"$out" || ! grep -q '^  fix: ' <<<"$out"; then
                echo "$out"
                return 1
        fi
}

# private COMMAND...: with a store of its own
private() {
        XDG_DATA_HOME=$work/data XDG_RUNTIME_DIR=$work/no-daemon HOME=$work "$@"
}

no_leftovers() {
        local left
        left=$(find "$work/data/lodge/images" -maxdepth 1 -name '.tmp-*')
        [ -z "$left" ] || { echo "$left"; return 1; }
}

# --- the store's answers

truncate -s 1000 "$work/odd.raw"
truncate -s 3M "$work/disk.raw"
printf 'something' | dd of="$work/disk.raw" bs=1 seek=1000000 conv=notrunc status=none
check "a size that is no multiple of a sector is refused" refuses image-import private "$lodge" image import --disk-format raw "$work/odd.raw"
check "a missing file is refused" refuses image-import private "$lodge" image import --disk-format raw "$work/none.raw"
check "a directory is refused" refuses image-import private "$lodge" image import --disk-format raw "$work"
check "a format has to be said" refuses image-format private "$lodge" image import "$work/disk.raw"
check "raw comes in" private "$lodge" image import --disk-format raw --name a/raw "$work/disk.raw"
check "a name is taken once" refuses image-exists private "$lodge" image import --disk-format raw --name a/raw "$work/disk.raw"
check "its digests are true" private "$lodge" image show a/raw --verify
if qemu-img convert -f raw -O qcow2 -c "$work/disk.raw" "$work/disk.qcow2"; then
        check "qcow2 comes in" private "$lodge" image import --disk-format qcow2 --name a/qcow2 "$work/disk.qcow2"
        check "as what it was" cmp "$work/disk.raw" "$work/data/lodge/images/a@qcow2/disk.raw"
        truncate -s 200K "$work/disk.qcow2"
        check "cut short it is refused" refuses image-import private "$lodge" image import --disk-format qcow2 --name a/cut "$work/disk.qcow2"
        qemu-img create -q -f qcow2 -F raw -b "$work/disk.raw" "$work/child.qcow2"
        check "with a backing file it is refused" refuses image-import private "$lodge" image import --disk-format qcow2 "$work/child.qcow2"
fi
check "an unknown image has an error with a fix" refuses image-not-found private "$lodge" image show debian/12
check "an unknown recipe too" refuses image-no-recipe private "$lodge" image build debian/99
check "an image goes" private "$lodge" image delete a/raw
check "a second time it doesn't" refuses image-not-found private "$lodge" image delete a/raw
check "nothing half done is left" no_leftovers

# killed: build the small one, kill it in the middle, and look
killed() {
        local pid
        XDG_DATA_HOME=$work/data HOME=$work "$lodge" image build tiny & # not by the function: $! has to be lodge itself
        pid=$!
        sleep 1
        kill -KILL "$pid"
        wait "$pid" 2>/dev/null
        for _ in {1..30}; do # its programs have some seconds to end; then the next command sweeps
                says tiny private "$lodge" image list && return 1
                no_leftovers >/dev/null && return 0
                sleep 1
        done
        no_leftovers
}
check "a build that is killed leaves nothing" killed

# --- tiny

check "tiny is built" "$lodge" image build tiny
check "a second time there is nothing to do" says "up to date" "$lodge" image build tiny
check "its digests are true" "$lodge" image show tiny --verify
tiny=$(field tiny directory)
check "it boots and runs a command" says "Linux tiny" "$top/test/system/image-boot" "$tiny" 120 'uname -a'
# shellcheck disable=SC2016 # for the guest's shell
check "it gets an address" says "10.0.2.15" "$top/test/system/image-boot" "$tiny" 120 \
        'for i in $(seq 100); do ip addr show eth0 | grep -w inet && break; sleep 0.1; done'
status_comes_back() {
        "$top/test/system/image-boot" "$tiny" 120 'exit 7'
        [ $? = 7 ]
}
check "a command's status comes back" status_comes_back

# --- debian/12

check "debian/12 is built" "$lodge" image build debian/12
check "a second time there is nothing to do" says "up to date" "$lodge" image build debian/12
debian=$(field debian/12 directory)
gpt_is_valid() {
        if command -v sfdisk >/dev/null; then
                says "No errors detected" sfdisk --verify "$debian/disk.raw"
        else
                says "No problems found" sgdisk --verify "$debian/disk.raw"
        fi
}
check "its partition table is valid" gpt_is_valid
start=$(sgdisk --info=2 "$debian/disk.raw" | sed -n 's/^First sector: \([0-9]*\).*/\1/p')
end=$(sgdisk --info=2 "$debian/disk.raw" | sed -n 's/^Last sector: \([0-9]*\).*/\1/p')
dd if="$debian/disk.raw" of="$work/root.ext4" bs=512 skip="${start:-0}" count=$((${end:-0} - ${start:-0} + 1)) conv=sparse status=none
check "its file system is clean" fsck.ext4 -fn "$work/root.ext4"
in_root() { # DEBUGFS-COMMAND
        debugfs -R "$1" "$work/root.ext4" 2>/dev/null
}
machine_id_is_empty() {
        in_root 'stat /etc/machine-id' | grep -q 'Size: 0$'
}
check "its machine-id is empty" machine_id_is_empty
no_host_keys() {
        in_root 'ls -p /etc/ssh' | grep -q sshd_config && ! in_root 'ls -p /etc/ssh' | grep ssh_host_
}
check "it has no SSH host keys" no_host_keys
no_passwords() {
        ! in_root 'cat /etc/shadow' | grep -vE '^[^:]+:[*!]'
}
check "no account has a password" no_passwords
ownership_is_kept() {
        in_root 'stat /usr/bin/sudo' | grep -qE 'Mode: +0?4755' && in_root 'stat /usr/bin/sudo' | grep -qE 'User: +0 '
}
check "owners and modes are kept" ownership_is_kept
# shellcheck disable=SC2016
check "it boots, and every machine gets an identity of its own" says "Linux debian" "$top/test/system/image-boot" "$debian" 300 \
        'uname -a; test -s /etc/machine-id; for i in $(seq 600); do ls /etc/ssh/ssh_host_ed25519_key && break; sleep 0.2; done'

tap_end
