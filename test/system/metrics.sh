#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: both
# seconds: 300
#
# metrics.sh: /metrics as an independent parser reads it: a machine's figures grow with what its guest does, no scrape waits for a guest, and what it
# used is added up for its project
#
# usage: metrics.sh
#
# A session daemon, whose machine has no tap, hence no figures of interfaces; network-nat.sh has those. The parser is that of python3-prometheus-client,
# and promtool judges as well where there is one.

set -uo pipefail
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
if [ "$(id -u)" = 0 ] && [ "${LODGE_TEST_NETNS:-}" != 1 ]; then
        exec env LODGE_TEST_NETNS=1 unshare --net -- "$0" "$@"
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/metrics.XXXXXX") || exit 1
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
# shellcheck source=test/system/daemon.bash
. "$top/test/system/daemon.bash"
needs curl python3
python=/usr/bin/python3 # whose packages are Debian's
"$python" -c 'import prometheus_client' 2>/dev/null || {
        echo "1..0 # SKIP no python3-prometheus-client"
        exit 0
}
[ "$(id -u)" != 0 ] || ip link set lo up
[ -d "${XDG_DATA_HOME:-$HOME/.local/share}/lodge/images/tiny" ] || {
        echo "1..0 # SKIP no image tiny"
        exit 0
}
socket=$work/run/lodged.sock
export LODGE_SOCKET=$socket LODGED_TEST_SAMPLE_MS=400
lodge() { timeout 120 "$build/lodge" "$@" </dev/null; }
scrape() { curl -sS --fail --max-time 2 --unix-socket "$socket" -D "$work/head" -o "$work/metrics" http://localhost/metrics; }

# value NAME [LABEL=VALUE...]: of the one sample; nothing when there is none
value() {
        scrape && "$python" - "$work/metrics" "$@" <<'PY'
import sys
from prometheus_client.parser import text_string_to_metric_families
labels = dict(pair.split("=", 1) for pair in sys.argv[3:])
found = [s.value for f in text_string_to_metric_families(open(sys.argv[1]).read()) for s in f.samples
         if s.name == sys.argv[2] and labels.items() <= s.labels.items()]
assert len(found) < 2, found
for v in found:
    print(f"{v:.3f}".rstrip("0").rstrip("."))
PY
}

# becomes SECONDS PYTHON NAME [LABEL=VALUE...]: the sample `v` fulfils it in time
becomes() {
        local i v=""
        for ((i = 0; i < $1 * 2; i++)); do
                v=$(value "${@:3}")
                if [ -n "$v" ] && python3 -c "v = $v; raise SystemExit(not ($2))"; then return 0; fi
                sleep 0.5
        done
        echo "$3 is ${v:-not there}, not $2"
        return 1
}

parsed() { # families with help and type, one place each, no series twice, and all names are those of the table
        scrape && grep -qi '^content-type: text/plain; version=0.0.4' "$work/head" && "$python" - "$work/metrics" "$("$top/test/lint/metrics" --names)" <<'PY'
import sys
from prometheus_client.parser import text_string_to_metric_families
text = open(sys.argv[1]).read()
known = set(sys.argv[2].split())
seen, names = set(), []
for f in text_string_to_metric_families(text):
    assert f.documentation and f.type in ("gauge", "counter"), f
    for s in f.samples:
        key = (s.name, tuple(sorted(s.labels.items())))
        assert key not in seen, key
        seen.add(key)
        assert s.name in known, s.name
        assert s.value >= 0, s
    names.append(f.name)
assert len(names) == len(set(names)) >= 12, names
assert text.endswith("\n") and len(seen) > 20
PY
}

judged() { scrape && promtool check metrics <"$work/metrics"; }

grows() { # BYTES NAME LABEL... -- WORD...: by that much at least while the guest does that
        local least=$1 before words name=()
        shift
        while [ "$1" != -- ]; do
                name+=("$1")
                shift
        done
        shift
        words=("$@")
        before=$(value "${name[@]}")
        if [ -z "$before" ] || ! lodge exec web -- "${words[@]}"; then return 1; fi
        becomes 10 "v >= $before + $least" "${name[@]}"
}

launched() {
        python3 - "$top" "$work/images" <<'PY' && cp -a -- "$work"/images/* "$work/state/images/" && lodge launch disk web --memory 96M --wait 100
import sys
sys.path.insert(0, sys.argv[1] + "/test/system")
import daemon_probe
daemon_probe.make_images(sys.argv[2])
PY
}

unmoved() { # the machine's process stands still: scrapes answer at once, the pass goes on, and the disks' figures show their age
        local pid old new
        pid=$(lodge info web --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)["state"]["pid"])') || return
        kill -STOP "$pid"
        sleep 1
        old=$(value lodge_machine_disk_sample_timestamp_seconds machine=web) new=$(value lodge_sample_timestamp_seconds)
        becomes 10 "v > $new" lodge_sample_timestamp_seconds && [ "$(value lodge_machine_disk_sample_timestamp_seconds machine=web)" = "$old" ]
        local r=$?
        kill -CONT "$pid"
        [ "$r" = 0 ] && becomes 10 "v > $old" lodge_machine_disk_sample_timestamp_seconds machine=web
}

gone() { # no figure of a machine that does not run but that
        scrape && [ "$(grep '^lodge_machine_' "$work/metrics" | grep -c 'machine="web"')" = 1 ] &&
                grep -q '^lodge_machine_up{machine="web",project="default",uuid="[0-9a-f-]*"} 0$' "$work/metrics"
}

stored() { # what lies there costs while nothing runs
        local before
        before=$(value lodge_project_storage_byte_seconds_total project=default) && becomes 20 "v > $before" lodge_project_storage_byte_seconds_total project=default
}

used() {
        lodge usage list --month "$(date -u +%Y%m)" >"$work/out" && cat "$work/out" && grep -Eq '^default +web +20[0-9]{2}-[0-9]{2} +.* GiB-h +.* GiB-h' "$work/out" &&
                lodge usage list --format json >"$work/out" && python3 -c 'import json, sys
(item,) = json.load(open(sys.argv[1]))["items"]
assert item["cpu_seconds"] >= 1 and set(item) == {"project", "machine", "month", "cpu_seconds", "memory_mib_hours", "storage_mib_hours"}, item' "$work/out" &&
                lodge usage list --month 199901 --format csv >"$work/out" && [ "$(wc -l <"$work/out")" = 1 ] &&
                ! lodge usage list --month 202613 2>"$work/err" && grep -qF '[usage-month]' "$work/err"
}

audited() {
        lodge audit list >"$work/out" && cat "$work/out" && grep -Eq '^[0-9]+ .* machine_launch +default' "$work/out" &&
                grep -Eq 'machine_stop +default +web' "$work/out" &&
                [ "$(lodge audit list --after 1 --limit 1 --format csv | tail -n +2 | cut -d, -f1 | tr -d '\r')" = 2 ]
}

check "a daemon starts" start
check "a parser takes the figures of a daemon without machines" parsed
check "the first pass comes soon, and later ones follow" becomes 10 "v > $(date +%s) - 2" lodge_sample_timestamp_seconds
check "the pool is known" becomes 5 "v > 1048576" lodge_pool_available_bytes pool=default
check "a machine with a disk runs" launched
if lodge list --format csv --columns name,status 2>/dev/null | grep -q '^web,running'; then
        echo "# engine: $(lodge list --format csv --columns engine --no-header 2>/dev/null)"
        check "it is up" becomes 10 "v == 1" lodge_machine_up machine=web project=default
        check "its agent answers" becomes 60 "v == 1" lodge_machine_agent_up machine=web
        check "its disk is known" becomes 10 "v >= 0" lodge_machine_disk_read_bytes_total machine=web disk=disk0
        check "what the guest reads is counted" grows 7000000 lodge_machine_disk_read_bytes_total machine=web disk=disk0 -- \
                sh -c 'echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=64k count=112'
        check "so is what it writes" grows 4000000 lodge_machine_disk_written_bytes_total machine=web disk=disk0 -- \
                dd if=/dev/urandom of=/dev/vda bs=64k count=64 conv=fsync
        check "and flushes" becomes 5 "v >= 1" lodge_machine_disk_flushes_total machine=web disk=disk0
        # shellcheck disable=SC2016 # for the guest's shell
        check "its CPU time grows" grows 0.5 lodge_machine_cpu_seconds_total machine=web -- sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'
        check "its memory is the host's" becomes 5 "v > 16 << 20" lodge_machine_memory_resident_bytes machine=web
        check "a parser takes the figures of a machine" parsed
        if command -v promtool >/dev/null; then
                check "promtool finds nothing" judged
        fi
        check "a machine that hangs holds up no scrape, and its figures age" unmoved
        check "it pauses" lodge pause web
        check "which shows" becomes 5 "v == 1" lodge_machine_paused machine=web
        lodge resume web >/dev/null
        check "it stops" lodge stop web --way force
        check "a stopped machine has no figures but that it is down" gone
        check "its disk costs on" stored
        check "lodge usage list: in GiB-hours for people, as counted for programs" used
        check "lodge audit list: who did what" audited
fi
tap_end
