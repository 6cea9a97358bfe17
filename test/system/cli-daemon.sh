#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 300
#
# cli-daemon.sh: the command line as a client of lodged: a daemon that is started when it is needed, every command, the forms of the
# output, errors with their cures, and exit statuses 0 to 4
#
# usage: cli-daemon.sh
#
# Everything lies in private directories; it runs in a network namespace of its own, for passt. No system daemon may run.

set -uo pipefail

if [ "$(id -u)" = 0 ] && [ "${LODGE_TEST_NETNS:-}" != 1 ]; then
        exec env LODGE_TEST_NETNS=1 unshare --net -- "$0" "$@"
fi
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=${LODGE_BUILD:-$top/build}
work=$(mktemp -d "${TMPDIR:-/tmp}/cli.XXXXXX") || exit 1
unset LODGE_SOCKET LODGE_PROJECT NO_COLOR VISUAL EDITOR
images=$HOME/.local/share/lodge/images
export XDG_RUNTIME_DIR=$work/run XDG_DATA_HOME=$work/data XDG_CONFIG_HOME=$work/config
socket=$XDG_RUNTIME_DIR/lodge/lodged.sock
fake=""
daemon_pid() { sed -n 's/^\([0-9]*\)$/\1/p' "$XDG_DATA_HOME/lodge/lodged.lock" 2>/dev/null; }
cleanup() {
        local pid
        [ -z "$fake" ] || kill "$fake" 2>/dev/null
        if pid=$(daemon_pid) && [ -n "$pid" ] && [ "$(readlink "/proc/$pid/exe")" = "$(realpath "$build/lodged")" ]; then
                lodge kill a b run --socket "$socket" 2>/dev/null
                kill "$pid" 2>/dev/null
                sleep 1
        fi
        rm -rf -- "$work"
}
trap cleanup EXIT
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
needs python3 qemu-img
if [ -S /run/lodge/lodged.sock ]; then
        echo "1..0 # SKIP a system daemon runs here"
        exit 0
fi
[ "$(id -u)" != 0 ] || ip link set lo up
chmod 755 "$work"
mkdir -m 700 "$work/run" "$work/data" "$work/data/lodge" "$work/data/lodge/images"
[ ! -d "$images/tiny" ] || cp -a "$images/tiny" "$work/data/lodge/images/"

lodge() { timeout 120 "$build/lodge" "$@" </dev/null; }

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

# prints STATUS TEXT WORD...: and TEXT is in the output; complains: in the messages
prints() {
        local text=$2
        run "$1" "${@:3}" || return
        grep -qF -- "$text" "$work/out" && return
        echo "not in the output: $text"
        cat "$work/out"
        return 1
}
complains() {
        local text=$2
        run "$1" "${@:3}" && grep -qF -- "$text" "$work/err"
}

json() { # EXPRESSION: of `d`, what $work/out holds
        python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); assert eval(sys.argv[2]), d' "$work/out" "$1"
}

# ---- without a daemon: completion and `lodge` alone start none

quiet_completion() { run 0 complete machines && [ ! -s "$work/out" ] && [ ! -s "$work/err" ] && [ ! -e "$socket" ]; }
check "completion without a daemon is silent, and starts none" quiet_completion
check "lodge alone says that no daemon runs, and starts none" prints 0 "does not run"
check "neither did it start one" test ! -e "$socket"
check "a socket where nobody listens: status 3, and which one" complains 3 "no daemon answers at $work/none" list --socket "$work/none"

mkdir -m 777 "$work/theirs" "$work/theirs/lodge"
chmod 777 "$work/theirs/lodge"
not_ours() { XDG_RUNTIME_DIR=$work/theirs complains 3 "[socket-dir]" list; }
check "a directory that others can write to is not trusted with a daemon" not_ours

# ---- a daemon on demand

check "the first command starts a daemon, and says so" complains 0 "started a session daemon" list
check "the second one finds it" run 0 list
silent() { ! grep -q started "$work/err" && grep -q '^session machines of user' "$work/err"; }
check "it does not say so again, and says whose machines these are" silent
race() { # two commands at once, without a daemon: both are served
        kill "$(daemon_pid)" && sleep 0.5
        lodge list >/dev/null 2>"$work/race1" &
        run 0 list && wait $!
}
check "two commands that start a daemon at the same time are both served" race

