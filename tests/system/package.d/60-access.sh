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

step "users ask for their crashes"
program segv access-nocore
printf '%s\n' "[Executable $exe]" Storage=none >/etc/coreward/coreward.conf.d/81-nocore.conf
must systemctl reload coreward.service
crash as alice "$exe"
assert_counted 1 "alice has crashed without leaving a core" "program=$exe" core_exists=false
coreless=$(field "$exe" .id)
check "alice lists it" prints "$coreless" as alice coreward list
check "alice sees its record" prints "$exe" as alice coreward info "$coreless"
check "alice sees it by signature" prints access-nocore as alice coreward groups
assert_lacks "$(as bob coreward list 2>&1)" "$coreless" "bob does not list it"
check "bob cannot see its record" prints "no crash matches" as bob coreward info "$coreless"
check "a member of adm can" prints "$exe" as_adm coreward info "$coreless"
assert_eq coreward-query "$(stat -c %U "/proc/$(systemctl show -P MainPID coreward-query.service)")" "the service runs as user coreward-query"
check "it cannot read a core" cannot_read coreward-query "$her_core"
check "it cannot see the spool" not as coreward-query ls /var/lib/coreward/spool
assert_eq "" "$(journalctl -u coreward-query.service -p warning -q --no-pager)" "it has nothing to complain of"

step "varlinkctl"
# systemd has it since version 255.
if [[ $(. /etc/os-release && echo "$VERSION_CODENAME") == bookworm ]]; then
    note <<<"SKIPPED: this release has no varlinkctl"
elif check "it is there" command -v varlinkctl; then
    socket=/run/coreward/io.coreward.Crashes
    check "info" prints io.coreward.Crashes as alice varlinkctl info "$socket"
    check "introspect" prints "method Subscribe" as alice varlinkctl introspect "$socket" io.coreward.Crashes
    ask() { # USER METHOD PARAMETERS [OPTION...]
        as "$1" varlinkctl call --json=short "${@:4}" "$socket" "io.coreward.Crashes.$2" "$3"
    }
    check "alice lists her crash" prints "$coreless" ask alice List '{}' --more
    check "alice gets its record" prints "$exe" ask alice Get "{\"match\":\"$coreless\"}"
    assert_lacks "$(ask alice List '{}' --more 2>&1)" "$roots" "alice does not list root's"
    check "root's crash does not exist for alice" prints NoSuchCrash ask alice Get "{\"match\":\"$roots\"}"
    check "for root it does" prints "$roots" ask root Get "{\"match\":\"$roots\"}"
    ask alice Subscribe '{}' --more >/tmp/subscribed 2>&1 &
    subscriber=$!
    check "a subscription begins" eventually 10 grep -q crashes /tmp/subscribed
    program segv access-subscribed
    crash as alice "$exe"
    assert_counted 1 "a crash that alice waits for" "program=$exe"
    check "she hears of it" eventually 2 grep -q "$exe" /tmp/subscribed
    kill "$subscriber"
fi

step "owners delete their cores"
check "bob cannot delete alice's" not as bob coreward rm "$hers"
check "alice cannot delete root's" not as alice coreward rm "$roots"
check "alice cannot delete that of a set-uid program" not as alice coreward rm "$(field "$work/access-suid" .id)"
check "alice deletes hers" as alice coreward rm "$hers"
check "it is gone" not test -e "$her_core"
assert_eq removed "$(field "$hers" .core_state)" "the record says so"
check "its record stays for alice" prints "$hers" as alice coreward list
check "the other cores are there" test -s "$root_core" -a -s "$suid_core"
check "a member of adm deletes another's" as_adm coreward rm "$(field "$work/access-suid" .id)"
check "that is gone" not test -e "$suid_core"
check "the deleting socket is for the service only" not as alice python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("/run/coreward/delete.sock")'
