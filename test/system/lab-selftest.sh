#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 600
#
# lab-selftest.sh: the lab keeps its promises
#
# Every other system test trusts lodge-lab with its status, its streams and its time limit: were one of these wrong, a failing test would
# pass unnoticed. So they are proven here, in four short labs. TAP on stdout.

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
lab=$top/lab/lodge-lab
count=0 failed=0

check() { # NAME CONDITION...
        local name=$1
        shift
        count=$((count + 1))
        if "$@"; then
                echo "ok $count - $name"
        else
                echo "not ok $count - $name"
                echo "# false: $*"
                failed=$((failed + 1))
        fi
}

has() { grep -aqE -- "$1" "$2"; }
gone() { ! pgrep -f -- "$1" >/dev/null; }
empty() { [ -z "$(ls -A -- "$1")" ]; }

if [ "${LODGE_IN_LAB:-0}" = 1 ]; then
        echo "1..0 # SKIP already in a lab"
        exit 0
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/lab-selftest.XXXXXX") || exit 1
trap 'rm -rf -- "$work"' EXIT
mkdir "$work/tmp" "$work/share"
export TMPDIR=$work/tmp # what lodge-lab leaves behind shows up here
kernel=$("$lab" kernel cloud) || { echo "Bail out! no kernel"; exit 1; }
cd "$top" || exit 1

# What breaks without it: a stream that is translated, cut or mixed; a status that is lost; arguments split by a shell in between.
head -c 1000000 /dev/urandom >"$work/share/random"
# shellcheck disable=SC2016 # expanded in the lab
LODGE_MARK='a "b' "$lab" run --output "$work/share" --timeout 120 -- bash -c 'cat "$1/random"; sha256sum "$1/random" >"$1/sum"
        printf "%s|%s|%s|%s\n" "$LODGE_MARK" "$LODGE_IN_LAB" "$PWD" "$2" >&2; date +%s >"$1/date"; exit 7' _ "$work/share" "two  words" \
        >"$work/out" 2>"$work/err"
check "the command's status comes back" [ $? = 7 ]
check "a megabyte of any bytes comes through stdout unharmed" cmp -s "$work/out" "$work/share/random"
check "the lab reads the shared directory right" [ "$(cut -d' ' -f1 "$work/share/sum")" = "$(sha256sum <"$work/out" | cut -d' ' -f1)" ]
check "stderr, environment, directory and arguments are exact" [ "$(cat "$work/err")" = "a \"b|1|$top|two  words" ]
check "the lab's clock is right" [ $(($(date +%s) - $(cat "$work/share/date"))) -lt 60 ]

# What breaks without it: tests of VFIO and of KVM that never met either. A stock kernel has to reach its end under /dev/kvm.
truncate -s 16M "$work/disk"
# shellcheck disable=SC2016 # expanded in the lab
"$lab" run --iommu --nic --nvme "$work/disk" --output "$work/share" --timeout 240 -- bash -c '
        ls /sys/kernel/iommu_groups | wc -l >"$1/groups"
        nvme=$(lspci -Dn 2>/dev/null | awk "/ 0108: /{print \$1}")
        [ -n "$nvme" ] || for d in /sys/bus/pci/devices/*; do [ "$(cat "$d/class")" != 0x010802 ] || nvme=${d##*/}; done
        modprobe vfio-pci
        echo vfio-pci >"/sys/bus/pci/devices/$nvme/driver_override"
        echo "$nvme" >"/sys/bus/pci/devices/$nvme/driver/unbind"
        echo "$nvme" >/sys/bus/pci/drivers_probe
        readlink "/sys/bus/pci/devices/$nvme/driver" >"$1/driver"
        ls /dev/vfio >"$1/vfio"
        ip -o link >"$1/links"
        timeout 120 qemu-system-x86_64 -accel kvm -cpu host -nodefaults -display none -no-reboot -m 256 -kernel "$2" \
                -append "console=ttyS0 panic=-1 mitigations=off" -serial stdio >"$1/guest" 2>&1
        exit 0' _ "$work/share" "$kernel" >"$work/out" 2>"$work/err"
check "a lab with all its devices ends well" [ $? = 0 ]
check "--iommu fills the IOMMU groups" [ "$(cat "$work/share/groups")" -ge 5 ]
check "the NVMe disk binds to vfio-pci" has '/vfio-pci$' "$work/share/driver"
check "its group has a device node" has '^[0-9]+$' "$work/share/vfio"
check "--nic brings a network card" has 'eth0' "$work/share/links"
check "a stock kernel finds KVM under /dev/kvm" has 'Hypervisor detected: KVM' "$work/share/guest"
check "and reaches its end there" has 'Unable to mount root fs' "$work/share/guest"

# What breaks without it: a hung test stops everything, or ends without a word on where.
"$lab" run --timeout 20 -- bash -c 'echo so far; sleep 1000' >"$work/out" 2>"$work/err"
check "the time limit ends a hung lab with 124" [ $? = 124 ]
check "what it printed before is there" has '^so far$' "$work/out"
check "it says where it hung" has 'the command was running|command started' "$work/err"
check "it names the logs that it kept" has "logs kept in $work/tmp" "$work/err"
rm -rf -- "$work"/tmp/*

# What breaks without it: stopped test runs litter the machine with emulators.
"$lab" run --timeout 120 -- bash -c 'echo up; sleep 1000' >"$work/out" 2>"$work/err" &
pid=$!
for _ in $(seq 300); do
        has '^up$' "$work/out" && break
        sleep 0.2
done
kill -TERM $pid
wait $pid
check "SIGTERM ends the lab with 143" [ $? = 143 ]
check "it leaves no process" gone "$work/tmp"
check "it leaves no file" empty "$work/tmp"

# What breaks without it: the outer emulator's own fault looks like ours, and costs a whole test run.
mkdir "$work/bin"
cat >"$work/bin/qemu-system-x86_64" <<'STUB'
#!/bin/sh
echo start >>"$STARTS"
echo 'ERROR:tcg-accel-ops.c:83:tcg_handle_interrupt: assertion failed: (qemu_mutex_iothread_locked())' >&2
kill -ABRT $$
STUB
chmod +x "$work/bin/qemu-system-x86_64"
STARTS=$work/starts PATH=$work/bin:$PATH "$lab" run -- true >"$work/out" 2>"$work/err"
check "QEMU's own abort is the lab's fault: 125" [ $? = 125 ]
check "it is called by its name" has 'tcg_handle_interrupt, a known fault of its own' "$work/err"
check "the lab was started once more, no oftener" [ "$(grep -c start "$work/starts")" = 2 ]
rm -rf -- "$work"/tmp/*

# What breaks without it: a wrong call that looks like a failed test.
"$lab" run --cpus 0 -- true 2>"$work/err"
check "a value out of range is an error of usage" [ $? = 64 ]
check "that names the option and the range" has '--cpus.* 1 .* 64' "$work/err"

echo "1..$count"
[ $failed = 0 ]
