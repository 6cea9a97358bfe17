#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: lab
# seconds: 300
#
# network.sh: files that a Debian guest downloads and uploads, through passt and through a tap with offloads, arrive as they are
#
# usage: network.sh
#
# Everything happens in a network namespace of its own: a tap for the guest, and a second one that only gives passt an outside to
# find. The server listens in it; the guest reaches it over the tap by the tap's address, and over passt by its gateway's.

set -uo pipefail

if [ "${LODGE_TEST_NETNS:-}" != 1 ]; then
        exec env LODGE_TEST_NETNS=1 unshare --net -- "$0" "$@"
fi
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/network.XXXXXX") || exit 1
server=""
cleanup() {
        [ -z "$server" ] || kill "$server" 2>/dev/null
        rm -rf -- "$work"
}
trap cleanup EXIT
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"

# Port 8000 gives the file; port 9000 takes one, until its end, and answers with its digest.
cat >"$work/server.py" <<'PYTHON'
import hashlib, socketserver, sys, threading

class Give(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(65536)
        with open(sys.argv[1], "rb") as f:
            data = f.read()
        self.request.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)

class Take(socketserver.BaseRequestHandler):
    def handle(self):
        digest, left = hashlib.sha256(), int(self.request.recv(16))
        self.request.sendall(b"go\n")
        while left > 0:
            data = self.request.recv(65536)
            if not data:
                break
            digest.update(data)
            left -= len(data)
        self.request.sendall(digest.hexdigest().encode() + b"\n")

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

threading.Thread(target=Server(("0.0.0.0", 9000), Take).serve_forever, daemon=True).start()
Server(("0.0.0.0", 8000), Give).serve_forever()
PYTHON

ip link set lo up
ip tuntap add outside mode tap && ip addr add 10.99.0.2/24 dev outside && ip link set outside up &&
        ip route add default via 10.99.0.1
ip tuntap add inside mode tap && ip addr add 192.168.77.1/24 dev inside && ip link set inside up || exit 1
head -c 12M /dev/urandom >"$work/file"
python3 "$work/server.py" "$work/file" &
server=$!

# shellcheck disable=SC2016 # the guest expands it
script='
head -c 8388608 /dev/urandom >/tmp/up
mine=$(sha256sum </tmp/up | cut -d" " -f1)
for n in eth0 eth1; do echo "mac $n $(cat /sys/class/net/$n/address) mtu $(cat /sys/class/net/$n/mtu)"; done
ip addr add 192.168.77.2/24 dev eth1; ip link set eth1 up
for i in 1 2 3 4 5 6 7 8 9 10; do ip route | grep -q ^default && break; sleep 1; done
ip addr show eth0; ip route
gateway=$(ip route | sed -n "s/^default via \([^ ]*\).*/\1/p" | head -n 1)
try() { # NAME ADDRESS
        echo "$1 down $(wget -q -O - http://$2:8000/ | sha256sum | cut -d" " -f1)"
        theirs=$( (printf "%-16d" 8388608; sleep 1; cat /tmp/up; sleep 3) | nc $2 9000 | sed -n 2p)
        [ "$theirs" = "$mine" ] && echo "$1 up" || echo "$1 up: $theirs, not $mine"
}
try passt "$gateway"
try tap 192.168.77.1
ping -c 3 -s 1400 -q 192.168.77.1 | grep -c "3 packets received"
'
run() {
        timeout 250 "$build/lodge" run tiny --engine native --net user,mac=52:54:00:00:00:01 \
                --net tap=inside,mac=52:54:00:00:00:02 --exec "$script" >"$work/out" 2>"$work/err" </dev/null && return
        cat "$work/out" "$work/err"
        return 1
}
check "a guest with passt and a tap ends well" run
digest=$(sha256sum <"$work/file" | cut -d' ' -f1)
check "addresses" grep -q '^mac eth0 52:54:00:00:00:01 ' "$work/out"
check "in their order" grep -q '^mac eth1 52:54:00:00:00:02 ' "$work/out"
check "download through passt" said "passt down $digest"
check "upload through passt" said "passt up"
check "download through a tap" said "tap down $digest"
check "upload through a tap" said "tap up"
[ "$failed" = 0 ] || sed 's/^/# /' "$work/out" "$work/err"
tap_end
