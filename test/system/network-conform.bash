# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# network-conform.bash: what every type of network has to do, whatever its driver. Sourced by a test of one type, network-TYPE.sh, behind tap.bash.
#
# The test runs in a network and a mount namespace of its own (conform_enter), which plays the host. Machines are namespaces whose eth0 is
# joined to their tap by a small program that carries frames, so DHCP, names and the packet filter's rules are met as by a real machine.

: "${work:?}" "${build:?}" "${network:?}" "${bridge:?}" "${domain:?}"
tool=$build/test/network/network-tool
config=$work/config.json
declare -A pumps=()

conform_enter() { # ARGUMENTS OF THE TEST...: start again in namespaces
        [ "${LODGE_TEST_NETNS:-}" != 1 ] || return 0
        if [ "$(id -u)" != 0 ] || [ ! -c /dev/net/tun ] || ! unshare --net --mount true 2>/dev/null; then
                echo "1..0 # SKIP needs root, network namespaces and /dev/net/tun"
                exit 0
        fi
        exec env LODGE_TEST_NETNS=1 unshare --net --mount --propagation private -- "$0" "$@"
}

conform_host() { # the host's side of things that every host has
        mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && ip link set lo up || return 1
        echo "nameserver 198.51.100.1" >"$work/resolv.conf"
        mount --bind "$work/resolv.conf" "$(realpath /etc/resolv.conf)" || return 1
        # shellcheck disable=SC2016 # udhcpc expands it
        printf '%s\n' '#!/bin/sh' '[ "$1" = bound ] || exit 0' 'ip addr flush dev $interface scope global' \
                'ip addr add $ip/$mask dev $interface' 'ip route replace default via $router' \
                'echo "$ip $router $dns $domain $hostname" >"$LEASE"' >"$work/udhcpc"
        chmod 755 "$work/udhcpc"
        chmod 711 "$work"
}

net() { # WORDS...: the library, on the network of $config
        "$tool" "$work/state" "$config" "$@"
}

machine() { # NAME MAC: attach it, and let it have a kernel and a network stack
        local tap
        ip netns add "$1" && net attach "$1" "$2" 0 >"$work/$1.port" || return 1
        read -r tap _ <"$work/$1.port"
        "$tool" pump "$tap" "$1" "$2" >"$work/$1.pump" &
        pumps[$1]=$!
        within 5 grep -q ready "$work/$1.pump" || return 1
        ip -n "$1" link set lo up && ip -n "$1" link set eth0 up
}

dhcp() { # NAME [UDHCPC'S OPTIONS...]: ask for an address; what came is in $work/NAME.lease
        local name=$1
        shift
        rm -f "$work/$name.lease"
        LEASE=$work/$name.lease ip netns exec "$name" timeout 20 busybox udhcpc -i eth0 -n -q -f -t 6 -T 1 -s "$work/udhcpc" "$@"
        [ -s "$work/$name.lease" ]
}

within() { # SECONDS COMMAND...: until it succeeds
        local end=$((SECONDS + $1))
        shift
        until "$@"; do
                [ "$SECONDS" -lt "$end" ] || return 1
                sleep 0.1
        done
}

in_netns() { # NAME COMMAND...
        ip netns exec "$@"
}

fails() { # COMMAND...
        ! "$@"
}

address4() { # MACHINE
        cut -d' ' -f2 "$work/$1.port"
}

resolves() { # NAMESPACE NAME ADDRESS: by the network's server
        { ip netns exec "$1" busybox nslookup "$2" "$gateway" 2>&1 || true; } | tee "$work/resolve" | tail -n +4 | grep -qE "^Address.*[: ]$3\$"
}

reports() { # PATTERN COMMAND...: its output has a line like this
        local pattern=$1
        shift
        "$@" >"$work/report" 2>&1
        grep -E -- "$pattern" "$work/report" && return
        cat "$work/report"
        return 1
}

quiet() { # COMMAND...: succeeds and says nothing
        "$@" >"$work/report" 2>&1 && [ ! -s "$work/report" ] && return
        cat "$work/report"
        return 1
}

whole() { # the network is up, with nothing wrong
        reports '^state up$' net status
}

gone() { # nothing of it is on the host
        local left
        left=$(ip -br link | grep -v '^lo ' | grep -E 'lodge|^lt'; nft list ruleset | grep lodge; pgrep -f -- "--pid-file=$work/state/" -a)
        [ -z "$left" ] && return
        echo "$left"
        return 1
}

dnsmasq_pid() {
        cat "$work/state/$network/dnsmasq.pid"
}

conform_cleanup() {
        local pid
        for pid in "${pumps[@]}"; do
                kill "$pid" 2>/dev/null
        done
        [ ! -s "$config" ] || net delete >/dev/null 2>&1
}

# ---- the tests ------------------------------------------------------------------------------------------------------

conform_up() {
        check "it comes up" net up
        check "and is whole" whole
        check "again changes nothing" quiet net up
        gateway=$(sed -n 's/.*"subnet":"\([0-9.]*\)\.0\/24".*/\1.1/p' "$config")
}

