#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: both
# seconds: 500
#
# network-nat.sh: machines behind the host's addresses: what every network does, the way out, forwarded ports, and other people's firewalls
#
# usage: network-nat.sh
#
#      web, db -- taps -- bridge -- (this namespace, the host: 198.51.100.2) -- internet (198.51.100.1)
#
# "internet" has no route to the network, so an answer from there proves the translation.

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
network=default bridge=lodge-default domain=lodge.internal
work=$(mktemp -d "${TMPDIR:-/tmp}/network-nat.XXXXXX") || exit 1
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
# shellcheck source=test/system/network-conform.bash
. "$top/test/system/network-conform.bash"
servers=()
cleanup() {
        local pid
        conform_cleanup
        for pid in "${servers[@]}"; do
                kill "$pid" 2>/dev/null
        done
        rm -rf -- "$work"
}
if [ "${LODGE_TEST_NETNS:-}" != 1 ]; then
        rm -rf -- "$work" # the test proper makes another
fi
conform_enter "$@"
trap cleanup EXIT
needs ip nft dnsmasq busybox curl socat pgrep python3
conform_host || exit 1

serve() { # NAMESPACE TEXT PORT: a page at http://ADDRESS:PORT/
        mkdir -p "$work/www.$1" && echo "$2" >"$work/www.$1/index.html"
        ip netns exec "$1" busybox httpd -f -p "$3" -h "$work/www.$1" &
        servers+=($!)
}

internet() {
        ip netns add internet && ip link add out0 type veth peer name eth0 netns internet || return 1
        ip addr add 198.51.100.2/24 dev out0 && ip addr add 2001:db8:1::2/64 dev out0 nodad && ip link set out0 up || return 1
        ip -n internet addr add 198.51.100.1/24 dev eth0 && ip -n internet addr add 2001:db8:1::1/64 dev eth0 nodad || return 1
        ip -n internet link set eth0 up && ip -n internet link set lo up || return 1
        ip route add default via 198.51.100.1 && ip -6 route add default via 2001:db8:1::1 || return 1
        ip netns exec internet dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= \
                --address=/www.example.test/198.51.100.1 --local=/test/ --user=nobody &
        servers+=($!)
        serve internet "the internet" 80
}

page() { # NAMESPACE URL TEXT: does it get this page there? NAMESPACE host: here
        local run=(ip netns exec "$1")
        [ "$1" != host ] || run=()
        [ "$("${run[@]}" curl -s -m 3 "$2")" = "$3" ]
}

forwards() { # JSON: in the network's configuration
        sed -i "s|\"forwards\":\[.*\]|\"forwards\":[$1]|" "$config"
        net forwards
}

udp_answer() { # NAMESPACE ADDRESS PORT TEXT
        [ "$(echo hello | ip netns exec "$1" timeout 3 socat -t 2 - "UDP:$2:$3")" = "$4" ]
}

check "an outside" internet

# ---- the subnet
echo '{"name":"default"}' >"$work/asked.json"
chosen() { # choose, print the subnet
        "$tool" "$work/state" "$work/asked.json" choose | sed -n 's/.*"subnet":"\([^"]*\)".*/\1/p'
}
first=$(chosen)
check "a subnet is chosen" [ -n "$first" ]
check "the same again" [ "$first" = "$(chosen)" ]
ip route add "$first" via 198.51.100.1 table 77
second=$(chosen)
check "another when a route of any table has it" [ -n "$second" -a "$first" != "$second" ]
ip addr add "${second%.0/24}.7/20" dev lo
third=$(chosen)
check "another when an address has it" [ -n "$third" -a "$third" != "$second" ]
ip route flush table 77
ip addr del "${second%.0/24}.7/20" dev lo
ip route add blackhole 10.0.0.0/8 && ip route add unreachable 172.16.0.0/12
check "the last range when others are full" [ "$(chosen | cut -d. -f1,2)" = 192.168 ]
ip route add 192.168.0.0/16 via 198.51.100.1
check "none when all are" reports '\[network-subnets\]' "$tool" "$work/state" "$work/asked.json" choose
ip route del blackhole 10.0.0.0/8 && ip route del unreachable 172.16.0.0/12 && ip route del 192.168.0.0/16
"$tool" "$work/state" "$work/asked.json" choose >"$config" || exit 1

# ---- what every network does
conform_up
conform_machines
conform_spoof

# ---- the way out
# A host that forwards IPv6 does not listen to its own router any more, unless told to: it would be offline hours after the first network.
check "the host listens to its own router still" [ "$(cat /proc/sys/net/ipv6/conf/out0/accept_ra)" = 2 ]
check "out by IPv4" page web http://198.51.100.1/ "the internet"
check "a name from outside" resolves web www.example.test 198.51.100.1
check "a machine gets an IPv6 address" within 10 reports 'inet6 fd' ip -n web -6 addr show dev eth0 scope global
check "and a default route" within 10 reports '^default' ip -n web -6 route
check "the IPv6 address that is reserved" [ "$(in_netns web "$top/test/system/dhcp6-ask" 52:54:00:00:00:01)" = "$(cut -d' ' -f3 "$work/web.port")" ]
check "which the name leads to" resolves db "web.$domain" "$(cut -d' ' -f3 "$work/web.port")"
check "out by IPv6" within 5 page web "http://[2001:db8:1::1]/" "the internet"
ip -n internet route add "${gateway%.1}.0/24" via 198.51.100.2
check "nobody comes in uninvited" fails in_netns internet busybox ping -c 1 -W 1 "$(address4 web)"
ip -n internet route del "${gateway%.1}.0/24"

