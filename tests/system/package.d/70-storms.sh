# Many crashes at once, and a daemon that goes away in the middle of them.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

# Samples the sum of all counts until told to stop: what Prometheus would see.
watch_counts() { # FILE
    while [[ ! -e $1.stop ]]; do
        metric coredump_process_count >>"$1" 2>/dev/null
        sleep 0.3
    done
}

# While PROGRAM crashes COUNT times, runs the command each time that a third of them is done.
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
    assert_counted "$count" "all $count are counted, whatever became of their cores" "program=$exe" signal=SEGV
    touch /tmp/counts.stop
    wait "$watching"
    check "no count went back" sort --check --numeric-sort /tmp/counts
    assert_eq "$count" "$(list_json "$exe" | jq length)" "and each has its record"
    assert_eq "$count" "$(list_json "$exe" | jq '[.[].pid] | unique | length')" "none has two"
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
check "most have none: they tell nothing new" test "$(processes "program=$exe" core_exists=false)" -ge 150
check "nothing is left in the air" eventually 30 prints "coreward_inflight_crashes 0" scrape

step "the daemon is killed in a storm"
pid=$(systemctl show -P MainPID coreward.service)
storm_with storm-kill 90 systemctl kill --signal=KILL coreward.service
check "another daemon serves" test "$pid" != "$(systemctl show -P MainPID coreward.service)"

step "the daemon is restarted in a storm"
storm_with storm-restart 90 systemctl restart coreward.service

step "the package is installed again in a storm"
storm_with storm-reinstall 90 apt-get install --yes --reinstall "$deb"
assert_contains "$(cat /proc/sys/kernel/core_pattern)" coreward-shim "core_pattern is ours"

step "no daemon to be reached"
# Not by stopping the socket: coreward-register.service goes with it, and the kernel
# then calls nobody. This is what a shim meets when the run directory was damaged.
program segv spooled
mv /run/coreward/intake.sock /run/coreward/away.sock
crash "$exe"
crash "$exe"
crash "$exe"
note <<<"in the spool: $(find /var/lib/coreward/spool /run/coreward/spool -mindepth 1 2>/dev/null | wc -l) files"
mv /run/coreward/away.sock /run/coreward/intake.sock
check "another daemon starts" systemctl restart coreward.service
check "it takes the three crashes in" eventually 120 is_count 3 "program=$exe" signal=SEGV
check "the spool is empty again" eventually 30 not prints / find /var/lib/coreward/spool /run/coreward/spool -mindepth 1

step "after all storms"
check "the sum of all counts is the number of all crashes, $crashes" eventually 30 is_count "$crashes"
check "the journal has one entry for each" eventually 30 one_entry_each
check "no unit has failed" no_failed_unit
