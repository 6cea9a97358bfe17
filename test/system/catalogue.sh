#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 300
#
# catalogue.sh: images from servers: plain and simplestreams indexes, signed and not; pulls that go on after a broken connection and after the daemon was
# killed; and servers that lie, cut, stall, loop, point elsewhere and never end
#
# usage: catalogue.sh
#
# The server is test/system/image_server.py on loopback, the keys are made here, the daemon is a session's of the test's own.

set -uo pipefail
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/catalogue.XXXXXX") || exit 1
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
# shellcheck source=test/system/daemon.bash
. "$top/test/system/daemon.bash"
needs gpg gpgv qemu-img python3 xz pgrep ssh-keygen
unset LODGE_PROJECT http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
export LODGE_SOCKET=$work/run/lodged.sock LODGE_FETCH_STALL_S=2 GNUPGHOME=$work/gpg
srv=$work/srv images=$work/state/images server=""
cleanup() {
        [ -z "$server" ] || kill "$server" 2>/dev/null
        gpgconf --kill all 2>/dev/null
        daemon_cleanup
}
trap cleanup EXIT

lodge() { timeout 120 "$build/lodge" "$@" </dev/null; }

# ---- the server's side ---------------------------------------------------------------------------------------------------

key() { gpg --batch --quiet --passphrase '' --quick-generate-key "$1" ed25519 sign never; }

sums() { # DIR: SHA256SUMS of what is there, signed
        (cd -- "$1" && sha256sum -- *.raw *.qcow2 *.xz >SHA256SUMS) &&
                gpg --batch --yes --quiet -u good@example.org --detach-sign -o "$1/SHA256SUMS.gpg" "$1/SHA256SUMS"
}

