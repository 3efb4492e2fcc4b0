# The command line, gdb, coredumpctl and the journal.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

step "coreward"
program segv tools
crash "$exe"
assert_counted 1 "a crash to show" "program=$exe" signal=SEGV core_exists=true
id=$(field "$exe" .id)
pid=$(field "$exe" .pid)
assert_eq SEGV "$(field "$exe" .signal_name)" "list --json has the signal"
assert_eq "$exe" "$(field "$exe" .exe)" "list --json has the executable"
assert_eq 0 "$(field "$exe" .uid)" "list --json has the user id"
assert_eq stored "$(field "$exe" .core_state)" "list --json has the state of the core"
core_file=$(field "$exe" .core_file)
check "the core file exists" test -s "$core_file"
check "zstd --test accepts the core file" zstd --quiet --test "$core_file"
assert_contains "$(coreward list)" "$exe" "list shows it"
for which in "$id" "${id:0:8}" "$pid" "$exe"; do
    assert_contains "$(coreward info "$which" 2>&1)" "$id" "info $which"
done
assert_contains "$(coreward info 2>&1)" "$id" "info without MATCH shows the newest crash"
check "an unknown id is an error" not coreward info ffffffffffffffff

step "gdb on an exported core"
check "export" coreward export -o "$work/tools.core" "$id"
assert_eq ELF "$(head -c 4 "$work/tools.core" | tail -c 3)" "the exported core is an ELF file"
stack=$(gdb -batch -ex bt "$exe" "$work/tools.core" 2>&1)
for function in innermost middle outermost main; do assert_contains "$stack" "$function" "gdb shows $function"; done
assert_contains "$stack" "Program terminated with signal SIGSEGV" "and shows the signal"
check "export does not overwrite" not coreward export -o "$work/tools.core" "$id"
check "coreward debug runs gdb" prints innermost coreward debug "$id" -- -batch -ex bt

program threads tools-threads
crash "$exe" 40
assert_counted 1 "a program of many threads" "program=$exe" core_exists=true
check "export" coreward export -o "$work/threads.core" "$(field "$exe" .id)"
stacks=$(gdb -batch -ex 'thread apply all bt' "$exe" "$work/threads.core" 2>&1)
# 40 threads and the main thread.
assert_eq 41 "$(grep -c '^Thread ' <<<"$stacks")" "gdb shows every thread"
assert_eq 40 "$(grep -c 'in wait_for_ever ()' <<<"$stacks")" "gdb shows the function in which 39 of them and the main thread wait"
assert_contains "$stacks" "crash_here ()" "gdb shows the function that crashed"

step "the package of a program of Debian's"
# shellcheck disable=SC2016 # for the inner shell
crash bash -c 'kill -SEGV $$'
bash=$(readlink -f /proc/$$/exe)
assert_counted 1 "a shell that crashes" "program=$bash" signal=SEGV core_exists=true
id=$(field "$bash" .id)
version=$(dpkg-query --show --showformat='${Version}' bash)
# shellcheck disable=SC2016 # for jq
owner=$(coreward info "$id" --json | jq -r --arg exe "$bash" '.modules[] | select(.path == $exe).owner | "\(.name) \(.version)"')
assert_eq "bash $version" "$owner" "the record has the package and its version"
assert_contains "$(coreward info "$id")" "Package: bash $version" "info shows it"
assert_eq "$version" "$(journalctl -q -o json COREWARD_ID="$id" COREDUMP_PACKAGE_NAME=bash | jq -r .COREDUMP_PACKAGE_VERSION)" "the journal finds it by its package"

step "dump of a living process"
systemd-run --quiet --unit=test-living sleep 1000
living=$(systemctl show -P MainPID test-living.service)
before=$(processes)
check "coreward dump PID" coreward dump "$living" --reason "it hangs"
check "the process goes on" systemctl is-active --quiet test-living.service
dump=$(coreward list --signal dump --json | jq -r '.[-1].id')
assert_eq "it hangs $living test-living.service" "$(coreward info "$dump" --json | jq -r '"\(.dump.reason) \(.pid) \(.unit)"')" "its record says why, and of which unit"
check "gdb shows where it waits" prints nanosleep coreward debug "$dump" -- -batch -ex bt
assert_eq "$before" "$(processes)" "it is no crash"
assert_eq 1 "$(metric coreward_dumps_total core=stored)" "but a dump"
assert_eq 1 "$(journalctl -q -o json COREWARD_DUMP=1 | wc -l)" "the journal has an entry of it"
check "an ordinary user may not" not as alice coreward dump "$living"
systemctl stop test-living.service

step "coredumpctl"
assert_contains "$(coredumpctl list 2>&1)" "$work/tools " "coredumpctl list shows the crash"
shown=$(coredumpctl info "$pid" 2>&1)
assert_contains "$shown" "$work/tools" "coredumpctl info PID shows the executable"
assert_contains "$shown" SEGV "and shows the signal"
assert_contains "$shown" "$core_file (present)" "and shows the core file"
check "coredumpctl dump writes the core" coredumpctl dump -o "$work/ctl.core" "$pid"
check "coredumpctl dump and coreward export write the same bytes" cmp "$work/tools.core" "$work/ctl.core"

step "the journal"
check "one entry for each of the $crashes crashes so far" eventually 30 one_entry_each
assert_eq 1 "$(entries COREDUMP_PID="$pid" | wc -l)" "this crash has one"
assert_eq "$exe" "$(entries COREDUMP_EXE="$exe" | jq -r .COREDUMP_EXE)" "the entry has the executable"
assert_eq 0 "$(entries COREDUMP_PID="$pid" | jq -r ._UID)" "the entry was sent by root: systemctl status shows only such entries"
