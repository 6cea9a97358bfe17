#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 480
#
# remote.sh: the API over TLS: who is let in and who not, what each may, and that nobody who is not known costs the others anything
#
# usage: remote.sh
#
# A session daemon of the test's own on loopback; curl, openssl, gnutls-cli and Python's ssl are the peers that are not ours. Without this test a client could come in
# without a token, work in other projects than its own, or stay connected after it was let in no longer.

set -uo pipefail
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/remote.XXXXXX") || exit 1
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
# shellcheck source=test/system/daemon.bash
. "$top/test/system/daemon.bash"
needs curl openssl gnutls-cli python3 pgrep qemu-img
unset LODGE_SOCKET LODGE_PROJECT LODGE_REMOTE
export XDG_CONFIG_HOME=$work/config XDG_RUNTIME_DIR=$work/nothing XDG_DATA_HOME=$work/nothing
socket=$work/run/lodged.sock peer=$top/test/system/remote-peer
image=$HOME/.local/share/lodge/images/tiny
if [ ! -d "$image" ]; then
        echo "1..0 # SKIP the image tiny is not built"
        exit 0
fi

lodge() { timeout 60 "$build/lodge" "$@" </dev/null; }
here() { lodge "$@" --socket "$socket"; }

# run STATUS WORD...: lodge WORD... ends with STATUS; its output is in $work/out and $work/err
run() {
        local want=$1 status
        shift
        lodge "$@" >"$work/out" 2>"$work/err"
        status=$?
        cat "$work/err"
        [ "$status" = "$want" ] && return
        echo "lodge $*: status $status, not $want"
        cat "$work/out"
        return 1
}
complains() { # STATUS TEXT WORD...
        run "$1" "${@:3}"
        local r=$?
        [ "$r" = 0 ] && grep -qF -- "$2" "$work/err"
}
prints() {
        run "$1" "${@:3}" && cat "$work/out" && grep -qF -- "$2" "$work/out"
}

# answers STATUS TEXT CERTIFICATE|- PATH [WORD...]: by curl over TLS, with the key and certificate of that file
answers() {
        local want=$1 text=$2 who=$3 path=$4 status
        shift 4
        [ "$who" = - ] || set -- --cert "$work/$who.pem" "$@"
        status=$(curl -sk -o "$work/answer" -w '%{http_code}' "$@" "https://127.0.0.1:$port$path")
        cat "$work/answer"
        echo # JSON ends without a new line
        [ "$status" = "$want" ] && grep -qF -- "$text" "$work/answer" && return
        echo "$path: $status, not $want with $text"
        return 1
}

certificate() { # NAME: its key and certificate in one file
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -days 30 -keyout "$work/$1.pem" -out "$work/$1.crt" 2>/dev/null &&
                cat "$work/$1.crt" >>"$work/$1.pem"
}

# secret WORD...: of a token that `lodge token create WORD...` makes
secret() {
        local word
        word=$(here token create "$@" 2>/dev/null) || return
        python3 -c 'import base64, json, sys; t = sys.argv[1].removeprefix("lodge1_"); print(json.loads(base64.urlsafe_b64decode(t + "=" * (-len(t) % 4)))["secret"])' "$word"
}
enrol() { # CERTIFICATE WORD...: a client of curl's
        local who=$1 s
        shift
        certificate "$who" && s=$(secret "$@") && answers 201 "\"name\":\"$1\"" "$who" /v1/clients --json "{\"secret\":\"$s\"}"
}

begin() { # two sockets; the ports are the kernel's choice
        start --listen 127.0.0.1:0 --listen '[::1]:0' || start_without_ipv6
        port=$(sed -n 's/.*listens on 127.0.0.1:\([0-9]*\), with TLS/\1/p' "$work/log")
        [ -n "$port" ] && mkdir -p "$work/state/images" && cp -a "$image" "$work/state/images/"
}
start_without_ipv6() {
        rm -rf "$work/state" "$work/run"
        start --listen 127.0.0.1:0
}
port=""
begin
check "lodged starts" test -n "$port"
first=$(worker)

# ---- TLS

