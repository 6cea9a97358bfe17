#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 600
#
# images.sh: every verb on disk image files does what qemu-img does with the same files, and refuses what it should; dirty bitmaps, too
#
# usage: images.sh
#
# Each shape of image (version, cluster size, subclusters, width of counts, compression) is a chain of three: a raw file at the bottom,
# a qcow2 file that is longer above it, and one that is longer still on top, with data, zeroes and compressed clusters that qemu-io
# wrote. What a verb makes is compared by `qemu-img compare` and examined by `qemu-img check`.

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
lodge=${LODGE_BUILD:-$top/build}/lodge
work=$(mktemp -d "${TMPDIR:-/tmp}/images.XXXXXX") || exit 1
trap 'umount "$work/small" 2>/dev/null; rm -rf -- "$work"' EXIT
cd "$work" || exit 1
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
needs qemu-img qemu-io

refuses() { # STATUS ID COMMAND...: it fails with that status, that id, and a fix
        local status=$1 id=$2 out
        shift 2
        out=$("$@" 2>&1)
        [ $? = "$status" ] && grep -qF -- "[$id]" <<<"$out" && grep -q '^  fix: ' <<<"$out" && return
        echo "$out"
        return 1
}

image() { "$lodge" image "$@"; }

same() { # FILE FORMAT FILE FORMAT
        qemu-img compare -f "$2" -F "$4" "$1" "$3"
}

sound() { # FILE...: both examinations find nothing
        local file
        for file; do
                qemu-img check -f qcow2 "$file" && image check "$file" || return
        done
}

json() { # EXPRESSION FILE: of the object d
        python3 -c 'import json, sys; d = json.load(open(sys.argv[2])); print(eval(sys.argv[1]))' "$@"
}

# The maps say the same. qemu-img has no member "compressed" everywhere, cuts entries at other places, calls data that is a hole of the file
# zero as well, and gives a place for subclusters that aren't there.
map_same() { # FILE FORMAT
        image map --disk-format "$2" --format json "$1" >ours && qemu-img map -f "$2" --output json "$1" >theirs &&
                python3 - <<'EOF'
import json
def normal(entries):
    out = []
    for e in entries:
        e = {k: e.get(k) for k in ("start", "length", "depth", "present", "zero", "data", "offset")}
        e["zero"] &= not e["data"]
        e["offset"] = e["offset"] if e["present"] else None
        last = out[-1] if out else None
        if last and all(last[k] == e[k] for k in ("depth", "present", "zero", "data")) and \
                (e["offset"] is None) == (last["offset"] is None) and \
                (e["offset"] is None or last["offset"] + last["length"] == e["offset"]):
            last["length"] += e["length"]
        else:
            out.append(e)
    return out
ours, theirs = normal(json.load(open("ours"))["map"]), normal(json.load(open("theirs")))
if ours != theirs:
    print("ours:", *ours, "theirs:", *theirs, sep="\n")
    raise SystemExit(1)
EOF
}

measure_same() { # FILE FORMAT, options for qemu-img, --, options for lodge
        local file=$1 format=$2 qemu=()
        shift 2
        while [ "$1" != -- ]; do
                qemu+=("$1")
                shift
        done
        shift
        qemu-img measure -f "$format" "${qemu[@]}" --output json "$file" >theirs &&
                image measure --disk-format "$format" "$@" --format json "$file" >ours || return
        [ "$(json 'd["required"], d["fully_allocated"]' ours)" = "$(json 'd["required"], d["fully-allocated"]' theirs)" ] ||
                { cat ours theirs; return 1; }
}

info_same() { # FILE
        image info --format json "$1" >ours && qemu-img info -f qcow2 --output json "$1" >theirs || return
        [ "$(json '[d[k] for k in ("size", "cluster", "backing_file", "backing_format", "refcount_bits", "compression", "extended_l2", "lazy_refcounts")]' ours)" = "$(
                json '[d["virtual-size"], d["cluster-size"], d.get("backing-filename"), d.get("backing-filename-format")] + [d["format-specific"]["data"].get(k, o) for k, o in (("refcount-bits", 16), ("compression-type", "zlib"), ("extended-l2", False), ("lazy-refcounts", False))]' theirs)" ] ||
                { cat ours theirs; return 1; }
}

