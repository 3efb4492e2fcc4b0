# Functions that the parts of registration.sh share. Sourced after package.d/lib.sh.
# shellcheck shell=bash disable=SC2154,SC2034 # the variables of guest-lib.sh and of registration.sh

state=/var/lib/registration-test
mkdir -p "$state"
# What earlier boots have found counts for the result.
if [[ -f $state/counts ]]; then
    # shellcheck source=/dev/null
    source "$state/counts"
fi
export DEBIAN_FRONTEND=noninteractive

boots() { cat "$state/boots" 2>/dev/null || echo 0; }

reboot_machine() {
    echo $(($(boots) + 1)) >"$state/boots"
    declare -p passed failed failures >"$state/counts"
    sync
    # The shutdown ends this script, which is no end of the scenario: the results are not collected yet.
    sed -i '/^On\(Success\|Failure\)=/d' /run/systemd/system/vm-script.service
    systemctl daemon-reload
    trap - EXIT
    trap 'exit 0' TERM
    systemctl reboot
    sleep 600 &
    wait
    fail "the machine did not shut down"
}

pattern() { cat /proc/sys/kernel/core_pattern; }
limit() { cat /proc/sys/kernel/core_pipe_limit; }
dumpable() { cat /proc/sys/fs/suid_dumpable; }
settings() { echo "$(pattern) $(limit) $(dumpable)"; }
is_registered() { [[ $(settings) == "|/usr/libexec/coreward/coreward-shim "*" 2147483647 2" ]] || { settings; return 1; }; }
has_settings() { [[ $(settings) == "$1" ]] || { echo "want $1, got $(settings)"; return 1; }; }

set_settings() { # PATTERN LIMIT DUMPABLE
    echo "$1" >/proc/sys/kernel/core_pattern
    echo "$2" >/proc/sys/kernel/core_pipe_limit
    echo "$3" >/proc/sys/fs/suid_dumpable
}

# A package with these files and maintainer scripts, in $work/NAME.deb.
make_package() { # NAME DIR CONTROL-LINE...
    local name=$1 dir=$2
    shift 2
    mkdir -p "$dir/DEBIAN"
    {
        printf '%s\n' "Package: $name" "Version: 999" "Architecture: all" "Maintainer: Test <test@example.org>" "$@"
        echo "Description: a package of this test"
    } >"$dir/DEBIAN/control"
    must dpkg-deb --build --root-owner-group "$dir" "$work/$name.deb"
}

# The systemd-coredump of this Debian, with the maintainer scripts that matter here.
make_rival() {
    local dir=$work/rival sysctl
    mkdir -p "$dir/DEBIAN"
    cp -a /opt/systemd-coredump/usr "$dir/"
    if [[ -d /opt/systemd-coredump/lib ]]; then cp -a /opt/systemd-coredump/lib/. "$dir/usr/lib/"; fi
    sysctl=$(cd "$dir" && ls usr/lib/sysctl.d/*coredump*)
    cat >"$dir/DEBIAN/postinst" <<END
#!/bin/sh
/lib/systemd/systemd-sysctl /$sysctl || true
END
    cat >"$dir/DEBIAN/prerm" <<'END'
#!/bin/sh
if [ "$1" = remove ] && grep -q '^|.*systemd-coredump' /proc/sys/kernel/core_pattern; then
    echo core >/proc/sys/kernel/core_pattern
fi
END
    chmod 755 "$dir/DEBIAN/postinst" "$dir/DEBIAN/prerm"
    make_package systemd-coredump "$dir" "Provides: core-dump-handler" "Conflicts: core-dump-handler" "Replaces: core-dump-handler"
}

# Planted: one crash before sysinit.target, one before basic.target, one in an ordinary service, and one in the shutdown.
plant_boot_crashes() {
    step "planting crashes at boot and in the shutdown"
    local name
    for name in sysinit basic ordinary; do program segv "boot-$name"; done
    must gcc -O1 -g -o "$work/boot-shutdown" -x c - <<'END'
#include <signal.h>
#include <unistd.h>
static void on_term(int signal) { (void)signal; sleep(2); *(volatile int *)0 = 0; }
int main(void) { signal(SIGTERM, on_term); for (;;) pause(); }
END
    plant sysinit "DefaultDependencies=no" "Before=sysinit.target" sysinit.target
    plant basic "DefaultDependencies=no" "Before=basic.target
After=sysinit.target" basic.target
    plant ordinary "Description=ordinary" "" multi-user.target
    plant shutdown "Description=shutdown" "" multi-user.target
    systemctl daemon-reload
    # The first shutdown counts as well.
    must systemctl start boot-shutdown.service
    check "crashes are being collected before the reboot" coreward status
}

plant() { # NAME LINE LINE TARGET
    cat >"/etc/systemd/system/boot-$1.service" <<END
[Unit]
$2
$3
[Service]
ExecStart=$work/boot-$1
[Install]
WantedBy=$4
END
    must systemctl enable "boot-$1.service"
}

check_boot_crashes() {
    local boot name
    boot=$(boots)
    step "after boot $boot"
    check "the settings are Coreward's" is_registered
    check "the registration was in time" systemctl is-active coreward-register.service
    for name in sysinit basic ordinary shutdown; do
        check "each crash of boot-$name is counted" eventually 60 is_count "$boot" "program=$work/boot-$name" signal=SEGV
    done
    list_json >"/run/vm/out/list-$boot.json"
    journalctl -b --no-pager -u 'coreward*' -u 'boot-*' >"/run/vm/out/boot-$boot.log"
    check "coreward status" coreward status
}