certificate_is_private() { [ "$(stat -c %a "$work/state/store/tls.pem")" = 600 ]; }
only_13() {
        ! curl -sk --tls-max 1.2 "https://127.0.0.1:$port/healthz" &&
                ! timeout 10 gnutls-cli --insecure --priority NORMAL:-VERS-ALL:+VERS-TLS1.2 -p "$port" 127.0.0.1 </dev/null &&
                openssl s_client -connect "127.0.0.1:$port" -brief </dev/null 2>&1 | grep TLSv1.3 && answers 200 ok - /healthz
}
no_resumption() { ! timeout 10 openssl s_client -connect "127.0.0.1:$port" </dev/null 2>&1 | grep -E 'New Session Ticket|Reused'; }
plain() {
        curl -s "http://127.0.0.1:$port/v1" >"$work/answer"
        cat "$work/answer"
        grep -q '"id":"tls"' "$work/answer"
}
garbage() { # a megabyte of it
        head -c 1000000 /dev/urandom | timeout 10 python3 -c 'import socket, sys; s = socket.create_connection(("127.0.0.1", int(sys.argv[1]))); s.sendall(sys.stdin.buffer.read())' "$port"
        answers 200 ok - /healthz
}
check "its key and certificate are its own to read" certificate_is_private
check "TLS 1.3 is spoken, 1.2 refused: curl, gnutls-cli, openssl" only_13
check "no session is taken up again: each connection shows its certificate" no_resumption
check "plain HTTP is told that this is TLS" plain
check "bytes that are no TLS harm nobody" garbage

# ---- who is let in

stranger() { certificate stranger && answers 401 "lodge token create" stranger /v1 && answers 401 '"id":"client-unknown"' stranger /v1/nothing; }
open_paths() {
        for path in /readyz /metrics /v1/openapi.json /v1/machines /v1/tokens /v1/clients '/v1/events/stream'; do
                answers 401 client-unknown - "$path" || return
        done
        answers 401 client-unknown stranger /v1/events/stream -H 'Upgrade: websocket' -H 'Connection: Upgrade' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=='
}
enrolment() {
        enrol viewer viewer && enrol opera opera --role operator --project a && enrol operb operb --role operator --project b &&
                enrol admin admin --role admin && enrol admina admina --role admin --project a && answers 200 '"role":"operator"' opera /v1
}
used() {
        certificate late && certificate later || return
        local s
        s=$(secret late)
        answers 201 '"name":"late"' late /v1/clients --json "{\"secret\":\"$s\"}" && answers 404 token-unknown later /v1/clients --json "{\"secret\":\"$s\"}" &&
                answers 201 '"name":"late"' late /v1/clients --json "{\"secret\":\"$s\"}" # its answer may have been lost
}
expired() {
        local s
        s=$(secret short --expires 1)
        sleep 2
        answers 403 token-expired later /v1/clients --json "{\"secret\":\"$s\"}" && here token create short >/dev/null
}
raced() { # 10 certificates, one token
        local s i
        s=$(secret raced)
        for ((i = 0; i < 10; i++)); do certificate "race$i"; done
        for ((i = 0; i < 10; i++)); do
                curl -sk --cert "$work/race$i.pem" -o /dev/null -w '%{http_code}\n' --json "{\"secret\":\"$s\"}" "https://127.0.0.1:$port/v1/clients" &
        done >"$work/raced"
        while [ "$(wc -l <"$work/raced")" -lt 10 ]; do sleep 0.1; done
        sort "$work/raced" | uniq -c
        [ "$(grep -c 201 "$work/raced")" = 1 ]
}
no_certificate() { answers 400 client-certificate - /v1/clients --json "{\"secret\":\"$(printf '%064d' 1)\"}"; }
guesses() { # wrong ones are limited, and written down, and after a minute it goes on
        local i
        certificate guess
        for ((i = 0; i < 25; i++)); do
                curl -sk --cert "$work/guess.pem" -o /dev/null -w '%{http_code}\n' --json "{\"secret\":\"$(printf '%064d' "$i")\"}" "https://127.0.0.1:$port/v1/clients"
        done >"$work/guessed"
        cat "$work/guessed"
        tail -n 1 "$work/guessed" | grep -q 429 && curl -s --unix-socket "$socket" 'http://x/v1/audit?limit=1000' >"$work/answer" &&
                grep -q '"action":"client_enrol","project":"default","status":404' "$work/answer"
}
secrets_stay() { # neither the list nor the store's files hold one, nor is a token given twice for an Idempotency-Key
        local s
        s=$(secret hidden)
        curl -s --unix-socket "$socket" http://x/v1/tokens >"$work/answer"
        grep -q '"name":"hidden"' "$work/answer" && ! grep -qr -- "$s" "$work/answer" "$work/state/store" "$work/log" &&
                ! grep -q "PRIVATE" "$work/log" && curl -s --unix-socket "$socket" -H 'Idempotency-Key: k' --json '{"name":"k"}' http://x/v1/tokens | grep idempotency-secret
}
check "who is not known gets 401, and what to type" stranger
check "and nothing but whether the daemon lives, not even a WebSocket" open_paths
check "clients are let in by tokens" enrolment
check "a token lets one client in, once" used
check "an expired token does not, and makes way for another of its name" expired
check "of 10 who race with one token one gets in" raced
check "a token without a certificate is of no use" no_certificate
check "a token's secret is given once, and kept nowhere" secrets_stay