# shape QEMU-OPTIONS: a chain in this directory, and its content in "want"
shape() {
        local options=compat=1.1${1:+,$1} cluster=64k
        [[ $1 != compat=* ]] || options=$1
        [[ $1 != *cluster_size=2M* ]] || cluster=2M
        rm -f -- *.qcow2 *.raw want ours theirs
        qemu-img create -q -f raw bottom.raw 3M &&
                qemu-io -f raw -c 'write -q -P 1 0 1M' -c 'write -q -P 2 1500k 333k' bottom.raw &&
                qemu-img create -q -f qcow2 -o "$options" -b bottom.raw -F raw middle.qcow2 4M &&
                qemu-io -f qcow2 -c "write -q -c -P 5 2M $cluster" -c 'write -q -P 3 64k 70k' -c 'write -q -z 512k 256k' \
                        -c 'write -q -P 4 3500k 5k' middle.qcow2 &&
                qemu-img create -q -f qcow2 -o "$options" -b middle.qcow2 -F qcow2 top.qcow2 6M &&
                qemu-io -f qcow2 -c 'write -q -P 6 100k 3k' -c 'write -q -z 1508k 64k' -c 'write -q -P 7 5M 200k' -c 'write -q -P 0 5500k 100k' \
                        -c "write -q -P 8 $((6 * 1024 - 3))k 3k" top.qcow2 &&
                qemu-img convert -f qcow2 -O raw top.qcow2 want
}

copy_chain() { # DIRECTORY
        rm -rf -- "$1" && mkdir "$1" && cp -- bottom.raw middle.qcow2 top.qcow2 "$1/"
}

commit_same() {
        copy_chain a && copy_chain b || return
        qemu-img commit -q -f qcow2 a/top.qcow2 && image commit b/top.qcow2 && same a/middle.qcow2 qcow2 b/middle.qcow2 qcow2 &&
                same b/top.qcow2 qcow2 want raw && sound b/top.qcow2 b/middle.qcow2 || return
        # Nothing is left in the upper one; then once more, into the raw file, which grows.
        image map --format json b/top.qcow2 >ours && [ "$(json 'any(e["present"] and e["depth"] == 0 for e in d["map"])' ours)" = False ] &&
                image commit b/middle.qcow2 && same b/bottom.raw raw want raw && same b/top.qcow2 qcow2 want raw && sound b/middle.qcow2
}

rebase_same() { # OPTIONS
        copy_chain a || return
        qemu-img create -q -f qcow2 ${1:+-o "$1"} a/other.qcow2 5500k &&
                qemu-io -f qcow2 -c 'write -q -P 1 0 512k' -c 'write -q -P 9 1M 1M' -c 'write -q -P 9 4200k 9k' a/other.qcow2 &&
                image rebase a/top.qcow2 --backing other.qcow2 --backing-format qcow2 &&
                same a/top.qcow2 qcow2 want raw && sound a/top.qcow2 && info_same a/top.qcow2 || return
        image info a/top.qcow2 | grep -q '^backing file *other.qcow2$' || return
        # On none.
        image rebase a/top.qcow2 && same a/top.qcow2 qcow2 want raw && sound a/top.qcow2 && rm a/other.qcow2 a/middle.qcow2 &&
                same a/top.qcow2 qcow2 want raw
}

overlay_same() { # lodge's options
        image create over.qcow2 --backing top.qcow2 --backing-format qcow2 "$@" && sound over.qcow2 && info_same over.qcow2 &&
                same over.qcow2 qcow2 want raw &&
                qemu-io -f qcow2 -c 'write -q -P 11 300k 100k' over.qcow2 && map_same over.qcow2 qcow2
}

convert_same() { # lodge's options
        image convert top.qcow2 out.qcow2 "$@" && same out.qcow2 qcow2 want raw && sound out.qcow2 && info_same out.qcow2 &&
                map_same out.qcow2 qcow2 && image convert out.qcow2 out.raw --to raw && cmp out.raw want &&
                image convert --disk-format raw out.raw back.qcow2 "$@" && same back.qcow2 qcow2 want raw && sound back.qcow2 &&
                qemu-img convert -f qcow2 -O raw back.qcow2 back.raw && cmp back.raw want &&
                image convert top.qcow2 small.qcow2 --compress "$@" && same small.qcow2 qcow2 want raw && sound small.qcow2 &&
                image convert small.qcow2 small.raw --to raw && cmp small.raw want && [ "$(stat -c %s small.qcow2)" -le "$(stat -c %s out.qcow2)" ]
}

