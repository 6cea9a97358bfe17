# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# debian/12: Debian 12 as a small server, on a GPT disk with an ESP and an ext4 root, made without root and without a
# loop device
#
# How. mmdebstrap unpacks the packages, as root or, for anybody else, in a user namespace. Still inside of it, where
# ownership is what it should be, mke2fs copies the tree into a file system image, which goes to the disk through a
# descriptor that we opened outside: nothing is ever mounted but a bind mount in a namespace of its own, and nothing
# is written outside of the stage.
#
# What to know about the result:
# - The disk's owner logs in on the serial console as root without a password, because whoever holds the console and
#   the disk can do everything anyway. It takes the word lodge.autologin on the kernel's command line, which is in the
#   image's default. No account has a password, so nobody gets in over the network until cloud-init has put a key or a
#   password there.
# - cloud-init runs only when it is given data (NoCloud, ConfigDrive); otherwise it costs nothing at boot.
# - systemd-networkd asks for an address on every Ethernet card; cloud-init's network configuration has priority.
# - machine-id is empty and there are no SSH host keys: both are made at the first boot.
# - The ESP has systemd-boot with the same kernel, for a start by UEFI firmware.

SUITE=bookworm
DISK_MIB=2048
ESP_MIB=64
ROOT_START_MIB=$((1 + ESP_MIB))

PACKAGES="systemd-sysv udev dbus libpam-systemd systemd-resolved cloud-init cloud-guest-utils qemu-guest-agent iproute2
        iputils-ping netbase openssh-server sudo ca-certificates kmod procps less nano pciutils usr-is-merged
        initramfs-tools zstd linux-image-cloud-amd64 systemd-boot-efi"

plan() {
        need cpio cpio mmdebstrap mmdebstrap mke2fs e2fsprogs sgdisk gdisk mkfs.fat dosfstools mcopy mtools
        [ "$(dpkg --print-architecture)" = amd64 ] ||
                give_up "use a host with an x86-64 Debian" "this recipe is for amd64 hosts"
        if [ "$(id -u)" != 0 ]; then
                need newuidmap uidmap
                grep -q "^$(id -un):" /etc/subuid 2>/dev/null ||
                        give_up "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)" \
                                "user $(id -un) has no subordinate user ids"
        fi
        sources "$SUITE" >sources.list
        if [ -s sources.list ]; then
                # shellcheck disable=SC2086 # words
                apt_with "$PWD/sources.list" -s install $PACKAGES >plan.txt || {
                        cat plan.txt >&2
                        give_up "refresh the package lists: apt-get update" "apt doesn't know all packages that are needed"
                }
                sed -n 's/^Inst \([^ ]*\) (\([^ ]*\).*/\1 \2/p' plan.txt | sort
        else
                # Another release than this host's: mmdebstrap has a default source, whose state we can't see from here.
                echo "suite $SUITE from mmdebstrap's default source"
        fi
}

# Programs that packages call again and again, whose work is done once at the end
PUT_OFF="/usr/sbin/update-initramfs /usr/sbin/update-ca-certificates /usr/bin/py3compile"

# Once the essential packages are there, before the others: what would run more than once is put off.
essential_hook() {
        cat <<'HOOK'
set -eu
root=$1
cd /
for f in $PUT_OFF; do
        chroot "$root" dpkg-divert --quiet --local --rename --divert "$f.real" --add "$f"
        mkdir -p "$root${f%/*}"
        ln -s /bin/true "$root$f"
done
HOOK
}