# ---- what each may

roles() {
        answers 200 items viewer /v1/machines && answers 403 '"id":"role"' viewer /v1/machines/none/start -X POST &&
                answers 403 '"id":"role"' viewer '/v1/machines' --json '{"name":"x","kernel":"/none"}' && answers 403 '"id":"role"' opera /v1/tokens &&
                answers 200 items admin /v1/audit && answers 200 lodge_info viewer /metrics
}
define() { answers 201 "\"name\":\"$3\"" "$1" "/v1/machines?project=$2" --json "{\"name\":\"$3\",\"image\":\"tiny\"}" || answers 200 "\"name\":\"$3\"" "$1" "/v1/machines/$3?project=$2"; }
other_projects() {
        define opera a ma && define operb b mb || return
        answers 403 '"id":"project"' opera '/v1/machines?project=b' && answers 403 '"id":"project"' opera '/v1/machines/mb?project=b' &&
                answers 404 machine-not-found opera /v1/machines/mb && answers 403 '"id":"project"' opera '/v1/machines/mb/start?project=b' -X POST &&
                answers 403 '"id":"project"' opera '/v1/usage?project=b' && answers 403 '"id":"project"' opera '/v1/events?pro%6aect=b' &&
                answers 403 '"id":"project"' opera '/v1/operations?project=b'
}
own_project() { # without saying so
        answers 200 '"name":"ma"' opera /v1/machines && answers 200 '"machines":1' opera /v1
}
by_uuid() {
        local uuid
        uuid=$(curl -s --unix-socket "$socket" 'http://x/v1/machines/mb?project=b' | sed 's/.*"uuid":"\([^"]*\)".*/\1/')
        answers 404 machine-not-found opera "/v1/machines/$uuid" && answers 404 machine-not-found opera "/v1/machines/$uuid" -X DELETE
}
operations() { # one of the other project is as if it were not there
        local id
        id=$(curl -s --unix-socket "$socket" -X DELETE 'http://x/v1/machines/mb?project=b' | sed 's/.*"id":"\([^"]*\)".*/\1/')
        answers 200 "$id" operb "/v1/operations/$id" && answers 404 operation-not-found opera "/v1/operations/$id" &&
                answers 404 operation-not-found opera "/v1/operations/$id" -X DELETE && ! answers 200 "$id" opera /v1/operations && answers 200 "$id" viewer '/v1/operations?project=b'
}
events() {
        answers 200 '"project":"a"' opera '/v1/events?limit=1000' && ! grep -q '"project":"b"\|client-enrolled' "$work/answer" &&
                answers 200 client-enrolled admin '/v1/events?limit=1000'
}
host() { # images, pools and networks may be looked at, and not changed; what is about all projects not even that
        local path
        for path in images pools/default networks; do answers 200 '' opera "/v1/$path" || return; done
        for path in audit metrics tokens clients; do
                [ "$path" = metrics ] && path=/metrics || path=/v1/$path
                answers 403 '"id":' admina "$path" || return
        done
        answers 403 '"id":"project"' admina /v1/tokens --json '{"name":"evil","role":"admin"}' && answers 403 '"id":"project"' admina /v1/images/tiny -X DELETE &&
                answers 403 '"id":"project"' admina /v1/networks --json '{"name":"n"}' && answers 403 '"id":"project"' admina /v1/clients/opera -X DELETE
}
check "a viewer only looks, an operator works, an admin lets others in" roles
check "a client of one project does not reach another one" other_projects
check "nor the host's files" answers 403 '"id":"project"' admina '/v1/machines?project=a' --json '{"name":"mk","image":"tiny","disks":[{"path":"/etc/shadow"}]}'
check "and need not name its own" own_project
check "nor reaches the other's machines by UUID" by_uuid
check "operations of another project do not exist" operations
check "events of another project and of the host are not shown" events
check "images, pools and networks are there to be looked at; the rest of the host is not" host

# ---- WebSockets, and who is let in no longer

