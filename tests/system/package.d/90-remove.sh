# Stopping, removing and purging put back what was there before.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

step "the kernel's settings come and go with coreward-register.service"
is_as_found() {
    local now
    now="$(cat /proc/sys/kernel/core_pattern) $(cat /proc/sys/kernel/core_pipe_limit)"
    [[ $now == "$pattern_before $limit_before" ]] || { echo "now: $now"; return 1; }
}
check "stop" systemctl stop coreward-register.service
check "core_pattern and core_pipe_limit are as found" is_as_found
check "start" systemctl start coreward-register.service
check "the intake stops" systemctl stop coreward.socket
assert_contains "$(cat /proc/sys/kernel/core_pattern)" coreward-shim "crashes then still go to the shim, and into the spool"
check "the intake starts" systemctl start coreward.socket
assert_contains "$(cat /proc/sys/kernel/core_pattern)" coreward-shim "core_pattern is ours again"
program segv again-registered
crash "$exe"
assert_counted 1 "and a crash is counted" "program=$exe" signal=SEGV core_exists=true

step "at the end of the day"
check "the sum of all counts is the number of all crashes, $crashes" eventually 30 is_count "$crashes"
assert_eq "$crashes" "$(list_json | jq length)" "each has its record"
assert_eq "$crashes" "$(entries | wc -l)" "and its entry in the journal"
check "no unit has failed" no_failed_unit
complaints=$(journalctl -q -t systemd -t corewardd -u 'coreward*' -p warning --no-pager | head -n 20)
note <<<"warnings of our units: ${complaints:-none}"
scrape >/run/vm/out/metrics-last.txt
journalctl -q -u 'coreward*' --no-pager >/run/vm/out/coreward.log

step "remove"
must apt-get remove --yes coreward
check "core_pattern and core_pipe_limit are as found" is_as_found
# Their links in /etc stay until the purge, as Debian's do; systemd knows those names and no unit to them.
loaded=$(systemctl list-units --all --no-legend --plain 'coreward*' | grep -v ' not-found ')
assert_eq "" "$loaded" "no unit is loaded"
check "no process of it is left" not pgrep --full libexec/coreward/
check "the crashes are still there" test -d /var/lib/coreward/cores
check "so is the configuration" test -d /etc/coreward
{ "$exe"; } 2>/dev/null
check "a crash now harms nobody" no_failed_unit

step "install again after the removal"
must apt-get install --yes "$deb"
assert_contains "$(cat /proc/sys/kernel/core_pattern)" coreward-shim "core_pattern is ours"
check "the counts are those from before" eventually 30 is_count "$crashes"

step "purge"
must apt-get purge --yes coreward
check "core_pattern and core_pipe_limit are as found" is_as_found
# What apt and dpkg know of a package that was there, the user's entry and logs may stay.
leftovers=$(find / -xdev -name '*coreward*' -not -path '/proc/*' -not -path '/tmp/*' -not -path '/run/vm/*' \
    -not -path '/var/log/*' -not -path '/var/cache/*' -not -path '/opt/t/*' 2>/dev/null)
leftovers+=$(find /run -path /run/vm -prune -o -name '*coreward*' -print 2>/dev/null)
assert_eq "" "$leftovers" "nothing is left of it"
check "no unit has failed" no_failed_unit
