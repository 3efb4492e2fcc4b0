# Crashes of programs run by root, by a user, and as services.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

step "programs"
program segv segv
crash "$exe"
assert_counted 1 "SIGSEGV as root" "hostname=$host" "program=$exe" signal=SEGV core_exists=true
program abrt abrt
crash "$exe"
assert_counted 1 "SIGABRT as root" "hostname=$host" "program=$exe" signal=ABRT core_exists=true
program threads threads
crash "$exe" 40
assert_counted 1 "a program of 40 threads" "hostname=$host" "program=$exe" signal=SEGV core_exists=true
python=$(readlink -f /usr/bin/python3)
crash python3 -c 'import ctypes; ctypes.string_at(0)'
assert_counted 1 "python3, through ctypes" "hostname=$host" "program=$python" signal=SEGV core_exists=true
# As an operator ends a program that hangs.
crash bash -c 'ulimit -c 0; exec timeout --signal=QUIT 1 sleep 30'
assert_counted 1 "SIGQUIT, with a core limit of 0" "program=$(readlink -f "$(command -v sleep)")" signal=QUIT core_exists=true

step "as alice"
program segv segv-alice
crash as alice "$exe"
assert_counted 1 "as alice" "hostname=$host" "program=$exe" signal=SEGV core_exists=true
assert_eq 1000 "$(field "$exe" .uid)" "the record has her user id"

step "as a service"
program segv segv-service
crash systemd-run --quiet --wait --unit=crashing "$exe"
assert_counted 1 "as a system service" "hostname=$host" "program=$exe" signal=SEGV core_exists=true
assert_eq crashing.service "$(field "$exe" .unit)" "the record has the unit"
result=$(systemctl show -P Result crashing.service)
assert_eq core-dump "$result" "systemd reports that it dumped core"
check "journalctl -u shows the crash" prints "dumped core" journalctl -q -u crashing.service
systemctl reset-failed crashing.service

step "a service that is restarted"
program segv segv-again
# It crashes twice and then runs: collecting the crashes must not prevent the restarts.
cat >"$work/again.sh" <<END
#!/bin/sh
n=\$(cat $work/again.count 2>/dev/null || echo 0)
echo \$((n + 1)) >$work/again.count
[ \$n -lt 2 ] && exec $exe
exec sleep 600
END
chmod +x "$work/again.sh"
systemd-run --quiet --unit=again -p Restart=on-failure -p RestartSec=0 "$work/again.sh"
crashes=$((crashes + 2))
is_restarted() { [[ $(systemctl show -P NRestarts again.service) == 2 ]] && systemctl -q is-active again.service; }
check "systemd has restarted it twice" eventually 60 is_restarted
assert_counted 2 "both crashes are counted" "program=$exe" signal=SEGV core_exists=true
systemctl stop again.service