comes() { # PATTERN FILE: within 30 s, however busy the host is
        local i
        for ((i = 0; i < 300; i++)); do
                grep -q -- "$1" "$2" && return
                sleep 0.1
        done
        cat "$2"
        return 1
}
listening() { # of its own project's events only
        "$peer" stream "$port" '/v1/events/stream?after=0' "$work/opera.pem" >"$work/stream" 2>&1 &
        local pid=$!
        comes ' 101 ' "$work/stream" && define operb b mc && define opera a md && comes '"target":"md"' "$work/stream"
        kill "$pid"
        cat "$work/stream"
        grep -q '"target":"md"' "$work/stream" && ! grep -q '"project":"b"\|client-enrolled' "$work/stream" &&
                { timeout 10 "$peer" stream "$port" '/v1/events/stream?project=b' "$work/opera.pem" | grep -x 'closed 4000'; } &&
                { timeout 10 "$peer" stream "$port" '/v1/machines/mc/console?project=b' "$work/opera.pem" | grep -x 'closed 4000'; }
}
revoked() {
        : >"$work/stream"
        "$peer" stream "$port" /v1/events/stream "$work/operb.pem" >>"$work/stream" 2>&1 &
        local pid=$!
        curl -sk --cert "$work/operb.pem" "https://127.0.0.1:$port/v1/machines?project=b" >/dev/null
        comes ' 101 ' "$work/stream" && here client delete operb && comes '^closed 4001$' "$work/stream"
        local r=$?
        kill "$pid" 2>/dev/null
        [ "$r" = 0 ] || return
        answers 401 client-unknown operb /v1 &&
                answers 401 client-revoked operb /v1/clients --json "{\"secret\":\"$(printf '%064d' 1)\"}" && answers 200 '"role":"operator"' opera /v1
}
granted() { # another role is for the next request; what was open with more than that is cut
        enrol shift shift --role operator && enrol stays stays --role operator --project a || return
        "$peer" stream "$port" '/v1/events/stream?project=a' "$work/shift.pem" >"$work/stream" 2>&1 &
        "$peer" stream "$port" /v1/events/stream "$work/stays.pem" >"$work/stream2" 2>&1 &
        local other=$! tag
        comes ' 101 ' "$work/stream" && comes ' 101 ' "$work/stream2" || return
        answers 200 '"role":"operator"' admin /v1/clients/shift -D "$work/headers" && answers 403 '"id":"role"' shift /v1/clients/shift || return
        tag=$(sed -n 's/^etag: *\("[^"]*"\).*/\1/Ip' "$work/headers")
        answers 200 '"role":"viewer"' admin /v1/clients/shift -X PATCH -H "If-Match: $tag" --json '{"role":"viewer"}' || return
        comes '^closed 4003$' "$work/stream" && answers 403 '"id":"role"' shift '/v1/machines?project=a' --json '{"name":"x","kernel":"/none"}' && answers 200 items shift /v1/machines || return
        answers 412 client-changed admin /v1/clients/shift -X PATCH -H "If-Match: $tag" --json '{"role":"admin"}' || return
        here client set shift role=operator project=b && answers 403 '"id":"project"' shift '/v1/machines?project=a' && answers 404 machine-not-found shift /v1/machines/none/start -X POST || return
        here client set shift project= && answers 200 items shift '/v1/machines?project=a' || return
        here client set stays role=admin && define admin a mg || return
        comes '"target":"mg"' "$work/stream2" && kill "$other" && answers 403 '"id":"project"' stays /v1/clients/stays -X PATCH --json '{"project":null}' &&
                complains 1 schema-enum client set shift role=root --socket "$socket" && complains 2 client-unknown client set nobody role=admin --socket "$socket" &&
                here audit list --limit 1000 --format csv | grep 'client_change.*shift.*200' && here client delete shift && here client delete stays
}
check "a listener hears of its own project only" listening
check "a client's role and project are changed: from the next request on, and open streams are cut when it may do less" granted
check "who is let in no longer loses its WebSocket and its next request" revoked

# ---- the command line

