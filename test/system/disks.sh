#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: lab
# seconds: 460
#
# disks.sh: what a Debian kernel reads and writes through virtio-blk is what the host's files hold
#
# usage: disks.sh
#
# One guest with three disks: a read-only one of random bytes, a writable one, and a tar archive on a raw disk that brings fio. Then one
# guest with 16 disks and 8 network interfaces, each of which has to be the one that the command line says.

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/disks.XXXXXX") || exit 1
taps=()
cleanup() {
        local tap
        for tap in "${taps[@]}"; do ip link del "$tap" 2>/dev/null; done
        rm -rf -- "$work"
}
trap cleanup EXIT
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"

digest() { # FILE BYTES
        head -c "$2" "$1" | sha256sum | cut -d' ' -f1
}

guest() { # SCRIPT ARG...
        local script=$1
        shift
        timeout 200 "$build/lodge" run tiny --engine native --net none --exec "$script" "$@" >"$work/out" 2>"$work/err" </dev/null
        local status=$?
        [ "$status" = 0 ] || sed 's/^/# /' "$work/err" "$work/out" | tail -20
        return "$status"
}

# fio and blkdiscard with the libraries that they load, for a guest that has neither
tools_archive() { # OUT
        local tools=("$(command -v fio)" /usr/sbin/blkdiscard) lib
        mkdir "$work/tools" &&
                cp -- "${tools[@]}" "$work/tools/" &&
                for lib in $(ldd -- "${tools[@]}" | grep -o '/[^ ]*' | grep -v ':$' | sort -u); do cp -L -- "$lib" "$work/tools/" || return; done
        tar -C "$work/tools" -cf "$1" . && truncate -s %4096 "$1" && rm -rf -- "$work/tools"
}

head -c 8M /dev/urandom >"$work/ro"
truncate -s 96M "$work/rw"
head -c 16M /dev/urandom >"$work/noise"
dd if="$work/noise" of="$work/rw" bs=1M seek=64 conv=notrunc status=none
fio=0
command -v fio >/dev/null && tools_archive "$work/tools.tar" && fio=1
[ "$fio" = 1 ] || head -c 1M /dev/zero >"$work/tools.tar"

# shellcheck disable=SC2016 # the guest expands it
script='
for d in vda vdb vdc; do echo "serial $d $(cat /sys/block/$d/serial)"; done
echo "sectors $(cat /sys/block/vdb/size)"
echo "ro $(sha256sum </dev/vda | cut -d" " -f1)"
q=/sys/block/vdc/queue
echo "shape $(cat $q/logical_block_size $q/physical_block_size $q/write_cache | tr "\n" " ")"
dd if=/dev/zero of=/dev/vda bs=512 count=1 2>/dev/null && echo "read-only disk was written"
dd if=/dev/vda of=/dev/vdb bs=1M conv=fsync 2>/dev/null && echo copied
echo 3 >/proc/sys/vm/drop_caches
echo "copy $(head -c 8388608 /dev/vdb | sha256sum | cut -d" " -f1)"
echo "write through" >/sys/block/vdb/cache_type && echo "cache $(cat /sys/block/vdb/cache_type)"
dd if=/dev/vda of=/dev/vdb bs=64k count=16 seek=128 2>/dev/null && echo "wrote through"
echo "write back" >/sys/block/vdb/cache_type
mkdir -p /tmp/t && tar -xf /dev/vdc -C /tmp/t 2>/dev/null
run="/tmp/t/ld-linux-x86-64.so.2 --library-path /tmp/t"
if [ -e /tmp/t/fio ]; then
        $run /tmp/t/blkdiscard -o 64M -l 8M /dev/vdb && echo discarded
        $run /tmp/t/blkdiscard -z -o 72M -l 4M /dev/vdb && echo zeroed
        $run /tmp/t/fio --name=v --filename=/dev/vdb --offset=16M --size=12M --rw=randwrite --bsrange=4k-128k --direct=1 \
                --ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1 --do_verify=1 --fsync=64 --minimal >/tmp/fio.log 2>&1 &&
                echo "fio verified" || cat /tmp/fio.log
