#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 120
#
# image-calls.sh: how `lodge image` behaves towards whoever calls it: locks, signals, exit statuses, what it prints
#
# usage: image-calls.sh

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
lodge=${LODGE_BUILD:-$top/build}/lodge
work=$(mktemp -d "${TMPDIR:-/tmp}/image-calls.XXXXXX") || exit 1
trap 'rm -rf -- "$work"' EXIT
cd "$work" || exit 1
export XDG_DATA_HOME=$work/data XDG_RUNTIME_DIR=$work/no-daemon HOME=$work
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
needs qemu-img qemu-io

image() { "$lodge" image "$@"; }

refuses() { # STATUS ID COMMAND...: it fails with that status, that id, and a fix; its words are in the file "said"
        local status=$1 id=$2
        shift 2
        "$@" >said 2>&1
        [ $? = "$status" ] && grep -qF -- "[$id]" said && grep -q '^  fix: ' said && return
        cat said
        return 1
}

# --- who else has it open?

mkfifo hold
in_use() { # FORMAT FILE QEMU-IO-OPTIONS, --, COMMAND...: while qemu-io has it open; its process is $holder
        local format=$1 file=$2 options=() status
        shift 2
        while [ "$1" != -- ]; do
                options+=("$1")
                shift
        done
        shift
        qemu-io -f "$format" "${options[@]}" "$file" <hold >/dev/null &
        holder=$!
        exec 7>hold
        echo 'read -q 0 512' >&7
        until grep -q '^lock:' "/proc/$holder/fdinfo/"* 2>/dev/null; do sleep 0.05; done
        "$@"
        status=$?
        exec 7>&-
        wait "$holder"
        return "$status"
}

busy() { # COMMAND...: refused, and it says by whom
        refuses 4 disk-busy "$@" && grep -qF "is in use by qemu-io, pid $holder" said && ! grep -q readonly= said && return
        cat said
        return 1
}
qemu-img create -q -f raw disk.raw 4M
qemu-img create -q -f qcow2 disk.qcow2 4M
check "a raw disk that is written is not imported" in_use raw disk.raw -- busy "$lodge" image import --disk-format raw disk.raw
check "nor is a qcow2 disk" in_use qcow2 disk.qcow2 -- busy "$lodge" image import --disk-format qcow2 disk.qcow2
check "one that is only read is" in_use raw disk.raw -r -- "$lodge" image import --disk-format raw disk.raw
for verb in info check map measure "bitmap list"; do
        # shellcheck disable=SC2086 # two words
        check "$verb is refused while a machine writes" in_use qcow2 disk.qcow2 -- busy "$lodge" image $verb disk.qcow2
done
check "a command names the other one, not itself, nor one that only reads" in_use qcow2 disk.qcow2 -- busy "$lodge" image resize disk.qcow2 8M

# --- signals

head -c 24M /dev/urandom >noise.raw
converts() { # IGNORED SIGNAL STATUS: what happens to a conversion that gets SIGNAL while IGNORED is ignored
        local pid status
        rm -f new.qcow2
        (
                trap '' "$1"
                exec "$lodge" image convert --disk-format raw --compress noise.raw new.qcow2
        ) >said 2>&1 &
        pid=$!
        # at work, with a file that has no name yet
        until find "/proc/$pid/fd" -lname '*(deleted)' 2>/dev/null | grep -q . || ! kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
        kill "-$2" "$pid"
        wait "$pid"
        status=$?
        [ "$status" = "$3" ] && return
        echo "status $status"
        cat said
        return 1
}
check "nohup keeps a conversion going" converts HUP HUP 0
check "all of it is there" qemu-img compare -f raw -F qcow2 noise.raw new.qcow2
check "SIGTERM still stops it" converts HUP TERM 2
check "SIGHUP does without nohup" converts USR1 HUP 2

# --- exit statuses: what is wrong with a file is no wrong usage