adding() {
        here token create laptop --role operator --project a >"$work/token" 2>/dev/null && prints 0 "let in as client laptop (operator, project a)" remote add office "$(cat "$work/token")" &&
                prints 0 laptop remote list && [ "$(stat -c %a "$work"/config/lodge/remotes/*)" = $'600\n600' ]
}
again() { complains 2 remote-exists remote add office "$(cat "$work/token")" && complains 2 token-unknown remote add second "$(cat "$work/token")" && complains 1 '[token]' remote add third lodge1_nonsense; }
listing() {
        prints 0 ma list --remote office && grep -q 'remote office: session machines' "$work/err" &&
                LODGE_REMOTE=office prints 0 ma list && prints 0 'client laptop,operator,a' daemon show --remote office --columns user,role,project --format csv
}
refused() {
        complains 2 '[project]' list --remote office --project b && complains 2 '[role]' token list --remote office && complains 1 remote-socket list --remote office --session &&
                complains 2 remote-unknown list --remote nowhere
}
moved() { # the remote that was added for one project works in the one that its client is held to now
        here client set laptop project=b && prints 0 mb2 define tiny mb2 --remote office && ! run 0 info ma --remote office &&
                here client set laptop project=a && prints 0 ma info ma --remote office && here delete mb2 --project b --disks
}
another_server() { # with another certificate: it is told nothing
        sed -i 's/"fingerprint":"..../"fingerprint":"0000/' "$work/config/lodge/remotes/office.json"
        complains 2 remote-certificate list --remote office
        local r=$?
        here token create back --role operator --project a >"$work/token" 2>/dev/null
        run 0 remote delete office && prints 0 "client back" remote add office "$(cat "$work/token")" && return "$r"
}
addresses() { # REMOTE ADDRESS...: as somebody's editor writes them
        python3 -c 'import json, sys; p, name, *a = sys.argv[1:]; d = json.load(open(p + "office.json")); d |= {"name": name, "addresses": a}; json.dump(d, open(p + name + ".json", "w"))' "$work/config/lodge/remotes/" "$@"
        cp "$work/config/lodge/remotes/office.pem" "$work/config/lodge/remotes/$1.pem" 2>/dev/null || [ "$1" = office ]
}
other_first() { # PORT: what is wrong at one address is told only when no other address is right
        local long
        long=$(printf 'n%.0s' {1..63})
        addresses moved "127.0.0.1:$1" "127.0.0.1:1" "127.0.0.1:$port" && run 0 list --remote moved &&
                addresses moved "127.0.0.1:$1" "127.0.0.1:1" && complains 2 remote-certificate list --remote moved &&
                addresses moved && complains 1 "needs at least one" list --remote moved && run 0 remote delete moved &&
                addresses "$long" "127.0.0.1:$port" && prints 0 "$long" remote list && run 0 remote delete "$long"
}
wrong_token() { # a token of another server: the secret is not sent
        certificate other
        openssl s_server -accept 127.0.0.1:0 -cert "$work/other.crt" -key "$work/other.pem" -tls1_3 -www >"$work/server" 2>&1 </dev/null &
        local server=$! fake i other=""
        for ((i = 0; i < 50; i++)); do
                other=$(sed -n 's/^ACCEPT 127.0.0.1:\([0-9]*\)$/\1/p' "$work/server")
                [ -z "$other" ] || break
                sleep 0.1
        done
        fake=$(python3 -c 'import base64, json, sys; t = open(sys.argv[1]).read().strip().removeprefix("lodge1_"); d = json.loads(base64.urlsafe_b64decode(t + "=" * (-len(t) % 4))); d["addresses"] = ["127.0.0.1:" + sys.argv[2]]; print("lodge1_" + base64.urlsafe_b64encode(json.dumps(d).encode()).decode().rstrip("="))' "$work/token" "$other")
        complains 2 remote-certificate remote add evil "$fake"
        local r=$?
        [ "$r" != 0 ] || { other_first "$other"; r=$?; }
        kill "$server" 2>/dev/null
        ! grep -q secret "$work/server" && return "$r"
}
nobody_there() { complains 3 remote-connect remote add nobody "$(python3 -c 'import base64, json; print("lodge1_" + base64.urlsafe_b64encode(json.dumps({"secret": "0" * 64, "fingerprint": "0" * 64, "addresses": ["127.0.0.1:1"]}).encode()).decode().rstrip("="))')"; }
guest() { # a machine, its console and a command in it
        run 0 launch tiny run1 --remote office --net none --wait 0 || return
        # shellcheck disable=SC2016 # for the guest's shell
        { sleep 8; printf 'echo con$((40+2))sole\n'; sleep 5; } | timeout 20 "$build/lodge" console run1 --remote office >"$work/console" 2>&1
        tail -n 5 "$work/console"
        grep -q con42sole "$work/console" && run 0 kill run1 --remote office && run 0 delete run1 --disks --yes --remote office
}
check "lodge remote add; keys are private" adding
check "a remote is added once, a token taken once, nonsense refused" again
check "lists are the remote's, and say so" listing
check "what the role, the project or another option forbids is an error with its cure" refused
check "a remote follows its client to another project" moved
check "a server with another certificate is refused" another_server
check "what answers in a server's place gets no secret" wrong_token
check "a remote that is not there: status 3" nobody_there
check "a console through a remote" guest

