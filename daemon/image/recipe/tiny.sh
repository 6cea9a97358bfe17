# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# tiny: Debian's cloud kernel with an initramfs of busybox, our init and guest agent, and the virtio modules
#
# The initramfs is not compressed: unpacking three megabytes takes an emulated processor longer than copying them.

# In the order in which init loads them; what they depend on comes in by itself.
MODULES="virtio_pci virtio_console virtio_blk virtio_net virtio_rng button evdev virtio_balloon"

kernel_package() {
        apt-cache depends linux-image-cloud-amd64 2>/dev/null |
                sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\).*/\1/p' | head -n 1
}

version_of() {
        apt-cache show --no-all-versions "$1" | sed -n 's/^Version: //p' | head -n 1
}

plan() {
        need cpio cpio depmod kmod dpkg-deb dpkg
        kernel=$(kernel_package)
        [ -n "$kernel" ] ||
                give_up "refresh the package lists: apt-get update" "apt knows no package linux-image-cloud-amd64"
        echo "$kernel $(version_of "$kernel")"
        echo "busybox-static $(version_of busybox-static)"
}

build() {
        kernel=$(kernel_package)
        version=$(version_of "$kernel")
        say "step downloading the kernel and busybox"
        fetch "$kernel" busybox-static

        say "step making the initramfs"
        mkdir k b root
        dpkg-deb --fsys-tarfile "$kernel"_*.deb | tar -x -C k
        dpkg-deb --fsys-tarfile busybox-static_*.deb | tar -x -C b
        release=${kernel#linux-image-}
        [ -d k/lib/modules ] || mv k/usr/lib k/lib # merged /usr
        depmod -b k "$release"

        mkdir -p root/bin root/dev root/etc root/mnt root/proc root/root root/run root/sys root/tmp
        mkdir -p root/etc/udhcpc
        ln -s bin root/sbin
        cp "$(find b -path '*/bin/busybox' -type f)" root/bin/busybox
        chmod 755 root/bin/busybox
        for applet in $(root/bin/busybox --list); do
                case $applet in busybox | init | linuxrc) ;; *) ln -s busybox "root/bin/$applet" ;; esac
        done
        cat <&5 >root/init
        chmod 755 root/init
        ln -s /init root/bin/lodge-agent
        ln -s /init root/bin/lodge-pty
        # shellcheck disable=SC2086 # words
        copy_modules "k/lib/modules/$release" root $MODULES
        printf 'root:*:0:0:root:/root:/bin/sh\n' >root/etc/passwd
        printf 'root:*:0:\n' >root/etc/group
        echo tiny >root/etc/hostname
        printf 'NAME="Lodge tiny"\nID=lodge-tiny\nVERSION_ID=%s\n' "$release" >root/etc/os-release
        cat >root/etc/udhcpc/default.script <<'EOF'
#!/bin/sh
# What udhcpc, as Debian builds it, calls when an address comes or goes.
case $1 in
deconfig)
        ip addr flush dev "$interface"
        ip link set "$interface" up
        ;;
bound | renew)
        ip addr replace "$ip/${mask:-24}" dev "$interface"
        for r in $router; do ip route replace default via "$r" dev "$interface" && break; done
        : >/etc/resolv.conf.new
        for d in $dns; do echo "nameserver $d" >>/etc/resolv.conf.new; done
        mv /etc/resolv.conf.new /etc/resolv.conf
        ;;
esac
EOF
        chmod 755 root/etc/udhcpc/default.script
        pack_initrd root >initrd
        cp "k/boot/vmlinuz-$release" vmlinuz

        say "meta version $version"
        say "meta cmdline console=ttyS0 quiet"
        say "meta user root"
        say "meta login a root shell on the serial console"
        say "file kernel vmlinuz"
        say "file initrd initrd"
}

"$1"
