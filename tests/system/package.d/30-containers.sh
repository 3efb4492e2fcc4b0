# Crashes in containers: other namespaces, another root directory.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

step "systemd-nspawn"
program segv box-segv
make_root /tmp/box "$exe"
crash systemd-nspawn --quiet --pipe -D /tmp/box --machine=box --hostname=box /usr/bin/box-segv
assert_counted 1 "counted with the container's hostname" hostname=box program=/usr/bin/box-segv signal=SEGV core_exists=true
assert_eq 0 "$(processes "hostname=$host" program=/usr/bin/box-segv)" "not with the host's"
assert_eq box "$(field /usr/bin/box-segv .hostname)" "the record has the container's hostname"
assert_eq box "$(field /usr/bin/box-segv .container)" "the record has the container's name"
assert_eq true "$(field /usr/bin/box-segv .in_namespace)" "the record says that it was in a namespace"

step "a service that is a container, gone before the core is read"
program threads crate-threads
make_root /tmp/crate "$exe"
crash systemd-run --quiet --wait --unit=crate \
    unshare --pid --mount --uts --ipc --fork --kill-child --root=/tmp/crate \
    /usr/bin/sh -c 'hostname crate; /usr/bin/crate-threads 4; exit 0'
rm -rf /tmp/crate
# With chroot(2) in a mount namespace, /proc/PID/exe begins with the directory.
# (systemd-nspawn uses pivot_root(2), where it does not.)
inside=/tmp/crate/usr/bin/crate-threads
assert_counted 1 "counted with the container's hostname" hostname=crate program=$inside signal=SEGV core_exists=true
assert_eq crate.service "$(field "$inside" .unit)" "the record has the unit of the container"
check "its core can be exported" coreward export --force -o "$work/crate.core" "$(field "$inside" .id)"
check "the core opens in gdb" prints crash_here gdb -batch -ex bt "$exe" "$work/crate.core"

step "a service with RootDirectory=, gone before the core is read"
program segv cell-segv
make_root /tmp/cell "$exe"
crash systemd-run --quiet --wait --unit=cell --property=RootDirectory=/tmp/cell /usr/bin/cell-segv
systemctl reset-failed cell.service
rm -rf /tmp/cell "$exe"
assert_counted 1 "counted with its path in the directory" program=/usr/bin/cell-segv signal=SEGV core_exists=true
assert_eq cell.service "$(field /usr/bin/cell-segv .unit)" "the record has the unit"
id=$(field /usr/bin/cell-segv .id)
for function in innermost middle outermost main; do
    check "info has $function" prints " $function " coreward info "$id"
    # The files of the process are stored after it was let go.
    check "the debugger has $function" eventually 30 prints "$function (" coreward debug "$id" -- -batch -ex bt
done

step "a rootless container"
program segv rootless-segv
crash as alice unshare --user --map-root-user --pid --mount --uts --fork --kill-child \
    sh -c "hostname rootless; $exe; exit 0"
assert_counted 1 "counted with the container's hostname" hostname=rootless "program=$exe" signal=SEGV core_exists=true
assert_eq 1000 "$(field "$exe" .uid)" "the record has the user id on the host"