# ---- uploads

disk=$work/disk.qcow2
left_nothing() { # of an upload that was not to be, within 10 s
        local i
        for ((i = 0; i < 100; i++)); do
                [ -z "$(find "$work/state/images" -name '.upload-*' -o -name '.tmp-*' -o -name "$1")" ] && return
                sleep 0.1
        done
        ls -lA "$work/state/images"
        return 1
}
# announced STATUS PEM PATH LENGTH BYTES [RATE]: the status of an upload's first answer; the peer goes on as $UPLOAD_PID, with its standard input in fd 8
announced() {
        local status
        rm -f "$work/hold" && mkfifo "$work/hold" && : >"$work/peer"
        "$peer" upload "$port" "$work/$2.pem" "$3" "$4" "$5" "${6:-0}" <"$work/hold" >>"$work/peer" 2>&1 &
        upload_pid=$!
        exec 8>"$work/hold"
        for ((i = 0; i < 100; i++)); do
                read -r status <"$work/peer" && break
                sleep 0.1
        done
        cat "$work/peer"
        [ "$status" = "$1" ]
}
peer_says() { # TEXT: within 10 s
        local i
        for ((i = 0; i < 100; i++)); do grep -q "^$1" "$work/peer" && return; sleep 0.1; done
        cat "$work/peer"
        return 1
}
peer_end() { exec 8>&-; wait "$upload_pid"; }

