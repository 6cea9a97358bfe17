# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# initramfs.sh: the lab's cache, sourced by lodge-lab
#
# Theory of operation. Two kinds of things are kept below ${XDG_CACHE_HOME:-~/.cache}/lodge/lab:
#
#      kernel-FLAVOUR-PACKAGE-VERSION/   a Debian kernel package, unpacked, with modules.dep, and its kernel also uncompressed (vmlinux):
#                                        emulated processors take seconds for the unpacking that the host does in a blink
#      initramfs-KEY.cpio                busybox, lab/init and the few modules that lead to the root file system; KEY digests the kernel's
#                                        version, busybox and the scripts of the lab, so that a change of any builds another
#      FLAVOUR.package                   which versioned package stands behind linux-image-FLAVOUR, valid while apt's lists are older
#
# Each is made under a temporary name and renamed into place when it is whole, under a lock that only builders take: an interrupted build
# leaves nothing that a later one would trust, and two builders do the work once. The archive is reproducible: sorted names, owner root,
# one time stamp. Modules that are not in it are reached through the root share (init binds them to /lib/modules).

CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/lodge/lab
HOST_KERNEL="" HOST_RELEASE="" INITRAMFS="" KERNEL_DIR=""

# Loaded at every start, in this order; what they depend on is found by depmod.
readonly MODULES_START="virtio_pci 9pnet_virtio 9p overlay"
# Loaded at every start while the root is being mounted: everybody wants KVM, and it takes its time.
readonly MODULES_BESIDE="virtio_console kvm_amd virtio_rng"
# Carried along and loaded when an option asks for it.
readonly MODULES_OPTION="nvme e1000e"

# kernel_package FLAVOUR - print the "package version" behind linux-image-FLAVOUR; asks apt only when its lists are news
kernel_package() {
        local stamp=$CACHE/$1.package answer package

        if [ -s "$stamp" ] && { [ ! -d /var/lib/apt/lists ] || [ "$stamp" -nt /var/lib/apt/lists ]; }; then
                cat -- "$stamp"
                return
        fi
        answer=$(apt-cache show --no-all-versions "linux-image-$1" 2>/dev/null |
                sed -n 's/^Depends:.*\(linux-image-[0-9][^ ,]*\) (= *\([^)]*\)).*/\1 \2/p' | head -n 1)
        if [ -z "$answer" ]; then
                # no lists (offline): whatever is here already will do
                package=$(find "$CACHE" -maxdepth 1 -name "kernel-$1-*" -printf '%f\n' 2>/dev/null | sort -V | tail -n 1)
                [ -s "$stamp" ] && [ -n "$package" ] && { cat -- "$stamp"; return; }
                say "apt does not know linux-image-$1"
                printf '  fix: apt-get update\n' >&2
                return 1
        fi
        printf '%s\n' "$answer" >"$stamp.$$" && mv -f -- "$stamp.$$" "$stamp" && printf '%s\n' "$answer"
}

# vmlinux_extract BZIMAGE - write the ELF kernel inside to stdout; header fields of Documentation/arch/x86/boot.rst: setup_sects 0x1f1,
# payload_offset 0x248, payload_length 0x24c
vmlinux_extract() {
        local sects offset length magic

        sects=$(od -An -tu1 -j $((0x1f1)) -N1 "$1") || return
        offset=$(od -An -tu4 -j $((0x248)) -N4 "$1") || return
        length=$(od -An -tu4 -j $((0x24c)) -N4 "$1") || return
        offset=$((offset + ((sects ? sects : 4) + 1) * 512))
        magic=$(od -An -tx1 -j $offset -N4 "$1" | tr -d ' ')
        # the last four bytes of the payload are its unpacked size, no part of the stream
        case $magic in
                fd377a58) dd if="$1" iflag=skip_bytes,count_bytes skip=$offset count=$((length - 4)) bs=1M status=none | xz -dc ;;
                *) return 1 ;;
        esac
}

