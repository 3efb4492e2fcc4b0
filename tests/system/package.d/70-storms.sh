# Many crashes at once, and a daemon that is killed, restarted or reinstalled meanwhile.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

# Samples the sum of all counters, as Prometheus would, until FILE.stop exists.
watch_counts() { # FILE
    while [[ ! -e $1.stop ]]; do
        metric coredump_process_count >>"$1" 2>/dev/null
        sleep 0.3
    done
}

# Makes a program crash COUNT times; runs the command after a third and after two thirds of the crashes.
storm_with() { # NAME COUNT CMD...
    local count=$2 storming watching before
    program segv "$1"
    shift 2
    before=$(processes)
    rm -f /tmp/counts*
    watch_counts /tmp/counts &
    watching=$!
    storm "$exe" "$count" 8 &
    storming=$!
    for third in 1 2; do
        # shellcheck disable=SC2317 # eventually calls it
        reached() { [[ $(($(processes) - before)) -ge $((count * third / 3)) ]] || ! kill -0 "$storming" 2>/dev/null; }
        eventually 60 reached
        check "$* ($third)" "$@"
    done
    wait "$storming"
    crashes=$((crashes + count))
    assert_counted "$count" "all $count are counted, with or without a core" "program=$exe" signal=SEGV
    touch /tmp/counts.stop
    wait "$watching"
    check "no counter decreased" sort --check --numeric-sort /tmp/counts
    assert_eq "$count" "$(list_json "$exe" | jq length)" "each crash has a record"
    assert_eq "$count" "$(list_json "$exe" | jq '[.[].pid] | unique | length')" "no crash has two records"
}

step "200 crashes"
program segv storm
began=$EPOCHREALTIME
storm "$exe" 200 16
crashes=$((crashes + 200))
note <<<"$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "200 crashes took %.1f s", b - a }')"
assert_counted 200 "all are counted" "program=$exe" signal=SEGV
note <<<"with a core: $(processes "program=$exe" core_exists=true), without: $(processes "program=$exe" core_exists=false)"
check "some have a core" test "$(processes "program=$exe" core_exists=true)" -ge 1
check "most have none, as they are duplicates" test "$(processes "program=$exe" core_exists=false)" -ge 150
check "no crash is in flight any more" eventually 30 prints "coreward_inflight_crashes 0" scrape

step "the daemon is killed in a storm"
pid=$(systemctl show -P MainPID coreward.service)
storm_with storm-kill 90 systemctl kill --signal=KILL coreward.service
check "another daemon runs" test "$pid" != "$(systemctl show -P MainPID coreward.service)"

step "the daemon is restarted in a storm"
storm_with storm-restart 90 systemctl restart coreward.service

step "the package is installed again in a storm"
storm_with storm-reinstall 90 apt-get install --yes --reinstall "$deb"
assert_contains "$(cat /proc/sys/kernel/core_pattern)" coreward-shim "core_pattern starts the shim"

step "the daemon cannot be reached"
# The socket file is moved away, as if the run directory had been damaged.
program segv spooled
mv /run/coreward/intake.sock /run/coreward/away.sock
crash "$exe"
crash "$exe"
crash "$exe"
note <<<"in the spool: $(find /var/lib/coreward/spool /run/coreward/spool -mindepth 1 2>/dev/null | wc -l) files"
mv /run/coreward/away.sock /run/coreward/intake.sock
check "another daemon starts" systemctl restart coreward.service
check "it imports the three crashes" eventually 120 is_count 3 "program=$exe" signal=SEGV
check "the spool is empty again" eventually 30 not prints / find /var/lib/coreward/spool /run/coreward/spool -mindepth 1

step "after all storms"
check "the sum of all counters is the number of crashes, $crashes" eventually 30 is_count "$crashes"
check "the journal has one entry for each crash" eventually 30 one_entry_each
check "no unit has failed" no_failed_unit