sends() { # the file that the command line has; what arrives is what qemu-img made, of every format
        local format
        head -c 20000256 /dev/urandom >"$work/disk.raw" && truncate -s 30000128 "$work/disk.raw"
        here token create uploader --role operator >"$work/token" 2>/dev/null && run 0 remote add up "$(cat "$work/token")" || return
        for format in raw qcow2 vmdk vhdx; do
                qemu-img convert -f raw -O "$format" "$work/disk.raw" "$work/disk.$format.file" || return
                prints 0 "sent-$format: imported" image import --remote up --name "sent-$format" --disk-format "$format" "$work/disk.$format.file" || return
                cmp -n 30000128 "$work/disk.raw" "$work/state/images/sent-$format/disk.raw" || return
                [ "$(stat -c %u "$work/state/images/sent-$format/disk.raw")" = "$(id -u)" ] || return
        done
        left_nothing none && cp "$work/disk.qcow2.file" "$disk" &&
                prints 0 "sha256:$(sha256sum "$disk" | cut -d' ' -f1)" image show sent-qcow2 --remote up --format json
}
told_here() { # what needs no byte to be sent
        complains 2 image-exists image import --remote up --name sent-raw --disk-format raw "$work/disk.raw" &&
                complains 1 '[image-format]' image import --remote up "$disk" && grep -q 'it looks like qcow2' "$work/err" &&
                complains 1 '[image-upload]' image import --remote up --disk-format qcow2 --kernel "$disk" "$disk" &&
                complains 1 '[image-name]' image import --remote up --disk-format qcow2 --name 'No Name' "$disk"
}
no_qcow2() { # nothing is probed: raw bytes that are said to be qcow2 are an error, and leave nothing
        complains 2 '[qcow2-magic]' image import --remote up --name odd --disk-format qcow2 "$work/disk.raw" && left_nothing odd
}
wrong_sum() {
        local sum
        sum=$(sha256sum "$disk" | cut -d' ' -f1)
        answers 400 '"id":"upload-digest"' admin "/v1/images/summed?disk_format=qcow2&sha256=${sum//[0-9]/7}" -T "$disk" && left_nothing summed &&
                answers 202 '"kind":"image-import"' admin "/v1/images/summed?disk_format=qcow2&sha256=$sum" -T "$disk"
}
before_bytes() { # a viewer, one of a project, no room: nobody has to send first
        announced 403 viewer "/v1/images/refused?disk_format=raw" 1000000000 0 && grep -q '"id":"role"' "$work/peer" && peer_end &&
                announced 403 opera "/v1/images/refused?disk_format=raw" 1000000000 0 && grep -q '"id":"project"' "$work/peer" && peer_end &&
                announced 507 admin "/v1/images/refused?disk_format=raw" 60000000000000 0 && grep -q '"id":"image-no-space"' "$work/peer" && peer_end &&
                announced 409 admin "/v1/images/sent-raw?disk_format=raw" 1000000 0 && grep -q '"id":"image-exists"' "$work/peer" && peer_end &&
                announced 400 admin "/v1/images/refused?disk_format=raw" 0 0 && peer_end && left_nothing refused
}
half_way() { # the client goes: the file goes
        announced 100 admin "/v1/images/half?disk_format=raw" 100000000 50000000 && peer_says sent && ls -lA "$work/state/images" &&
                [ -n "$(find "$work/state/images" -name '.upload-*')" ] && peer_end && left_nothing half
}
slow_upload() { # 16 KiB a second go on for longer than a request may last, 100 bytes a second do not
        announced 100 admin "/v1/images/slow?disk_format=raw" 100000000 10000 100 || return
        local slow=$upload_pid
        exec 9>&8
        cp "$work/peer" "$work/peer.slow"
        "$peer" upload "$port" "$work/admin.pem" "/v1/images/steady?disk_format=raw" 100000000 560000 16000 </dev/null >"$work/peer.steady" 2>&1
        cat "$work/peer.steady" "$work/peer"
        exec 8>&- 9>&-
        wait "$slow"
        grep -q '^sent' "$work/peer.steady" && grep -qE '^cut (1[5-9]|2[0-9])$' "$work/peer" && left_nothing slow
}
told_why() { # an upload that fails in the middle: its client hears of that, and not that the daemon is gone
        local before task="" i status
        before=$(pgrep -P "$daemon" -x lodged)
        head -c 1000000 /dev/urandom >"$work/fails.raw" && truncate -s 200000000 "$work/fails.raw" || return
        "$build/lodge" image import --remote up --name fails --disk-format raw "$work/fails.raw" </dev/null >"$work/out" 2>"$work/err" &
        local client=$!
        for ((i = 0; i < 1000; i++)); do
                [ -z "$(find "$work/state/images" -name '.upload-*' -size +0)" ] || task=$(tasks) && [ -n "$task" ] && break
                sleep 0.01
        done
        kill -9 "$task"
        wait "$client"
        status=$?
        cat "$work/err"
        rm -f "$work/fails.raw" "$work/state/images/".upload-* # of who was killed
        [ "$status" = 2 ] && grep -qF '[task-lost]' "$work/err"
}
small_memory() { # the worker's, of an upload of 300 MB
        local before after
        before=$(awk '/VmHWM/ {print $2}' "/proc/$(worker)/status")
        truncate -s 300000256 "$work/large.raw" && head -c 200000000 /dev/urandom | dd of="$work/large.raw" conv=notrunc status=none &&
                run 0 image import --remote up --name large --disk-format raw "$work/large.raw" && cmp "$work/large.raw" "$work/state/images/large/disk.raw" || return
        after=$(awk '/VmHWM/ {print $2}' "/proc/$(worker)/status")
        rm -f "$work/large.raw"
        echo "VmHWM $before kB, then $after kB"
        [ "$((after - before))" -lt 8000 ] && run 0 image delete large --remote up
}
tasks() { pgrep -P "$daemon" -x lodged | grep -vxF "$before"; } # that have begun since
their_turn() { # imports that take long leave calls to the broker for the others, and lose nothing; one that waits can be cancelled
        local i id r=1 stopped=() pid before
        before=$(pgrep -P "$daemon" -x lodged)
        qemu-img create -q -f qcow2 "$work/turn.qcow2" 1G || return # and each byte of it is hashed
        for ((i = 1; i <= 6; i++)); do
                answers 202 '"kind":"image-import"' admin "/v1/images/turn$i?disk_format=qcow2" -T "$work/turn.qcow2" || break
                for pid in $(tasks); do kill -STOP "$pid" && stopped+=("$pid"); done
        done
        id=$(sed 's/.*"id":"\([^"]*\)".*/\1/' "$work/answer")
        [ "$(tasks | wc -l)" = 4 ] && answers 200 'waiting for other imports' admin "/v1/operations/$id" && answers 200 "$id" admin "/v1/operations/$id" -X DELETE && sleep 1 &&
                answers 200 '"status":"cancelled"' admin "/v1/operations/$id" && r=0
        echo "stopped ${stopped[*]}, there are $(tasks | xargs)"
        kill -CONT "${stopped[@]}"
        [ "$r" = 0 ] || return
        for ((i = 1; i <= 5; i++)); do comes_image "turn$i" || return; done
        left_nothing turn6
}
comes_image() { # NAME: within 20 s; and goes
        local i
        for ((i = 0; i < 200; i++)); do
                [ -e "$work/state/images/$1/image.json" ] && run 0 image delete "$1" --socket "$socket" && return
                sleep 0.1
        done
        ls -lA "$work/state/images"
        return 1
}
check "an image is uploaded, of each format, and is what was sent" sends
check "what can't be is an error before anything is sent" told_here
check "an upload of another format than was said is no image" no_qcow2
check "an upload with the wrong checksum is refused, and leaves nothing" wrong_sum
check "viewers, clients of a project and what does not fit are refused before the bytes come" before_bytes
check "an upload that breaks off leaves nothing" half_way
check "an upload that fails in the middle is told why" told_why
check "300 MB go through little memory" small_memory
check "imports wait for their turn when there are many" their_turn
check "a slow upload goes on, one that all but stands still is cut" slow_upload

