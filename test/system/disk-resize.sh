#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: lab
# seconds: 120
#
# disk-resize.sh: a guest sees its disks grow while it runs, and what it writes into the new part is in the files
#
# usage: disk-resize.sh

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
image=${XDG_DATA_HOME:-$HOME/.local/share}/lodge/images/tiny
work=$(mktemp -d "${TMPDIR:-/tmp}/disk-resize.XXXXXX") || exit 1
trap 'rm -rf -- "$work"' EXIT
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"

check "tiny is there" "$build/lodge" image show tiny

# The tiny image's initramfs with an init that waits for a second size of each disk and writes into the last sector.
mkdir "$work/root"
cat >"$work/root/grow" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
for m in /lib/modules/*.ko; do insmod "$m"; done
while [ ! -b /dev/vdb ]; do sleep 0.1; done
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
poweroff -f
INIT
chmod +x "$work/root/grow"
{
        cat "$image/initrd"
        head -c $((-$(stat -c %s "$image/initrd") & 3)) /dev/zero
        (cd "$work/root" && echo grow | cpio -o -H newc --quiet)
} >"$work/initrd"
truncate -s 16M "$work/raw"
qemu-img create -q -f qcow2 "$work/qcow2" 16M
kernel=$image/vmlinuz
[ -e "$kernel" ] || kernel=$image/kernel

grow() {
        "$top/test/system/vmm-run" "$kernel" --vmm "$build/lodge-vmm" --memory 256 --initrd "$work/initrd" --disk "$work/raw" --disk "$work/qcow2,qcow2" \
                --append 'console=ttyS0 quiet panic=-1 rdinit=/grow' --timeout 100 \
                --on 'vda has=block_resize {"device": "disk0", "size": 33554432}' \
                --on 'vdb has=block_resize {"device": "disk1", "size": 50331648}' >"$work/out" 2>&1 && return
        tail -n 5 "$work/out"
        return 1
}

# end_of FORMAT BYTES TEXT: the host reads that size, and that text in the last sector
end_of() {
        qemu-img convert -f "$1" -O raw "$work/$1" "$work/flat" && [ "$(tail -c 512 "$work/flat" | tr -d '\0')" = "$3" ] &&
                [ "$(stat -c %s "$work/flat")" = "$2" ]
}

check "the guest ends by itself" grow
check "a raw disk has its size" said "vda has 32768 sectors"
check "it grows under the guest" said "vda grew to 65536 sectors"
check "a qcow2 disk has its size" said "vdb has 32768 sectors"
check "it grows under the guest" said "vdb grew to 98304 sectors"
check "the new part of the raw disk is in the file" end_of raw 33554432 "the end of vda"
check "the new part of the qcow2 disk is in the image" end_of qcow2 50331648 "the end of vdb"
check "the image is whole" qemu-img check -q "$work/qcow2"

tap_end
