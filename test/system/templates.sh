#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 300
#
# templates.sh: templates, and what they ask for that only QEMU has: a real UEFI starts a real kernel from a disk, with a TPM 2.0, and remembers
#
# usage: templates.sh
#
# The disk is the image tiny's kernel and initrd on a FAT file system, with a script for UEFI's own shell, which also reads and writes a variable. Without this test
# a template could promise what no machine gets, and a machine could forget its boot entries and keys, or share them with another one.

set -uo pipefail

if [ "$(id -u)" = 0 ] && [ "${LODGE_TEST_NETNS:-}" != 1 ]; then
        exec env LODGE_TEST_NETNS=1 unshare --net -- "$0" "$@"
fi
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/templates.XXXXXX") || exit 1
tiny=${XDG_DATA_HOME:-$HOME/.local/share}/lodge/images/tiny
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
# shellcheck source=test/system/daemon.bash
. "$top/test/system/daemon.bash"
needs curl mformat mcopy pgrep python3 swtpm qemu-system-x86_64
if [ ! -d "$tiny" ] || [ ! -f /usr/share/OVMF/OVMF_CODE_4M.fd ]; then
        echo "1..0 # SKIP the image tiny is not built, or ovmf is not installed"
        exit 0
fi
[ "$(id -u)" != 0 ] || ip link set lo up
export LODGE_SOCKET=$work/run/lodged.sock
guid=11111111-2222-3333-4444-555555555555
devices=$work/state/devices

lodge() { timeout 150 "$build/lodge" "$@" </dev/null; }

# run STATUS WORD...: lodge WORD... ends with STATUS; its output is in $work/out and $work/err
run() {
        local want=$1 status
        shift
        lodge "$@" >"$work/out" 2>"$work/err"
        status=$?
        cat "$work/out" "$work/err"
        [ "$status" = "$want" ] && return
        echo "lodge $*: status $status, not $want"
        return 1
}

api() { curl -sS --unix-socket "$LODGE_SOCKET" "$@"; }

# The value of a machine's field, as JSON.
field() { # MACHINE FIELD
        lodge info "$1" --format json | python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["config"].get(sys.argv[1])))' "$2"
}

has() { # MACHINE FIELD VALUE
        local value
        value=$(field "$1" "$2") && [ "$value" = "$3" ] && return
        echo "$1 has $2 $value, not $3"
        return 1
}

uuid() { lodge info "$1" --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)["uuid"])'; }
console() { cat -- "$work/run/machines/$(uuid "$1")/console.last"; }

# swtpm's process of this daemon's machine: the keeper that has its directory locked is a child of the daemon
swtpm_of() {
        local keeper
        for keeper in $(pgrep -P "$daemon" lodge-keeper); do pgrep -P "$keeper" swtpm; done
}

# ---- templates ------------------------------------------------------------------------------------------------------

every_template() { # is listed, shown with a reason for each choice, completed, and can be defined
        local name
        run 0 template list --format csv --columns name --no-header || return
        tr -d '\r' <"$work/out" >"$work/names"
        [ "$(wc -l <"$work/names")" = 7 ] && lodge complete templates | cmp - "$work/names" || return
        while read -r name; do
                run 0 template show "$name" --format csv --columns field,why --no-header && grep -qE '^cpus,.{10}' "$work/out" || return
                ! tr -d '\r' <"$work/out" | grep -E ',$' || return
                case $name in
                windows-*) run 0 define --template "$name" "t-$name" ;;
                *) run 0 define --template "$name" tiny "t-$name" ;;
                esac || return
                has "t-$name" template "\"$name\"" || return
        done <"$work/names"
        has t-windows-11 firmware '"uefi-secure"' && has t-windows-11 tpm true && has t-windows-11 hyperv true &&
                has t-database disk_cache '"none"' && has t-tiny memory 268435456 && has t-tiny firmware '"none"'
}

unknown_template() {
        run 1 define --template windows-10 x && grep -q 'template-unknown' "$work/err" && grep -q 'did you mean windows-11' "$work/err" &&
                run 2 template show nothing && grep -q 'template-unknown' "$work/err" || return
        [ "$(api -o /dev/null -w '%{http_code}' --json '{"name": "x", "image": "tiny", "template": "nothing"}' http://localhost/v1/machines)" = 400 ] &&
                [ "$(api -o /dev/null -w '%{http_code}' http://localhost/v1/templates/nothing)" = 404 ]
}

person_wins() { # also when what is said is the schema's default, which the command line would send anyhow
        run 0 define --template windows-11 --memory 512M --rtc utc --tpm=off --cpus 2 said || return
        has said memory 536870912 && has said rtc '"utc"' && has said tpm false && has said cpus 2 && has said video '"vga"' || return
        run 0 define --template router --net none tiny alone && [ "$(field alone nets | grep -c none)" = 1 ] && ! field alone nets | grep network
}