fi
sync
'
# A guest writes to the disk DISK; afterwards $work/rw has to hold what it wrote. COMMAND, when given, brings it there.
three_disks() { # DISK [COMMAND...]
        local blocks
        blocks=$(stat -c %b "${1%%,*}")
        check "a guest with three disks ends well" guest "$script" --memory 768M --cpus 2 --disk "$work/ro,readonly=on,serial=lodge-ro" \
                --disk "$1,serial=lodge-rw" --disk "$work/tools.tar,readonly=on,serial=tools,cache=writethrough,logical_block_size=4K,physical_block_size=8K"
        [ $# = 1 ] || check "${*:2}" "${@:2}"
        check "serial numbers" said "serial vda lodge-ro"
        check "the second one too" said "serial vdb lodge-rw"
        check "block sizes and cache mode are as asked" said "shape 4096 8192 write through "
        check "capacity" said "sectors 196608"
        check "what the guest reads is the file" said "ro $(digest "$work/ro" 8M)"
        check "a read-only disk stays as it is" test "$(grep -c 'read-only disk was written' "$work/out")" = 0
        check "a copy from disk to disk" said copied
        check "the copy reads back the same" said "copy $(digest "$work/ro" 8M)"
        check "the copy is in the host's file" cmp -n 8388608 "$work/ro" "$work/rw"
        check "the write cache can be switched off" said "cache write through"
        check "and writes go through" cmp -n 1048576 "$work/ro" "$work/rw" 0 8388608
        if [ "$fio" = 1 ]; then
                check "discard" said discarded
                check "discard gives the host its space back" test "$(stat -c %b "${1%%,*}")" -lt "$((blocks + 8 * 2048 + 2048 + 24 * 2048))"
                check "write zeroes" said zeroed
                check "the zeroes are in the host's file" cmp -n 4194304 /dev/zero "$work/rw" 0 75497472
                check "what is behind them is untouched" cmp -n 4194304 "$work/noise" "$work/rw" 12582912 79691776
                check "fio writes and verifies" said "fio verified"
        else
                echo "# fio is not installed: not verified with it"
        fi
}
three_disks "$work/rw"

# The same on a qcow2 disk that stands on another one, through two queues.
qcow2() { qemu-img check -q "$work/top.qcow2" && qemu-img convert -O raw "$work/top.qcow2" "$work/rw"; }
truncate -s 0 "$work/rw" && truncate -s 96M "$work/rw"
dd if="$work/noise" of="$work/rw" bs=1M seek=64 conv=notrunc status=none
cp --sparse=always -- "$work/rw" "$work/base.raw"
if qemu-img create -q -f qcow2 -F raw -b "$work/base.raw" "$work/middle.qcow2" && qemu-img create -q -f qcow2 -F qcow2 -b "$work/middle.qcow2" "$work/top.qcow2"; then
        three_disks "$work/top.qcow2,format=qcow2,iothreads=2" qcow2
else
        echo "# qemu-img is not installed: no qcow2 disk"
fi

# I/O threads run where they were told to: as many CPUs as threads, each has its own. With one CPU, both have that.
sets() { # PID: the CPUs of its I/O threads, in their order
        local task name
        for task in $(printf '%s\n' /proc/"$1"/task/* | sort -V); do
                read -r name <"$task/comm" && [ "$name" = io ] && sed -n 's/^Cpus_allowed_list:\t//p' "$task/status"
        done 2>/dev/null | xargs
}
placed() { # CPUS WANT
        local pid vmm="" got="" end=$((SECONDS + 90))
        timeout 100 "$build/lodge" run tiny --engine native --net none --disk "$work/rw,iothreads=2,iothread_cpus=$1" --exec "sleep 600" \
                >"$work/out" 2>&1 </dev/null &
        pid=$!
        while [ "$got" != "$2" ] && [ $SECONDS -lt $end ] && kill -0 $pid 2>/dev/null; do
                sleep 0.1
                vmm=$(pgrep -P "$(pgrep -P "$pid" -d,)" lodge-vmm 2>/dev/null | tail -n 1) # pid is timeout's
                got=$(sets "${vmm:-none}")
        done
        kill $pid 2>/dev/null
        wait $pid 2>/dev/null
        echo "the I/O threads may use: $got"
        tail -n 5 "$work/out"
        [ "$got" = "$2" ]
}
refused() { # ID OPTION...: lodge run says that
        timeout 100 "$build/lodge" run tiny --net none --exec true "${@:2}" >"$work/out" 2>&1 </dev/null && return 1
        cat "$work/out"
        grep -qF "[$1]" "$work/out"
}
cpus=$(sed -n 's/^Cpus_allowed_list:\t//p' /proc/self/status)
first=${cpus%%[-,]*} last=${cpus##*[-,]}
if [ "$first" = "$last" ]; then cpus=$first; else cpus=$last+$first; fi
check "each I/O thread has the CPU that it was given" placed "$cpus" "$last $first"
check "CPUs that the host lacks are refused" refused disk-cpus --engine native --disk "$work/rw,iothreads=2,iothread_cpus=8190-8191"
check "QEMU says that it cannot" refused disk-cpus --engine qemu --disk "$work/rw,iothreads=2,iothread_cpus=$cpus"

# The host's disk is full: the machine waits, and goes on when there is space; the guest notices nothing.
mkdir "$work/small"
# shellcheck disable=SC2016
script='
tr "\\0" x </dev/zero | dd of=/dev/vda bs=64k count=128 iflag=fullblock conv=fsync 2>/dev/null && echo "all written"
echo "holds $(head -c 8388608 /dev/vda | sha256sum | cut -d" " -f1)"
'
if mount -t tmpfs -o size=4M small "$work/small" 2>/dev/null; then
        truncate -s 16M "$work/small/disk"
        : >"$work/err"
        {
                while ! grep -q "the machine waits" "$work/err"; do sleep 0.5; done
                mount -o remount,size=32M "$work/small"
        } &
        waiter=$!
        check "a guest whose disk is full on the host ends well" guest "$script" --memory 256M --disk "$work/small/disk"
        kill $waiter 2>/dev/null
        check "it wrote everything" said "all written"
        check "and it is all there" said "holds $(head -c 8388608 /dev/zero | tr '\0' x | sha256sum | cut -d' ' -f1)"
        check "we were told why it waited" grep -q "the host cannot write: No space left on device" "$work/err"
        umount "$work/small"
else
        echo "# no tmpfs can be mounted here: a full host disk was not tried"
fi

# A disk that qemu-storage-daemon serves, which is killed twice while the guest writes. The first time it has been stopped before, for longer
# than each of the guest's writers needs to come to its next write: it dies with requests that it has not done.
serve() {
        qemu-storage-daemon --blockdev "driver=file,node-name=f,filename=$work/served" \
                --export "type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=$work/blk.sock,writable=on" >>"$work/daemon" 2>&1 &
        daemon=$!
        until [ -S "$work/blk.sock" ] || ! kill -0 "$daemon"; do sleep 0.05; done
}
kill_daemon() {
        kill -KILL "$daemon"
        wait "$daemon" 2>/dev/null
        rm -f "$work/blk.sock"
}
await_more() { # BLOCKS: until more than that was written to the file
        until [ "$(stat -c %b "$work/served")" -gt "$1" ]; do sleep 0.02; done
}
served_by_mortals() { # in a shell of its own
        trap kill_daemon EXIT
        trap exit TERM
        serve
        await_more 0
        kill -STOP "$daemon" && sleep 2 && kill_daemon
        sleep 1
        serve
        await_more "$(stat -c %b "$work/served")"
        kill_daemon
        serve
        echo "killed twice" >>"$work/daemon"
        wait "$daemon"
}
# shellcheck disable=SC2016
script='
echo "sectors $(cat /sys/block/vda/size)"
seq 1000000 2048575 >/tmp/numbers
write() { dd if=/tmp/numbers of=/dev/vda bs=64k count=1 skip=$1 seek=$1 conv=fsync 2>/dev/null; }
for i in 0 1 2 3; do
        { k=$i; while [ $k -lt 128 ]; do write $k; k=$((k + 4)); done; } &
done
wait
echo 3 >/proc/sys/vm/drop_caches
echo "holds $(head -c 8388608 /dev/vda | sha256sum | cut -d" " -f1)"
'
if command -v qemu-storage-daemon >/dev/null; then
        numbers=$(seq 1000000 2048575 | sha256sum | cut -d' ' -f1)
        truncate -s 32M "$work/served"
        served_by_mortals &
        mortals=$!
        until [ -S "$work/blk.sock" ] || ! kill -0 "$mortals"; do sleep 0.05; done
        check "a guest whose disk is served by a daemon that dies ends well" guest "$script" --memory 256M --cpus 2 --disk "$work/blk.sock,type=vhost-user,serial=served"
        check "the daemon was killed twice while it wrote" grep -q "killed twice" "$work/daemon"
        check "the guest saw the disk's size" said "sectors 65536"
        check "it reads back what it wrote" said "holds $numbers"
        check "and so does the daemon's file" test "$(digest "$work/served" 8M)" = "$numbers"
        check "we were told that it was gone" grep -q "nobody serves disk 0 (blk.sock): the guest waits for it" "$work/err"
        check "and that it came back" grep -q "disk 0 (blk.sock) has a back end again" "$work/err"
        check "QEMU's guest uses it too" timeout 200 "$build/lodge" run tiny --engine qemu --net none --disk "$work/blk.sock,type=vhost-user" \
                --exec "echo and QEMU | dd of=/dev/vda bs=512 seek=16384 conv=fsync,sync"
        check "and what it writes is in the file" test "$(tail -c +8388609 "$work/served" | head -n 1)" = "and QEMU"
        kill "$mortals"
        wait "$mortals" 2>/dev/null
        "$build/lodge" run tiny --net none --disk "$work/blk.sock,type=vhost-user" >"$work/err" 2>&1 </dev/null
        check "without a daemon there is an error with a name" grep -q "disk-backend" "$work/err"
else
        echo "# qemu-storage-daemon is not installed: no disk that another process serves"
fi

disks=() nets=() want=()
for i in $(seq 0 15); do
        printf 'disk %02d\n' "$i" >"$work/d$i"
        truncate -s 1M "$work/d$i"
        disks+=(--disk "$work/d$i,serial=serial-$i$([ "$i" != 15 ] || echo ,throttle.iops_write=2)")
        want+=("vd$(printf '%b' "\\x$(printf %x $((97 + i)))") serial-$i $(printf 'disk %02d' "$i")")
done
for i in $(seq 0 7); do
        ip tuntap add "lodget$i" mode tap 2>/dev/null && taps+=("lodget$i")
        nets+=(--net "tap=lodget$i,mac=52:54:00:00:07:0$i")
done
# shellcheck disable=SC2016
script='
for d in /sys/block/vd*; do echo "${d##*/} $(cat $d/serial) $(head -n 1 /dev/${d##*/})"; done
for n in /sys/class/net/eth*; do echo "mac $(cat $n/address)"; done
i=0; start=$(cut -d. -f1 /proc/uptime)
while [ $i -lt 16 ]; do dd if=/dev/zero of=/dev/vdp bs=4k count=1 seek=$i conv=notrunc,fsync 2>/dev/null; i=$((i + 1)); done
echo "took $(($(cut -d. -f1 /proc/uptime) - start))"
'
if [ ${#taps[@]} = 8 ]; then
        many() {
                timeout 200 "$build/lodge" run tiny --engine native --exec "$script" "${disks[@]}" "${nets[@]}" >"$work/out" 2>"$work/err" </dev/null ||
                        { cat "$work/err"; return 1; }
        }
        check "16 disks and 8 network interfaces" many
        check "16 disks" test "$(grep -c '^vd' "$work/out")" = 16
        for i in "${!want[@]}"; do said "${want[i]}" || break; done >"$work/first" 2>&1
        check "each is the one that was asked for" test ! -s "$work/first"
        # two or three may go at once, the others wait half a second each; and whole seconds are counted
        check "16 writes at two per second take their time" test "$(sed -n 's/^took //p' "$work/out")" -ge 5
        check "8 interfaces with their addresses" test "$(grep -c '^mac 52:54:00:00:07:0[0-7]$' "$work/out")" = 8
else
        echo "# no tap devices here: 8 interfaces not tried"
fi
tap_end
