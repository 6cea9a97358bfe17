#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: lab
# seconds: 300
#
# disk-soak.sh: fio verifies what it writes through all queues, while the machine is paused and its disks' limits change
#
# usage: disk-soak.sh [SECONDS]     (default 25; by hand: lab/lodge-lab run --cpus 1 --timeout 4000 -- test/system/disk-soak.sh 1800)
#
# One guest with two vCPUs and Debian's kernel. On each of its disks (raw, qcow2, qcow2 over another file; cached and direct; queues on the
# machine's loop and on one or two I/O threads) each vCPU writes to a half of its own, in rounds of fio: blocks of 512 bytes to 128 KiB in
# random order, or each discarded and then written in the disk's order (fio 3.33 does nothing for randtrimwrite with an offset), with flushes
# between them. All is read back and verified, some of it while the writing goes on. Meanwhile disk-stir does its work. If a request were
# lost, done twice, or done at the wrong place, because of a pause, a limit or a neighbouring queue, it would show here.
#
# A disk's queues are chosen by vCPU in the guest, so that two pinned jobs use them all: the guest's interrupt counts have to say so.

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
export PATH="$PATH:/usr/sbin:/sbin"
seconds=${1:-25}
seed=${LODGE_SEED:-$(date +%s)}
image=${XDG_DATA_HOME:-$HOME/.local/share}/lodge/images/tiny
work=$(mktemp -d "${TMPDIR:-/tmp}/disk-soak.XXXXXX") || exit 1
store=$work/store vmm="" stir=""
cleanup() {
        [ -z "$stir" ] || kill "$stir" 2>/dev/null
        [ -z "$vmm" ] || kill "$vmm" 2>/dev/null
        mountpoint -q "$store" && umount -l "$store"
        rm -rf -- "$work"
}
trap cleanup EXIT
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"

if ! command -v fio >/dev/null || ! command -v qemu-img >/dev/null; then
        echo "1..0 # SKIP fio or qemu-img is not installed"
        exit 0
fi
echo "# seed $seed: LODGE_SEED=$seed test/system/disk-soak.sh $seconds"
check "tiny is there" "$build/lodge" image show tiny
kernel=$image/vmlinuz
[ -e "$kernel" ] || kernel=$image/kernel

# fio with the libraries that it loads, as a tar archive for a disk
tools_archive() { # OUT
        local lib
        mkdir "$work/tools" && cp -- "$(command -v fio)" "$work/tools/" || return
        for lib in $(ldd -- "$(command -v fio)" | grep -o '/[^ ]*' | sort -u); do cp -L -- "$lib" "$work/tools/" || return; done
        tar -C "$work/tools" -cf "$1" . && truncate -s %4096 "$1"
}

