#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: lab
# seconds: 200
#
# disk-live.sh: a guest's disks grow while it runs, and are mirrored, and moved, while it writes
#
# usage: disk-live.sh

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
image=${XDG_DATA_HOME:-$HOME/.local/share}/lodge/images/tiny
work=$(mktemp -d "${TMPDIR:-/tmp}/disk-live.XXXXXX") || exit 1
trap 'rm -rf -- "$work"' EXIT
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"

check "tiny is there" "$build/lodge" image show tiny

# initramfs OUT: the tiny image's, with an init that prepares the guest and runs stdin
initramfs() {
        rm -rf -- "$work/root" && mkdir "$work/root"
        {
                cat <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
for m in /lib/modules/*.ko; do insmod "$m"; done
while [ ! -b /dev/vdb ]; do sleep 0.1; done
INIT
                cat
                echo "poweroff -f"
        } >"$work/root/live"
        chmod +x "$work/root/live"
        {
                cat "$image/initrd"
                head -c $((-$(stat -c %s "$image/initrd") & 3)) /dev/zero
                (cd "$work/root" && echo live | cpio -o -H newc --quiet)
        } >"$1"
}

# run INITRD DISK... -- OPTION...: a guest that ends by itself; its console is in $work/out
run() {
        local initrd=$1 arguments=()
        shift
        while [ "$1" != -- ]; do
                arguments+=(--disk "$1")
                shift
        done
        shift
        "$top/test/system/vmm-run" "$kernel" --vmm "$build/lodge-vmm" --memory 256 --initrd "$initrd" "${arguments[@]}" \
                --append 'console=ttyS0 quiet panic=-1 rdinit=/live' --timeout 100 "$@" >"$work/out" 2>&1 && return
        tail -n 5 "$work/out"
        return 1
}

kernel=$image/vmlinuz
[ -e "$kernel" ] || kernel=$image/kernel

# ---- size ------------------------------------------------------------------------------------------------------------

# Waits for a second size of each disk and writes into the last sector.
initramfs "$work/initrd" <<'GUEST'
for d in vda vdb; do
        before=$(cat /sys/block/$d/size)
        echo "$d has $before sectors"
        for i in $(seq 300); do
                [ "$(cat /sys/block/$d/size)" = "$before" ] || break
                sleep 0.1
        done
        after=$(cat /sys/block/$d/size)
        echo "$d grew to $after sectors"
        echo "the end of $d" | dd of=/dev/$d bs=512 seek=$((after - 1)) conv=sync,fsync 2>/dev/null
done
GUEST
truncate -s 16M "$work/raw"
qemu-img create -q -f qcow2 "$work/qcow2" 16M
# end_of FORMAT BYTES TEXT: the host reads that size, and that text in the last sector
end_of() {
        qemu-img convert -f "$1" -O raw "$work/$1" "$work/flat" && [ "$(tail -c 512 "$work/flat" | tr -d '\0')" = "$3" ] &&
                [ "$(stat -c %s "$work/flat")" = "$2" ]
}

check "the guest ends by itself" run "$work/initrd" "$work/raw" "$work/qcow2,qcow2" -- \
        --on 'vda has=block_resize {"device": "disk0", "size": 33554432}' --on 'vdb has=block_resize {"device": "disk1", "size": 50331648}'
check "a raw disk has its size" said "vda has 32768 sectors"
check "it grows under the guest" said "vda grew to 65536 sectors"
check "a qcow2 disk has its size" said "vdb has 32768 sectors"
check "it grows under the guest" said "vdb grew to 98304 sectors"
check "the new part of the raw disk is in the file" end_of raw 33554432 "the end of vda"
check "the new part of the qcow2 disk is in the image" end_of qcow2 50331648 "the end of vdb"
check "the image is whole" qemu-img check -q "$work/qcow2"

# ---- mirror ----------------------------------------------------------------------------------------------------------

# writer OUT: as initramfs, of a guest that knows how to write
writer() {
        {
                cat <<'GUEST'
round() { # NUMBER: pieces all over both disks
        for i in 1 7 19 31 43; do
                for d in vda vdb; do
                        dd if=/noise of=/dev/$d bs=64k count=2 seek=$((i * 4 + $1 % 13)) conv=notrunc,fsync 2>/dev/null
                done
        done
}
dd if=/dev/urandom of=/noise bs=64k count=2 2>/dev/null
round 0
GUEST
                cat
        } | initramfs "$1"
}

# Writes all the time while its disks are mirrored; then it is quiet, and their mirrors are completed.
writer "$work/initrd" <<'GUEST'
echo "mirror it"
for n in $(seq 12); do
        round $n
done
echo "quiet now"
for n in $(seq 8); do
        sleep 1
        echo "complete $n"
done
GUEST
truncate -s 32M "$work/raw" "$work/raw.copy"
head -c 24M /dev/urandom | dd of="$work/raw" conv=notrunc status=none
rm -f "$work/qcow2"
qemu-img create -q -f qcow2 "$work/qcow2" 32M
qemu-img create -q -f qcow2 "$work/qcow2.copy" 32M
completes=()
for n in 2 4 6; do # each until its mirror is ready
        completes+=(--on "complete $n=block-job-complete {\"device\": \"disk0\"}" --on "complete $n=block-job-complete {\"device\": \"disk1\"}")
done
check "a guest runs while its disks are mirrored" run "$work/initrd" "$work/raw" "$work/qcow2,qcow2" -- \
        --on "mirror it=getfd {\"fdname\": \"a\"} $work/raw.copy" --on "mirror it=getfd {\"fdname\": \"b\"} $work/qcow2.copy" \
        --on 'mirror it=blockdev-mirror {"device": "disk0", "target": "a", "format": "raw", "sync": "full"}' \
        --on 'mirror it=blockdev-mirror {"device": "disk1", "target": "b", "format": "qcow2", "sync": "full"}' "${completes[@]}"
check "the guest was quiet before the end" said "quiet now"
check "the copy of the raw disk is the disk" cmp "$work/raw" "$work/raw.copy"
check "the copy of the qcow2 disk is the disk" qemu-img compare -q -f qcow2 -F qcow2 "$work/qcow2" "$work/qcow2.copy"
check "the copied image is whole" qemu-img check -q "$work/qcow2.copy"

# ---- pivot -----------------------------------------------------------------------------------------------------------

# Never stops writing; its last words, and what it finds on its disks in the end, tell which image has been written. It goes on for long
# enough: a mirror that isn't ready by the last "complete" is not completed, and its disk not moved.
writer "$work/initrd" <<'GUEST'
echo "move it"
for n in $(seq 40); do
        round $n
        sleep 0.2
        echo "complete $n"
done
for d in vda vdb; do
        echo "the last of $d" | dd of=/dev/$d bs=512 seek=65535 conv=sync,notrunc,fsync 2>/dev/null
done
mount -t proc proc /proc 2>/dev/null || { mkdir -p /proc && mount -t proc proc /proc; }
echo 3 >/proc/sys/vm/drop_caches
for d in vda vdb; do
        echo "$d is $(md5sum </dev/$d)"
done
GUEST
head -c 512 /dev/zero | dd of="$work/raw" bs=512 seek=65535 conv=notrunc status=none
rm -f "$work/qcow2.copy" "$work/raw.copy"
truncate -s 32M "$work/raw.copy"
qemu-img create -q -f qcow2 "$work/qcow2.copy" 32M
completes=()
for n in 4 8 12 16 20 24 28 32 36; do
        completes+=(--on "complete $n=block-job-complete {\"device\": \"disk0\"}" --on "complete $n=block-job-complete {\"device\": \"disk1\"}")
done
# last_of FORMAT FILE TEXT: what is in the last sector
last_of() {
        qemu-img convert -f "$1" -O raw "$2" "$work/flat" && [ "$(tail -c 512 "$work/flat" | tr -d '\0')" = "$3" ]
}
# is_disk DISK FORMAT FILE: the image holds what the guest has read from that disk in the end
is_disk() {
        qemu-img convert -f "$2" -O raw "$3" "$work/flat" && said "$1 is $(md5sum <"$work/flat")"
}

check "a guest runs while its disks are moved" run "$work/initrd" "$work/raw" "$work/qcow2,qcow2,iothreads=1" -- \
        --on "move it=getfd {\"fdname\": \"a\"} $work/qcow2.copy" --on "move it=getfd {\"fdname\": \"b\"} $work/raw.copy" \
        --on 'move it=blockdev-mirror {"device": "disk0", "target": "a", "format": "qcow2", "sync": "full", "pivot": true}' \
        --on 'move it=blockdev-mirror {"device": "disk1", "target": "b", "format": "raw", "sync": "full", "pivot": true}' "${completes[@]}"
check "the raw disk has moved to a qcow2 image" last_of qcow2 "$work/qcow2.copy" "the last of vda"
check "all of it" is_disk vda qcow2 "$work/qcow2.copy"
check "the image is whole" qemu-img check -q "$work/qcow2.copy"
check "the qcow2 disk has moved to a raw file" last_of raw "$work/raw.copy" "the last of vdb"
check "all of it" is_disk vdb raw "$work/raw.copy"
check "the old raw file was left alone" last_of raw "$work/raw" ""
check "and so was the old image" last_of qcow2 "$work/qcow2" ""
check "which is whole" qemu-img check -q "$work/qcow2"

tap_end