# ---- definitions and lists

check "a machine is defined" prints 0 "a: defined" define --kernel /boot/vmlinuz a --memory 1536M --label tier=web --notes $'x\e[31m'
check "again: it is there already" complains 2 "[machine-exists]" define --kernel /boot/vmlinuz a
check "a name that is none: usage" complains 1 "[schema-pattern]" define --kernel /k 'A b'
check "a name with an escape sequence: usage" complains 1 "control character" info $'x\e[31m'
check "a name with what a URL would take for its own" complains 2 'has no machine a?x=1&y#%41' info 'a?x=1&y#%41'
check "a dry run defines nothing" prints 0 "qemu" define --kernel /boot/vmlinuz dry --dry-run --engine qemu
check "it really did not" complains 2 "[machine-not-found]" info dry
check "nothing to boot: usage" complains 1 "[schema-required]" define
check "--explain says which engine it would be, and defines" run 0 define --kernel k b --explain --engine qemu
explained() { grep -q '^engine reason: ' "$work/err"; }
check "it said so" explained
relative() { prints 0 "$PWD/k" info b; }
check "a relative path is the person's, not the daemon's" relative
check "a table has a header and human sizes" prints 0 "1.5 GiB" list
check "it can be left out" run 0 list --no-header
no_header() { ! grep -q NAME "$work/out"; }
check "and then it is" no_header
check "JSON is the whole answer, with the scope" run 0 list --format json
check "with bytes" json 'd["scope"] == "session" and d["items"][0]["memory"] == 1536 << 20 and d["total"] == 2'
check "columns select in JSON, too" run 0 list --format json --columns name,labels
check "in the order that was asked for" json 'list(d["items"][0]) == ["name", "labels"] and d["items"][0]["labels"] == ["tier=web"]'
check "CSV" prints 0 'a,1610612736' list --format csv --columns name,memory
check "YAML" prints 0 'scope: session' list --format yaml
if python3 -c 'import yaml' 2>/dev/null; then
        same() {
                lodge info a --format json >"$work/out" 2>/dev/null
                lodge info a --format yaml >"$work/yaml" 2>/dev/null
                python3 -c 'import json, sys, yaml; assert json.load(open(sys.argv[1])) == yaml.safe_load(open(sys.argv[2]))' \
                        "$work/out" "$work/yaml"
        }
        check "a YAML parser reads what JSON says" same
fi
check "a column that is not there: usage, and its neighbour" complains 1 "did you mean status?" list --columns name,stats
check "labels filter" prints 0 "a " list --label tier=web
filtered() { ! grep -q '^b ' "$work/out"; }
check "the others are not there" filtered
check "notes with escape sequences are shown escaped" prints 0 'x\x1b[31m' info a
on_terminal() { script -qec "$build/lodge list" /dev/null </dev/null; }
colours() { [[ $(on_terminal) == *$'\e[2mstopped'* ]]; }
no_colours() { [[ $(NO_COLOR=1 on_terminal) != *$'\e'* ]]; }
if command -v script >/dev/null; then
        check "a terminal gets colours" colours
        check "not with NO_COLOR" no_colours