# The guest's: a round of fio on all disks at once, until the time is up. Each of its 8 jobs has 3 MiB, which lie elsewhere in each round.
initramfs() { # OUT
        mkdir "$work/root"
        sed "s/@SECONDS@/$seconds/; s/@SEED@/$seed/" >"$work/root/soak" <<'GUEST'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /dev /proc /sys /tmp
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
for m in /lib/modules/*.ko; do insmod "$m"; done
while [ ! -b /dev/vde ]; do sleep 0.1; done
cd /tmp && tar -xf /dev/vda
fio="/tmp/ld-linux-x86-64.so.2 --library-path /tmp /tmp/fio"
now() { cut -d. -f1 /proc/uptime; }
job() { # DISK CPU ROUND
        cat <<JOB
[$1-cpu$2]
filename=/dev/$1
cpus_allowed=$2
rw=$([ $((($2 + $3) % 2)) = 0 ] && echo trimwrite || echo randwrite)
offset=$(($2 * 48 + $3 % 16 * 3))M
JOB
}
round() { # NUMBER
        cat >/tmp/jobs <<JOB
[global]
ioengine=libaio
direct=1
thread
size=3M
bssplit=512/20:1536/10:4k/30:13k/10:64k/15:128k/15
iodepth=8
randseed=$(($1 + @SEED@))
verify=crc32c
verify_fatal=1
verify_backlog=48
verify_backlog_batch=24
fsync=40
JOB
        for d in vdb vdc vdd vde; do
                job $d 0 $1
                job $d 1 $1
        done >>/tmp/jobs
        $fio --minimal /tmp/jobs >/tmp/log 2>&1
}
echo "SOAK begins"
end=$(($(now) + @SECONDS@)) rounds=0 written=0 verified=0 status=0
while [ $status = 0 ] && { [ $rounds = 0 ] || [ $(now) -lt $end ]; }; do
        rounds=$((rounds + 1))
        round $rounds
        status=$?
        # Terse output, version 3: the job's name, its error, KiB read, KiB written
        while IFS=\; read -r v _ _ _ error kread rest; do
                [ "$v" = 3 ] || continue
                verified=$((verified + kread))
                written=$((written + $(echo "$rest" | cut -d\; -f41)))
                [ "$error" = 0 ] || status=1
        done </tmp/log
        if [ $status != 0 ]; then
                grep -v '^3;' /tmp/log | head -n 40
        fi
        [ $((rounds % 50)) != 0 ] || echo "SOAK round $rounds"
done
echo "SOAK ends"
echo "fio status $status after $rounds rounds"
echo "KiB written $written"
echo "KiB verified $verified"
for d in vdb vdc vdd vde; do
        grep "$(basename "$(readlink /sys/block/$d/device)")-req" /proc/interrupts | while read -r _ cpu0 cpu1 rest; do
                echo "queue $d ${rest##*.} $((cpu0 + cpu1))"
        done
done
dmesg | grep -iE 'I/O error|blk_update|timed? ?out|virtio.*error|hung|stall' | head -n 20 | sed 's/^/KERNEL /'
echo "the guest is done"
sync
poweroff -f
GUEST
        chmod +x "$work/root/soak"
        {
                cat "$image/initrd"
                head -c $((-$(stat -c %s "$image/initrd") & 3)) /dev/zero
                (cd "$work/root" && echo soak | cpio -o -H newc --quiet)
        } >"$1"
}

# A file system that does O_DIRECT, for /tmp may not.
direct=""
mkdir "$store"
if truncate -s 900M "$work/store.ext4" && mkfs.ext4 -q "$work/store.ext4" 2>/dev/null && { modprobe -q loop || true; } &&
        mount -o loop "$work/store.ext4" "$store" 2>/dev/null; then
        direct=,direct
else
        echo "# no loop device here: all disks are cached"
fi
truncate -s 96M "$store/raw" "$store/raw2"
head -c 96M /dev/urandom >"$store/base"
qemu-img create -q -f qcow2 "$store/qcow2" 96M
qemu-img create -q -f qcow2 -F raw -b "$store/base" "$store/top"

tools_archive "$store/tools.tar"
initramfs "$work/initrd"
: >"$work/out"
"$top/test/system/vmm-run" "$kernel" --vmm "$build/lodge-vmm" --memory 384 --cpus 2 --initrd "$work/initrd" --control "$work/qmp" \
        --append 'console=ttyS0 quiet panic=-1 rdinit=/soak' --timeout $((seconds * 2 + 220)) --disk "$store/tools.tar" \
        --disk "$store/raw,iothreads=0$direct" --disk "$store/qcow2,qcow2,iothreads=1" \
        --disk "$store/top,qcow2,iothreads=2,backing=$store/base$direct" --disk "$store/raw2,iothreads=2" >"$work/out" 2>&1 </dev/null &
vmm=$!

await() { # LINE: until the guest said it; 1 when it ended before
        until grep -q "^$1" "$work/out"; do
                kill -0 "$vmm" 2>/dev/null || return
                sleep 0.2
        done
}
if await "SOAK begins"; then
        "$top/test/system/disk-stir" "$work/qmp" "$seed" disk1 disk2 disk3 disk4 >"$work/stir" 2>&1 &
        stir=$!
        await "SOAK ends"
        kill "$stir" 2>/dev/null
        wait "$stir"
        status=$?
        stir=""
fi
wait "$vmm"
vmm_status=$?
vmm=""

field() { sed -n "s/^KiB $1 //p" "$work/out"; }
no_problem() {
        ! grep '^KERNEL' "$work/out"
}
check "the machine was paused and its limits changed, and every command succeeded" test "${status:-1}" = 0
check "the guest powers off" test "$vmm_status" = 0
check "fio wrote and read it all back" grep -qE '^fio status 0 after [1-9]' "$work/out"
rounds=$(sed -n 's/^fio status 0 after \([0-9]*\) rounds$/\1/p' "$work/out")
check "each job wrote all that it had to" test "$(field written)" = $((rounds * 8 * 3072))
check "and verified it" test "$(field verified)" = $((rounds * 8 * 3072))
check "the guest's kernel saw no error" no_problem
check "it came to its end" said "the guest is done"
# two queues on the loop, one with one thread, and two with two
check "the disks have their queues" test "$(grep -c '^queue' "$work/out")" = 7
check "all of them worked" test "$(grep '^queue' "$work/out" | awk '$4 > 20' | wc -l)" = 7
check "a pause" grep -qE 'stirred: [1-9]' "$work/stir"
check "a tight limit" grep -qE ', [1-9][0-9]* tight' "$work/stir"
for i in qcow2 top; do check "the image $i is whole" qemu-img check "$store/$i"; done
if [ "$failed" != 0 ]; then
        tail -n 60 "$work/out" | sed 's/^/# /'
fi
sed 's/^/# /' "$work/stir"
grep -E '^(fio|KiB|queue) ' "$work/out" | sed 's/^/# /'
tap_end