# When all packages are configured: $root is the tree.
customize_hook() {
        cat <<'HOOK'
set -eu
root=$1
cd / # in a user namespace the stage, where we were started, can't be reached
trap 'rm -rf "$root.initrd" "$root.ext4"; rmdir "$root.tree" 2>/dev/null || true' EXIT
put() {
        mkdir -p "$(dirname "$root$1")"
        cat >"$root$1"
}
echo "step setting up the system" >&23

for f in $PUT_OFF; do
        rm "$root$f"
        chroot "$root" dpkg-divert --quiet --local --rename --remove "$f"
done
chroot "$root" update-ca-certificates --fresh >/dev/null &
certificates=$!
chroot "$root" python3 -m compileall -q -j 0 /usr/lib/python3/dist-packages || true # some are for other Pythons
wait $certificates

# What it is called, where its root is
echo debian >"$root/etc/hostname"
put /etc/hosts <<'EOF'
127.0.0.1 localhost
127.0.1.1 debian
::1 localhost ip6-localhost ip6-loopback
EOF
put /etc/fstab <<EOF
UUID=$ROOT_UUID / ext4 defaults,x-systemd.growfs 0 1
PARTUUID=$ESP_PARTUUID /boot/efi vfat noauto,umask=0077 0 2
EOF
mkdir -p "$root/boot/efi"

# Network: addresses by DHCP on every Ethernet card. cloud-init writes files that sort before this one.
put /etc/systemd/network/80-lodge-dhcp.network <<'EOF'
[Match]
Type=ether
Kind=!*

[Network]
DHCP=yes
IPv6AcceptRA=yes

[DHCPv4]
ClientIdentifier=mac
UseDomains=yes
EOF
# By the MAC address also where cloud-init's files are used, which can't say so: a clone may have the machine-id of its
# source, and must not get its address.
put /etc/systemd/networkd.conf.d/60-lodge.conf <<'EOF'
[DHCPv4]
DUIDType=link-layer

[DHCPv6]
DUIDType=link-layer
EOF
put /etc/systemd/system/systemd-networkd-wait-online.service.d/lodge.conf <<'EOF'
# A machine without a network must not wait two minutes for one.
[Service]
ExecStart=
ExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=30
EOF

# The console: root logs in by itself where the machine's owner asked for that on the kernel's command line.
put /usr/local/lib/lodge/console-getty <<'EOF'
#!/bin/sh
# The login on the serial console; see the head of Lodge's recipe debian/12.
set --
for word in $(cat /proc/cmdline); do
        [ "$word" != lodge.autologin ] || set -- --autologin root
done
exec /sbin/agetty "$@" --noclear --keep-baud 115200,57600,38400,9600 - "${TERM:-vt220}"
EOF
chmod 755 "$root/usr/local/lib/lodge/console-getty"
put /etc/systemd/system/serial-getty@.service.d/lodge.conf <<'EOF'
[Service]
ExecStart=
ExecStart=-/usr/local/lib/lodge/console-getty %I
EOF

# SSH: keys of its own at the first boot, before the server that needs them; nobody has a password to try.
rm -f "$root"/etc/ssh/ssh_host_*
put /etc/systemd/system/lodge-host-keys.service <<'EOF'
[Unit]
Description=Make this machine's SSH host keys
Before=ssh.service
After=cloud-init.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
ExecStart=/usr/bin/ssh-keygen -q -t ecdsa -N "" -f /etc/ssh/ssh_host_ecdsa_key

[Install]
WantedBy=ssh.service
EOF
put /etc/ssh/sshd_config.d/60-lodge.conf <<'EOF'
# cloud-init's 50-cloud-init.conf comes before this file and wins.
PasswordAuthentication no
EOF

# The guest agent: as soon as its port is there, whatever else the boot is doing.
put /etc/systemd/system/qemu-guest-agent.service.d/lodge.conf <<'EOF'
[Unit]
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
After=systemd-remount-fs.service systemd-tmpfiles-setup.service

[Service]
Restart=always
RestartSec=1
EOF

# cloud-init: only when the machine was given data
put /etc/cloud/cloud.cfg.d/60-lodge.cfg <<'EOF'
datasource_list: [ NoCloud, ConfigDrive ]
# The package locales is not there; the system's own C.UTF-8 is. Without this line cloud-init ends with an error.
locale: false
ssh_genkeytypes: [ ed25519, ecdsa ]
EOF
put /etc/cloud/ds-identify.cfg <<'EOF'
policy: search,found=all,maybe=none,notfound=disabled
EOF

# Patience: software emulation is slow, and a start that takes two minutes is not a failure.
put /etc/systemd/system.conf.d/lodge.conf <<'EOF'
[Manager]
DefaultTimeoutStartSec=600s
DefaultTimeoutStopSec=120s
EOF
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
        fstrim.timer man-db.timer logrotate.timer; do
        chroot "$root" systemctl --quiet disable "$unit" 2>/dev/null || true
done
chroot "$root" systemctl --quiet enable systemd-networkd.service systemd-resolved.service lodge-host-keys.service
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
# No virtual terminal is ever looked at; the serial console is found by systemd.
chroot "$root" systemctl --quiet disable getty@tty1.service 2>/dev/null || true

# The initramfs of the image is ours: our init and the two modules that the disk needs. It is read and unpacked at
# every start, and a usual one takes an emulated processor seconds. Kernels that the machine installs later get one
# from initramfs-tools, as small as that can make it.
put /etc/initramfs-tools/conf.d/lodge <<'EOF'
MODULES=list
COMPRESS=zstd
BUSYBOX=n
EOF
printf '%s\n' virtio_pci virtio_blk virtio_scsi sd_mod nvme >>"$root/etc/initramfs-tools/modules"
kernel=$(ls "$root"/boot/vmlinuz-*)
release=${kernel##*/vmlinuz-}
initrd=$root.initrd
mkdir -p "$initrd/dev" "$initrd/proc" "$initrd/sys" "$initrd/run" "$initrd/mnt"
cat <&25 >"$initrd/init"
chmod 755 "$initrd/init"
copy_modules "$root/lib/modules/$release" "$initrd" virtio_pci virtio_blk
pack_initrd "$initrd" >"$root/boot/initrd.img-$release"

# What the build needed and the system doesn't
rm -f "$root"/etc/apt/apt.conf.d/*mmdebstrap "$root"/etc/dpkg/dpkg.cfg.d/*mmdebstrap
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/cache/apt/*.bin "$root"/var/lib/apt/lists/*
mkdir -p "$root/var/lib/apt/lists/partial"
rm -f "$root"/var/log/dpkg.log "$root"/var/log/apt/* "$root"/var/log/alternatives.log "$root"/var/log/bootstrap.log
rm -rf "$root"/var/lib/cloud "$root"/var/lib/systemd/random-seed "$root"/tmp/* "$root"/var/tmp/*
rm -f "$root"/vmlinuz.old "$root"/initrd.img.old
rm -f "$root/var/lib/dbus/machine-id"
# /etc and /var fit this /usr: otherwise the first boot would rebuild the hardware database, the linker's cache and
# more.
touch "$root/etc/.updated" "$root/var/.updated"
: >"$root/etc/machine-id"

# The kernel and what boots it go out beside the disk, and into the ESP
cat "$kernel" >&28
cat "$root/boot/initrd.img-$release" >&29
cat "$root/usr/lib/systemd/boot/efi/systemd-bootx64.efi" >&26
printf 'meta version %s\n' "$(cat "$root/etc/debian_version")" >&23

echo "step making the file system" >&23
# Only the tree itself, not what mmdebstrap has mounted in it; /run and /tmp are empty in an image.
tree=$root.tree
mkdir "$tree"
unshare --mount --propagation private sh -eu -c '
        mount --bind "$1" "$2"
        find "$2/run" "$2/tmp" -mindepth 1 -delete
        mke2fs -q -t ext4 -d "$2" -L lodge-root -U "$ROOT_UUID" -m 1 -i 16384 \
                -E lazy_itable_init=0,lazy_journal_init=1,assume_storage_prezeroed=1,hash_seed="$ROOT_UUID" \
                "$1.ext4" "$ROOT_MIB"M
' sh "$root" "$tree"
dd if="$root.ext4" bs=1M seek="$ROOT_START_MIB" conv=sparse,notrunc status=none >&27
HOOK
}

# uuid_of TEXT: a UUID that is the same for the same plan, and another one for each use
uuid_of() {
        printf '%s\n' "$1" | cat - sources.list plan.txt 2>/dev/null | sha256sum |
                sed 's/^\(........\)\(....\).\(...\).\(...\)\(............\).*/\1-\2-4\3-8\4-\5/'
}

make_esp() {
        mkfs.fat -C -F 32 -s 1 -n LODGE-ESP esp.img $((ESP_MIB * 1024)) >&2
        printf 'timeout 0\ndefault lodge.conf\n' >loader.conf
        printf 'title Debian 12\nlinux /vmlinuz\ninitrd /initrd\noptions %s\n' "$1" >entry.conf
        mmd -i esp.img ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries
        mcopy -i esp.img boot.efi ::/EFI/BOOT/BOOTX64.EFI
        mcopy -i esp.img loader.conf ::/loader/loader.conf
        mcopy -i esp.img entry.conf ::/loader/entries/lodge.conf
        mcopy -i esp.img vmlinuz initrd ::/
        dd if=esp.img of=disk.raw bs=1M seek=1 conv=sparse,notrunc status=none
}

build() {
        disk_uuid=$(uuid_of disk)
        ESP_PARTUUID=$(uuid_of esp)
        ROOT_PARTUUID=$(uuid_of root)
        ROOT_UUID=$(uuid_of filesystem)
        ROOT_MIB=$((DISK_MIB - ROOT_START_MIB - 1))
        export ESP_PARTUUID ROOT_PARTUUID ROOT_UUID ROOT_START_MIB ROOT_MIB
        cmdline="root=UUID=$ROOT_UUID rw console=ttyS0 lodge.autologin quiet"

        truncate -s "${DISK_MIB}M" disk.raw
        # The inner programs get these descriptors: in a user namespace they could not open our files. Not below 20:
        # mmdebstrap runs `cat >&N` in dash, which can't say more than one digit, so the low ones have to be free for it.
        exec 23>&3 25<&5 26>boot.efi 27<>disk.raw 28>vmlinuz 29>initrd
        ESSENTIAL_HOOK=$(essential_hook)
        CUSTOMIZE_HOOK=$(declare -f copy_modules pack_initrd && customize_hook)
        export ESSENTIAL_HOOK CUSTOMIZE_HOOK PUT_OFF

        say "step installing packages"
        # As root everything stays in the stage, in memory where there is enough of it: the tmpfs lives in a mount
        # namespace and goes with it. In a user namespace the stage can't be reached: mmdebstrap works, and cleans up,
        # in /tmp.
        if [ "$(id -u)" = 0 ]; then
                mkdir work
                export TMPDIR="$PWD/work"
        fi
        # shellcheck disable=SC2016,SC2086 # the inner shell expands the hooks; the packages are words
        set -- mmdebstrap --variant=minbase --format=null --skip=cleanup --include="$(echo $PACKAGES | tr ' ' ,)" \
                --hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr \
                --dpkgopt=force-unsafe-io --aptopt='Acquire::Languages "none"' \
                --essential-hook='exec bash -c "$ESSENTIAL_HOOK" hook "$1"' \
                --customize-hook='exec bash -c "$CUSTOMIZE_HOOK" hook "$1"' "$SUITE" /dev/null
        [ ! -s sources.list ] || set -- "$@" "$PWD/sources.list"
        if [ "$(id -u)" = 0 ] && [ "$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)" -ge 4 ]; then
                # shellcheck disable=SC2016 # the inner shell expands it
                set -- unshare --mount --propagation private bash -c \
                        'mount -t tmpfs -o mode=755,size=3G lodge-build "$TMPDIR" && exec "$@"' sh "$@"
        fi
        "$@" >&2 3>&- 4>&- 5>&-
        exec 23>&- 25>&- 26>&- 27>&- 28>&- 29>&-

        say "step making the disk"
        make_esp "$cmdline"
        sgdisk --clear --disk-guid="$disk_uuid" \
                --new=1:1M:+"${ESP_MIB}"M --typecode=1:ef00 --change-name=1:esp --partition-guid=1:"$ESP_PARTUUID" \
                --new=2:"${ROOT_START_MIB}"M:+"${ROOT_MIB}"M --typecode=2:8304 --change-name=2:root \
                --partition-guid=2:"$ROOT_PARTUUID" \
                disk.raw >&2
        say "meta cmdline $cmdline"
        say "meta user root"
        say "meta login root on the serial console without a password; user debian once cloud-init has been given a key"
        say "file disk disk.raw"
        say "file kernel vmlinuz"
        say "file initrd initrd"
}

"$1"
