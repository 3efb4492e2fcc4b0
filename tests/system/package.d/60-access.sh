# Access of users, of members of adm, and of root.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

reads() { # USER FILE
    as "$1" head -c 1 "$2"
}

# The file is not empty, and the user cannot read it.
cannot_read() { # USER FILE
    [[ -s $2 ]] && not reads "$1" "$2"
}

step "a user's own crash"
program segv access-alice
crash as alice "$exe"
assert_counted 1 "alice has crashed" "program=$exe" core_exists=true
hers=$(field "$exe" .id)
her_core=$(field "$exe" .core_file)
getfacl --absolute-names "$her_core" 2>&1 | note
check "alice can read her core" reads alice "$her_core"
check "alice can list her crash" prints "$hers" as alice coreward list --json
check "alice can export her core" as alice coreward export -o /tmp/alice.core "$hers"
check "bob cannot read it" cannot_read bob "$her_core"
in_journal_of() { as "$1" journalctl -q -o cat --output-fields=COREDUMP_EXE "COREWARD_ID=$hers" COREDUMP_EXE="$exe"; }
check "her own journal has it" eventually 30 prints "$exe" in_journal_of alice
check "also as that of the user" prints "dumped core" as alice journalctl -q --user "COREDUMP_EXE=$exe"
check "coredumpctl lists it for her" prints "$exe" as alice /opt/systemd-coredump/usr/bin/coredumpctl --no-pager list
assert_eq "" "$(in_journal_of bob 2>/dev/null)" "bob's does not"
check "root's coredumpctl lists it once" test "$(coredumpctl list "$exe" 2>/dev/null | grep -c "$exe")" = 1
# shellcheck disable=SC2016 # for the inner shell
check "alice cannot write to it" not as alice sh -c 'echo >>"$0"' "$her_core"
check "alice cannot delete it" not as alice rm -f "$her_core"

step "root's crash"
program segv access-root
crash "$exe"
assert_counted 1 "root has crashed" "program=$exe" core_exists=true
roots=$(field "$exe" .id)
root_core=$(field "$exe" .core_file)
check "alice cannot read it" cannot_read alice "$root_core"
check "alice cannot export it" not as alice coreward export -o /tmp/stolen "$roots"
assert_lacks "$(as alice coreward list --json 2>&1)" "$roots" "alice cannot list it"
check "alice cannot read the catalog" cannot_read alice /var/lib/coreward/catalog.db
check "a member of adm can read it" as_adm head -c 1 "$root_core"
check "a member of adm can list it" prints "$roots" as_adm coreward list --json

step "a program that changed its privilege"
# With fs.suid_dumpable=0 the kernel does not dump such a process at all.
suid_dumpable=$(cat /proc/sys/fs/suid_dumpable)
note <<<"fs.suid_dumpable is $suid_dumpable"
echo 2 >/proc/sys/fs/suid_dumpable
program segv access-suid
chown root:root "$exe"
chmod 4755 "$exe"
crash as alice "$exe"
assert_counted 1 "a set-uid program of root, run by alice" "program=$exe" core_exists=true
suid_core=$(field "$exe" .core_file)
assert_eq true "$(field "$exe" .privileged)" "the record is marked privileged"
assert_lacks "$(getfacl --absolute-names "$suid_core" 2>&1)" user:alice "the ACL does not name alice"
check "alice cannot read its core" cannot_read alice "$suid_core"
check "a member of adm can read its core" as_adm head -c 1 "$suid_core"

program segv access-cap
setcap cap_net_raw+ep "$exe"
crash as alice "$exe"
assert_counted 1 "a program with a file capability" "program=$exe" core_exists=true
check "alice cannot read its core" cannot_read alice "$(field "$exe" .core_file)"
echo "$suid_dumpable" >/proc/sys/fs/suid_dumpable

step "user id 1000 in a container is not alice"
program segv box-user
make_root /tmp/userbox "$exe"
crash unshare --pid --mount --uts --fork --kill-child --root=/tmp/userbox --setgid 1000 --setuid 1000 \
    /usr/bin/sh -c '/usr/bin/box-user; exit 0'
assert_counted 1 "it is counted" program=/tmp/userbox/usr/bin/box-user core_exists=true
check "alice cannot read its core" cannot_read alice "$(field /tmp/userbox/usr/bin/box-user .core_file)"

step "what users cannot reach"
check "alice cannot connect to the intake socket" not as alice python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("/run/coreward/intake.sock")'
check "alice cannot write to the state directory" not as alice touch /var/lib/coreward/cores/x