resize_same() {
        # Growing hides what the backing image has behind the old end. (qemu-img can't do that with version 2.)
        image create grown.qcow2 1536K --backing top.qcow2 --backing-format qcow2 "$@" && head -c 1536K want >expected || return
        truncate -s 8M expected && image resize grown.qcow2 8M && same grown.qcow2 qcow2 expected raw && sound grown.qcow2 &&
                truncate -s 1M expected && image resize --shrink grown.qcow2 1M && same grown.qcow2 qcow2 expected raw &&
                sound grown.qcow2 && info_same grown.qcow2 &&
                qemu-img resize -q -f qcow2 top.qcow2 7M && truncate -s 7M want && image resize top.qcow2 9M && truncate -s 9M want &&
                same top.qcow2 qcow2 want raw && sound top.qcow2 && qemu-img resize -q -f qcow2 --shrink top.qcow2 6M &&
                truncate -s 6M want && same top.qcow2 qcow2 want raw && sound top.qcow2
}

shapes=(
        "plain||"
        "version 2|compat=0.10|--version 2"
        "subclusters|extended_l2=on|--extended-l2"
        "clusters of 4 KiB, counts of 1 bit|cluster_size=4k,refcount_bits=1|--cluster 4K --refcount-bits 1"
        "clusters of 2 MiB, counts of 64 bits|cluster_size=2M,refcount_bits=64|--cluster 2M --refcount-bits 64"
        "zstd, lazy counts|compression_type=zstd,lazy_refcounts=on|--compression zstd --lazy-refcounts"
)
for line in "${shapes[@]}"; do
        IFS='|' read -r name qemu ours <<<"$line"
        read -ra ours <<<"$ours"
        check "$name: a chain from qemu-img" shape "$qemu"
        check "$name: info" info_same top.qcow2
        check "$name: check" sound top.qcow2 middle.qcow2
        check "$name: map" map_same top.qcow2 qcow2
        check "$name: map of one that is shorter than what is above" map_same middle.qcow2 qcow2
        check "$name: measure" measure_same top.qcow2 qcow2 -O qcow2 -o "${qemu:-compat=1.1}" -- "${ours[@]}"
        check "$name: measure a raw disk" measure_same bottom.raw raw -O qcow2 -o "${qemu:-compat=1.1}" -- "${ours[@]}"
        check "$name: measure for raw" measure_same top.qcow2 qcow2 -O raw -- --to raw
        check "$name: convert" convert_same "${ours[@]}"
        check "$name: an overlay" overlay_same "${ours[@]}"
        check "$name: resize" resize_same "${ours[@]}"
        check "$name: commit" commit_same
        check "$name: rebase" rebase_same "$qemu"
done

shape ""
check "map of a raw disk" map_same bottom.raw raw
# Without this, a small file whose map has no end takes all of the host's memory: here each part of the disk has the same L2 table.
long_map() {
        qemu-img create -q -f qcow2 long.qcow2 16G && python3 - <<'EOF' || return
import struct
with open("long.qcow2", "r+b") as f:
    entries, l1 = struct.unpack(">36xIQ", f.read(48))
    l2 = (f.seek(0, 2) + 65535) // 65536 * 65536
    f.seek(l2)
    f.write(struct.pack(">QQ", 0, 1) * 4096)
    f.seek(l1)
    f.write(struct.pack(">Q", l2 | 1 << 63) * entries)
EOF
        (ulimit -v 150000 && image map --format json long.qcow2 >ours && image map long.qcow2 >text) &&
                [ "$(wc -l <text)" = 262145 ] && [ "$(json 'len(d["map"])' ours)" = 262144 ]
}
check "a map without end takes no memory" long_map
rm -f long.qcow2
cp bottom.raw r.raw
check "resize a raw disk" image resize --disk-format raw r.raw 5M
check "its size" test "$(stat -c %s r.raw)" = 5242880
check "shrinking has to be asked for" refuses 1 disk-shrink "$lodge" image resize --disk-format raw r.raw 1M
check "shrink a raw disk" image resize --disk-format raw --shrink r.raw 1M
check "its size" test "$(stat -c %s r.raw)" = 1048576

head -c 1M /dev/zero >zeroes.raw
check "zeroes are not copied" image convert --disk-format raw --to raw zeroes.raw holes.raw
check "they take no space" test "$(stat -c '%s %b' holes.raw)" = "1048576 0"

