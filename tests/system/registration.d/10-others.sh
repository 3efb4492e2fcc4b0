# Other packages and tools that apply sysctl.d(5), and the other handler.
# shellcheck shell=bash disable=SC2154 # the variables of the libraries

step "in the place of systemd-coredump"
make_rival
must dpkg -i "$work/systemd-coredump.deb"
note <<<"found: $(settings)"
assert_contains "$(pattern)" systemd-coredump "systemd-coredump is the handler"
must apt-get install --yes "$deb"
check "the settings are Coreward's" is_registered
program segv replaced
crash "$exe"
assert_counted 1 "a crash is counted" "program=$exe" signal=SEGV core_exists=true
check "coreward status" prints "Crashes are being collected." coreward status
must apt-get install --yes "$work/systemd-coredump.deb"
assert_contains "$(pattern)" systemd-coredump "systemd-coredump is the handler again"
assert_eq 16 "$(limit)" "with its own limit"
must apt-get install --yes "$deb"
check "and Coreward again" is_registered

step "whoever applies sysctl.d"
mkdir -p "$work/other/usr/lib/sysctl.d"
echo kernel.printk_delay=0 >"$work/other/usr/lib/sysctl.d/20-other.conf"
make_package other "$work/other"
must dpkg -i "$work/other.deb"
check "a package with a file in sysctl.d" is_registered
must systemctl restart systemd-sysctl.service
check "systemctl restart systemd-sysctl" is_registered
sysctl --system >/dev/null 2>&1
check "sysctl --system" is_registered
must dpkg -r other
check "its removal" is_registered
check "crashes are still collected" prints "Crashes are being collected." coreward status

step "settings that somebody takes away"
before=$(journalctl -q -u coreward.service | grep -c 'core_pattern is "core"')
set_settings core 0 0
is_noticed() { [[ $(metric coreward_registered) == 0 ]] || { scrape | grep registered; return 1; }; }
check "are noticed within seconds" eventually 6 is_noticed
sleep 5
assert_eq 1 "$(($(journalctl -q -u coreward.service | grep -c 'core_pattern is "core"') - before))" "the log says so once"
advice=$(coreward status)
assert_eq 3 $? "coreward status fails"
assert_contains "$advice" "systemctl reload coreward-register.service" "with a remedy"
must systemctl reload coreward-register.service
check "which works" is_registered
mkdir -p /etc/coreward/coreward.conf.d
printf '%s\n' '[Coreward]' KeepRegistered=yes >/etc/coreward/coreward.conf.d/70-keep.conf
must systemctl reload coreward.service
sleep 3
set_settings core 0 0
check "KeepRegistered=yes takes them back" eventually 20 is_registered
must systemctl stop coreward-register.service
sleep 8
check "but not from whoever stopped the unit" not is_registered
rm /etc/coreward/coreward.conf.d/70-keep.conf
must systemctl reload coreward.service
must systemctl start coreward-register.service
check "which registers when it is started" is_registered

step "beside systemd 262"
# Its unit writes the pattern at boot, and whenever it is started.
cat >/etc/systemd/system/systemd-coredump-register.service <<'END'
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo @@/run/systemd/coredumpd/kernel >/proc/sys/kernel/core_pattern'
END
systemctl daemon-reload
must systemctl start systemd-coredump-register.service
check "it leaves the pattern alone while Coreward is registered" is_registered
must systemctl stop coreward-register.service
must systemctl start systemd-coredump-register.service
assert_eq '@@/run/systemd/coredumpd/kernel' "$(pattern)" "and not otherwise"
rm /etc/systemd/system/systemd-coredump-register.service
systemctl daemon-reload
set_settings core 0 0
must systemctl start coreward-register.service
check "Coreward registers" is_registered

step "programs that change their user"
cat >"$work/dropped.c" <<'END'
#include <unistd.h>
int main(void) { if (setgid(1000) || setuid(1000)) return 1; *(volatile int *)0 = 0; }
END
must gcc -O0 -g -o "$work/dropped" "$work/dropped.c"
crash "$work/dropped"
assert_counted 1 "are counted" "program=$work/dropped" signal=SEGV core_exists=true
assert_eq 0 "$(as alice coreward list --no-legend --executable "$work/dropped" 2>/dev/null | wc -l)" "and are not alice's"