api_is_the_same() {
        api --fail --json '{"name": "posted", "template": "windows-11", "memory": "512M", "rtc": "utc", "tpm": false, "cpus": 2}' \
                http://localhost/v1/machines || return
        [ "$(lodge info posted --format json | python3 -c 'import json, sys; c = json.load(sys.stdin)["config"]; del c["name"], c["cloud"]; print(c)')" = \
                "$(lodge info said --format json | python3 -c 'import json, sys; c = json.load(sys.stdin)["config"]; del c["name"], c["cloud"]; print(c)')" ]
}

only_at_first() { # a definition that is replaced is as it is written, whatever template it came from
        api --fail -X PUT --json '{"template": "small", "image": "tiny"}' http://localhost/v1/machines/t-small || return
        has t-small cpus 1 && has t-small disk_size null && has t-small template '"small"'
}

explained() {
        run 0 define --template windows-11 --rtc utc --dry-run --explain tried || return
        grep -q 'from template windows-11' "$work/err" && grep -q 'firmware "uefi-secure": Windows 11 demands' "$work/err" &&
                grep -q "rtc: not the template's" "$work/err" && ! lodge info tried
}

# ---- what only QEMU has ----------------------------------------------------------------------------------------------

refused() { # with a fix
        run 2 define --engine native --tpm tiny native && grep -q 'tpm: lodge-vmm does not have it yet' "$work/err" || return
        run 1 define --firmware uefi --kernel /boot/vmlinuz native && grep -q 'schema-conflict' "$work/err" || return
        run 1 define --firmware uefi --append quiet tiny native && grep -q 'leave --append out' "$work/err" || return
        run 1 define --firmware uefi && grep -q 'no image, no disk and no CD' "$work/err" || return
        run 1 launch --firmware uefi tiny native && grep -q 'firmware-no-disk' "$work/err"
}

missing() { # a host without swtpm: an error that names the package, before anything is started
        mkdir -p "$work/bin" && ln -sf "$(command -v qemu-system-x86_64)" "$(command -v env)" "$work/bin/" || return
        PATH=$work/bin "$build/lodge" run tiny --tpm --net none --engine qemu >"$work/out" 2>&1 </dev/null
        cat "$work/out"
        if grep -q 'tpm-missing' "$work/out"; then grep -q 'apt install swtpm' "$work/out"; else [ -x /usr/sbin/swtpm ]; fi
}

make_image() { # a disk that UEFI starts, imported as an image
        printf 'setvar LodgeTest -guid %s\r\nsetvar LodgeTest -guid %s -nv -bs =L"kept"\r\n\\vmlinuz.efi initrd=\\initrd console=ttyS0 quiet\r\n' \
                "$guid" "$guid" >"$work/startup.nsh"
        echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGBYW4ViqlgcXJvqeZvqLnoNNS+Ydl8Xay5AlDxzuMk3 test' >"$work/key.pub"
        truncate -s 64M "$work/esp.raw" && mformat -i "$work/esp.raw" -F -v ESP :: &&
                mcopy -i "$work/esp.raw" "$work/startup.nsh" "$tiny/initrd" :: && mcopy -i "$work/esp.raw" "$tiny/vmlinuz" ::vmlinuz.efi || return
        run 0 image import "$work/esp.raw" --disk-format raw --name esp --agent
}

boots() { # the guest came up by UEFI, and sees a TPM 2.0, the CD and the display adapter
        run 0 launch esp box --firmware uefi --tpm --video vga --rtc localtime --hyperv --ssh-key "$work/key.pub" --wait 100 || return
        grep -q 'firmware uefi: lodge-vmm does not have it yet' "$work/err" && ! grep -q 'did not answer' "$work/err" || return
        run 0 exec box 'test -d /sys/firmware/efi && test -s /sys/firmware/acpi/tables/TPM2 && cat /sys/class/tpm/tpm0/tpm_version_major &&
                test -e /sys/bus/pci/devices/0000:00:1f.1' || return
        grep -qx 2 "$work/out" && [ -n "$(swtpm_of)" ]
}

tpm_dies() { # by hand: an event says so, and the machine goes on
        local pid
        pid=$(swtpm_of) && kill -KILL "$pid" || return
        local i
        for ((i = 0; i < 50; i++)); do
                if lodge event list 2>/dev/null | grep 'tpm-dead.*box.*swtpm ended with status 137'; then
                        run 0 exec box true
                        return
                fi
                sleep 0.1
        done
        return 1
}

remembers() { # what UEFI wrote is there at the next start, under another name; the TPM is back
        run 0 kill box && console box | grep -q "Unable to get" && run 0 rename box case && [ -z "$(swtpm_of)" ] || return
        sha256sum "$devices/$(uuid case)/tpm/tpm2-00.permall" || return
        run 0 start case && run 0 wait case --for agent --timeout 100 && run 0 exec case 'cat /sys/class/tpm/tpm0/tpm_version_major' &&
                grep -qx 2 "$work/out" && run 0 kill case || return
        console case | tr -d '\r' | grep -A 1 "LodgeTest - 0008 Bytes" | grep "6B 00 65 00 70 00 74 00"
}

