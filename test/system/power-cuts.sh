#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: lab
# seconds: 400
#
# power-cuts.sh: what a guest has fsync'd is there after its VMM was killed, on every format and file system
#
# usage: power-cuts.sh [CUTS [FORMAT...]]     (default 3 raw qcow2; by hand: lab/lodge-lab run --timeout 7200 -- test/system/power-cuts.sh 200)
#
# One guest has a disk for each format and file system (ext4, xfs), and writes to all at once: files of known content, each fsync'd and then
# named on the console, with older ones deleted (and discarded) and unsynced noise beside them. At a random moment lodge-vmm is killed (-9).
# Then each qcow2 image must be free of corruption (leaks are allowed), and the next guest, which replays the journals by mounting, must
# find every file that was named, byte for byte. At the end the file systems are unmounted and the host's fsck looks at them.
#
# A kill of the process loses what the VMM holds in memory, not the host's page cache: what the host loses is simulated in the block tests.

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
export PATH="$PATH:/usr/sbin:/sbin"
cuts=${1:-3}
shift $(($# > 0 ? 1 : 0))
formats=("$@")
[ $# -gt 0 ] || formats=(raw qcow2)
RANDOM=${LODGE_SEED:-$$}
seed=${LODGE_SEED:-$$}
work=$(mktemp -d "${TMPDIR:-/tmp}/power-cuts.XXXXXX") || exit 1
lodge_pid=""
cleanup() {
        [ -z "$lodge_pid" ] || kill "$lodge_pid" 2>/dev/null
        rm -rf -- "$work"
}
trap cleanup EXIT
count=0 failed=0

result() { # NAME STATUS [REASON]
        count=$((count + 1))
        if [ "$2" = 0 ]; then
                echo "ok $count - $1"
        else
                echo "not ok $count - $1"
                echo "# seed $seed: ${3:-}"
                failed=$((failed + 1))
        fi
}

names=() files=() kinds=() disks=()
declare -A last=()

# make_disk FORMAT FS: an image with an empty file system, the next disk of the guest (vda is the tools)
make_disk() {
        local format=$1 fs=$2 file=$work/$1-$2 name
        name=vd$(printf '%b' "\\x$(printf %x $((98 + ${#names[@]})))")
        truncate -s 320M "$file.raw"
        "mkfs.$fs" -q "$file.raw" >"$work/mkfs" 2>&1 || { sed 's/^/# /' "$work/mkfs"; return 1; }
        if [ "$format" = raw ]; then
                mv -- "$file.raw" "$file"
        else
                qemu-img convert -O "$format" "$file.raw" "$file" && rm -f -- "$file.raw" || return
        fi
        names+=("$name") files+=("$file") kinds+=("$format $fs")
        disks+=(--disk "$file,format=$format,iothreads=$((${#names[@]} % 3))")
        last[$name]=0
}

# The modules that the tiny image's kernel lacks, as a tar archive on a disk.
make_tools() {
        local modules
        mkdir "$work/tools"
        if modules=$("$top/lab/lodge-lab" modules cloud 2>/dev/null); then
                cp -- "$modules/kernel/lib/libcrc32c.ko" "$modules/kernel/fs/xfs/xfs.ko" "$work/tools/" 2>/dev/null
        fi
        tar -C "$work/tools" -cf "$work/tools.tar" .
        truncate -s %4096 "$work/tools.tar"
}

# shellcheck disable=SC2016 # the guest expands it
guest_script='
say() { echo "$*"; } # one write to the pipe to the console: lines stay whole
content() { yes "$1 $2" | head -c $(($2 * 7919 % 97 * 1031 + 1)); }
verify() { # DEVICE LAST
        i=$(($2 > 18 ? $2 - 18 : 1))
        while [ $i -le $2 ]; do
                content $1 $i | cmp - /m/$1/f$i >/dev/null 2>&1 || say "BAD $1 file $i"
                i=$((i + 1))
        done
        say "VERIFIED $1"
}
noise() { # DEVICE
        n=$2
        while :; do
                n=$(((n * 1103 + 12345) % 8192))
                dd if=/dev/urandom of=/m/$1/noise bs=16k count=1 seek=$n conv=notrunc 2>/dev/null
        done
}
work() { # DEVICE FS LAST
        mkdir -p /m/$1
        mount -t $2 -o discard /dev/$1 /m/$1 || { say "BAD $1 mount"; return; }
        verify $1 $3
        if [ "$mode" = last ]; then umount /m/$1 && say "UNMOUNTED $1"; return; fi
        noise $1 $3 &
        n=$3
        while :; do
                n=$((n + 1))
                rm -f /m/$1/f$((n - 20))
                content $1 $n | dd of=/m/$1/f$n bs=64k conv=fsync 2>/dev/null && say "SYNCED $1 $n" || { say "BAD $1 write $n"; return; }
        done
}
say | cat >/dev/console # whatever stands on the line
mkdir -p /t && tar -xf /dev/vda -C /t 2>/dev/null
insmod /t/libcrc32c.ko 2>/dev/null
insmod /t/xfs.ko 2>/dev/null
{ for w in $list; do work $(echo $w | tr : " ") & done; wait; } | cat >/dev/console
sleep 1 # the console empties slowly, and what is in it dies with the machine
'

# start MODE: a guest that works on all disks; its console goes to $work/console
start() {
        local i list=""
        for i in "${!names[@]}"; do list+="${names[i]}:${kinds[i]#* }:${last[${names[i]}]} "; done
        "$build/lodge" run tiny --engine native --net none --memory 512M --cpus 2 --console --exec "mode=$1 list='$list'
$guest_script" --disk "$work/tools.tar,readonly=on" "${disks[@]}" >"$work/out" 2>"$work/console" </dev/null &
        lodge_pid=$!
}

lines() { tr -d '\r' <"$work/console" | grep -a "$@"; }

# wait_for PATTERN COUNT SECONDS: until so many lines match, or lodge has ended
wait_for() {
        local end=$((SECONDS + $3))
        while ((SECONDS < end)); do
                (($(lines -cE "$1") < $2)) || return 0
                kill -0 "$lodge_pid" 2>/dev/null || return 1
                sleep 0.2
        done
        return 1
}

# one_cut N: run, kill at a random moment, look at the images
one_cut() {
        local vmm i name number bad="" reason=""
        start write
        if ! wait_for '^SYNCED' "${#names[@]}" 90; then
                result "cut $1: the guest writes" 1 "$(tail -n 3 "$work/console" | tr '\n' ' ')"
                kill "$lodge_pid" 2>/dev/null
                wait "$lodge_pid" 2>/dev/null
                return 1
        fi
        sleep "$((RANDOM % 5)).$((RANDOM % 10))"
        vmm=$(pgrep -P "$lodge_pid" lodge-vmm | head -n 1)
        [ -n "$vmm" ] && kill -9 "$vmm"
        wait "$lodge_pid" 2>/dev/null
        lodge_pid=""
        while read -r _ name number; do
                [[ $number =~ ^[0-9]+$ ]] && [ -n "${last[$name]:-}" ] && ((number > last[$name])) && last[$name]=$number
        done < <(lines '^SYNCED ')
        bad=$(lines '^BAD ' | head -n 3 | tr '\n' ' ')
        result "cut $1: every file that was fsync'd before is intact" "$([ -z "$bad" ] && [ -n "$vmm" ]; echo $?)" "$bad"
        for i in "${!names[@]}"; do
                [[ ${kinds[i]} == raw* ]] && continue
                qemu-img check "${files[i]}" >"$work/check" 2>&1
                number=$?
                ((number == 0 || number == 3)) || reason+="${kinds[i]}: $(tail -n 4 "$work/check" | tr '\n' ' ')"
        done
        result "cut $1: no image is corrupt" "$([ -z "$reason" ]; echo $?)" "$reason"
}

last_look() {
        local i bad fs
        start last
        wait_for 'UNMOUNTED' "${#names[@]}" 120
        wait "$lodge_pid"
        lodge_pid=""
        bad=$(lines '^BAD ' | head -n 3 | tr '\n' ' ')
        result "after the last cut every fsync'd file is intact" "$([ -z "$bad" ] && (($(lines -c 'VERIFIED vd') == ${#names[@]})); echo $?)" \
                "$bad$(lines -aE 'VERI|UNM' | cat -A | tr '\n' ' ')"
        for i in "${!names[@]}"; do
                fs=${kinds[i]#* }
                [[ ${kinds[i]} == raw* ]] || { qemu-img convert -O raw "${files[i]}" "${files[i]}.raw" && mv -- "${files[i]}.raw" "${files[i]}"; }
                if [ "$fs" = ext4 ]; then e2fsck -fn "${files[i]}"; else xfs_repair -n "${files[i]}"; fi >"$work/fsck" 2>&1
                result "fsck of ${kinds[i]} after $cuts cuts, ${last[${names[i]}]} files" $? "$(tail -n 3 "$work/fsck" | tr '\n' ' ')"
        done
}

serves() { # FORMAT: does lodge run take such a disk?
        [ "$1" = raw ] && return
        qemu-img create -q -f "$1" "$work/probe" 1M || return
        # As raw it would be larger: the guest has to see what the image says.
        [ "$(timeout 60 "$build/lodge" run tiny --engine native --net none --disk "$work/probe,format=$1" \
                --exec 'cat /sys/block/vda/size' 2>/dev/null </dev/null)" = 2048 ]
}

make_tools
for format in "${formats[@]}"; do
        if ! serves "$format"; then
                count=$((count + 1))
                echo "ok $count - $format disks # SKIP lodge-vmm does not serve $format yet"
                continue
        fi
        for fs in ext4 xfs; do
                if ! command -v "mkfs.$fs" >/dev/null || { [ "$fs" = xfs ] && [ ! -e "$work/tools/xfs.ko" ]; }; then
                        count=$((count + 1))
                        echo "ok $count - $fs on $format # SKIP no mkfs.$fs or no module for it"
                        continue
                fi
                make_disk "$format" "$fs" || result "make $fs on $format" 1 "see above"
        done
done
for ((cut = 1; cut <= cuts && failed == 0; cut++)); do one_cut "$cut"; done
last_look
echo "1..$count"
[ "$failed" = 0 ]
