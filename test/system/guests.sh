#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: lab
# seconds: 400
#
# guests.sh: every freestanding test guest of test/guest under lodge-vmm, with real KVM
#
# usage: guests.sh [NAME]...   only the runs whose name begins so
#
# Each guest speaks TAP on its serial port; its results are taken over under the run's name, and one more says that the
# machine ended as it should have: that a guest's plan was kept, and lodge-vmm's exit status.

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/guests.XXXXXX") || exit 1
trap 'rm -rf -- "$work"' EXIT
only=("$@")
count=0 failed=0

result() { # "" or "not", NAME
        count=$((count + 1))
        [ -z "$1" ] || failed=$((failed + 1))
        echo "${1:+$1 }ok $count - $2"
}

wanted() { # NAME
        local prefix
        [ ${#only[@]} = 0 ] && return 0
        for prefix in "${only[@]}"; do
                [[ $1 == "$prefix"* ]] && return 0
        done
        return 1
}

# run NAME GUEST STATUS TESTS ARG...: TESTS is how many results the guest reports (a reset starts its count again)
run() {
        local name=$1 guest=$2 status=$3 tests=$4 line got
        shift 4
        wanted "$name" || return 0
        "$top/test/system/vmm-run" --vmm "$build/lodge-vmm" --timeout 40 "$@" "$build/test/guest/$guest.elf" \
                >"$work/out" 2>"$work/err" </dev/null
        got=$?
        while IFS= read -r line; do
                case $line in
                "ok "*) result "" "$name: ${line#* - }" ;;
                "not ok "*) result not "$name: ${line#* - }" ;;
                "#"* | "Bail out!"*) echo "# $line" ;;
                esac
        done <"$work/out"
        line=$(grep -acE '^(not )?ok ' "$work/out")
        if [ "$got" = "$status" ] && [ "$line" = "$tests" ]; then
                result "" "$name: ended as it should"
        else
                result not "$name: ended as it should"
                echo "# status $got, wanted $status; $line results, wanted $tests"
                sed 's/^/# /' "$work/err" | tail -20
                tail -5 "$work/out" | sed 's/^/# out: /'
        fi
}

# the debug exit makes a status of (value << 1) | 1: a guest without failures ends with 1
run hello hello 171 6 --append "value=85"
run hello-4M hello 1 6 --append "value=1" --memory 4
run io io 1 21 --append x
run pci pci 1 24 --append x
run virtio-bad virtio-bad 1 41 --append strict
run pit pit 1 4 --append x
run smp-1 smp 1 3 --append x
run smp-4 smp 1 4 --append x --cpus 4
run smp-odd smp 1 4 --append x --cpus 12 --topology 2,3,2
for how in triple cf9 i8042 acpi port92; do
        run "reset-$how" reset 1 6 --append "how=$how" # three results before the reset, three behind it
done
run power power 0 2 --append off
run power-button power 0 6 --append button --on "ready=system_powerdown"

echo "1..$count"
[ $failed = 0 ]