printf 'QFI\373junk' >junk
: >empty
cp disk.qcow2 clusters.qcow2
printf '\0\0\0\77' | dd of=clusters.qcow2 bs=1 seek=20 conv=notrunc status=none
cp disk.qcow2 l1.qcow2
printf '\0\0\377' | dd of=l1.qcow2 bs=1 seek=40 conv=notrunc status=none
check "a file that is none" refuses 2 qcow2-magic "$lodge" image check junk
check "an empty file" refuses 2 qcow2-magic "$lodge" image check empty
check "an empty raw disk" refuses 2 disk-size "$lodge" image map --disk-format raw empty
check "a cluster size that can't be" refuses 2 qcow2-header "$lodge" image check clusters.qcow2
check "an L1 table that lies nowhere" refuses 2 qcow2-header "$lodge" image check l1.qcow2
check "the same for import" refuses 2 image-import "$lodge" image import --disk-format raw empty
for options in "--version 2" "--cluster 4K" "--refcount-bits 8" "--compression zstd" --extended-l2 --lazy-refcounts --preallocate; do
        # shellcheck disable=SC2086 # two words
        check "a raw file has none: convert $options" refuses 1 schema-conflict "$lodge" image convert --to raw disk.qcow2 new.raw $options
        # shellcheck disable=SC2086
        check "nor is one measured: $options" refuses 1 schema-conflict "$lodge" image measure --to raw disk.qcow2 $options
done
check "nothing was made" test ! -e new.raw

# --- what an error tells people to type does what they need

advice() { # TEXT STATUS ID COMMAND...: refused, and the fix says TEXT
        local text=$1
        shift
        refuses "$@" && grep -qF -- "$text" said && return
        cat said
        return 1
}
qemu-img create -q -f qcow2 -b disk.qcow2 -F qcow2 over.qcow2
qemu-io -f qcow2 -c 'write -q -P 3 0 64k' over.qcow2
cp over.qcow2 over.before
mv disk.qcow2 moved.qcow2
check "a backing image that was moved" advice "rebase --unsafe --backing NEW --backing-format FORMAT FILE" 2 chain-open "$lodge" image map over.qcow2
check "it says which image names it" grep -qF 'image over.qcow2: cannot open backing image disk.qcow2' said
check "without --backing, rebase says what lacks" advice "add --unsafe --backing NEW" 2 chain-open "$lodge" image rebase over.qcow2
check "rebase as it was told" image rebase --unsafe --backing moved.qcow2 --backing-format qcow2 over.qcow2
check "then it can be read" image map over.qcow2
mv moved.qcow2 disk.qcow2
qemu-img rebase -u -f qcow2 -b over.qcow2 -F qcow2 disk.qcow2 && cp over.before over.qcow2
check "a loop" advice "--unsafe --backing RIGHT --backing-format FORMAT FILE" 2 chain-loop "$lodge" image rebase over.qcow2
check "it says where" grep -qF 'image disk.qcow2 names over.qcow2, which is above it' said
qemu-img create -q -f qcow2 right.qcow2 4M
check "record the right one" image rebase --unsafe --backing right.qcow2 --backing-format qcow2 over.qcow2
check "that ends it" image rebase over.qcow2
qemu-img rebase -u -f qcow2 -b "" disk.qcow2

cp right.qcow2 c0.qcow2
for ((i = 1; i <= 64; i++)); do "$lodge" image create c$i.qcow2 4M --backing right.qcow2 --backing-format qcow2 >/dev/null; done
for ((i = 1; i <= 64; i++)); do "$lodge" image rebase --unsafe c$i.qcow2 --backing c$((i - 1)).qcow2 --backing-format qcow2 >/dev/null; done
check "too many images" advice "lodge image convert LOWER NEW" 2 chain-depth "$lodge" image map c64.qcow2
check "convert the lower ones" image convert c32.qcow2 c.qcow2
check "put the others on that" image rebase --unsafe --backing c.qcow2 --backing-format qcow2 c33.qcow2
check "now it can be read" image map c64.qcow2

