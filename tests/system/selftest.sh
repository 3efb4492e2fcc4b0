#!/bin/bash
# Tests the harness itself, without Coreward: tests/system/vm run tests/system/selftest.sh
# Also to be checked from outside: with the argument 7, `vm run` must exit with 7 and
# selftest.txt must be in its out directory.
source ./guest-lib.sh

step "the system is up"
state=$(systemctl is-system-running --wait)
assert_eq running "$state" "systemd is running" || systemctl --failed --no-legend | note
assert_eq 2 "$(nproc)" "two processors"
assert_eq 0 "$(id -u)" "the script runs as root"
assert_eq 1000 "$(id -u alice)" "user alice exists"
assert_eq "" "$(tty -s && echo tty)" "no terminal"
assert_eq /run/vm/in "$PWD" "the working directory is that of the copied files"
systemd-analyze time | note

step "the tools the scenarios call"
for tool in curl jq gdb gcc zstd python3 getfacl getcap runuser setpriv systemd-run systemd-nspawn promtool prometheus; do
    check "$tool" command -v $tool
done
check "python3 has ctypes and faulthandler" python3 -c 'import ctypes, faulthandler'
check "gcc compiles and links" gcc -x c -o /tmp/hello - <<<'int main(void) { return 0; }'
check "the program runs" /tmp/hello
check "no systemd-coredump package" bash -c '! dpkg -s systemd-coredump'

step "coredumpctl reads the journal"
# journald accepts entries with this message id from any user.
logger --journald <<'END'
MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1
MESSAGE=Process 4711 (tester) of user 0 dumped core.
COREDUMP_PID=4711
COREDUMP_UID=0
COREDUMP_GID=0
COREDUMP_SIGNAL=11
COREDUMP_COMM=tester
COREDUMP_EXE=/usr/bin/tester
COREDUMP_TIMESTAMP=1700000000000000
END
coredumpctl() { /opt/systemd-coredump/usr/bin/coredumpctl --no-pager "$@"; }
check "coredumpctl finds an entry" eventually 10 coredumpctl info 4711
assert_contains "$(coredumpctl list 2>&1)" /usr/bin/tester "coredumpctl lists it"

step "containers"
make_root /tmp/box /tmp/hello
check "nspawn runs a program" systemd-nspawn --quiet --pipe -D /tmp/box --machine=box /usr/bin/hello
name=$(systemd-nspawn --quiet --pipe -D /tmp/box --machine=box /usr/bin/hostname)
assert_eq box "$name" "nspawn sets a hostname"
name=$(unshare --mount --uts --pid --fork --root=/tmp/box /usr/bin/sh -c 'hostname crate && hostname')
assert_eq crate "$name" "unshare sets a hostname"
assert_eq guest "$(hostname)" "the hostname of the guest is unchanged"

step "a crash reaches a core_pattern"
before=$(cat /proc/sys/kernel/core_pattern)
echo "core_pattern as found: $before, core_pipe_limit: $(cat /proc/sys/kernel/core_pipe_limit), kernel $(uname -r)" | note
echo '|/usr/bin/tee /run/vm/out/core.%p' >/proc/sys/kernel/core_pattern
sh -c 'kill -SEGV $$'
check "the core was written" eventually 10 bash -c 'test -s /run/vm/out/core.*'
rm -f /run/vm/out/core.*
echo "$before" >/proc/sys/kernel/core_pattern

step "helpers"
assert_eq 1 "$(eventually 1 false; echo $?)" "eventually gives up"
verdict=$(passed=0 failed=0; ok one >/dev/null; fail "on purpose"; finish)
assert_eq 1 $? "finish fails if a check has"
assert_eq "1 passed, 1 failed" "${verdict##*$'\n'}" "finish counts"

step "results"
echo "arguments: $*" >/run/vm/out/selftest.txt
head -c 3M /dev/urandom >/run/vm/out/random
sha256sum </run/vm/out/random | note
ok "files were written"
if [[ ${1-} ]]; then
    finished=1
    exit "$1"
fi
finish