# ---- forwarded ports
serve web "the web" 80
ip netns exec web socat UDP-LISTEN:53,fork SYSTEM:'echo udp' &
servers+=($!)
check "ports are forwarded" forwards '{"host_port":8080,"machine":"web","machine_port":80},{"protocol":"udp","host_port":5353,"machine":"web","machine_port":53},{"host_address":"198.51.100.2","host_port":8081,"machine":"web","machine_port":80},{"host_port":8082,"machine":"later","machine_port":80}'
check "from outside" page internet http://198.51.100.2:8080/ "the web"
check "UDP" udp_answer internet 198.51.100.2 5353 udp
check "from the host, by its address" page host http://198.51.100.2:8080/ "the web"
check "from the host, by 127.0.0.1" page host http://127.0.0.1:8080/ "the web"
check "from the host, by localhost" page host http://localhost:8080/ "the web"
check "from another machine" page db http://198.51.100.2:8080/ "the web"
check "from another machine, by the gateway" page db "http://$gateway:8080/" "the web"
check "from the machine itself" page web http://198.51.100.2:8080/ "the web"
check "one address only" page internet http://198.51.100.2:8081/ "the web"
check "and not at the others" fails page host http://127.0.0.1:8081/ "the web"
check "one that waits for its machine" reports '^warning forward-waits .*8082' net status
# route_localnet opens the host's own 127.0.0.1 to the bridge; the rules must close that again.
socat TCP-LISTEN:7777,bind=127.0.0.1,fork SYSTEM:'echo secret' &
servers+=($!)
within 3 sh -c 'ss -ltn | grep -q 127.0.0.1:7777'
check "what listens on the host's loopback" [ "$(socat -T 1 - TCP:127.0.0.1:7777 </dev/null)" = secret ]
ip netns exec web sysctl -qw net.ipv4.conf.all.route_localnet=1
ip -n web addr del 127.0.0.1/8 dev lo && ip -n web route add 127.0.0.0/8 via "$gateway"
check "a machine can't reach" fails in_netns web timeout 3 socat -T 1 - TCP:127.0.0.1:7777,connect-timeout=2
ip -n web route del 127.0.0.0/8 && ip -n web addr add 127.0.0.1/8 dev lo
busybox nc -l -p 9090 >/dev/null &
servers+=($!)
within 3 sh -c 'ss -ltn | grep -q :9090'
check "a port in use is refused, and by whom" reports 'in use by busybox \(process [0-9]+\).*\[port-busy\]' \
        forwards '{"host_port":8080,"machine":"web","machine_port":80},{"host_port":9090,"machine":"web","machine_port":80}'
check "and nothing has changed" page internet http://198.51.100.2:8081/ "the web"
sed 's/"default"/"second"/; s/lodge-default/lodge-second/; s/"subnet":"[^"]*"/"subnet":"10.200.1.0\/24"/; s/"subnet6":"[^"]*"/"subnet6":"fd00:2::\/64"/; s/:9090/:9091/' \
        "$config" >"$work/second.json"
check "nor can another network have one" reports 'leads to machine web of network default.*\[port-busy\]' \
        "$tool" "$work/state" "$work/second.json" up
check "which is not there then" fails ip link show lodge-second
check "fewer forwards" forwards '{"host_port":8080,"machine":"web","machine_port":80}'
check "the others are closed" fails page internet http://198.51.100.2:8081/ "the web"

# ---- other people's firewalls: they can't be overruled, so they are named, with what helps
nft -f - <<'RULES'
table ip filter {
        chain DOCKER-USER {
                return
        }
        chain FORWARD {
                type filter hook forward priority 0; policy drop;
                jump DOCKER-USER
        }
}
RULES
check "Docker's drop is in the way" fails page web http://198.51.100.1/ "the internet"
check "it is seen, with the fix" reports "^warning firewall-forward .*\| iptables -I DOCKER-USER -i $bridge -j ACCEPT && iptables -I DOCKER-USER -o $bridge -j ACCEPT" net status
nft insert rule ip filter DOCKER-USER iifname "$bridge" accept # what that iptables command does
nft insert rule ip filter DOCKER-USER oifname "$bridge" accept
check "which helps" page web http://198.51.100.1/ "the internet"
check "and ends the warning" fails reports '^warning firewall-forward' net status
nft delete table ip filter
nft add table inet mine && nft 'add chain inet mine in { type filter hook input priority 0; policy drop; }'
check "an input chain that drops DHCP and DNS is seen" reports '^warning firewall-input .*\| nft insert rule inet mine in' net status
fix=$(sed -n 's/^warning firewall-input .* | //p' "$work/report")
check "DHCP does not get through" fails dhcp db -t 2
check "the fix" sh -c "${fix//\{ /\\{ }"
check "helps" dhcp db
nft delete table inet mine

conform_repair
check "ports are forwarded still" page internet http://198.51.100.2:8080/ "the web"
conform_collision
conform_leftovers
conform_down
check "the host does not route any more" [ "$(cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding | tr -d '\n')" = 00 ]
check "and listens as before" [ "$(cat /proc/sys/net/ipv6/conf/out0/accept_ra)" = 1 ]
tap_end