# counted MACHINE BYTES: pings of that many bytes are in its tap's counters, in both directions
counted() {
        local before after n=$(($2 / 1400 + 1))
        before=$(net taps | sed -n "s/^tap $network $1 [^ ]* received \([0-9]*\) sent \([0-9]*\)$/\1 \2/p")
        in_netns "$1" busybox ping -q -c "$n" -i 0.002 -s 1400 "$gateway" || return
        after=$(net taps | sed -n "s/^tap $network $1 [^ ]* received \([0-9]*\) sent \([0-9]*\)$/\1 \2/p")
        echo "$before, then $after"
        [ $((${after% *} - ${before% *})) -ge "$2" ] && [ $((${after#* } - ${before#* })) -ge "$2" ]
}

conform_machines() {
        local before
        check "machine web" machine web 52:54:00:00:00:01
        check "machine db" machine db 52:54:00:00:00:02
        # Without reservations an address changes hands when a lease ends, and rules and forwards lead to the wrong machine.
        check "web gets its address by DHCP" dhcp web
        check "the one that was reserved" grep -q "^$(address4 web) $gateway $gateway " "$work/web.lease"
        # A guest names itself as it likes in DHCP. If that counted, web could become db for all others.
        check "db does, calling itself web" dhcp db -x hostname:web
        check "and gets its own name" grep -q " db$" "$work/db.lease"
        check "the lease is shown" reports "^lease 52:54:00:00:00:01 $(address4 web) web$" net status
        check "names: short" resolves web db "$(address4 db)"
        check "names: long" resolves web "db.$domain" "$(address4 db)"
        check "names: its own stays its own" resolves db web "$(address4 web)"
        check "names: one that is not there" fails resolves db "nobody.$domain" "[0-9.]*"
        check "web reaches db" in_netns web busybox ping -c 1 -W 2 "$(address4 db)"
        check "what goes through a tap is counted, each way" counted web 1000000
        before=$(cat "$work/web.port")
        check "attach again is the same" [ "$before" = "$(net attach web 52:54:00:00:00:01 0)" ]
        # A lease of the former MAC address keeps the address from the new one for half a day.
        check "another MAC address" net attach db 52:54:00:00:00:22 0
        in_netns db ip link set eth0 address 52:54:00:00:00:22
        check "keeps the address" dhcp db
        check "which is the same" grep -q "^$(address4 db) " "$work/db.lease"
        check "another machine with that MAC address is refused" reports '\[network-port\]' net attach copy 52:54:00:00:00:01 0
}

# Rules that a machine could step around by another address would protect nobody.
conform_spoof() {
        ip -n web neigh flush all # db has another MAC address by now
        check "a machine can use its own address" within 5 in_netns web busybox ping -c 1 -W 1 "$(address4 db)"
        in_netns web ip addr add "${gateway%.*}.253/24" dev eth0
        check "and no other" fails in_netns web busybox ping -c 1 -W 1 -I "${gateway%.*}.253" "$(address4 db)"
        in_netns web ip addr del "${gateway%.*}.253/24" dev eth0
        in_netns web ip link set eth0 address 52:54:00:00:00:99
        check "nor another MAC address" fails in_netns web busybox ping -c 1 -W 1 "$(address4 db)"
        in_netns web ip link set eth0 address 52:54:00:00:00:01
        ip -n web route replace default via "$gateway"
        check "its own, again" within 5 in_netns web busybox ping -c 1 -W 1 "$(address4 db)"
}

# Other programs flush rules, the OOM killer takes dnsmasq, people delete bridges: what is missing is named and mended, and leases are kept.
conform_repair() {
        nft flush table inet "lodge-$network"
        check "flushed rules are seen" reports '^problem rules-changed' net status
        check "and put back" reports '^repair rules-changed' net up
        nft flush ruleset
        check "tables that are gone are seen" reports '^problem rules-missing' net status
        check "and put back" reports '^repair rules-missing' net up
        kill -9 "$(dnsmasq_pid)"
        check "a killed dnsmasq is seen" within 3 reports '^problem dnsmasq-missing' net status
        check "and started" reports '^repair dnsmasq-missing' net up
        check "with its leases" reports "^lease 52:54:00:00:00:01 $(address4 web) web$" net status
        rm "$work/state/$network/dnsmasq.pid"
        check "one whose pid file is lost is found" quiet net up
        echo $$ >"$work/state/$network/dnsmasq.pid"
        check "a number that is another process's now is not believed" whole
        ip link delete "$bridge"
        check "a deleted bridge is seen" reports '^problem bridge-missing' net status
        check "and made again" reports '^repair bridge-missing' net up
        check "with its taps" within 5 in_netns web busybox ping -c 1 -W 1 "$(address4 db)"
        check "and DHCP" dhcp web
        check "whole again" whole
}

conform_collision() {
        ip link add other type bridge && ip addr add "${gateway%.*}.200/24" dev other && ip link set other up
        check "a collision is seen" reports '^problem network-collision .* on other' net status
        check "and refused" reports '\[network-collision\]' net up
        ip link delete other
        check "and over" whole
}

conform_leftovers() {
        check "what is known is not left over" quiet net leftovers "$network" "$network/web" "$network/db"
        check "a forgotten machine is" reports '^leftover tap lt' net leftovers "$network" "$network/web"
        check "and removed" reports '^leftover' net leftovers --remove "$network" "$network/web"
        check "alone" quiet net leftovers "$network" "$network/web"
}

conform_down() {
        check "detach" net detach web
        check "twice" net detach web
        check "a detached machine has no name" fails resolves db web "$(address4 web)"
        check "attached again it has the address that it had" reports "$(address4 web)" net attach web 52:54:00:00:00:01 0
        check "down" net down
        check "leaves nothing" gone
        check "twice" net down
        check "is seen" reports '^state down$' net status
        check "up again" net up
        check "whole" whole
        check "deleted" net delete
        check "leaves nothing" gone
        check "nor a file" fails ls "$work/state/$network"
}