cp want before
check "nothing is overwritten" refuses 2 disk-exists "$lodge" image convert top.qcow2 want
check "not even touched" cmp want before
check "a format is not guessed" refuses 2 qcow2-magic "$lodge" image convert bottom.raw new.qcow2
check "raw can't be compressed" refuses 1 disk-compress "$lodge" image convert --to raw --compress top.qcow2 new.raw
check "nothing is left behind" test ! -e new.qcow2 -a ! -e new.raw

# A compressed cluster whose bytes are no deflate stream: the only one, behind header, refcounts, L1 and L2 table
qemu-img create -q -f qcow2 damaged.qcow2 1M
qemu-io -f qcow2 -c 'write -q -c -P 5 512k 64k' damaged.qcow2
head -c 512 /dev/zero | tr '\0' '\377' | dd of=damaged.qcow2 bs=64k seek=5 conv=notrunc status=none
check "data that can't be read ends a conversion" refuses 2 disk-read "$lodge" image convert damaged.qcow2 new.qcow2
check "what it had written is gone" test ! -e new.qcow2

head -c 64M /dev/urandom >noise.raw
converting() { # COMMAND...: run in the middle of a conversion, whose process is $pid; its message is in "err", its status in $status
        mkdir new || return
        "$lodge" image convert --disk-format raw --compress noise.raw new/new.qcow2 2>err &
        pid=$!
        for _ in $(seq 1000); do
                [ "$(awk '/^wchar/ { print $2 }' "/proc/$pid/io")" -le 1000000 ] || break
                sleep 0.01
        done
        "$@"
        wait "$pid" 2>/dev/null
        status=$?
        cat err
}
stopped() { # SIGNAL STATUS: there is nothing then, under no name
        converting eval "kill -$1 \"\$pid\"" && [ "$status" = "$2" ] && rmdir new
}
check "a conversion that is stopped leaves nothing" stopped TERM 2
check "it says so" grep -qF '[interrupted]' err
check "nor does one that is killed" stopped KILL 137
another() { # file, which somebody puts there meanwhile
        converting eval 'echo precious >new/new.qcow2' && [ "$status" = 2 ] && grep -qF '[disk-exists]' err &&
                [ "$(cat new/*)" = precious ] && rm -r new
}
check "nor does it take a name that somebody else has taken" another

# Killed half way, nothing is lost: the disk reads the same at once, and the verb can be given again, which repairs what was left open.
qemu-img create -q -f qcow2 low0.qcow2 64M
qemu-io -f qcow2 -c 'write -q -P 1 0 40M' low0.qcow2
cp low0.qcow2 low.qcow2
qemu-img create -q -f qcow2 -b low.qcow2 -F qcow2 high0.qcow2 64M
for i in $(seq 0 400); do echo "write -q -P $((i % 250 + 2)) $((i * 150))k 70k"; done | qemu-io -f qcow2 high0.qcow2 >/dev/null
qemu-img create -q -f qcow2 next.qcow2 64M
qemu-io -f qcow2 -c 'write -q -P 1 0 20M' -c 'write -q -P 3 40M 20M' next.qcow2
qemu-img convert -f qcow2 -O raw high0.qcow2 all
killed() { # SECONDS VERB OPTION...
        local pid seconds=$1 verb=$2
        shift 2
        cp low0.qcow2 low.qcow2 && cp high0.qcow2 high.qcow2 && rm -f all.raw || return
        "$lodge" image "$verb" high.qcow2 "$@" >/dev/null &
        pid=$!
        sleep "$seconds"
        kill -KILL "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
        image convert --to raw high.qcow2 all.raw && cmp all.raw all && image "$verb" high.qcow2 "$@" && same high.qcow2 qcow2 all raw &&
                sound low.qcow2 high.qcow2
}
for seconds in 0.004 0.01 0.02 0.04; do
        check "a commit that is killed after $seconds s" killed "$seconds" commit
        check "all of it is in the lower image then" same low.qcow2 qcow2 all raw
        check "a rebase that is killed after $seconds s" killed "$seconds" rebase --backing next.qcow2 --backing-format qcow2
done