fi
pages() { # more machines than one page holds
        python3 - "$socket" <<'P'
import json, socket, sys
for i in range(1005):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
    b = json.dumps({"name": f"m{i:04}", "kernel": "/k"}).encode()
    s.sendall(b"POST /v1/machines?project=many HTTP/1.1\r\nHost: l\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(b) + b)
    assert b" 201 " in s.recv(4096); s.close()
P
        run 0 list --project many --format csv --columns name && [ "$(wc -l <"$work/out")" = 1006 ]
}
check "a list of more than a page is whole" pages
other_project() { LODGE_PROJECT=many prints 0 m1004 list; }
check "LODGE_PROJECT chooses the project" other_project

# ---- changes

check "a field is set" prints 0 "a: changed" set a memory=2G cpus=4 autostart.enabled=on limits.cpu_quota=50
check "it is" run 0 info a --format json
check "all of it" json 'd["config"]["memory"] == 2 << 30 and d["config"]["cpus"] == 4 and d["config"]["autostart"]["enabled"] and d["config"]["limits"]["cpu_quota"] == 50'
check "a field is unset" run 0 set a limits.cpu_quota=
check "so it is" run 0 info a --format json
check "a change answers with the whole machine" run 0 set a notes=x --format json
check "and the rest is as it was" json '"cpu_quota" not in d["config"]["limits"] and d["config"]["cpus"] == 4'
check "an unknown field: usage, and its neighbour" complains 1 "did you mean memory?" set a memry=1G
check "a value out of range: usage" complains 1 "[schema-range]" set a cpus=999
check "an editor that changes nothing" env EDITOR=true "$build/lodge" edit a
cat >"$work/editor" <<'X'
#!/bin/sh
exec sed -i 's/^memory: [0-9A-Z]*/memory: 1G/' "$1"
X
cat >"$work/bad-editor" <<'X'
#!/bin/sh
exec sed -i 's/^memory: [0-9A-Z]*/memory: much/' "$1"
X
cat >"$work/mending-editor" <<X
#!/bin/sh
# the first time a mistake; then what is said about it is looked at, and mended
cp "\$1" "$work/shown.\$(ls "$work" | grep -c '^shown')"
if head -n 1 "\$1" | grep -q '^# ! line [0-9]*: .*cpus: .*\[schema-type\]'; then
        [ "\$(sed -n "\$(head -n 1 "\$1" | sed 's/^# ! line \([0-9]*\):.*/\1/')p" "\$1" | cut -d' ' -f1,2)" = 'cpus: many' ] || exit 1
        exec sed -i 's/^cpus: many/cpus: 4/; s/^  order: [0-9]*/  order: 7/' "\$1"
fi
exec sed -i 's/^cpus: [0-9]*/cpus: many/' "\$1"
X
cat >"$work/pasting-editor" <<'X'
#!/bin/sh
exec cp -- "$PASTE" "$1"
X
cat >"$work/slow-editor" <<X
#!/bin/sh
"$build/lodge" set a cpus=2 >/dev/null
exec sed -i 's/^memory: [0-9A-Z]*/memory: 4G/' "\$1"
X
chmod +x "$work"/*editor
edit() { EDITOR=$work/$1 run "$2" edit a; }
check "an editor that changes something" edit editor 0
check "what it changed is there" prints 0 "1 GiB" info a
kept() { edit "$1" "$2" && grep -q "$3" "$work/err" && file=$(grep -o '/tmp/lodge-edit-[A-Za-z0-9]*.yaml' "$work/err" | head -1) && grep -q memory "$file" && rm "$file"; }
reopened() { edit mending-editor 0 && grep -q '^memory: 1G  # memory$' "$work/shown.0" && grep -q '^#initrd:  # initial RAM disk' "$work/shown.0"; }
check "a mistake opens the editor again with its line, and can be mended" reopened
mended() { run 0 info a --format json && json 'd["config"]["autostart"]["order"] == 7 and d["config"]["cpus"] == 4'; }
check "and is" mended
cat >"$work/tidy-editor" <<'X'
#!/bin/sh
exec sed -i '/^#/d; s/ *#.*//; s/^memory: 1G/memory: 1048576K/' "$1"
X
chmod +x "$work/tidy-editor"
tidied() { edit tidy-editor 0 && grep -qx 'nothing was changed' "$work/out"; }
check "what means the same changes nothing" tidied
# pasted TEXT STATUS WHAT: an editor that leaves this text
pasted() {
        printf '%b' "$1" >"$work/paste"
        PASTE=$work/paste edit pasting-editor "$2" && grep -qF -- "$3" "$work/err" "$work/out"
        local r=$?
        rm -f /tmp/lodge-edit-*.yaml
        return "$r"
}
check "a field that is there twice is refused" pasted 'name: a\nimage: tiny\nname: c\n' 1 'line 5: name was there before'
check "an anchor is" pasted 'name: &n a\nimage: tiny\n' 1 'line 3: anchors'
check "an unknown field, with its line" pasted 'name: a\nimage: tiny\nautostart:\n  enabled: true\n  dilay: 3\n' 1 'line 7: machine_definition.autostart.dilay: unknown key, did you mean delay?'
check "no text changes nothing" pasted '# nothing\n' 0 'nothing was changed'
check "a mistake keeps the text, and says where" kept bad-editor 1 schema-type
check "a change by somebody else meanwhile is not overwritten, and the text kept" kept slow-editor 2 machine-changed
check "a machine is renamed" prints 0 "b: is c now" rename b c
check "a name that is taken" complains 2 "[machine-exists]" rename c a
check "deleting without a word on the disks: usage, and what to say" complains 1 "--keep-disks" delete c
check "both at once: usage" complains 1 "[option-conflict]" delete c --disks --keep-disks
check "deleting" prints 0 "c: deleted" delete c --disks
check "several, of which one is not there: the others go, status 2" complains 2 "[machine-not-found]" stop a nosuch
check "a machine that does not run, stopped" run 2 stop a
check "events tell of all that" prints 0 "machine-renamed" event list
check "operations, too" prints 0 "machine-delete" operation list
operation=$(lodge operation list --format csv --columns id --no-header 2>/dev/null | head -1)
check "an operation that is over is waited for in no time" prints 0 "deleted" operation wait "$operation"
check "it is shown" prints 0 "machine-delete" operation show "$operation"
check "it can't be cancelled any more" complains 2 "[operation-finished]" operation cancel "$operation"
check "the daemon" prints 0 "scope:" daemon show
check "completion knows the machines" prints 0 a complete machines
check "and the operations" prints 0 "$operation" complete operations
check "short and long forms are one" prints 0 "usage: lodge launch" machine launch --help
check "an unknown command" complains 1 "[command-unknown]" lanch
check "the one that was meant" complains 1 "did you mean 'lodge image list'?" imgae list
check "a short one, too" complains 1 "did you mean 'lodge list'?" lst
check "fields are no options, and the fix says so" complains 1 "cpus=VALUE" set a --cpus 2
whole_help() { run 0 launch --help && grep -qF "physical_block_size=SIZE]" "$work/out"; }
check "the help of an option with many keys is whole" whole_help
check "a missing argument" complains 1 "[argument-missing]" start

# ---- completions of the shells

bash_completes() { # WORD... -> $work/out
        BUILD=$build bash --norc -c '
                lodge() { "$BUILD/lodge" "$@"; }
                . "$BUILD/doc/lodge.bash"
                COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
                _lodge; printf "%s\n" "${COMPREPLY[@]}"' lodge "$@" >"$work/out"
}
completes() { # TEXT WORD...
        bash_completes "${@:2}" && grep -qxF -- "$1" "$work/out"
}
if [ -e "$build/doc/lodge.bash" ]; then
        check "bash completes machines' names" completes a lodge start ""
        check "bash completes them for the long form" completes a lodge machine start ""
        check "bash completes options" completes --detach lodge start --de
        check "bash completes commands" completes launch lodge la
fi
if command -v fish >/dev/null && [ -e "$build/doc/lodge.fish" ]; then
        fish_completes() { PATH=$build:$PATH fish -c "source $build/doc/lodge.fish; complete -C 'lodge start '" | grep -qw a; }
        check "fish completes machines' names" fish_completes
fi
if command -v zsh >/dev/null && [ -e "$build/doc/_lodge" ]; then
        check "zsh reads its completions" zsh -n "$build/doc/_lodge"
fi

# ---- directories whose files machines may use

mkdir "$work/my disks"
truncate -s 1M "$work/my disks/d.raw"
check "none but the pools at first" complains 0 "none but the pools" path list
check "what is not there can't be allowed" complains 2 "[allow-dir]" path allow "$work/nosuch"
check "nor a file" complains 1 "[allow-dir]" path allow "$work/my disks/d.raw"
check "nor everything" complains 1 "every file of this host" path allow /
if [ -d "$work/data/lodge/images/tiny" ]; then # a machine can't start with another's file, nor with its owner's, unless that is said
        outside() { complains 2 "[path-outside]" launch tiny out --engine qemu --memory 256M --disk "$work/my disks/d.raw" && grep -qF "lodge path allow '$work/my disks'" "$work/err"; }
        check "a disk elsewhere is refused, with the command that allows it" outside
fi
allowed() { prints 0 "your machines may use" path allow "$work/my disks/../my disks/" && run 0 path list --format json && json 'd["items"] == [{"path": "'"$work"'/my disks", "there": True}]'; }
check "a directory is allowed by its real name" allowed
again() { run 0 path allow "$work/my disks" && [ "$(grep -c . "$work/config/lodge/allow")" = 1 ]; }
check "twice is once" again
if [ -d "$work/data/lodge/images/tiny" ]; then
        check "the daemon that runs knows at once" prints 0 "out: launched" launch tiny out --engine qemu --memory 256M --disk "$work/my disks/d.raw"
        check "info shows the disk" prints 0 "/my disks/d.raw" info out
        lodge kill out >/dev/null 2>&1
        swapped() { # who may write above an allowed directory must not lead machines elsewhere
                mv "$work/my disks" "$work/other" && ln -s other "$work/my disks" && complains 2 "[path-outside]" start out
                local r=$?
                rm "$work/my disks" && mv "$work/other" "$work/my disks"
                return "$r"
        }
        check "a link in the place of an allowed directory opens nothing" swapped
        printf '# mine\n%s\n' "$work/my disks" >"$work/config/lodge/allow"
        forbidden() { run 0 path forbid "$work/my disks" && [ "$(cat "$work/config/lodge/allow")" = "# mine" ] && complains 2 "[path-outside]" start out; }
        check "forbidden again: gone from the file, comments stay, and the next start is refused" forbidden
        chmod 666 "$work/config/lodge/allow"
        check "a list that others can write is not believed" complains 2 "[allow-file]" start out
        chmod 644 "$work/config/lodge/allow"
        lodge delete out --disks >/dev/null 2>&1
fi

# ---- an image from a file

imported() { # without this it lands in the user's own store, and a machine of the daemon that is named can't have it
        truncate -s 1M "$work/sent.raw"
        LODGE_SOCKET=$socket XDG_DATA_HOME=$work/other run 0 image import "$work/sent.raw" --disk-format raw --name sent || return
        prints 0 sent image list && [ -e "$work/data/lodge/images/sent" ] && [ ! -e "$work/other/lodge/images/sent" ] && run 0 image delete sent
}
check "image import sends the file to the daemon that LODGE_SOCKET names" imported

# ---- an image that is missing is built, which fails here: there is no network

builds_first() { complains 2 "it is built first" launch debian/12 deb && ! grep -qF "[image-not-found]" "$work/err" && prints 0 image-build operation list; }
check "launch builds an image that is missing" builds_first
check "a dry run does not: it says how" complains 2 "lodge image build debian/12" launch debian/12 deb --dry-run
check "what is no recipe is not built" complains 2 "lodge image available" launch nosuch deb

# ---- machines that run

if [ -d "$work/data/lodge/images/tiny" ]; then
        check "completion knows the images" prints 0 tiny complete images
        check "a machine is launched" prints 0 "run: launched" launch tiny run --memory 256M --engine qemu
        check "it runs" prints 0 running list --status running
        check "it is waited for" run 0 wait run --for agent --timeout 60
        check "a command in it" prints 0 Linux exec run uname -s
        exec_status() { run 7 exec run 'echo out; echo err >&2; exit 7' && grep -qx out "$work/out" && grep -qx err "$work/err"; }
        check "its exit status, output and messages" exec_status
        # shellcheck disable=SC2016 # the guest's shell expands it
        on_console() { # what is typed reaches the guest, and what it shows comes here
                { sleep 2; echo 'echo con-$((40 + 2))'; sleep 3; } | timeout --signal INT 6 "$build/lodge" console run >"$work/out" 2>"$work/err"
                grep -a 'con-42' "$work/out"
        }
        check "the console, both ways" on_console
        # shellcheck disable=SC2016 # the guest must get it as it is
        check "arguments reach it as they are" prints 0 "[a  'b|\$c]" exec run printf '[%s|%s]' "a  'b" '$c'
        check "options behind the command are its own" prints 0 "0" exec run id -u
        check "what runs can't be started" complains 2 "[machine-running]" start run
        # Without this a dry run would promise what the real one refuses.
        same_id() { # STATUS ID WORD...: the dry run and the real one fail alike
                complains "$1" "[$2]" "${@:3}" --dry-run && complains "$1" "[$2]" "${@:3}"
        }
        alike() {
                local pool=$work/data/lodge/pools/default
                mkdir -p "$pool" && truncate -s 1M "$pool/held.img" "$pool/odd.img" && truncate -s 1000 "$pool/odd.img" || return
                lodge define --kernel "$pool/none" nokernel && lodge define tiny large --memory 3T && lodge define tiny odd --disk "$pool/odd.img" &&
                        lodge define tiny missing --disk "$pool/missing.img" && lodge define tiny twice --disk "$pool/held.img" --disk "$pool/held.img" &&
                        lodge define tiny outside --disk /etc/hostname && lodge define tiny held --disk "$pool/held.img" || return
                same_id 2 kernel-open start nokernel && same_id 2 memory-host start large && same_id 1 disk-size start odd && same_id 2 disk-open start missing &&
                        same_id 4 disk-busy start twice && same_id 2 path-outside start outside && same_id 2 machine-running start run && same_id 2 machine-stopped stop held &&
                        same_id 2 machine-stopped reboot held && same_id 4 machine-running delete run --keep-disks || return
                # QEMU's lock on byte 201: somebody writes and shares with nobody
                coproc holder { exec python3 -c 'import fcntl, struct, sys, time; f = open(sys.argv[1], "r+b"); fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 101, 1, 0)); fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 201, 1, 0)); print("held", flush=True); time.sleep(60)' "$pool/held.img"; }
                local pid=$!
                # shellcheck disable=SC2154 # coproc sets it
                read -r -t 10 _ <&"${holder[0]}"
                same_id 4 disk-busy start held
                local r=$?
                kill "$pid"
                wait "$pid" 2>/dev/null
                [ "$r" = 0 ] && lodge delete nokernel large odd missing twice outside --disks --yes
        }
        check "what a real start, stop or delete refuses, a dry run refuses alike" alike
        planned() { # and what it would do is shown, and not done
                lodge operation list --format csv >"$work/before" 2>/dev/null
                prints 0 "  start it by engine qemu" start held --dry-run --format table && grep -q "^held: would be done" "$work/out" || return
                run 0 start held --dry-run --format json && json 'd["state"]["engine"] == "qemu" and d["state"]["status"] == "stopped" and len(d["state"]["plan"]) > 1' || return
                prints 0 "for up to 7 s" stop run --dry-run --timeout 7 && prints 0 "  pull its plug" delete run --force --disks --dry-run && prints 0 "  forget its definition" delete held --keep-disks --dry-run || return
                lodge operation list --format csv 2>/dev/null | cmp - "$work/before" && prints 0 running list --status running && lodge delete held --disks
        }
        check "a dry run says what would be done, and does nothing" planned
        check "pause" prints 0 "run: paused" pause run
        check "it is" prints 0 paused list
        check "resume" prints 0 "run: resumed" resume run
        check "a change that waits for the next start says so" prints 0 "memory" set run memory=300M
        check "nothing comes: status 2, and what to do" complains 2 "[wait-timeout]" wait run --for stopped --timeout 1
        interrupted() { # Ctrl-C ends the waiting, and not the operation
                timeout --signal INT 1 "$build/lodge" stop run --way acpi --timeout 30 >"$work/out" 2>"$work/err" </dev/null
                grep -q '\[interrupted\]' "$work/err" && grep -q 'lodge operation wait' "$work/err"
        }
        check "kill" prints 0 "run: stopped" kill run
        check "start --detach returns at once" prints 0 "goes on as operation" start run --detach
        check "wait for it" run 0 wait run
        check "Ctrl-C stops the waiting and says how to follow" interrupted
        # A host that shuts down must not pull a database's plug while what uses it still writes; nor forget the machine of another project.
        ordered() {
                lodge kill run >/dev/null 2>&1
                lodge wait run --for stopped --timeout 40 || return
                lodge set run memory=256M autostart.enabled=on autostart.order=10 && lodge start run || return
                lodge launch tiny late --memory 256M --engine qemu --detach && lodge launch tiny other --memory 256M --engine qemu --project side --detach || return
                lodge set late autostart.enabled=on autostart.order=20 || return
                lodge wait run --for agent --timeout 90 && lodge wait late --for agent --timeout 90 && lodge wait other --project side --for agent --timeout 90 || return
                prints 0 "would be done" stop --all --dry-run && [ "$(sed 's/:.*//' "$work/out" | tr '\n' ' ')" = "side/other late run " ] || return
                run 0 list --all-projects --status running --format csv --columns project,name && grep -qx side,other "$work/out" || return
                run 0 stop --all --timeout 60 || return
                [ "$(tr '\n' ' ' <"$work/out")" = "side/other: stopped late: stopped run: stopped " ]
        }
        check "stop --all: each project's, without a place in the order first, then the order backwards" ordered
        by_itself() { # no plug was pulled, and each rank ended before the next was asked
                local p
                for p in default side; do
                        run 0 event list --project "$p" --format csv --columns seq,kind,target,message --no-header && cat "$work/out" >>"$work/events" || return
                done
                grep ',machine-stopped,' "$work/events" | sort -n | tail -n 3 | cut -d, -f 3- | tee "$work/last"
                [ "$(tr '\n' ';' <"$work/last")" = "other,it powered off;late,it powered off;run,it powered off;" ]
        }
        check "each powered itself off, one rank after the other" by_itself
        check "when none runs there is nothing to do" run 0 stop --all
        deaf() { # a guest whose power button does nothing: it is told of, and its plug is pulled where that was asked for
                lodge start run && lodge wait run --for agent --timeout 90 || return
                # shellcheck disable=SC2016 # the guest's shell expands it
                lodge exec run 'cd /sys/bus/acpi/drivers/button && for i in *:*; do echo $i >unbind; done' || return
                complains 2 "[machines-remain]" stop --all --way acpi --timeout 2 && grep -qF "[stop-timeout]" "$work/err" || return
                prints 0 "run: stopped" stop --all --way acpi --timeout 2 --force
        }
        check "a guest that does not hear: status 2 and which; with --force its plug is pulled" deaf
        check "stop --all and names contradict each other" complains 1 "[option-conflict]" stop --all run
        check "neither is a question" complains 1 "[argument-missing]" stop
        lodge wait run --for stopped --timeout 40 >/dev/null 2>&1
        check "delete with its disks" prints 0 "run: deleted" delete run --disks --force
fi

# ---- what a daemon may answer, and a socket that refuses

cat >"$work/fake" <<'P'
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
if len(sys.argv) > 3:
    os.chown(sys.argv[1], 0, int(sys.argv[3]))
os.chmod(sys.argv[1], 0o660)
print("ready", flush=True)
while True:
    c, _ = s.accept(); c.recv(65536); c.sendall(sys.argv[2].encode().decode("unicode_escape").encode("latin1")); c.close()
P
answers() { # ANSWER [GID]: a server that says this to everything
        [ -z "$fake" ] || { kill "$fake"; wait "$fake" 2>/dev/null; }
        rm -f "$work/fake.sock"
        coproc server { exec python3 "$work/fake" "$work/fake.sock" "$@"; }
        fake=$!
        # shellcheck disable=SC2154 # coproc sets it
        read -r -t 10 _ <&"${server[0]}"
}
busy='{"error":{"id":"busy","message":"much to do","fix":"wait","code":"EAGAIN"}}'
answers "HTTP/1.1 503 No\r\nContent-Length: ${#busy}\r\n\r\n$busy"
check "a daemon that is busy: status 4" complains 4 "[busy]" list --socket "$work/fake.sock"
answers 'SSH-2.0-x\r\n\r\n'
check "what is no daemon" complains 2 "[daemon-answer]" list --socket "$work/fake.sock"
answers ''
check "a daemon that dies before it answers: status 3" complains 3 "[daemon-gone]" list --socket "$work/fake.sock"
error='{"error":{"id":"Evil\\u001b[2J","message":"a\\u001b[31mb","fix":"c\\nd","code":"ENOENT"}}'
answers "HTTP/1.1 404 No\r\nContent-Length: $((${#error} - 3))\r\n\r\n$error"
check "an answer's control characters are escaped" complains 2 'a\x1b[31mb' list --socket "$work/fake.sock"

# A daemon that is started anew ends each request once before it answers; and the operation that stops the first machine never ends, as one does not that waits for room on a disk.
cat >"$work/restarts" <<'P'
import json, os, re, socket, sys, time
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
print("ready", flush=True)
seen, status = set(), {"stuck": "running", "next": "running"}
def machine(name):
    return {"project": "default", "name": name, "uuid": name, "status": status[name], "state": {"status": status[name]},
            "config": {"autostart": {"enabled": True, "order": 20 if name == "stuck" else 10}}}
while True:
    c, _ = s.accept()
    method, target = c.recv(65536).decode().split()[:2]
    what = re.sub(r"[?].*", "", target)
    if what not in seen:
        seen.add(what)
        if what == "/v1/operations/next": # for that long its socket isn't even there
            os.rename(sys.argv[1], sys.argv[1] + "-")
            c.close()
            time.sleep(1)
            os.rename(sys.argv[1] + "-", sys.argv[1])
            continue
        c.close()
        continue
    last = what.split("/")[-1]
    name = what.split("/")[3] if what.count("/") > 2 else ""
    if name == "next" and "operations" in what:
        status["next"] = "stopped"
    d = {"items": [machine(n) for n in status], "total": 2} if what == "/v1/machines" else machine(name) if method == "GET" and "machines" in what else \
        {"id": name, "target": name, "status": "done" if status[name] == "stopped" else "running"}
    body = json.dumps(d).encode()
    c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body); c.close()