if mknod device b 7 255 2>/dev/null; then
        check "a block device isn't to be removed" advice "choose the name of a new file" 2 disk-exists "$lodge" image convert disk.qcow2 device
fi
qemu-img create -q -f qcow2 damaged.qcow2 1M
qemu-io -f qcow2 -c 'write -q -c -P 5 512k 64k' damaged.qcow2
head -c 512 /dev/zero | tr '\0' '\377' | dd of=damaged.qcow2 bs=64k seek=5 conv=notrunc status=none
check "compressed data that is damaged" advice "restore it from a backup" 2 disk-read "$lodge" image convert damaged.qcow2 new2.qcow2

# --- output

# C1's introducer of control sequences, and an override of the direction: in names of files, and in what an image says
hostile=$'a\xc2\x9b2Jb\xe2\x80\xaec'
quiet() { # COMMAND...: nothing of that is printed
        "$@" >said 2>&1
        ! LC_ALL=C grep -q $'\xc2\x9b\|\xe2\x80\xae' said && grep -q b said && return
        cat said
        return 1
}
check "Created" quiet "$lodge" image create "$hostile" 1M
check "Wrote" quiet "$lodge" image convert disk.qcow2 "$hostile.new"
check "Resized" quiet "$lodge" image resize "$hostile" 2M
check "No bitmaps" quiet "$lodge" image bitmap list "$hostile"
check "stands on" quiet "$lodge" image rebase "$hostile" --unsafe --backing "./$hostile.new" --backing-format qcow2
check "info" quiet "$lodge" image info "$hostile"
qemu-io -f qcow2 -c 'write -q 0 64k' "$hostile"
check "map" quiet "$lodge" image map "$hostile"
check "stands on none" quiet "$lodge" image rebase "$hostile"
check "an error" quiet "$lodge" image info "$hostile.none"
store=$work/data/lodge/images
check "an image of the store" "$lodge" image import --disk-format raw --name odd noise.raw
mv "$store/odd/disk.raw" "$store/odd/$hostile" && sed -i "s/disk\.raw/$hostile/" "$store/odd/image.json"
check "show" quiet "$lodge" image show odd

# Without this, what is printed goes into the image that was opened as the standard output.
closed() { # DESCRIPTOR: the check of an image while it is closed mends it, and writes nothing else into it
        cp leaky.qcow2 closed.qcow2 && cp leaky.qcow2 open.qcow2 && image check --repair leaks open.qcow2 || return
        case $1 in
        0) image check --repair leaks closed.qcow2 <&- ;;
        1) image check --repair leaks closed.qcow2 >&- ;;
        2) image check --repair leaks closed.qcow2 2>&- ;;
        all) image check --repair leaks closed.qcow2 <&- >&- 2>&- ;;
        esac
        cmp open.qcow2 closed.qcow2
}
leaks() { image check leaky.qcow2 >said; [ $? = 2 ] && grep -qE '^Left: 0 corruptions, [0-9]{4} leaks' said; }
# Without its L1 table nothing uses the data any more: so many clusters that more is printed than a buffer holds.
qemu-img create -q -f qcow2 -o cluster_size=512 leaky.qcow2 4M
qemu-io -f qcow2 -c 'write -q -P 1 0 1M' leaky.qcow2
python3 -c '
with open("leaky.qcow2", "r+b") as f:
    head = f.read(48)
    f.seek(int.from_bytes(head[40:48], "big"))
    f.write(bytes(8 * int.from_bytes(head[36:40], "big")))'
check "there is something to mend" leaks
for descriptor in 0 1 2 all; do
        check "standard descriptors that are closed: $descriptor" closed "$descriptor"
done
full() { refuses 2 output-lost sh -c '"$@" >/dev/full' sh "$@"; }
check "output that is lost is an error" full "$lodge" image info disk.qcow2
check "in JSON, too" full "$lodge" image info --format json disk.qcow2
check "and for help" full "$lodge" --help
tap_end