# A rebase for which there is no space: what it could not copy still comes from below, and the next one copies it. The image has its tables
# already, so that they can be written when there is no space for data.
no_space() { # --backing...: what to rebase to
        rm -f small/thin.qcow2
        mount -o remount,size=4M small && qemu-img create -q -f qcow2 -b "$work/many" -F raw small/thin.qcow2 &&
                qemu-io -f qcow2 -c "write -P 7 1M 64k" small/thin.qcow2 && qemu-img convert -f qcow2 -O raw small/thin.qcow2 thin || return
        refuses 2 disk-write "$lodge" image rebase small/thin.qcow2 "$@" && same small/thin.qcow2 qcow2 thin raw &&
                mount -o remount,size=32M small && image rebase small/thin.qcow2 "$@" && same small/thin.qcow2 qcow2 thin raw && sound small/thin.qcow2
}
# Without this, a verb says that it has done its work when the image couldn't be closed in order, and its bitmaps are worthless.
full_at_close() { # VERB OPTION...: the file that is written has a bitmap, which takes space when it is closed
        local verb=$1
        shift
        rm -f small/* && mount -o remount,size=1M small && qemu-img create -q -f qcow2 small/base.qcow2 1M &&
                qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 small/over.qcow2 1M && image bitmap add small/base.qcow2 day &&
                image bitmap add small/over.qcow2 day || return
        dd if=/dev/zero of=small/fill bs=4k status=none 2>/dev/null
        refuses 2 qcow2-bitmaps "$lodge" image "$verb" small/over.qcow2 "$@" && rm small/fill && image "$verb" small/over.qcow2 "$@" &&
                sound small/base.qcow2 small/over.qcow2
}
# Without this, a bitmap for which there is no space makes the others worthless.
full_at_add() {
        rm -f small/* && mount -o remount,size=1M small && qemu-img create -q -f qcow2 small/b.qcow2 1M &&
                image bitmap add small/b.qcow2 day && qemu-io -f qcow2 -c 'write -q -P 1 128k 64k' small/b.qcow2 || return
        dd if=/dev/zero of=small/fill bs=4k status=none 2>/dev/null
        refuses 2 qcow2-bitmaps "$lodge" image bitmap add small/b.qcow2 night && rm small/fill &&
                image bitmap dirty small/b.qcow2 day >text && [ "$(tail -n +2 text | xargs)" = "131072 65536" ] &&
                image check --repair all small/b.qcow2 && image bitmap add small/b.qcow2 night &&
                image bitmap dirty small/b.qcow2 day >text && [ "$(tail -n +2 text | xargs)" = "131072 65536" ] && sound small/b.qcow2
}
mkdir small
if mount -t tmpfs -o size=4M small small 2>/dev/null; then
        head -c 8M /dev/urandom >many
        head -c 1M many >few
        check "a rebase to nothing without space loses nothing" no_space
        check "nor does one to a shorter image" no_space --backing "$work/few" --backing-format raw
        check "a rebase that can't close the image says so" full_at_close rebase --unsafe --backing ./base.qcow2 --backing-format qcow2
        check "so does a commit" full_at_close commit
        check "a bitmap without space costs no other one" full_at_add
        umount small
else
        echo "# no tmpfs can be mounted here: a rebase on a full disk was not tried"
fi

# Who else has it open?
mkfifo hold
in_use() { # FILE QEMU-IO-OPTIONS, --, COMMAND...: while qemu-io has it open
        local file=$1 options=() pid status
        shift
        while [ "$1" != -- ]; do
                options+=("$1")
                shift
        done
        shift
        qemu-io -f qcow2 "${options[@]}" "$file" <hold >/dev/null &
        pid=$!
        exec 7>hold
        echo 'read -q 0 512' >&7
        until grep -q . "/proc/$pid/fdinfo/"* 2>/dev/null && grep -q '^lock:' "/proc/$pid/fdinfo/"* 2>/dev/null; do sleep 0.05; done
        "$@"
        status=$?
        exec 7>&-
        wait "$pid"
        return "$status"
}
check "an image that QEMU writes is not read" in_use top.qcow2 -- refuses 4 disk-busy "$lodge" image convert top.qcow2 new.qcow2
check "one that QEMU reads is" in_use top.qcow2 -r -- "$lodge" image map top.qcow2
check "but not changed" in_use top.qcow2 -r -- refuses 4 disk-busy "$lodge" image resize top.qcow2 9M
check "nothing goes into a backing image that another one uses" in_use middle.qcow2 -r -- refuses 4 disk-busy "$lodge" image commit top.qcow2

# Chains that are none
cp top.qcow2 odd.qcow2
qemu-img rebase -u -f qcow2 -b middle.qcow2 -F "" odd.qcow2 2>/dev/null
python3 - <<'EOF'
with open("odd.qcow2", "r+b") as f:  # in case that qemu-img has recorded the format all the same
    head = f.read(4096)
    at = head.find(bytes.fromhex("e2792aca"))
    if at >= 0:
        f.seek(at)
        f.write(bytes.fromhex("7f792aca"))
EOF
check "a format that isn't recorded is not guessed" refuses 2 chain-format "$lodge" image map odd.qcow2
check "rebase --unsafe records it" image rebase odd.qcow2 --unsafe --backing middle.qcow2 --backing-format qcow2
check "then it reads as before" same odd.qcow2 qcow2 want raw
check "rebase --unsafe to another name" image rebase odd.qcow2 --unsafe --backing gone.qcow2 --backing-format qcow2
check "a missing image" refuses 2 chain-open "$lodge" image map odd.qcow2
check "without a backing image, --unsafe is refused" refuses 1 rebase-unsafe "$lodge" image rebase odd.qcow2 --unsafe
check "addresses are refused" refuses 1 chain-protocol "$lodge" image rebase odd.qcow2 --unsafe --backing nbd://localhost/x --backing-format raw
latin() { # a name that is no UTF-8, out of an image, in a message
        python3 - <<'EOF'
with open("latin.qcow2", "r+b") as f:
    head = f.read(4096)
    f.seek(head.index(b"gone.qcow2"))
    f.write(b"g\xf6ne\n")
EOF
        "$lodge" image map --format json latin.qcow2 >ours
        [ $? = 2 ] && json 'd["error"]["id"], d["error"]["message"]' ours | grep -qF "('chain-open', 'image latin.qcow2: cannot open backing image g?ne\nqcow2')"
}
cp odd.qcow2 latin.qcow2
check "hostile names in messages" latin
check "an image can't stand on itself" refuses 2 chain-loop "$lodge" image rebase top.qcow2 --backing top.qcow2 --backing-format qcow2
check "a backing image needs a format" refuses 1 backing-format "$lodge" image create new.qcow2 --backing middle.qcow2
check "and has to be there" refuses 2 disk-open "$lodge" image create new.qcow2 --backing gone.qcow2 --backing-format qcow2
check "there is nothing to commit into" refuses 1 chain-none "$lodge" image commit damaged.qcow2
check "nothing was made" test ! -e new.qcow2

# Dirty bitmaps. A backup that trusts one that lacks a mark is missing data, so what each program keeps the other has to read the same.
bitmaps_same() { # FILE: both programs list the same, and find no damage
        image bitmap list --format json "$1" >ours && qemu-img info -U -f qcow2 --output json "$1" >theirs || return
        [ "$(json 'sorted((b["name"], b["granularity"], b["enabled"], b["inconsistent"]) for b in d["bitmaps"])' ours)" = "$(
                json 'sorted((b["name"], b["granularity"], b["flags"] == ["auto"], "in-use" in b["flags"]) for b in d["format-specific"]["data"].get("bitmaps", []))' theirs)" ] &&
                sound "$1" && return
        cat ours theirs
        return 1
}

marked() { # FILE NAME [START LENGTH]...: as text, as JSON, and in the list
        local file=$1 name=$2
        shift 2
        image bitmap dirty "$file" "$name" >text && image bitmap dirty --format json "$file" "$name" >ours &&
                image bitmap list --format json "$file" >theirs || return
        [ "$(tail -n +2 text | xargs)" = "$*" ] &&
                [ "$(json '" ".join("%d %d" % (r["start"], r["length"]) for r in d["dirty"])' ours)" = "$*" ] &&
                [ "$(json "sum(r['length'] for r in d['dirty'])" ours)" = "$(json "[b['dirty'] for b in d['bitmaps'] if b['name'] == '$name'][0]" theirs)" ] &&
                return
        cat text ours theirs
        return 1
}

# Without this, bitmaps that QEMU can't use, or a mark too few at the end of a disk that is no multiple of the granularity.
bitmaps_of_ours() { # QEMU-OPTIONS
        rm -f b.qcow2 && qemu-img create -q -f qcow2 ${1:+-o "$1"} b.qcow2 $((4 * 1024 * 1024 + 512)) && image bitmap add b.qcow2 day &&
                image bitmap add b.qcow2 'fine ü' --granularity 512 && image bitmap add b.qcow2 later --granularity 1M --disabled &&
                bitmaps_same b.qcow2 &&
                qemu-io -f qcow2 -c 'write -q -P 1 100k 60k' -c 'write -q -z 1M 512' -c 'discard -q 2M 64k' -c 'write -q 4M 512' b.qcow2 || return
        marked b.qcow2 day 65536 131072 1048576 65536 2097152 65536 4194304 512 &&
                marked b.qcow2 'fine ü' 102400 61440 1048576 512 2097152 65536 4194304 512 && marked b.qcow2 later && bitmaps_same b.qcow2 &&
                qemu-img bitmap -f qcow2 --add --merge day b.qcow2 copy && marked b.qcow2 copy 65536 131072 1048576 65536 2097152 65536 4194304 512 &&
                image bitmap clear b.qcow2 day && marked b.qcow2 day && marked b.qcow2 copy 65536 131072 1048576 65536 2097152 65536 4194304 512 &&
                bitmaps_same b.qcow2
}

# Without this, lodge loses what QEMU has marked, turns the wrong one off, or leaks the clusters of those that it removes.
bitmaps_of_qemu() { # QEMU-OPTIONS
        rm -f b.qcow2 && qemu-img create -q -f qcow2 ${1:+-o "$1"} b.qcow2 8M && qemu-img bitmap -f qcow2 --add -g 32k b.qcow2 on &&
                qemu-img bitmap -f qcow2 --add --disable -g 64k b.qcow2 off && bitmaps_same b.qcow2 &&
                qemu-io -f qcow2 -c 'write -q -P 1 1M 33k' -c 'write -q -P 1 8128k 64k' b.qcow2 || return
        marked b.qcow2 on 1048576 65536 8323072 65536 && marked b.qcow2 off &&
                image bitmap disable b.qcow2 on && image bitmap enable b.qcow2 off && bitmaps_same b.qcow2 &&
                qemu-io -f qcow2 -c 'write -q -P 2 3M 1' b.qcow2 || return
        marked b.qcow2 on 1048576 65536 8323072 65536 && marked b.qcow2 off 3145728 65536 && image bitmap clear b.qcow2 on &&
                marked b.qcow2 on && marked b.qcow2 off 3145728 65536 && image bitmap remove b.qcow2 on && bitmaps_same b.qcow2 &&
                image bitmap remove b.qcow2 off && bitmaps_same b.qcow2 && [ "$(image bitmap list --format json b.qcow2 | json 'd["bitmaps"]' /dev/stdin)" = '[]' ]
}
for options in "" cluster_size=512 extended_l2=on,lazy_refcounts=on; do
        check "bitmaps made by lodge, ${options:-plain}" bitmaps_of_ours "$options"
        check "bitmaps made by qemu, ${options:-plain}" bitmaps_of_qemu "$options"
done

# What lodge itself writes is marked, too, and by no other image of the chain.
commit_marks() {
        qemu-img create -q -f qcow2 base.qcow2 4M && image bitmap add base.qcow2 day &&
                image create over.qcow2 --backing base.qcow2 --backing-format qcow2 && image bitmap add over.qcow2 own --disabled &&
                qemu-io -f qcow2 -c 'write -q -P 5 1M 128k' over.qcow2 && marked base.qcow2 day && marked over.qcow2 own &&
                image commit over.qcow2 && marked base.qcow2 day 1048576 131072 && bitmaps_same base.qcow2 && bitmaps_same over.qcow2
}
rm -f over.qcow2
check "commit marks in the image that it writes to" commit_marks
# Without this, the next backup after a commit is a full one: emptying the image changes nothing that is seen.
commit_keeps_marks() {
        qemu-img create -q -f qcow2 base.qcow2 4M && image create over.qcow2 --backing base.qcow2 --backing-format qcow2 &&
                image bitmap add over.qcow2 own && qemu-io -f qcow2 -c 'write -q -P 5 1M 64k' over.qcow2 && image commit over.qcow2 &&
                marked over.qcow2 own 1048576 65536 && bitmaps_same over.qcow2
}
rm -f over.qcow2
check "and none in the one that it empties" commit_keeps_marks

# A refusal costs nothing: the file isn't opened for writing at all, in which case a kill would make every bitmap worthless.
rm -f b.qcow2 old.qcow2
qemu-img create -q -f qcow2 b.qcow2 4M
"$lodge" image bitmap add b.qcow2 day >/dev/null
qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 4M
cp b.qcow2 b.before
verbs() { # without a verb, or with one that isn't there: those that are
        local verb status
        "$lodge" image bitmap "$@" >text 2>&1
        status=$?
        for verb in list add remove clear enable disable dirty; do grep -q "^  image bitmap $verb " text || return; done
        [ "$status" = 1 ] && [ "$(wc -l <text)" = 8 ]
}
check "the verbs are listed" verbs
check "also for one that isn't there" verbs frob
check "raw disks have no bitmaps" refuses 2 qcow2-magic "$lodge" image bitmap add bottom.raw day
check "nor have images of version 2" refuses 2 qcow2-bitmap-version "$lodge" image bitmap add old.qcow2 day
check "which can be listed" image bitmap list old.qcow2
check "a name that is taken" refuses 2 qcow2-bitmap-exists "$lodge" image bitmap add b.qcow2 day
check "an empty name" refuses 1 qcow2-bitmap-range "$lodge" image bitmap add b.qcow2 ""
check "a name that is too long" refuses 1 schema-too-long "$lodge" image bitmap add b.qcow2 "$(printf '%01024d' 1)"
check "a granularity that is no power of two" refuses 1 qcow2-bitmap-range "$lodge" image bitmap add b.qcow2 x --granularity 5000
for verb in remove clear enable disable dirty; do
        check "$verb: there is no such bitmap" refuses 2 qcow2-bitmap-missing "$lodge" image bitmap $verb b.qcow2 night
done
check "an image that QEMU writes is not changed" in_use b.qcow2 -r -- refuses 4 disk-busy "$lodge" image bitmap clear b.qcow2 day
check "one that it reads can be looked at" in_use b.qcow2 -r -- "$lodge" image bitmap list b.qcow2
check "nothing was written" cmp b.qcow2 b.before
check "one that it writes can't" in_use b.qcow2 -- refuses 4 disk-busy "$lodge" image bitmap dirty b.qcow2 day
check "its bitmap is as before" bitmaps_same b.qcow2
check "the longest name" image bitmap add b.qcow2 "$(printf '%01023d' 1)"
check "is read by QEMU" bitmaps_same b.qcow2

# After a kill nobody knows what was written: the bitmap must never be taken for a true one again.
left_open() {
        local pid
        qemu-io -f qcow2 b.qcow2 <hold >/dev/null &
        pid=$!
        exec 7>hold
        echo 'read -q 0 512' >&7
        until grep -q '^lock:' "/proc/$pid/fdinfo/"* 2>/dev/null; do sleep 0.05; done
        sleep 0.2
        kill -KILL "$pid"
        exec 7>&-
        wait "$pid" 2>/dev/null
        bitmaps_same b.qcow2 && image bitmap list b.qcow2 >text && grep -q '^64 KiB  *-  inconsistent  *day$' text && return
        cat text
        return 1
}
check "a bitmap that a kill has left open" left_open
for verb in clear enable disable dirty; do
        check "$verb: it is refused" refuses 2 qcow2-bitmap-inconsistent "$lodge" image bitmap $verb b.qcow2 day
done
check "another one beside it" image bitmap add b.qcow2 new
check "doesn't mend it" refuses 2 qcow2-bitmap-inconsistent "$lodge" image bitmap dirty b.qcow2 day
check "it can be removed" image bitmap remove b.qcow2 day
check "and nothing is left of it" bitmaps_same b.qcow2
check "the new one is good" marked b.qcow2 new

qemu-img create -q -f qcow2 b0.qcow2 64M
qemu-io -f qcow2 -c 'write -q -P 1 1M 1M' b0.qcow2
bitmap_killed() { # SECONDS VERB: killed half way, the image has its bitmaps and its data
        local pid
        cp b0.qcow2 b.qcow2 && image bitmap add b.qcow2 day --granularity 512 && image bitmap add b.qcow2 fine --granularity 512 &&
                qemu-io -f qcow2 -c 'write -q -P 1 1M 1M' b.qcow2 || return
        "$lodge" image bitmap "$2" b.qcow2 fine >/dev/null &
        pid=$!
        sleep "$1"
        kill -KILL "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
        image check --repair all b.qcow2 && bitmaps_same b.qcow2 && same b.qcow2 qcow2 b0.qcow2 qcow2 &&
                marked b.qcow2 day 1048576 1048576 && image bitmap remove b.qcow2 day && bitmaps_same b.qcow2
}
for seconds in 0.002 0.008; do
        check "clear, killed after $seconds s" bitmap_killed $seconds clear
        check "remove, killed after $seconds s" bitmap_killed $seconds remove
done
tap_end
