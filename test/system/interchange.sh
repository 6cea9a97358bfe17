#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 400
#
# interchange.sh: what lodge writes QEMU reads, and the other way round, for every shape of qcow2 image
#
# usage: interchange.sh [--all] [--table]
#
#   --all     every width of reference counts, not only 1, 16 and 64 bits
#   --table   a table of what was compared, instead of TAP
#
# For each version, cluster size, width of reference counts and compression there are two chains of five images, of which the lowest was made
# from the same raw disk by `lodge image convert` or by `qemu-img convert`, and the next ones by turns. qemu-io writes into each. At each
# depth both programs read the chain and have to agree, and find no damage. At last lodge flattens the top image (its own
# write path, with copy on write), and QEMU reads it again.

set -uo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
lodge=${LODGE_BUILD:-$top/build}/lodge
if ! command -v qemu-img >/dev/null || ! command -v qemu-io >/dev/null; then
        echo "1..0 # SKIP qemu-img and qemu-io are not installed"
        exit 0
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/interchange.XXXXXX") || exit 1
trap 'rm -rf -- "$work"' EXIT
cd "$work" || exit 1
readonly SIZE=2200K DEPTH=4
count=0 failed=0 table=0 widths=(1 16 64)
for arg; do
        case $arg in
        --all) widths=(1 2 4 8 16 32 64) ;;
        --table) table=1 ;;
        *) echo "usage: interchange.sh [--all] [--table]" >&2; exit 64 ;;
        esac
done

# Half of it can be compressed, half of it can't, and there are holes.
head -c 600K /dev/urandom >noise
truncate -s $SIZE disk
dd if=noise of=disk bs=1K seek=100 conv=notrunc status=none
yes 'something that can be packed' | head -c 700K | dd of=disk bs=1K seek=900 conv=notrunc status=none

both_agree() { # IMAGE: the programs read the same, and find no damage
        rm -f -- ours theirs
        "$lodge" image convert --to raw "$1" ours && qemu-img convert -f qcow2 -O raw "$1" theirs && cmp ours theirs &&
                qemu-img check -q -f qcow2 "$1" && "$lodge" image check "$1"
}

# The lowest image, made by lodge or by qemu.
lowest() { # MAKER FILE VERSION CLUSTER BITS COMPRESSION
        local lodge_options=(--version "$3" --cluster "$4" --refcount-bits "$5") compat=1.1 pack=()
        [ "$3" = 3 ] || compat=0.10
        local qemu_options=compat=$compat,cluster_size=$4,refcount_bits=$5
        if [ "$6" != none ]; then
                lodge_options+=(--compress --compression "$6")
                pack=(-c)
                [ "$6" = zlib ] || qemu_options+=,compression_type=$6
        fi
        if [ "$1" = lodge ]; then
                "$lodge" image convert --disk-format raw "${lodge_options[@]}" disk "$2"
        else
                qemu-img convert -f raw -O qcow2 "${pack[@]}" -o "$qemu_options" disk "$2"
        fi && qemu-img compare -q -f raw -F qcow2 disk "$2"
}

overlay() { # MAKER FILE BACKING VERSION CLUSTER BITS
        local compat=1.1
        [ "$4" = 3 ] || compat=0.10
        if [ "$1" = lodge ]; then
                "$lodge" image create --backing "$3" --backing-format qcow2 --version "$4" --cluster "$5" --refcount-bits "$6" "$2"
        else
                qemu-img create -q -f qcow2 -b "$3" -F qcow2 -o "compat=$compat,cluster_size=$5,refcount_bits=$6" "$2"
        fi
}

chain() { # MAKER VERSION CLUSTER BITS COMPRESSION
        local maker=$1 depth below=0.qcow2 zero=
        rm -f -- ./*.qcow2
        lowest "$maker" 0.qcow2 "${@:2}" && both_agree 0.qcow2 || return
        [ "$2" = 2 ] || zero="write -z ${#3}00K 33K"
        for ((depth = 1; depth <= DEPTH; depth++)); do
                if [ "$maker" = lodge ]; then maker=qemu; else maker=lodge; fi
                if ! { overlay "$maker" $depth.qcow2 "$below" "${@:2:3}" &&
                        qemu-io -f qcow2 -c "write -q -P $((depth * 7)) $((depth * 307))K 45K" -c "write -q -P 99 $((depth * 11 * 512)) 512" \
                                ${zero:+-c "$zero"} -c "discard $((depth * 150))K 70K" $depth.qcow2 >/dev/null &&
                        both_agree $depth.qcow2; }; then
                        echo "at depth $depth"
                        return 1
                fi
                below=$depth.qcow2
        done
        mv ours before &&
                "$lodge" image rebase "$below" && both_agree "$below" && cmp before ours
}

result() { # STATUS NAME OUTPUT
        count=$((count + 1))
        if ((table)); then
                printf '%-60s %s\n' "$2" "$([ "$1" = 0 ] && echo 'depth 0 to 4, both ways: same' || echo DIFFERENT)"
        elif [ "$1" = 0 ]; then
                echo "ok $count - $2"
        else
                echo "not ok $count - $2"
        fi
        [ "$1" = 0 ] || { failed=$((failed + 1)); tail -n 5 <<<"$3" | sed 's/^/# /'; }
}

for version in 2 3; do
        for cluster in 512 4K 64K 2M; do
                for bits in "${widths[@]}"; do
                        [ $version = 3 ] || [ "$bits" = 16 ] || continue
                        for compression in none zlib zstd; do
                                [ $version = 3 ] || [ $compression != zstd ] || continue
                                for maker in lodge qemu; do
                                        output=$(chain $maker $version $cluster "$bits" $compression 2>&1 </dev/null)
                                        result $? "version $version, clusters of $cluster, counts of $bits bits, $compression, from $maker" "$output"
                                done
                        done
                done
        done
done
((table)) || echo "1..$count"
[ "$failed" = 0 ]
