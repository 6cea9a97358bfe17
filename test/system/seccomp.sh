#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: lab
# seconds: 540
#
# seccomp.sh: the system call filters are sufficient and minimal
#
# What breaks without it: a machine that dies the first time that a guest does something rare, or a filter that still allows
# what nobody has needed for years. A stock Debian kernel works every device under strace; a call that a filter stops ends the
# machine, and a rule that no role made use of fails here unless its comment says (rare). TAP on stdout.

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/seccomp.XXXXXX") || exit 1
trap 'rm -rf -- "$work"' EXIT
count=0 failed=0

result() { # STATUS NAME
        count=$((count + 1))
        if [ "$1" = 0 ]; then
                echo "ok $count - $2"
        else
                echo "not ok $count - $2"
                failed=$((failed + 1))
        fi
}

for tool in strace cpio busybox; do
        command -v "$tool" >/dev/null || { echo "1..0 # SKIP $tool is not installed"; exit 0; }
done
kernel=$("$top/lab/lodge-lab" kernel cloud) || { echo "Bail out! no kernel"; exit 1; }
modules=$("$top/lab/lodge-lab" modules cloud) || { echo "Bail out! no modules"; exit 1; }

root=$work/root version=$(basename "$modules")
mkdir -p "$root"/{bin,proc,sys,dev,lib/modules/"$version"}
cp "$(command -v busybox)" "$root/bin/busybox"
(cd "$modules" && cp --parents -r kernel/drivers/virtio kernel/drivers/block/virtio_blk.ko kernel/drivers/net/virtio_net.ko \
        kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko kernel/drivers/char/virtio_console.ko \
        kernel/drivers/char/hw_random/virtio-rng.ko "$root/lib/modules/$version/")
depmod -b "$root" "$version" 2>/dev/null
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for m in virtio_pci virtio_blk virtio_net virtio_console virtio-rng; do modprobe $m; done
stty -F /dev/ttyS0 -echo 2>/dev/null
sleep 1
for d in /dev/vda /dev/vdb; do
        dd if=$d of=/dev/null bs=64k count=16 2>/dev/null
        dd if=/dev/zero of=$d bs=64k count=16 conv=fsync 2>/dev/null
        blkdiscard $d 2>/dev/null
done
ip link set eth0 up && arping -c 2 -w 3 -I eth0 10.99.0.1 >/dev/null 2>&1
[ -e /dev/hwrng ] && head -c 4 /dev/hwrng >/dev/null
echo READY
read -r line; echo "got $line"
if [ "$line" != off ]; then
        port=$(ls /dev/vport* | head -n 1)
        exec 5<>$port # open all the time: what comes in while it is closed is lost
        echo hello >&5
        read -r line <&5 && echo port said
        exec 5>&-
        read -r line
fi
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd"
truncate -s 16M "$work/disk"

observe() { # NAME ARG...
        local name=$1
        shift
        "$top/test/system/seccomp-observe" --vmm "$build/lodge-vmm" --kernel "$kernel" --initrd "$work/initrd" \
                --disk "$work/disk" --out "$work/seen.$name" "$@" >"$work/log" 2>&1
        local status=$?
        result $status "a machine that uses everything is not stopped by a filter ($name)"
        [ $status = 0 ] || sed 's/^/# /' "$work/log"
}

tap=()
if [ -c /dev/net/tun ]; then tap=(--tap seccomp0); fi
observe ring "${tap[@]}"
observe threads --no-ring

[ "$failed" = 0 ] || { echo "1..$count"; exit 1; } # what was not seen says nothing then
sort -u "$work"/seen.* >"$work/seen"
"$top/vmm/sandbox/collect.py" --list "$top" >"$work/rules"
unused=0
while read -r role call condition kind where; do
        [ "$kind" = seen ] || continue
        # Only requests of ioctl and fcntl are told apart; of the rest, the name counts.
        case $call in ioctl | fcntl) word=${condition#*=} ;; *) word= ;; esac
        grep -qE "^$role $call ${word:+.*\\b$word\\b}" "$work/seen" && continue
        echo "# $where: role $role never made $call ${word:-}"
        unused=$((unused + 1))
done <"$work/rules"
result $((unused > 0)) "every rule that is not marked rare was needed"
echo "1..$count"
[ $failed = 0 ]