streams() { # DIR: a simplestreams tree for its images
        python3 - "$1" <<'EOF'
import hashlib, json, os, sys
top = sys.argv[1]
def item(path, ftype):
    data = open(os.path.join(top, path), "rb").read()
    return {"ftype": ftype, "path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
def version(**items):
    return {"items": {k.replace("_", "."): v for k, v in items.items()}}
products = {
    "com.example:server:24.04:amd64": {
        "arch": "amd64", "os": "Ubuntu", "release": "noble", "version": "24.04", "aliases": "noble,default,24.04", "release_title": "24.04 LTS",
        "versions": {"20240101": version(disk1_img=item("images/old.img", "disk1.img")),
                     "20241101": version(disk1_img=item("images/new.img", "disk1.img"), root_tar=item("images/new.img", "root.tar.xz"))}},
    "com.example:server:24.04:arm64": {
        "arch": "arm64", "os": "Ubuntu", "release": "noble", "version": "24.04",
        "versions": {"20241101": version(disk1_img=item("images/new.img", "disk1.img"))}},
    "debian:bookworm:amd64:cloud": {
        "arch": "amd64", "os": "Debian", "release": "bookworm", "variant": "cloud",
        "versions": {"20241101_05:24": version(disk_qcow2=item("images/new.img", "disk-kvm.img"))}},
    "evil:1": {"arch": "amd64", "os": "evil", "release": "1",
               "versions": {"1": version(disk={**item("images/new.img", "disk1.img"), "path": "../../etc/passwd"})}},
    "evil:2": {"arch": "amd64", "os": "../..", "release": "2", "versions": {"1": version(disk=item("images/new.img", "disk1.img"))}},
    "tar:1": {"arch": "amd64", "os": "tar", "release": "1", "versions": {"1": version(disk=item("images/new.img", "root.tar.xz"))}},
}
os.makedirs(os.path.join(top, "streams/v1"), exist_ok=True)
json.dump({"format": "index:1.0", "index": {"x": {"datatype": "image-downloads", "format": "products:1.0", "path": "streams/v1/all:released.json"}}},
          open(os.path.join(top, "streams/v1/index.json"), "w"))
json.dump({"format": "products:1.0", "datatype": "image-downloads", "products": products}, open(os.path.join(top, "streams/v1/all:released.json"), "w"))
EOF
}

clearsign() { gpg --batch --yes --quiet -u "$1" --clearsign -o "${2%.json}.sjson" "$2"; }

make_server() {
        mkdir -m 700 "$GNUPGHOME" && mkdir -p "$srv/plain" "$srv/ss/images" "$srv/signed/images" "$srv/trickle" &&
                printf '# %060d\n' {1..2000} >"$srv/trickle/SHA256SUMS" && head -c 1M /dev/urandom >"$srv/trickle/late.raw" &&
                (cd "$srv/trickle" && sha256sum late.raw >>SHA256SUMS) || return
        key good@example.org && key bad@example.org && gpg --armor --export good@example.org >"$work/good.asc" &&
                gpg --export bad@example.org >"$work/bad.gpg" || return
        head -c 3M /dev/urandom >"$srv/plain/one.raw" && truncate -s 8M "$srv/plain/one.raw" &&
                qemu-img convert -f raw -O qcow2 "$srv/plain/one.raw" "$srv/plain/two-amd64.qcow2" &&
                qemu-img convert -f raw -O qcow2 "$srv/plain/one.raw" "$srv/plain/two-arm64.qcow2" &&
                xz -k -c "$srv/plain/one.raw" >"$srv/plain/Three.raw.xz" && sums "$srv/plain" || return
        cp "$srv/plain/two-amd64.qcow2" "$srv/ss/images/new.img" && head -c 1M /dev/urandom >"$srv/ss/images/old.img" &&
                cp "$srv"/ss/images/* "$srv/signed/images" && streams "$srv/ss" && streams "$srv/signed" &&
                clearsign good@example.org "$srv/signed/streams/v1/index.json" &&
                clearsign good@example.org "$srv/signed/streams/v1/all:released.json" || return
        python3 "$top/test/system/image_server.py" "$srv" "$work/requests" >"$work/port" 2>"$work/server-log" &
        server=$!
        local i
        for ((i = 0; i < 100; i++)); do
                if [ -s "$work/port" ]; then break; fi
                sleep 0.1
        done
        url=http://127.0.0.1:$(cat "$work/port")
}

switch() { printf '%s' "${@/%/$'\n'}" >"$srv/.switches"; } # WORD SUFFIX VALUE..., a line each; none: it behaves

# ---- ours ----------------------------------------------------------------------------------------------------------------

refused() { # ID COMMAND...: it fails with that id and a fix
        local id=$1
        shift
        lodge "$@" >"$work/said" 2>&1 && { echo "it was done"; return 1; }
        grep -qF -- "[$id]" "$work/said" && grep -q 'fix: ' "$work/said" && return
        cat "$work/said"
        return 1
}

problem() { # ID SOURCE: its index can't be had, for that reason, and the recipes are listed all the same
        lodge image available "$2" >"$work/said" 2>&1 || { cat "$work/said"; return 1; }
        grep -qF -- "[$1]" "$work/said" || { cat "$work/said"; return 1; }
        lodge image available 2>/dev/null | grep -q '^debian/12 '
}

clean() { # nothing of a pull is left
        local left
        left=$(find "$images" -name '.part-*' -o -name '.tmp-*') && [ -z "$left" ] && return
        echo "left: $left"
        return 1
}

is_one() { cmp -- "$srv/plain/one.raw" "$images/$1/disk.raw"; }

meta() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$images/$1/image.json" "$2"; }

sources() {
        lodge image source add good "$url/plain" --type plain --key "$work/good.asc" &&
                lodge image source add bad "$url/plain" --type plain --key "$work/bad.gpg" &&
                lodge image source add open "$url/plain/" --type plain --insecure-unsigned &&
                lodge image source add ss "$url/ss" --insecure-unsigned &&
                lodge image source add signed "$url/signed" --key "$work/good.asc" &&
                lodge image source add other "$url/signed" --key "$work/bad.gpg" &&
                lodge image source add none "$url/nothing" --insecure-unsigned &&
                lodge image source list | tee "$work/said" && grep -q '^good .*signed$' "$work/said" &&
                grep -q '^open .*checksums-only$' "$work/said"
}

trust_is_said() {
        refused source-trust image source add x "$url" --type plain &&
                refused source-trust image source add x "$url" --type plain --key "$work/good.asc" --insecure-unsigned &&
                refused source-key image source add x "$url" --type plain --key /etc/passwd &&
                refused schema-pattern image source add x file:///etc --insecure-unsigned &&
                refused source-exists image source add good "$url" --insecure-unsigned &&
                refused source-exists image source add builtin "$url" --insecure-unsigned
}

plain_list() {
        lodge image available good >"$work/said" || return
        cat "$work/said"
        grep -q '^one ' "$work/said" && grep -q '^two-amd64 ' "$work/said" && grep -q '^three ' "$work/said" &&
                ! grep -q arm64 "$work/said" && lodge image available | grep -q '^debian/12  *builtin '
}

streams_list() { # SOURCE
        lodge image available "$1" --format json >"$work/said" || return
        python3 - "$work/said" <<'EOF'
import json, sys
items = {i["name"]: i for i in json.load(open(sys.argv[1]))["items"]}
assert sorted(items) == ["debian/bookworm/cloud", "ubuntu/24.04"], sorted(items)
u = items["ubuntu/24.04"]
assert u["version"] == "20241101" and "noble" in u["aliases"] and u["size"] > 3 << 20, u
EOF
}

pulls() {
        local name
        for name in one two-amd64 three; do
                lodge image pull "good:$name" && is_one "$name" || return
        done
        [ "$(meta two-amd64 catalogue)" = good:two-amd64 ] && [ "$(meta two-amd64 trust)" = signed ] &&
                [ "$(meta two-amd64 checksum)" = "sha256:$(sha256sum <"$srv/plain/two-amd64.qcow2" | cut -d' ' -f1)" ] || return
        lodge image pull good:one || return # once more: it is there
        refused image-exists image pull good:three --as one && clean &&
                lodge image available good | grep -q '^two-amd64 .* two-amd64 '
}

pulls_streams() {
        lodge image pull ss:noble --as u1 && is_one u1 && [ "$(meta u1 version)" = 20241101 ] && [ "$(meta u1 trust)" = checksums-only ] &&
                lodge image pull signed:ubuntu/24.04 && is_one ubuntu@24.04 && [ "$(meta ubuntu@24.04 trust)" = signed ] &&
                refused catalogue-no-image image pull ss:evil/1 && clean
}

fixes() {
        refused image-not-found launch signed:noble web && grep -q 'lodge image pull signed:noble' "$work/said" &&
                refused image-not-found launch debian/bookworm/cloud web && grep -q 'lodge image pull .*:debian/bookworm/cloud' "$work/said" &&
                refused image-pull-name image pull noble && refused image-pull-name image pull builtin:tiny &&
                refused source-not-found image pull nowhere:noble
}

fresh() { lodge image delete "$1" >/dev/null 2>&1; rm -rf -- "${images:?}/$1"; : >"$work/requests"; }

goes_on() { # after a connection that breaks off at 1 MB
        fresh one
        switch "cut one.raw 1000000"
        lodge image pull open:one && is_one one && cat "$work/requests" && grep -q '^/plain/one.raw bytes=1000000- 206' "$work/requests" && clean
}

streams_go_on() {
        fresh u1
        switch "cut new.img 1000000" && lodge image pull ss:noble --as u1 && is_one u1 &&
                grep -q '^/ss/images/new.img bytes=1000000- 206' "$work/requests" && clean
}

pull_killed() { # NAME: begins a pull at a slow pace, kills the daemon in its middle, and starts it anew
        : >"$work/requests"
        switch "pace one.raw 1500000"
        lodge image pull --detach "open:$1" || return
        local i part
        for ((i = 0; i < 100; i++)); do
                part=$(stat -c %s "$images"/.part-*[0-9a-f] 2>/dev/null | head -n 1)
                if [ "${part:-0}" -gt 1000000 ]; then break; fi
                sleep 0.1
        done
        [ "${part:-0}" -gt 1000000 ] || return
        # shellcheck disable=SC2046 # two numbers
        kill -9 "$daemon" $(worker)
        wait "$daemon" 2>/dev/null
        daemon=""
}

again() { # as a service manager does: once more if a killed one's processes have not ended yet, and hold its lock
        local i
        daemon=""
        for ((i = 0; i < 300; i++)); do
                if [ -z "$daemon" ] || { ! kill -0 "$daemon" 2>/dev/null && tail -n 2 "$work/log" | grep -q 'another lodged'; }; then
                        "$build/lodged" --session --state-dir "$work/state" --run-dir "$work/run" 2>>"$work/log" &
                        daemon=$!
                fi
                if [ -d "$images/$1" ] && ! lodge operation list --running 2>/dev/null | grep -q image-pull; then return 0; fi
                sleep 0.1
        done
        lodge operation list
        return 1
}

survives() { # kill -9 of broker and worker: the operation goes on, from where it was
        fresh one
        pull_killed one || return
        switch
        again one && is_one one && cat "$work/requests" && grep -Eq '^/plain/one.raw bytes=[1-9][0-9]*- 206' "$work/requests" && clean
}

changed() { # the same, but the server's object is another one by now: from the beginning
        fresh one
        pull_killed one || return
        switch "etag one.raw other"
        again one && is_one one && cat "$work/requests" && grep -Eq '^/plain/one.raw bytes=[1-9][0-9]*- 200' "$work/requests" && clean
}

cancelled() {
        fresh one
        switch "pace one.raw 500000"
        local id
        id=$(lodge image pull open:one --detach --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])') || return
        sleep 2
        lodge operation show "$id" --columns progress --format csv | tee "$work/said"
        grep -Eq '[0-9] [KM]iB' "$work/said" || return
        lodge operation cancel "$id" && sleep 1 || return
        [ ! -d "$images/one" ] && lodge operation show "$id" | grep -q cancelled && clean
}

tampered() { # what was signed is not what is there
        cp "$srv/plain/SHA256SUMS" "$work/kept" && echo "$(printf '%064d' 0)  more.raw" >>"$srv/plain/SHA256SUMS"
        problem fetch-signature good
        local r=$?
        mv "$work/kept" "$srv/plain/SHA256SUMS"
        [ "$r" = 0 ] && lodge image available good | grep -q '^one '
}

outside() { # of a clear-signed index only what the signature covers is believed
        local file=$srv/signed/streams/v1/index.sjson
        cp "$file" "$work/kept" && { echo '{"index": {"y": {"path": "streams/v1/evil.json"}}}'; cat "$work/kept"; } >"$file"
        streams_list signed
        local r=$?
        sed 's/released/Released/' "$work/kept" >"$file"
        [ "$r" = 0 ] && problem fetch-signature signed
        r=$?
        mv "$work/kept" "$file"
        return "$r"
}

wrong_checksum() {
        fresh one
        cp "$srv/plain/one.raw" "$work/kept" && printf x | dd of="$srv/plain/one.raw" bs=1 seek=5000 conv=notrunc status=none
        refused fetch-checksum image pull open:one
        local r=$?
        mv "$work/kept" "$srv/plain/one.raw"
        [ "$r" = 0 ] && [ ! -d "$images/one" ] && clean
}

lies() { # about the size, in both directions; the index knows better
        fresh u1
        switch "lie new.img 99999999" && refused fetch-size image pull ss:noble --as u1 &&
                switch "lie new.img 1000" && refused fetch-size image pull ss:noble --as u1 && [ ! -d "$images/u1" ] && clean
}

elsewhere() {
        fresh one
        switch "loop one.raw" && refused fetch-redirect image pull open:one && switch "file one.raw" && refused fetch-redirect image pull open:one &&
                switch "file SHA256SUMS" && problem fetch-redirect open && switch "loop index.json" && problem fetch-redirect ss && clean
}

stalls() {
        fresh one
        switch "slow one.raw 100000" && refused fetch-slow image pull open:one && switch && lodge image pull open:one && is_one one &&
                grep -q '^/plain/one.raw bytes=100000- 206' "$work/requests" && clean
}

endless() { # an index of 64 MiB is long enough; a file that is longer than its index says is cut off
        fresh u1
        switch "endless SHA256SUMS" && problem fetch-size open && switch "endless new.img" && refused fetch-size image pull ss:noble --as u1 && clean
}

garbage() {
        local file=$srv/ss/streams/v1/index.json
        cp "$file" "$work/kept"
        local r=0 text
        for text in '' '[]' '{"index": 7}' '{"index": {"x": {"path": "../../../etc/passwd.json"}}}' "$(printf '[%.0s' {1..5000})"; do
                printf '%s' "$text" >"$file"
                problem fetch-index ss || r=1
        done
        mv "$work/kept" "$file"
        return "$r"
}

on_small() { # SIZE COMMAND: with a daemon whose store is on a file system of that size
        mkdir -p "$work/small" && mount -t tmpfs -o size="$1",mode=755 tmpfs "$work/small" || return
        mkdir -m 700 "$work/small/state" "$work/small/run"
        "$build/lodged" --session --state-dir "$work/small/state" --run-dir "$work/small/run" 2>"$work/small-log" &
        local pid=$! r i
        for ((i = 0; i < 100; i++)); do
                if grep -q ready "$work/small-log"; then break; fi
                sleep 0.1
        done
        LODGE_SOCKET=$work/small/run/lodged.sock
        "$2"
        r=$?
        LODGE_SOCKET=$work/run/lodged.sock
        kill "$pid" && wait "$pid"
        umount "$work/small"
        return "$r"
}

full() { # a disk that is too small for it
        lodge image source add open "$url/plain" --type plain --insecure-unsigned && lodge image source add ss "$url/ss" --insecure-unsigned &&
                refused image-no-space image pull open:one && refused image-no-space image pull ss:noble
}

bomb() { # a little file that unpacks to much: it is stopped while there is room, and nothing stays
        mkdir -p "$srv/bomb" && head -c 900M /dev/zero | tr '\0' y | xz -0 >"$srv/bomb/big.raw.xz" && (cd "$srv/bomb" && sha256sum -- *.xz >SHA256SUMS) &&
                lodge image source add bomb "$url/bomb" --type plain --insecure-unsigned || return
        while df --output=avail -B1M "$work/small" | tail -n 1; do sleep 0.05; done >"$work/free" &
        local sampler=$! r=0 images=$work/small/state/images
        refused image-no-space image pull bomb:big || r=1
        kill "$sampler"
        echo "MiB free at the least: $(sort -n "$work/free" | head -n 1)"
        [ "$r" = 0 ] && [ "$(sort -n "$work/free" | head -n 1)" -gt 100 ] && grep 'less than 256' "$work/said" && clean
}

trickle() { # an index that comes as slowly as it may is given up in the end
        local began=$SECONDS
        lodge image source add trickle "$url/trickle" --type plain --insecure-unsigned && problem fetch-slow trickle || return
        echo "it took $((SECONDS - began)) s"
        [ $((SECONDS - began)) -le 15 ]
}

slow_index() {
        switch "pace trickle/SHA256SUMS 3000"
        LODGE_FETCH_INDEX_S=3 on_small 600m trickle
}

fetches() { # how many lodge-fetches of this test's run
        local pid n=0
        for pid in $(pgrep -x lodge-fetch); do
                if tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qxF "GNUPGHOME=$GNUPGHOME"; then n=$((n + 1)); fi
        done
        echo "$n"
}

leaves() { # a client that does not wait for a slow index
        switch "pace trickle/SHA256SUMS 3000"
        lodge image source add trickle "$url/trickle" --type plain --insecure-unsigned || return
        "$build/lodge" image available trickle </dev/null >/dev/null 2>&1 &
        local client=$! i
        sleep 2
        [ "$(fetches)" -gt 0 ] || return
        kill "$client"
        for ((i = 0; i < 100; i++)); do
                if [ "$(fetches)" = 0 ]; then break; fi
                sleep 0.1
        done
        echo "after $i ticks: $(fetches)"
        [ "$(fetches)" = 0 ] && lodge image available builtin && lodge image source delete trickle
}

deleted_meanwhile() { # a source, while its index is read: what was asked is done, and no names stay
        fresh late
        switch "pace trickle/SHA256SUMS 40000"
        lodge image source add trickle "$url/trickle" --type plain --insecure-unsigned && lodge image pull trickle:late --detach && sleep 1 &&
                [ ! -d "$images/late" ] && lodge image source delete trickle || return
        local i
        for ((i = 0; i < 100; i++)); do
                if [ -d "$images/late" ]; then break; fi
                sleep 0.1
        done
        [ "$(meta late trust)" = checksums-only ] && [ "$(meta late catalogue)" = trickle:late ] && cmp "$srv/trickle/late.raw" "$images/late/disk.raw" &&
                lodge image delete late || return
        lodge launch late x >"$work/said" 2>&1 && return 1
        cat "$work/said"
        ! grep -q 'image pull trickle' "$work/said"
}

sweeps() { # what is left of a pull that nobody went on with for a week goes with the next pull, and not only when the daemon starts
        fresh one
        touch -d '8 days ago' "$images/.part-$(printf '%064d' 1)" "$images/.part-$(printf '%064d' 1).note" &&
                lodge image pull open:one && clean
}

shut_in() { # what downloads has no privileges, filters, and none of the daemon's descriptors
        fresh one
        switch "pace one.raw 300000"
        lodge image pull --detach open:one >/dev/null && sleep 2 || return
        local pid r=0 seen=0
        for pid in $(pgrep -x lodge-fetch); do
                tr '\0' '\n' <"/proc/$pid/environ" | grep -qxF "GNUPGHOME=$GNUPGHOME" || continue
                seen=$((seen + 1))
                grep -E '^(NoNewPrivs|CapEff|Seccomp|Uid):' "/proc/$pid/status"
                grep -q '^NoNewPrivs:.1' "/proc/$pid/status" && grep -q '^CapEff:.0*$' "/proc/$pid/status" || r=1
                if [ "$(id -u)" = 0 ] && grep -q '^Uid:.0' "/proc/$pid/status"; then r=1; fi
                ls -l "/proc/$pid/fd"
                find "/proc/$pid/fd" -lname '*lodged*' -o -lname '*.db*' | grep -q . && r=1
        done
        lodge operation cancel "$(lodge operation list --running --format csv --columns id --no-header)" >/dev/null
        sleep 1
        [ "$seen" -ge 2 ] && [ "$r" = 0 ]
}

many() { # more sources than are read at a time
        local i
        for i in {1..20}; do lodge image source add "many$i" "$url/plain" --type plain --insecure-unsigned >/dev/null || return; done
        lodge image available >"$work/said" 2>&1
        cat "$work/said"
        [ "$(grep -c '^one  *many' "$work/said")" = 20 ] || return
        for i in {1..20}; do lodge image source delete "many$i" >/dev/null || return; done
}

commands() { # the image commands ask the daemon; what a machine needs stays
        ssh-keygen -q -t ed25519 -N '' -f "$work/key" && lodge image list >"$work/said" && lodge image show one --verify >>"$work/said" || return
        cat "$work/said"
        grep -q '^one .*open:one' "$work/said" && grep -q 'is what was recorded' "$work/said" &&
                lodge define one m --ssh-key "$work/key.pub" && refused image-in-use image delete one && is_one one &&
                lodge delete m --keep-disks --yes && lodge image delete one && [ ! -e "$images/one" ]
}

no_source() {
        lodge image source delete none && refused source-not-found image source delete none &&
                refused source-not-found image available none && [ "$(meta u1 catalogue)" = ss:ubuntu/24.04 ]
}

check "a server of the test's own" make_server
check "lodged starts" start
check "sources are added, and listed with what their checksums rest on" sources
check "a source without a key has to be wanted so; a bad key or URL is refused" trust_is_said
check "a plain index: its images for this architecture, beside the recipes" plain_list
check "a simplestreams index: the newest disk of each product for this architecture, and no hostile ones" streams_list ss
check "a signed simplestreams index" streams_list signed
check "a key that did not sign a plain index" problem fetch-signature bad
check "a key that did not sign a simplestreams index" problem fetch-signature other
check "a server without an index" problem fetch-index none
check "raw, qcow2 and xz are pulled, and the image records where from" pulls
check "simplestreams images are pulled, by name and alias" pulls_streams
check "a launch of what only the catalogue has says what to type" fixes
check "a download goes on where the connection broke" goes_on
check "so does one of a simplestreams image" streams_go_on
check "kill -9 of the daemon: the pull goes on where it was, and leaves nothing" survives
check "an object that changed meanwhile is fetched from the beginning" changed
check "a pull says how far it is, and can be cancelled" cancelled
check "an index that was changed after it was signed" tampered
check "what a clear-signed index's signature does not cover" outside
check "content with another checksum" wrong_checksum
check "a server that lies about the size" lies
check "redirects in a circle, and to files" elsewhere
check "a server that stalls is given up, and what had come is kept" stalls
check "an index and a file without an end" endless
switch
check "indexes that make no sense" garbage
if [ "$(id -u)" = 0 ]; then
        check "a disk that is full" on_small 6m full
        check "a little file that unpacks to more than there is room" on_small 600m bomb
        check "an index that trickles in is given up" slow_index
else
        for what in "a disk that is full" "a little file that unpacks to more than there is room" "an index that trickles in is given up"; do
                count=$((count + 1))
                echo "ok $count - $what # SKIP needs root for a small file system"
        done
fi
check "a slow index is read no longer than its client waits" leaves
switch
check "a source that is deleted while its index is read" deleted_meanwhile
switch
check "what is left of old pulls is swept away by the next" sweeps
check "what downloads is shut in" shut_in
switch
lodge image pull ss:noble --as u1 >/dev/null 2>&1
check "many sources are read, some at a time" many
lodge image pull open:one >/dev/null 2>&1
check "image commands ask the daemon, and what a machine needs is not deleted" commands
check "a source is deleted, and its images stay" no_source
tap_end