clones() { # boot entries and keys come along, the TPM does not
        run 0 clone case twin && grep -q 'its TPM is a new one' "$work/err" || return
        cmp "$devices/$(uuid case)/uefi.vars" "$devices/$(uuid twin)/uefi.vars" && [ ! -e "$devices/$(uuid twin)/tpm" ]
}

bad_variables() { # are refused by name, and left as they are
        local vars
        vars=$devices/$(uuid twin)/uefi.vars
        truncate -s 1000 "$vars" && run 2 start twin && grep -q firmware-vars "$work/err" && grep -qF "rm $vars" "$work/err" &&
                [ "$(stat -c %s "$vars")" = 1000 ] || return
        rm "$vars" && ln -s /etc/hostname "$vars" && run 2 start twin && grep -q firmware-vars "$work/err"
}

secure() { # starts nothing that is not signed
        run 0 launch esp safe --firmware uefi-secure --ssh-key "$work/key.pub" --wait 0 || return
        local i
        for ((i = 0; i < 60; i++)); do
                timeout 2 "$build/lodge" console safe --history 64K </dev/null 2>&1 | grep -qa 'Security Violation' && break
                sleep 1
        done
        run 0 kill safe && console safe | grep -a 'Security Violation'
}

bios() { # starts a boot sector, of the disk or of a CD, which writes to the serial port
        printf '\272\370\003\260l\356\260o\356\260d\356\260g\356\260e\356\260\n\356\364\353\375' >"$work/boot.raw" &&
                truncate -s 510 "$work/boot.raw" && printf '\125\252' >>"$work/boot.raw" && truncate -s 1M "$work/boot.raw" || return
        timeout 20 "$build/lodge" run --firmware bios --disk "$work/boot.raw" --net none </dev/null >"$work/out" 2>&1 &
        local pid=$! i found=1
        for ((i = 0; i < 150 && found; i++)); do
                sleep 0.1
                if grep -qa '^lodge' <(tail -n +2 "$work/out"); then found=0; fi
        done
        kill "$pid" 2>/dev/null
        wait "$pid"
        cat "$work/out"
        return "$found"
}

only_a_disk() { # as one that was pulled: firmware boots it, without a word
        run 0 image import "$work/boot.raw" --disk-format raw --name sector &&
                run 0 launch sector sector --net none --wait 0 --ssh-key "$work/key.pub" || return
        local i
        for ((i = 0; i < 100; i++)); do
                timeout 2 "$build/lodge" console sector --history 64K </dev/null >"$work/console" 2>&1 # which ends by the time limit
                grep -qa '^lodge' "$work/console" && break
                sleep 0.2
        done
        grep -q 'firmware bios: lodge-vmm does not have it yet' "$work/err" && run 0 kill sector && console sector | grep -qa lodge && run 0 delete sector --disks
}

empty_disk() { # of a machine that is installed from a CD, which UEFI finds
        cp "$work/esp.raw" "$work/state/pools/installer.iso"
        run 0 define --template windows-11 --memory 512M --cdrom "$work/state/pools/installer.iso" --preallocate win && run 0 start win &&
                grep -q 'virtio-win.iso' "$work/err" || return
        qemu-img info -U "$work/state/pools/default/"win-*.qcow2 | grep -q 'virtual size: 64 GiB' || return
        tr '\0' '\n' <"/proc/$(pgrep -P "$(pgrep -P "$daemon" lodge-keeper)" qemu)/cmdline" | grep '^ide-cd,' && run 0 kill win
}

deleted() {
        local m
        for m in case twin safe win; do run 0 delete "$m" --disks || return; done
        [ -z "$(ls -A "$devices")" ] && [ -z "$(swtpm_of)" ]
}

check "lodged starts" start
mkdir -p "$work/state/images" && cp -r -- "$tiny" "$work/state/images/"
check "every template is listed, explains each choice, and makes a definition" every_template
check "a template that there is not: an error with the nearest, in each way in" unknown_template
check "what is said wins, also when it is the default" person_wins
check "the API's body does the same" api_is_the_same
check "a template fills in a new definition only" only_at_first
check "--explain names what comes from the template" explained
check "what cannot be is refused, with a fix" refused
check "without swtpm, an error names its package" missing
check "a disk with a boot loader becomes an image" make_image
check "UEFI starts it, with a TPM 2.0" boots
check "a swtpm that is killed by hand: an event with the reason, and the machine goes on" tpm_dies
check "UEFI's variables and the TPM are there after a stop, a rename and a start" remembers
check "a clone has the variables, and no TPM of the other's" clones
check "variables that are none are refused, and not replaced" bad_variables
check "with Secure Boot, what is not signed does not start" secure
check "a BIOS starts a boot sector" bios
check "an image that is only a disk is started by firmware" only_a_disk
check "windows-11 gets an empty disk, the CD, and a word about drivers" empty_disk
check "deleting removes what devices remembered" deleted
tap_end
