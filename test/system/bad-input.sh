#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: both
# seconds: 360
#
# bad-input.sh: what people and the world do wrong to `lodge run`, and that nothing is left behind
#
# Each mistake must end with its error id, a fix, and the right exit status; each violent end (signals, kill -9, a terminal that goes away,
# a full disk) must leave no process, lock, or file. Our processes are known by a variable in their environment, our files by lying in
# directories of our own. The machine that lives long enough to be killed is test/guest/power: it waits for the power button.

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
lodge=$build/lodge
guest=$build/test/guest/power.elf
work=$(mktemp -d "${TMPDIR:-/tmp}/bad-input.XXXXXX") || exit 1
export LODGE_BAD_INPUT=$$ TMPDIR=$work/tmp XDG_CACHE_HOME=$work/cache XDG_DATA_HOME=$work/data XDG_RUNTIME_DIR=$work/run
mkdir "$TMPDIR" "$XDG_CACHE_HOME" "$XDG_DATA_HOME" "$XDG_RUNTIME_DIR"
trap 'stop_all; rm -rf -- "$work"' EXIT
count=0 failed=0

result() { # STATUS NAME
        count=$((count + 1))
        if [ "$1" = 0 ]; then
                echo "ok $count - $2"
        else
                failed=$((failed + 1))
                echo "not ok $count - $2"
                tail -12 "$work/err" 2>/dev/null | sed 's/^/# err: /'
        fi
}

# Pids of lodge, its VMM and passt that carry our mark.
ours() {
        local dir comm
        for dir in /proc/[0-9]*; do
                read -r comm <"$dir/comm" || continue
                case $comm in
                lodge | lodge-vmm | lodge-qemu | qemu-* | passt*) ;;
                *) continue ;;
                esac
                grep -aqz "^LODGE_BAD_INPUT=$LODGE_BAD_INPUT$" "$dir/environ" 2>/dev/null && echo "${dir#/proc/}"
        done 2>/dev/null
}