P
restarts() {
        [ -z "$fake" ] || { kill "$fake"; wait "$fake" 2>/dev/null; }
        rm -f "$work/fake.sock"
        coproc server { exec python3 "$work/restarts" "$work/fake.sock"; }
        fake=$!
        read -r -t 10 _ <&"${server[0]}"
        complains 2 "[machines-remain]" stop --all --timeout 1 --socket "$work/fake.sock" && [ "$(cat "$work/out")" = "next: stopped" ] || return
        grep -qF "1 machine still runs: stuck" "$work/err" && grep -qF "[operation-lasts]" "$work/err"
}
# Without this a host that shuts down while lodged is restarted, or whose disk is full, pulls every plug.
check "stop --all outlives a daemon's restart, and an operation without an end" restarts

if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
        # Names come from files of our own, in a mount namespace of their own.
        cp /etc/passwd /etc/group "$work/"
        echo 'lodgeuser:x:61234:61234::/nonexistent:/bin/sh' >>"$work/passwd"
        printf 'lodgeuser:x:61234:\nlodgetest:x:61235:\n' >>"$work/group"
        sed 's/^lodgetest:.*/&lodgeuser/' "$work/group" >"$work/group-with"
        answers 'x' 61235
        as_user() { # GROUP-FILE [GROUPS]
                # shellcheck disable=SC2016 # the inner shell expands it
                unshare --mount sh -c 'mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/$2" /etc/group &&
                        exec setpriv --reuid 61234 --regid 61234 $3 "$4/lodge" list --socket "$1/fake.sock"' sh \
                        "$work" "$1" "${2:---clear-groups}" "$build" >"$work/out" 2>"$work/err"
                status=$?
                cat "$work/err"
        }
        outsider() { as_user group && [ "$status" = 3 ] && grep -q '\[socket-group\]' "$work/err" && grep -q 'usermod -aG lodgetest lodgeuser' "$work/err"; }
        not_yet() { as_user group-with && [ "$status" = 3 ] && grep -q '\[socket-login\]' "$work/err" && grep -q 'newgrp lodgetest' "$work/err"; }
        member() { as_user group-with "--groups 61235" && [ "$status" = 2 ] && grep -q '\[daemon-answer\]' "$work/err"; }
        if setpriv --reuid 61234 --regid 61234 --clear-groups test -x "$build/lodge"; then
                check "a user outside the group: status 3, and the command that adds it" outsider
                check "a user in it, but not in this login: another cure" not_yet
                check "a member reaches the daemon" member
        fi
fi

# ---- the daemon ends by itself

idle() {
        kill "$(daemon_pid)" 2>/dev/null
        sleep 0.5
        timeout 30 "$build/lodged" --session --idle-exit 2
}
check "a daemon that nobody needs ends, with status 0" idle

tap_end