# ---- hostile

stalled() { # 200 handshakes that do not go on; others are served meanwhile
        local i slowest=0 took left
        coproc STALL { "$peer" stall "$port" 200; }
        read -r _ <&"${STALL[0]}"
        for ((i = 0; i < 20; i++)); do
                took=$(curl -sk -m 5 -o /dev/null -w '%{time_total}' "https://127.0.0.1:$port/healthz") || took=9
                slowest=$(printf '%s\n%s\n' "$slowest" "$took" | sort -g | tail -n 1)
        done
        run 0 list --remote office || slowest=9
        sleep 16 # they have ten seconds, and a sweep comes every five
        eval "exec ${STALL[1]}>&-"
        read -r left <&"${STALL[0]}"
        echo "slowest $slowest s, left $left"
        [ "$left" = 0 ] && python3 -c "assert $slowest < 1"
}
large() {
        head -c 3000000 /dev/zero | tr '\0' ' ' >"$work/large"
        answers 413 body-too-large viewer /v1/machines --json "@$work/large" && answers 413 body-too-large - /v1/clients --json "@$work/large" && answers 200 ok - /healthz
}
slow() { # an idle request is cut after 20 s and a sweep
        local took
        took=$(timeout 60 "$peer" drip "$port" "$work/viewer.pem")
        echo "cut after $took s"
        [ "$took" -ge 15 ] && [ "$took" -le 30 ]
}
many_strangers() { # they fill their own room only
        local pids=() i
        for ((i = 0; i < 300; i++)); do
                { sleep 20; } | timeout 15 openssl s_client -quiet -connect "127.0.0.1:$port" >/dev/null 2>&1 &
                pids+=($!)
        done
        sleep 5
        run 0 list --remote office && answers 200 ok - /healthz && curl -s -m 5 --unix-socket "$socket" http://x/healthz
        local r=$?
        kill "${pids[@]}" 2>/dev/null
        return "$r"
}
killed_upload() { # and one that was whole when the daemon was killed becomes an image, or is gone
        announced 100 admin "/v1/images/killed?disk_format=raw" 100000000 50000000 && peer_says sent && [ -n "$(find "$work/state/images" -name '.upload-*')" ] &&
                key_survives && left_nothing killed
        local r=$?
        peer_end
        return "$r"
}
key_survives() { # a kill -9 leaves the certificate, and so do its clients' pins
        kill -9 "$daemon"
        wait "$daemon" 2>/dev/null
        rm -rf "$work/run" && mkdir -m 700 "$work/run" && mv "$work/log" "$work/log.first"
        G_DEBUG=fatal-criticals "$build/lodged" --session --state-dir "$work/state" --run-dir "$work/run" --listen "127.0.0.1:$port" 2>"$work/log" &
        daemon=$!
        local i
        for ((i = 0; i < 100; i++)); do grep -q ready "$work/log" && break; sleep 0.1; done
        run 0 list --remote office
}
damaged() { # a certificate that can't be read is not replaced
        kill "$daemon"
        wait "$daemon" 2>/dev/null
        echo damage >"$work/state/store/tls.pem"
        timeout 20 "$build/lodged" --session --state-dir "$work/state" --run-dir "$work/run" --listen 127.0.0.1:0 >"$work/out" 2>&1
        cat "$work/out"
        grep -q 'tls-identity' "$work/out" && [ "$(cat "$work/state/store/tls.pem")" = damage ]
}
quiet() { ! grep -E 'CRITICAL|WARNING|<[0-3]>' "$work/log"; }
check "wrong guesses are limited, and in the audit record" guesses
check "200 handshakes that stall keep nobody out, and are ended" stalled
check "what is too large is refused, as on the socket" large
check "a slow sender is cut" slow
check "300 connections of strangers keep nobody out who is known" many_strangers
check "nothing was logged as an error" quiet
check "the worker is still the same process" test "$(worker)" = "$first"
check "after a kill -9 it is the same server to its clients" key_survives
check "a kill -9 during an upload leaves nothing after the next start" killed_upload
check "a damaged certificate is an error, and stays as it is" damaged
tap_end