# kernel_unpack FLAVOUR PACKAGE VERSION TARGET - fetch and unpack a package as TARGET; the caller holds the lock
kernel_unpack() {
        local work=$4.tmp release

        rm -rf -- "$work"
        mkdir -- "$work" || return
        say "fetching $2 $3"
        if ! (cd "$work" && apt-get -q download "$2=$3") >"$work.log" 2>&1; then
                cat "$work.log" >&2
                rm -rf -- "$work" "$work.log"
                say "cannot fetch $2 $3"
                printf '  fix: apt-get update, then try again\n' >&2
                return 1
        fi
        rm -f -- "$work.log"
        dpkg -x "$work"/*.deb "$work" && rm -f -- "$work"/*.deb || return
        release=${2#linux-image-}
        [ -d "$work/lib" ] || mv -- "$work/usr/lib" "$work/lib" || return
        depmod -b "$work" "$release" || return
        ln -s "boot/vmlinuz-$release" "$work/vmlinuz" || return
        printf '%s\n' "$release" >"$work/release"
        if [ "$1" = amd64 ]; then
                vmlinux_extract "$work/vmlinuz" >"$work/vmlinux" ||
                        { rm -f -- "$work/vmlinux" && ln -s vmlinuz "$work/vmlinux"; } || return
        fi
        mv -T -- "$work" "$4"
}

# cache_kernel host|cloud - make sure that the kernel is unpacked; sets KERNEL_DIR
cache_kernel() {
        local flavour package version answer

        case $1 in
                host) flavour=amd64 ;;
                cloud) flavour=cloud-amd64 ;;
                *) say "'$1' is no kernel of the lab"; printf '  fix: say host or cloud\n' >&2; return 64 ;;
        esac
        mkdir -p -- "$CACHE" || return
        answer=$(kernel_package "$flavour") || return
        read -r package version <<<"$answer"
        KERNEL_DIR=$CACHE/kernel-$flavour-$package-$version
        [ ! -d "$KERNEL_DIR" ] || return 0
        require_tools flock apt-get dpkg depmod xz
        {
                flock 9 || return
                [ -d "$KERNEL_DIR" ] || kernel_unpack "$flavour" "$package" "$version" "$KERNEL_DIR"
        } 9>"$CACHE/lock" || { say "cannot prepare the kernel $package"; return 1; }
}

kernel_path() {
        cache_kernel "${1:-host}" || return
        printf '%s\n' "$KERNEL_DIR/vmlinuz"
}

modules_path() {
        cache_kernel "${1:-host}" || return
        printf '%s\n' "$KERNEL_DIR/lib/modules/$(<"$KERNEL_DIR/release")"
}

# module_list DIR RELEASE NAME... - paths of the modules and of what they need, in loading order, each once, relative to DIR
module_list() {
        local dir=$1 release=$2 name
        shift 2
        for name in "$@"; do
                modprobe -d "$dir" -S "$release" --show-depends "$name" || return
        done | awk -v base="$dir/" '$1 == "insmod" && !seen[$2]++ { sub("^" base, "", $2); print $2 }'
}

# initramfs_build KERNEL_DIR RELEASE TARGET - the caller holds the lock
initramfs_build() {
        local work=$3.tmp tree=$3.tmp/tree name names path kernel=$1 release=$2

        rm -rf -- "$work"
        mkdir -p -- "$tree"/{bin,dev,proc,sys,etc,lower,upper,newroot,modules} || return
        cp -- "$(command -v busybox)" "$tree/bin/busybox" && cp -- "$LAB_DIR/init" "$tree/init" || return
        # the shell finds its applets through /proc, so mount has to have a name of its own
        ln -s busybox "$tree/bin/sh" && ln -s busybox "$tree/bin/mount" || return
        # the kernel's own requests for modules are answered by the modprobe of the big root, which has them all
        printf '#!/bin/sh\nexec /bin/busybox chroot /newroot /sbin/modprobe "$@"\n' >"$tree/bin/modprobe"
        chmod 755 "$tree/init" "$tree/bin/modprobe" "$tree/bin/busybox"

        for name in start beside $MODULES_OPTION; do
                case $name in
                        start) names=$MODULES_START ;;
                        beside) names=$MODULES_BESIDE ;;
                        *) names=$name ;;
                esac
                # shellcheck disable=SC2086 # a list of words
                module_list "$kernel" "$release" $names >"$work/list" || return
                while read -r path; do
                        [ -e "$tree/modules/${path##*/}" ] || cp -- "$kernel/$path" "$tree/modules/" || return
                        # twice is an error for insmod
                        [ "$name" = start ] || ! grep -qxF "/modules/${path##*/}" "$tree/etc/insmod.start" || continue
                        printf '/modules/%s\n' "${path##*/}"
                done <"$work/list" >"$tree/etc/insmod.$name"
        done
        # device nodes whose opening loads their module: name type major minor
        sed -n 's/^[^# ]* \([^ ]*\) \([bc]\)\([0-9]*\):\([0-9]*\)$/\1 \2 \3 \4/p' "$kernel/lib/modules/$release/modules.devname" \
                >"$tree/etc/nodes"
        find "$tree" -exec touch -h -d @0 {} + &&
                (cd "$tree" && find . -mindepth 1 -printf '%P\n' | LC_ALL=C sort |
                        cpio --quiet --reproducible -R 0:0 -o -H newc) >"$work/cpio" &&
                mv -T -- "$work/cpio" "$3" && rm -rf -- "$work"
}

# cache_prepare - sets HOST_KERNEL, HOST_RELEASE and INITRAMFS, building what is not there
cache_prepare() {
        local key

        require_tools busybox
        cache_kernel host || return
        HOST_KERNEL=$KERNEL_DIR
        HOST_RELEASE=$(<"$HOST_KERNEL/release") || return
        key=$({ printf '%s\n' "${HOST_KERNEL##*/}"; cat -- "$LAB_DIR/init" "$LAB_DIR/initramfs.sh" "$(command -v busybox)"; } | sha256sum) ||
                return
        INITRAMFS=$CACHE/initramfs-${key:0:16}.cpio
        [ ! -e "$INITRAMFS" ] || { touch -c -- "$INITRAMFS"; return 0; }
        require_tools flock cpio depmod
        {
                flock 9 || return
                [ -e "$INITRAMFS" ] || initramfs_build "$HOST_KERNEL" "$HOST_RELEASE" "$INITRAMFS"
        } 9>"$CACHE/lock" || { say "cannot build the initramfs"; return 1; }
        # what nobody started from for a week is the leaving of older scripts
        find "$CACHE" -maxdepth 1 -name 'initramfs-*.cpio' -mtime +7 -delete
}
