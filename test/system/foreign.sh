#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# where: host
# seconds: 120
#
# foreign.sh: vmdk and vhdx files become images with the content that qemu-img put in, and those that name files of the host's get nothing of them
#
# usage: foreign.sh
#
# The file that hostile images name is a secret of the test's own beside them, readable for whoever runs this, and /etc/shadow where that is readable.

set -uo pipefail
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
build=$(realpath -- "${LODGE_BUILD:-$top/build}")
work=$(mktemp -d "${TMPDIR:-/tmp}/foreign.XXXXXX") || exit 1
trap 'rm -rf -- "$work"' EXIT
# shellcheck source=test/system/tap.bash
. "$top/test/system/tap.bash"
needs qemu-img python3
export XDG_DATA_HOME=$work/data XDG_RUNTIME_DIR=$work/no-daemon
images=$work/data/lodge/images
cd "$work" || exit 1

import() { timeout 60 "$build/lodge" image import "$@"; }

good() { # FILE FORMAT NAME
        import --disk-format "$2" --name "$3" "$1" && cmp -- disk.raw "$images/$3/disk.raw"
}

refused() { # ID FILE FORMAT: with that id and a fix, nothing of the secret, and no image
        import --disk-format "$3" --name bad "$2" >said 2>&1 && { echo "it was taken"; return 1; }
        cat said
        grep -qF -- "[$1]" said && grep -q 'fix: ' said && ! grep -q SECRET said && [ ! -d "$images/bad" ] &&
                [ -z "$(find "$images" -name '.tmp-*')" ]
}

hostile() { # WHAT OUT: made of good.vmdk or good.vhdx
        python3 - "$1" "$2" "$work/secret.vmdk" <<'EOF'
import struct, sys
what, out, secret = sys.argv[1:4]
descriptor = '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=%s\ncreateType="%s"\n%s\n%s\n'
flat = descriptor % ("ffffffff", "monolithicFlat", 'RW 2048 FLAT "%s" 0' % secret, 'ddb.adapterType = "ide"')
if what == "descriptor":
    data = flat.encode()
elif what == "shadow":
    data = flat.replace(secret, "/etc/shadow").encode()
elif what in ("embedded", "parent", "huge"):
    data = bytearray(open("good.vmdk", "rb").read())
    at, = struct.unpack_from("<Q", data, 28)  # descOffset, in sectors (Virtual Disk Format 5.0)
    size, = struct.unpack_from("<Q", data, 36)
    if what == "huge":
        struct.pack_into("<Q", data, 12, 1 << 60)
    elif what == "embedded":  # no capacity: the descriptor behind the header says where the disk is
        struct.pack_into("<Q", data, 12, 0)
        text = flat
    else:  # a delta, whose parent is another file
        old = data[at * 512:(at + size) * 512].split(b"\0")[0].decode()
        text = old.replace("parentCID=ffffffff", "parentCID=12345678") + 'parentFileNameHint="%s"\n' % secret
    if what != "huge":
        data[at * 512:(at + size) * 512] = text.encode().ljust(size * 512, b"\0")
elif what == "vhdx":  # a differencing disk ([MS-VHDX] 2.6.2.1, 2.6.2.6)
    data = bytearray(open("good.vhdx", "rb").read())
    table = data.index(b"metadata")
    parameters = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
    entry = data.index(parameters, table)
    offset, = struct.unpack_from("<I", data, entry + 16)
    flags, = struct.unpack_from("<I", data, table + offset + 4)
    struct.pack_into("<I", data, table + offset + 4, flags | 2)
    count, = struct.unpack_from("<H", data, table + 10)
    locator = bytes.fromhex("2d5fd3a80bb34d45abf7d3d84834ab0c")
    kind = bytes.fromhex("b7ef04b09ed1814ab7892525b8944913"[:32])
    key, value = "relative_path".encode("utf-16-le"), secret.encode("utf-16-le")
    item = kind + struct.pack("<HHIIHH", 0, 1, 32, 32 + len(key), len(key), len(value)) + key + value
    where = 0x18000
    struct.pack_into("<16sIIII", data, table + 32 + 32 * count, locator, where, len(item), 4, 0)
    struct.pack_into("<H", data, table + 10, count + 1)
    data[table + where:table + where + len(item)] = item
open(out, "wb").write(data)
EOF
}

# Without our own look at the header qemu-img would read the secret: else these tests show nothing.
would_leak() { timeout 60 qemu-img convert -f vmdk -O raw descriptor.vmdk leak.raw && grep -q SECRET leak.raw; }

# The descriptor of a sparse file names a parent: qemu-img tries to open it, and cannot.
parent_would_leak() { timeout 60 qemu-img convert -f vmdk -O raw parent.vmdk leak.raw && grep -q SECRET leak.raw; }

head -c 3M /dev/urandom >disk.raw && truncate -s 8M disk.raw
qemu-img convert -O vmdk disk.raw good.vmdk && qemu-img convert -O vmdk -o subformat=streamOptimized disk.raw stream.vmdk &&
        qemu-img convert -O vhdx disk.raw good.vhdx && qemu-img convert -O vmdk -o subformat=monolithicFlat disk.raw flat.vmdk || exit 1
yes SECRET | head -c 8M >secret.raw
qemu-img convert -O vmdk secret.raw secret.vmdk || exit 1
sed -i 's/^CID=.*/CID=12345678/' secret.vmdk
for what in descriptor shadow embedded parent huge; do hostile $what $what.vmdk || exit 1; done
hostile vhdx parent.vhdx || exit 1

check "a vmdk in one file" good good.vmdk vmdk sparse
check "a vmdk as it is streamed" good stream.vmdk vmdk stream
check "a vhdx" good good.vhdx vhdx vhdx
check "a vmdk that is in two files" refused image-import flat.vmdk vmdk
check "the descriptor that names a file would get at it" would_leak
check "a descriptor that names a file of the host's" refused image-import descriptor.vmdk vmdk
check "a descriptor that names /etc/shadow" refused image-import shadow.vmdk vmdk
check "a descriptor inside of a sparse file" refused image-import embedded.vmdk vmdk
check "a parent that is a file of the host's would be read" parent_would_leak
check "a sparse file with such a parent" refused image-import parent.vmdk vmdk
check "a vhdx with a parent" refused image-import parent.vhdx vhdx
check "a size that can't be" refused image-import huge.vmdk vmdk
check "a vhdx that is said to be vmdk" refused image-import good.vhdx vmdk
truncate -s 1M good.vmdk
check "a vmdk that was cut short" refused image-import good.vmdk vmdk
tap_end
