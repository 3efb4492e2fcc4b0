# Crashes in namespaces of their own, with a root tree of their own.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

step "systemd-nspawn"
program segv box-segv
make_root /tmp/box "$exe"
crash systemd-nspawn --quiet --pipe -D /tmp/box --machine=box --hostname=box /usr/bin/box-segv
assert_counted 1 "counted with the container's hostname" hostname=box program=/usr/bin/box-segv signal=SEGV core_exists=true
assert_eq 0 "$(processes "hostname=$host" program=/usr/bin/box-segv)" "and not with the host's"
assert_eq box "$(field /usr/bin/box-segv .hostname)" "the record has its hostname"
assert_eq box "$(field /usr/bin/box-segv .container)" "and the container's name"
assert_eq true "$(field /usr/bin/box-segv .in_namespace)" "and says that it was in a namespace"

step "a service that is a container, gone when it is looked at"
program threads crate-threads
make_root /tmp/crate "$exe"
crash systemd-run --quiet --wait --unit=crate \
    unshare --pid --mount --uts --ipc --fork --kill-child --root=/tmp/crate \
    /usr/bin/sh -c 'hostname crate; /usr/bin/crate-threads 4; exit 0'
rm -rf /tmp/crate
# A chroot in a mount namespace: the namespace's own name of the program has the
# directory in it. (nspawn pivots, there it has not.)
inside=/tmp/crate/usr/bin/crate-threads
assert_counted 1 "counted with its hostname" hostname=crate program=$inside signal=SEGV core_exists=true
assert_eq crate.service "$(field "$inside" .unit)" "with the unit around it"
check "its core can be exported" coreward export --force -o "$work/crate.core" "$(field "$inside" .id)"
check "the core opens in gdb" prints crash_here gdb -batch -ex bt "$exe" "$work/crate.core"

step "a rootless container"
program segv rootless-segv
crash as alice unshare --user --map-root-user --pid --mount --uts --fork --kill-child \
    sh -c "hostname rootless; $exe; exit 0"
assert_counted 1 "counted with its hostname" hostname=rootless "program=$exe" signal=SEGV core_exists=true
assert_eq 1000 "$(field "$exe" .uid)" "under the uid that its root has out here"
