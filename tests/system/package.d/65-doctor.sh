# coreward doctor, selftest and watch where systemd runs.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

step "doctor"
check "no check fails on a healthy machine" coreward doctor
note <<<"$(coreward doctor)"
finding() { # CHECK STATE JQ-FILTER
    coreward doctor --no-test --json | jq -r --arg check "$1" --arg state "$2" "[.checks[] | select(.check == \$check and .state == \$state)] | first | $3"
}
mended() { [[ $(finding "$1" "$2" .text) == null ]]; } # CHECK STATE
# Its own remedy, as it is typed, must mend it.
assert_mended_by_remedy() { # CHECK STATE TITLE
    local remedy
    remedy=$(finding "$1" "$2" .remedy)
    note <<<"$3: $remedy"
    if [[ ! $remedy || $remedy == null ]]; then fail "$3: no remedy"; return; fi
    ok "$3 is found"
    bash -c "$remedy" >/dev/null 2>&1
    check "$3: the remedy works" eventually 20 mended "$1" "$2"
}

echo 'kernel.core_pattern = core' >/etc/sysctl.d/99-zzz-test.conf
assert_mended_by_remedy "other handlers" warning "a file of sysctl.d(5) that takes crashes away"
rm /etc/sysctl.d/99-zzz-test.conf

mkdir -p /etc/systemd/system/coreward.service.d
printf '[Service]\nNoNewPrivileges=no\nSystemCallFilter=\nAmbientCapabilities=CAP_DAC_OVERRIDE\nCapabilityBoundingSet=CAP_DAC_OVERRIDE\n' >/etc/systemd/system/coreward.service.d/weak.conf
systemctl daemon-reload
systemctl restart coreward.service
assert_contains "$(finding sandbox failed .text)" "weak.conf" "a daemon that is not confined names the drop-in"
check "doctor fails" not coreward doctor --no-test
assert_mended_by_remedy sandbox failed "a daemon that is not confined"
rm -r /etc/systemd/system/coreward.service.d
systemctl daemon-reload

must systemctl disable coreward-register.service
assert_mended_by_remedy unit warning "a registration that ends at the next boot"
must systemctl stop coreward-event.path
assert_mended_by_remedy unit warning "a unit that is stopped"
chmod 644 /usr/libexec/coreward/coreward-shim
assert_mended_by_remedy shim failed "a shim that is not executable"
echo 0 >/proc/sys/fs/suid_dumpable
assert_mended_by_remedy suid_dumpable warning "fs.suid_dumpable"
printf '#!/bin/sh\n' >/etc/coreward/event.d/10-off
chmod 644 /etc/coreward/event.d/10-off
assert_mended_by_remedy event.d warning "a program in event.d that is not executable"
rm /etc/coreward/event.d/10-off
check "no check fails" coreward doctor

step "selftest"
before=$(processes)
report=$(coreward selftest --json 2>/run/vm/out/selftest-plan.txt)
assert_eq true "$(jq .passed <<<"$report")" "it passes"
note <<<"$(jq -c '.canaries[] | [.place, (.stations[] | [.check, .state, .time_us])]' <<<"$report")"
assert_eq 5 "$(jq '[.canaries[] | select(.id)] | length' <<<"$report")" "five crashes are recorded"
assert_eq 30 "$(jq '[.canaries[].stations[] | select(.state == "ok")] | length' <<<"$report")" "and pass six stations each"
assert_contains "$(cat /run/vm/out/selftest-plan.txt)" "Five processes" "it says before what it will do"
crashes=$((crashes + 5))
assert_eq $((before + 5)) "$(processes)" "they are counted"
assert_eq 0 "$(list_json cw-selftest | jq '[.[] | select(.core_file)] | length')" "their cores are gone"
chmod 644 /usr/libexec/coreward/coreward-shim
said=$(coreward selftest)
assert_eq 1 $? "selftest fails without a shim"
assert_contains "$said" "Remedy: chmod 755 /usr/libexec/coreward/coreward-shim" "and names the remedy"
chmod 755 /usr/libexec/coreward/coreward-shim

step "watch"
program segv watched
coreward watch --no-legend "COREDUMP_EXE=$exe" >/run/watched &
watcher=$!
sleep 1
crash "$exe"
check "a crash is shown" eventually 10 grep -qF "$exe" /run/watched
kill "$watcher"
wait "$watcher" 2>/dev/null
assert_contains "$(coreward top --by executable)" "$exe" "top counts it"