stop_all() {
        local pids
        mapfile -t pids < <(ours)
        [ ${#pids[@]} = 0 ] || kill -9 "${pids[@]}" 2>/dev/null
}

# Nothing may be left: processes get three seconds to be gone, files none.
nothing_left() {
        for _ in {1..30}; do
                [ -z "$(ours)" ] && break
                sleep 0.1
        done
        [ -z "$(ours)" ] && [ -z "$(find "$TMPDIR" "$XDG_RUNTIME_DIR" -mindepth 1)" ] &&
                [ -z "$(find "$XDG_DATA_HOME" "$XDG_CACHE_HOME" -name 'run-*' -o -name '.tmp*')" ] && return 0
        echo "# left: $(ours | xargs) $(find "$TMPDIR" "$XDG_RUNTIME_DIR" "$XDG_DATA_HOME" -mindepth 1 | head -5 | xargs)"
        return 1
}

# refuse STATUS ID NAME ARG...: lodge run ARG... is refused with that error id, a fix, and that exit status
refuse() {
        local want=$1 id=$2 name=$3 got
        shift 3
        timeout 30 "$lodge" run "$@" </dev/null >"$work/out" 2>"$work/err"
        got=$?
        [ "$got" = "$want" ] && grep -qF "[$id]" "$work/err" && grep -q '^  fix: .' "$work/err"
        local fine=$?
        [ $fine = 0 ] || echo "# status $got, wanted $want with [$id] and a fix"
        [ $fine = 0 ] && nothing_left
        result $? "$name: $id"
}

# start NAME ARG...: a machine in the background; its pid in $pid. Waits until its guest runs.
start() {
        local name=$1
        shift
        "$lodge" run --name "$name" --kernel "$guest" --append button --memory 64M --net none "$@" </dev/null >"$work/$name.out" 2>"$work/err" &
        pid=$!
        for _ in {1..100}; do
                grep -aq ready "$work/$name.out" && return 0
                kill -0 $pid 2>/dev/null || break
                sleep 0.1
        done
        result 1 "machine $name starts"
        return 1
}

# finish WANTED NAME: $pid ends within ten seconds with that status, and nothing is left
finish() {
        local got
        for _ in {1..100}; do
                kill -0 $pid 2>/dev/null || break
                sleep 0.1
        done
        kill -0 $pid 2>/dev/null && echo "# it did not end" && kill -9 $pid
        wait $pid
        got=$?
        [ "$got" = "$1" ] || echo "# status $got, wanted $1"
        [ "$got" = "$1" ] && nothing_left
        result $? "$2"
}

if [ ! -x "$lodge" ] || [ ! -e "$guest" ]; then
        echo "Bail out! not built: ninja -C $build"
        exit 1
fi

# ---- files ----------------------------------------------------------------------------------------------------------

head -c 100000 /dev/zero >"$work/zeros"
: >"$work/empty"
head -c 1000 "$guest" >"$work/short.elf"
truncate -s 1M "$work/disk" "$work/second"
truncate -s 1000 "$work/odd"
run=(--kernel "$guest" --memory 64M --net none)

refuse 1 schema-required "nothing to boot" --net none
refuse 2 kernel-open "missing kernel" --kernel "$work/no" --net none
refuse 1 kernel-format "a file that is no kernel" --kernel "$work/zeros" --net none
refuse 1 kernel-open "an empty kernel" --kernel "$work/empty" --net none
refuse 1 kernel-open "a directory as kernel" --kernel "$work" --net none
refuse 2 initrd-open "missing initrd" "${run[@]}" --initrd "$work/no"
refuse 2 image-not-found "unknown image" no-such-image --net none
refuse 2 disk-open "missing disk" "${run[@]}" --disk "$work/no"
refuse 1 disk-size "a size that is no multiple of a sector" "${run[@]}" --disk "$work/odd"
refuse 1 disk-size "an empty disk" "${run[@]}" --disk "$work/empty"
refuse 1 disk-type "a directory as disk" "${run[@]}" --disk "$work,readonly=on"
refuse 1 disk-format "a raw file said to be qcow2" "${run[@]}" --disk "$work/disk,format=qcow2"
if command -v qemu-img >/dev/null; then
        qemu-img create -q -f qcow2 -u -F raw -b /dev/zero "$work/hostile.qcow2" 1M
        refuse 1 disk-type "an image that names a device of another kind below it" "${run[@]}" --disk "$work/hostile.qcow2,format=qcow2"
fi
kernel=$(find "${HOME:-/root}/.cache/lodge/lab" /boot -name 'vmlinuz*' -type f -size +1M 2>/dev/null | head -1)
if [ -n "$kernel" ]; then
        head -c 3000000 "$kernel" >"$work/truncated"
        refuse 2 kernel-unpack "a truncated kernel" --kernel "$work/truncated" --net none
else
        count=$((count + 1))
        echo "ok $count - a truncated kernel # SKIP no kernel is there to truncate"
fi

# ---- sizes, interfaces, engines -------------------------------------------------------------------------------------

refuse 1 schema-range "too many CPUs" "${run[@]}" --cpus 255
refuse 2 memory-host "more memory than the host has" --kernel "$guest" --net none --memory 4T
refuse 1 schema-range "more memory than there can be" --kernel "$guest" --net none --memory 5T
refuse 2 net-unknown "unknown interface" --kernel "$guest" --memory 64M --net tap=lodge-no-such
refuse 1 option-unknown "unknown option" "${run[@]}" --bogus
env PATH=/nonexistent "$lodge" run "${run[@]}" --engine qemu </dev/null >"$work/out" 2>"$work/err"
[ $? = 2 ] && grep -qF '[engine-qemu]' "$work/err" && grep -q '^  fix: ' "$work/err"
result $? "QEMU is not installed: engine-qemu"
if [ -e /dev/kvm ] && [ "$(id -u)" = 0 ]; then
        chmod o-rwx /dev/kvm
        chmod 755 "$work"
        as_nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups env XDG_CACHE_HOME=/nonexistent)
        "${as_nobody[@]}" "$lodge" run "${run[@]}" --engine native </dev/null >"$work/out" 2>"$work/err"
        [ $? = 2 ] && grep -qF '[engine-native]' "$work/err" && grep -q 'forbidden' "$work/err" && grep -q 'fix: .*kvm' "$work/err"
        result $? "no permission on /dev/kvm: engine-native, with the cure"
        "${as_nobody[@]}" "$lodge" host probe | grep -q 'KVM: *forbidden'
        result $? "no permission on /dev/kvm: the probe says forbidden"
        chmod o-rwx,g+rw /dev/kvm
elif [ ! -e /dev/kvm ]; then
        refuse 2 engine-native "no /dev/kvm" "${run[@]}" --engine native
fi

# ---- a disk in use --------------------------------------------------------------------------------------------------

if start first --disk "$work/disk" --disk "$work/second,readonly=on"; then
        holder=$pid
        timeout 20 "$lodge" run "${run[@]}" --disk "$work/disk" </dev/null >"$work/out" 2>"$work/err"
        got=$?
        [ $got = 4 ] && grep -qF '[disk-busy]' "$work/err" && grep -qE 'machine first \(.*, pid [0-9]+\)' "$work/err"
        result $? "a disk in use: disk-busy names the machine and the process"
        timeout 20 "$lodge" run "${run[@]}" --disk "$work/second" </dev/null >"$work/out" 2>"$work/err"
        [ $? = 4 ]
        result $? "a disk that others read is not written"
        start second --disk "$work/second,readonly=on" && kill -TERM $pid && wait $pid
        [ $? = 143 ]
        result $? "two machines read one disk"
        pid=$holder
        kill -TERM $pid
        finish 143 "SIGTERM"
fi

# ---- violent ends ---------------------------------------------------------------------------------------------------

start interrupted --net user && kill -INT $pid && finish 130 "SIGINT"
# a hangup presses the power button, which this guest obeys
start hangup && kill -HUP $pid && finish 129 "SIGHUP"

if start killed --disk "$work/disk" --net user; then
        { kill -9 $pid && finish 137 "kill -9 of lodge"; } 2>/dev/null
        start again --disk "$work/disk" && kill -TERM $pid && finish 143 "after kill -9 the disk is free"
fi

if start orphan; then
        vmm=$(ours | grep -vx $pid | head -1)
        kill -9 "$vmm"
        finish 2 "kill -9 of the VMM"
        grep -qF '[vmm-failed]' "$work/err"
        result $? "kill -9 of the VMM: vmm-failed"
fi

# A terminal that goes away: the other end of a pseudoterminal is closed while the machine runs.
cat >"$work/terminal.py" <<'PY'
import os, pty, select, sys, time
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen, end = b"", time.time() + 20
while b"ready" not in seen and time.time() < end:
    if select.select([fd], [], [], 0.5)[0]:
        seen += os.read(fd, 4096)
os.close(fd)
end = time.time() + 20
while time.time() < end:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        sys.exit(os.waitstatus_to_exitcode(status) % 256)
    time.sleep(0.05)
sys.exit(99)
PY
python3 "$work/terminal.py" "$lodge" run "${run[@]}" --append button 2>"$work/err"
[ $? = 129 ] && nothing_left
result $? "a terminal that goes away"

"$lodge" run "${run[@]}" --append button </dev/null 2>"$work/err" | head -c 1 >/dev/null
nothing_left
result $? "a reader of stdout that goes away"

# ---- a full disk ----------------------------------------------------------------------------------------------------

cat >"$work/full.sh" <<'SH'
mount -t tmpfs -o size=12M lodge-full "$1" && mkdir "$1/data" "$1/cache" || exit 90
export XDG_DATA_HOME=$1/data XDG_CACHE_HOME=$1/cache
head -c 8M /dev/urandom >"$1/../big"
"$2" image import "$1/../big" --name big --disk-format raw >/dev/null || exit 91
head -c 64M /dev/zero >"$1/fill" 2>/dev/null
TMPDIR=$1 timeout 60 "$2" run big --kernel "$3" --memory 64M --net none </dev/null
status=$?
rm "$1/../big"
[ -z "$(find "$1" -name 'run-*' -o -name '.tmp-*')" ] || exit 92
exit $status
SH
if [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
        mkdir "$work/full"
        unshare -m bash "$work/full.sh" "$work/full" "$lodge" "$guest" >"$work/out" 2>"$work/err"
        got=$?
        echo "# full disk: status $got: $(head -1 "$work/err")"
        [ $got = 2 ] && grep -q 'No space left' "$work/err" && nothing_left
        result $? "a full disk: nothing is left"
else
        count=$((count + 1))
        echo "ok $count - a full disk # SKIP needs root and a mount namespace"
fi

echo "1..$count"
[ $failed = 0 ]
