# Stopping, removing and purging restore the previous state of the system.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

step "coreward-register.service sets and restores the kernel's settings"
is_as_found() {
    local now
    now="$(cat /proc/sys/kernel/core_pattern) $(cat /proc/sys/kernel/core_pipe_limit)"
    [[ $now == "$pattern_before $limit_before" ]] || { echo "now: $now"; return 1; }
}
check "stop" systemctl stop coreward-register.service
check "core_pattern and core_pipe_limit are restored" is_as_found
check "start" systemctl start coreward-register.service
check "the intake stops" systemctl stop coreward.socket
assert_contains "$(cat /proc/sys/kernel/core_pattern)" coreward-shim "crashes still go to the shim, which spools them"
check "the intake starts" systemctl start coreward.socket
assert_contains "$(cat /proc/sys/kernel/core_pattern)" coreward-shim "core_pattern starts the shim again"
program segv again-registered
crash "$exe"
assert_counted 1 "a crash is counted" "program=$exe" signal=SEGV core_exists=true

step "a handler that is gone is not put back"
check "stop" systemctl stop coreward-register.service
printf '#!/bin/true\n' >"$work/handler"
chmod 755 "$work/handler"
echo "|$work/handler %P" >/proc/sys/kernel/core_pattern
check "start" systemctl start coreward-register.service
rm "$work/handler"
check "stop" systemctl stop coreward-register.service
assert_eq "core 0" "$(cat /proc/sys/kernel/core_pattern) $(cat /proc/sys/kernel/core_pipe_limit)" "the kernel's defaults are set"
check "the journal says why" prints "$work/handler" journalctl -q -u coreward-register.service
echo "$pattern_before" >/proc/sys/kernel/core_pattern
echo "$limit_before" >/proc/sys/kernel/core_pipe_limit
check "start" systemctl start coreward-register.service

step "after all parts"
check "the sum of all counters is the number of crashes, $crashes" eventually 30 is_count "$crashes"
assert_eq "$crashes" "$(list_json | jq "[.[] | select(.dump | not)] | length")" "each crash has a record"
assert_eq "$crashes" "$(entries | wc -l)" "each crash has an entry in the journal"
check "no unit has failed" no_failed_unit
complaints=$(journalctl -q -t systemd -t corewardd -u 'coreward*' -p warning --no-pager | head -n 20)
note <<<"warnings of our units: ${complaints:-none}"
scrape >/run/vm/out/metrics-last.txt
journalctl -q -u 'coreward*' --no-pager >/run/vm/out/coreward.log

step "remove"
must apt-get remove --yes coreward
check "core_pattern and core_pipe_limit are restored" is_as_found
# The links in /etc stay until the purge, as usual in Debian; systemd lists their names as not-found.
loaded=$(systemctl list-units --all --no-legend --plain 'coreward*' | grep -v ' not-found ')
assert_eq "" "$loaded" "no unit is loaded"
check "no process of the package is left" not pgrep --full libexec/coreward/
check "the stored crashes are still there" test -d /var/lib/coreward/cores
check "the configuration is still there" test -d /etc/coreward
{ "$exe"; } 2>/dev/null
check "a crash without the package causes no failure" no_failed_unit

step "install again after the removal"
must apt-get install --yes "$deb"
assert_contains "$(cat /proc/sys/kernel/core_pattern)" coreward-shim "core_pattern starts the shim"
check "the counters continue from their previous values" eventually 30 is_count "$crashes"

step "remove while the unit is inactive and the pattern was set by hand"
check "stop" systemctl stop coreward-register.service
echo '|/usr/libexec/coreward/coreward-shim --root /elsewhere %P' >/proc/sys/kernel/core_pattern
must apt-get remove --yes coreward
assert_eq core "$(cat /proc/sys/kernel/core_pattern)" "the kernel's default is set"
echo "$pattern_before" >/proc/sys/kernel/core_pattern
echo "$limit_before" >/proc/sys/kernel/core_pipe_limit
must apt-get install --yes "$deb"
assert_contains "$(cat /proc/sys/kernel/core_pattern)" coreward-shim "core_pattern starts the shim"

step "purge"
must apt-get purge --yes coreward
check "core_pattern and core_pipe_limit are restored" is_as_found
# The records of apt and dpkg, logs, and the entry of the user may stay.
leftovers=$(find / -xdev -name '*coreward*' -not -path '/proc/*' -not -path '/tmp/*' -not -path '/run/vm/*' \
    -not -path '/var/log/*' -not -path '/var/cache/*' -not -path '/opt/t/*' 2>/dev/null)
leftovers+=$(find /run -path /run/vm -prune -o -name '*coreward*' -print 2>/dev/null)
assert_eq "" "$leftovers" "no file of the package is left"
check "no unit has failed" no_failed_unit
