#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: lab
# seconds: 450
#
# systemd.sh: lodged as a service: its units under a real systemd, with their hardening, on a host with real KVM
#
# usage: systemd.sh
#
# systemd runs as process 1 of a process namespace of its own, with the lab's control groups, network and devices. Without this test a line of the unit could forbid what
# machines need, or a restart of the daemon could take them along.

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d /var/tmp/systemd.XXXXXX) || exit 1
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
needs meson nsenter unshare python3
[ "${LODGE_IN_LAB:-}" = 1 ] || { echo "1..0 # SKIP it changes the system that it runs on: only in the lab"; exit 0; }
[ -x /lib/systemd/systemd ] || { echo "1..0 # SKIP systemd is not installed"; exit 0; }
store=$HOME/.local/share/lodge/images/tiny
[ -d "$store" ] || { echo "1..0 # SKIP the image tiny is not built"; exit 0; }

# What a package would do.
installed() {
        meson install -C "$build" --no-rebuild >"$work/install" 2>&1 || { tail -n 5 "$work/install"; return 1; }
        systemd-sysusers /usr/local/lib/sysusers.d/lodge.conf && getent group lodge >/dev/null && getent passwd lodge >/dev/null || return 1
        mkdir -p /var/lib/lodge/images && cp -r "$store" /var/lib/lodge/images/tiny
        # nothing of this host's but what is tried
        rm -rf /etc/systemd/system/*.wants
        local unit
        for unit in systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket \
                systemd-modules-load.service systemd-resolved.service systemd-timesyncd.service systemd-networkd.service \
                sys-kernel-debug.mount sys-kernel-tracing.mount dev-mqueue.mount dev-hugepages.mount systemd-remount-fs.service; do
                ln -sf /dev/null "/etc/systemd/system/$unit"
        done
        printf '[Unit]\nRequires=sysinit.target sockets.target\nAfter=sysinit.target sockets.target\nAllowIsolate=yes\n' >/etc/systemd/system/lab.target
        mkdir -p /etc/systemd/system/sockets.target.wants
        ln -s /usr/local/lib/systemd/system/lodged.socket /etc/systemd/system/sockets.target.wants/
}
check "the units, the user and the group are installed" installed

setsid unshare --pid --mount --fork --mount-proc -- env -i container=lab PATH="$PATH" /lib/systemd/systemd --system --unit=lab.target --log-target=console \
        >"$work/console" 2>&1 </dev/null &
init=""
in_it() { nsenter -t "$init" -p -m -- "$@"; }
up() {
        local i
        for ((i = 0; i < 300; i++)); do
                init=$(pgrep -o -x systemd)
                [ -n "$init" ] && in_it systemctl is-active lodged.socket 2>/dev/null | grep -qx active && return
                sleep 0.5
        done
        tail -n 20 "$work/console"
        return 1
}
check "systemd comes up and listens for lodged" up
init=$(pgrep -o -x systemd)
lodge() { in_it timeout 120 /usr/local/bin/lodge "$@"; }
state() { lodge info web --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)["state"].get(sys.argv[1]))' "$1"; }
main_pid() { in_it systemctl show -p MainPID --value lodged.service; }

asleep() { [ "$(in_it systemctl is-active lodged.service)" = inactive ]; }
check "lodged does not run before somebody asks" asleep
check "who asks starts it" lodge daemon show
system_scope() { lodge daemon show --format json | grep -q '"scope": *"system"' && [ "$(in_it systemctl is-active lodged.service)" = active ]; }
check "it is the system's daemon" system_scope
check "a machine is launched, in a network, under lodge-vmm" bash -c "$(declare -f in_it lodge state); init=$init; lodge launch tiny web --publish 18080:80 && [ \$(state engine) = native ]"
check "its guest answers" lodge exec web true
grouped() { # the machine's process lies below the unit for machines, and its limits hold
        local pid group
        pid=$(state pid)
        lodge set web limits.cpu_quota=60 limits.memory_max=1G || return 1
        group=$(in_it cat "/proc/$(in_it pgrep -x lodge-vmm)/cgroup" | cut -d: -f3)
        echo "group: $group"
        case $group in */system.slice/lodge-machines.service/machines/*) ;; *) return 1 ;; esac
        [ "$(cat "/sys/fs/cgroup$group/cpu.max")" = "60000 100000" ]
}
check "it has a control group, with limits that change while it runs" grouped
same() { # COMMAND...: the machine runs on through it, and the daemon is another
        local before pid
        before=$(main_pid) pid=$(state pid)
        "$@" || return 1
        lodge wait web --for agent && lodge exec web true && [ "$(state pid)" = "$pid" ] && [ "$(main_pid)" != "$before" ]
}
check "it outlives the daemon's restart" same in_it systemctl restart lodged.service
stop_start() { in_it systemctl stop lodged.service lodged.socket && in_it systemctl start lodged.socket; }
check "and its stop" same stop_start
crash() {
        in_it kill -9 "$(main_pid)"
        sleep 2
        lodge list
}
check "and kill -9" same crash
outsider() {
        useradd --create-home guest 2>/dev/null
        in_it setpriv --reuid guest --regid guest --clear-groups /usr/local/bin/lodge list --socket /run/lodge/lodged.sock 2>"$work/err" && return 1
        cat "$work/err"
        grep -q 'usermod.*lodge\|gpasswd.*lodge\|adduser.*lodge' "$work/err"
}
check "a user outside the group is told how to get in" outsider
insider() {
        usermod -aG lodge guest && in_it setpriv --reuid guest --regid guest --init-groups /usr/local/bin/lodge list --format csv 2>&1 | grep -q '^web,'
}
check "a member of it sees the system's machines" insider
again() { lodge stop web --way force && lodge start web && lodge wait web --for agent && lodge exec web true; }
check "stopped and started again" again
orderly() { # the host's shutdown: the unit that stops first asks the guest, and nothing pulls its plug
        [ "$(in_it systemctl is-active lodge-shutdown.service)" = active ] || return 1
        in_it systemctl show -p After lodge-shutdown.service | grep -q 'lodged.service.*lodge-machines.service\|lodge-machines.service.*lodged.service' || return 1
        in_it systemctl stop lodge-shutdown.service || return 1
        lodge info web
        [ "$(state status)" = stopped ] && [ "$(state reason)" = "it powered off" ] && [ "$(in_it systemctl is-active lodged.service)" = active ]
}
check "with its unit for the host's shutdown it powers itself off" orderly
figure() { # as doc/proofs-daemon.md has it
        in_it systemd-analyze security lodged.service --no-pager | tail -n 1 | tee "$work/figure"
        grep -qF "$(grep -o 'level for lodged.service: [0-9.]*' "$work/figure")" "$top/doc/proofs-daemon.md"
}
check "systemd-analyze security says what the documents say" figure
check "all is deleted" lodge delete web --disks --yes
[ "${failed:-0}" = 0 ] || { in_it journalctl --no-pager -u lodged -n 40 2>/dev/null || tail -n 40 "$work/console"; } >&2
kill -KILL "$init" 2>/dev/null
tap_end
