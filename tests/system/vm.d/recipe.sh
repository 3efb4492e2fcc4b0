#!/bin/bash
# Builds a base image: recipe.sh SUITE DIR INIT writes root.img, vmlinuz and
# initrd to DIR. Run by image.sh, whose cache key is a hash of this file and INIT.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=tests/system/vm.d/apt.sh
source "$(dirname "$0")/apt.sh"

# The tools that the scenarios call, busybox for the initrd and for containers, and
# libcap2-bin for programs with file capabilities, exim4 to be mailed to. Not systemd-coredump, whose
# package conflicts with coreward. The kernel is installed later.
packages=(
    systemd-sysv udev dbus systemd-container procps curl jq zstd acl attr libcap2-bin
    gcc libc6-dev gdb python3 busybox-static prometheus prometheus-alertmanager exim4-daemon-light
)

main() { # SUITE DIR INIT
    local suite=$1 dir=$2 init=$3 base=${1%-backports} root=$2/root uri
    mkdir "$root"
    apt_options >"$dir/apt.conf"
    uri=$(mirror)
    mmdebstrap --mode=root --format=directory --variant=apt \
        --include="$(IFS=,; echo "${packages[*]}")" \
        --aptopt="$dir/apt.conf" --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --setup-hook="'$0' --sources '$suite' \"\$1\"" \
        --customize-hook="'$0' --customize '$suite' \"\$1\"" \
        "$base" "$root" ${uri:+"$uri"}
    finish_root "$root"
    cp "$root"/boot/vmlinuz-* "$dir/vmlinuz"
    make_initrd "$root" "$dir/initrd" "$init"
    rm -rf "${root:?}"/boot/*
    # A sparse file. Without journal and reserved blocks, because the image is
    # never changed: each run writes to a temporary snapshot.
    truncate -s 6G "$dir/root.img"
    mkfs.ext4 -q -O ^has_journal -m 0 -d "$root" "$dir/root.img"
    rm -rf --one-file-system "$root" "$dir/apt.conf"
}

# Hook, run before apt reads its sources: adds the backports to the base suite.
sources() { # SUITE ROOT
    local suite=$1 list=$2/etc/apt/sources.list base=${1%-backports}
    if [[ $suite == *-backports ]]; then
        sed -n "s/ $base / $suite /p" "$list" >"$list.d/backports.list"
    fi
}

# Hook, run while the root still has package lists, /proc and a network.
customize() { # SUITE ROOT
    local suite=$1 root=$2
    # INITRD=No: the kernel package would spend half a minute on an initrd that is
    # not used; make_initrd makes one with a single shell script.
    INITRD=No chroot "$root" apt-get install -y --no-install-recommends -t "$suite" linux-image-cloud-amd64
    # coredumpctl without its package, to check that it shows Coreward's crashes.
    # shellcheck disable=SC2016 # for the inner shell
    chroot "$root" sh -euc '
        cd /tmp
        apt-get download systemd-coredump
        dpkg-deb -x systemd-coredump_*.deb /opt/systemd-coredump
        if ldd /opt/systemd-coredump/usr/bin/coredumpctl | grep "not found"; then exit 1; fi
        python3 -c "import ctypes, faulthandler"
        useradd --uid 1000 --create-home --shell /bin/bash alice
        useradd --uid 1001 --create-home --shell /bin/bash bob
    '
}

# Makes each boot the same: fixed host name and machine id, no work that is done
# only at the first boot, no timers.
finish_root() { # ROOT
    local root=$1 unit
    echo guest >"$root/etc/hostname"
    printf '127.0.0.1 localhost guest\n' >"$root/etc/hosts"
    : >"$root/etc/resolv.conf"
    # Constant, because an empty machine-id means first boot, which would enable all units again.
    echo c0fe9a2d5b0e4c2f8a3d41d0c0ffee42 >"$root/etc/machine-id"
    touch "$root/etc/.updated" "$root/var/.updated"
    # apt in the guest installs local files only; settings of the build are removed.
    rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* \
        "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
    rm -f "$root"/etc/systemd/system/timers.target.wants/*
    rm -f "$root"/etc/systemd/system/multi-user.target.wants/{prometheus,exim4}* "$root"/etc/rc[2-5].d/S*exim4
    for unit in getty.target systemd-tmpfiles-clean.timer e2scrub_reap.service; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
}

# Makes an initrd of busybox, the modules needed to mount the root, and our init.
make_initrd() { # ROOT FILE INIT
    local root=$1 file=$2 tree=$1/tmp/initrd version n=10 module path
    version=$(basename "$root"/lib/modules/*)
    mkdir -p "$tree"/{bin,dev,modules,root}
    cp "$root/usr/bin/busybox" "$tree/bin/" 2>/dev/null || cp "$root/bin/busybox" "$tree/bin/"
    install -m 755 "$3" "$tree/init"
    # ext4 requests crc32c from the kernel's crypto API by name. For modules that are
    # built into the kernel modprobe prints no insmod line.
    for module in virtio_pci virtio_blk virtio_console crc32c_generic ext4; do
        while read -r path; do
            n=$((n + 1))
            cp "$root$path" "$tree/modules/$n-$(basename "$path")"
        done < <(chroot "$root" modprobe -S "$version" --show-depends "$module" | awk '$1 == "insmod" { print $2 }')
    done
    find "$tree/modules" -name '*.xz' -exec xz -d {} +
    # With the guest's cpio, so that this machine needs none. A module that two others
    # depend on is in it twice, which init ignores.
    chroot "$root" sh -c 'cd /tmp/initrd && find . | busybox cpio -o -H newc' | gzip -1 >"$file"
    rm -rf "$tree"
}

case $1 in
    --sources) sources "$2" "$3" ;;
    --customize) customize "$2" "$3" ;;
    *) main "$@" ;;
esac
