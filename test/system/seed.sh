#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 1000
#
# seed.sh: a Debian guest applies a seed of ours: user, keys, password, hostname, network, and the person's own user-data beside
# it; cloud-init's answer is understood; without a seed cloud-init stays out of the way
#
# usage: seed.sh

set -uo pipefail
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/seed.XXXXXX") || exit 1
trap 'rm -rf -- "$work"' EXIT
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"

mac=52:54:00:12:34:56
key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGBYW4ViqlgcXJvqeZvqLnoNNS+Ydl8Xay5AlDxzuMk3 first"
other="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGBYW4ViqlgcXJvqeZvqLnoNNS+Ydl8Xay5AlDxzuMk4 second"
# shellcheck disable=SC2016 # no variables, a hash
hash='$6$abcdefgh$0123456789abcdefghijklmnopqrstuvwxyz./ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghij'
cloud='{"ssh_keys": ["'$key'"], "password_hash": "'$hash'", "hostname": "web", "user_data":
"#cloud-config\nusers:\n- default\n- name: alice\nssh_authorized_keys:\n- '$other'\nruncmd:\n- echo it ran >/root/ran\n"}'

seed() { # what a person's user-data adds is a part beside ours
        "$build/test/unit/test-seed" make "$work" machine "i-$$" "$(tr '\n' ' ' <<<"$cloud")" "$mac"
}

boot() { # SECONDS [OPTION]... COMMAND: its output in $work/out
        timeout "$1" "$build/lodge" run debian/12 --net "user,mac=$mac" --memory 1G "${@:2:$#-2}" --exec "${*: -1}" >"$work/out"
}

understood() { # cloud-init's answer, from its first { to the line that is }
        sed -n '/^{/,/^}/p' "$work/out" >"$work/status"
        "$build/test/unit/test-seed" result "$work/status" | tee "$work/state"
        grep -qx "$1" "$work/state"
}

check "debian/12 is there" "$build/lodge" image show debian/12
check "a seed is made" seed
# shellcheck disable=SC2016 # the guest's shell expands it
check "a machine starts with it, and cloud-init ends" boot 600 --disk "$work/seed.iso,readonly=on" '
        cloud-init status --wait --format json
        echo "user $(id -un lodge)"
        echo "sudo $(sudo -u lodge sudo -n id -u)"
        echo "alice $(id -un alice)"
        echo "host $(hostname)"
        echo "shadow $(grep ^lodge: /etc/shadow | cut -d: -f2)"
        sed "s/^/key /" /home/lodge/.ssh/authorized_keys
        echo "ran $(cat /root/ran)"
        networkctl status --no-pager | grep -m1 -o "State: routable"
        grep -h ^MACAddress= /etc/systemd/network/10-cloud-init-*.network
        true'
check "cloud-init's answer is understood: done, without errors" understood "done"
check "the user is there" said "user lodge"
check "it may become root" said "sudo 0"
check "so is the one of the person's own user-data" said "alice alice"
check "its commands ran" said "ran it ran"
check "the hostname is the seed's" said "host web"
check "the password is the seed's" said "shadow $hash"
check "the seed's key lets in" said "key $key"
check "and the key of the person's user-data lets the same user in" said "key $other"
check "the network is up" said "State: routable"
check "as the seed says: by the MAC address" said "MACAddress=$mac"
check "a machine without a seed starts" boot 400 'cloud-init status; id -un lodge 2>&1; hostname'
check "and cloud-init does nothing in it" said "status: disabled"
check "nor is there a user" said "id: ‘lodge’: no such user"
check "its hostname is the image's" said "debian"

tap_end
