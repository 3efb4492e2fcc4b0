# Whatever keeps crashes from being collected, `coreward status` names it, with a remedy that works.
# shellcheck shell=bash disable=SC2154 # the variables of the libraries

shim=/usr/libexec/coreward/coreward-shim
[[ -e $shim ]] || must apt-get install --yes "$deb"
cp -a "$shim" "$work/shim.saved"

# Status must fail, name the fault and the remedy; afterwards it must succeed again.
assert_named() { # TITLE WORD REMEDY
    local said status=0
    said=$(coreward status 2>&1) || status=$?
    assert_eq 3 "$status" "$1: status fails"
    assert_contains "$said" "$2" "$1: it says why"
    assert_contains "$said" "$3" "$1: it says what to do"
    assert_lacks "$said" "Crashes are being collected" "$1: it does not say the opposite"
}
assert_mended() { # TITLE
    check "$1: mended" eventually 20 coreward status
}

step "the shim cannot be executed"
chmod 644 "$shim"
assert_named "mode" "not executable" "chmod 755 $shim"
chmod 755 "$shim"
assert_mended "mode"
mount --bind /usr/libexec/coreward /usr/libexec/coreward
mount -o remount,bind,noexec /usr/libexec/coreward
assert_named "noexec" "mounted noexec" "mount -o remount,exec /usr/libexec/coreward"
must mount -o remount,exec /usr/libexec/coreward
assert_mended "noexec"
umount /usr/libexec/coreward
# e_machine, at offset 18, of a machine that this is not.
printf '\363\000' | dd of="$shim" bs=1 seek=18 conv=notrunc status=none
assert_named "architecture" "not a program for this machine" "apt install --reinstall coreward"
cp -a "$work/shim.saved" "$shim.new" && mv "$shim.new" "$shim"
assert_mended "architecture"
exec 9>>"$shim"
assert_named "ETXTBSY" "open for writing" "fuser -v $shim"
exec 9>&-
assert_mended "ETXTBSY"
mv "$shim" "$shim.gone"
assert_named "missing" "does not exist" "apt install --reinstall coreward"
mv "$shim.gone" "$shim"
assert_mended "missing"

step "nobody takes the crashes"
must systemctl stop coreward.socket
assert_named "socket" "coreward.socket" "systemctl enable --now coreward.socket"
must systemctl enable --now coreward.socket
assert_mended "socket"
mkdir -p /run/systemd/system/coreward.service.d
printf '[Service]\nExecStart=\nExecStart=/bin/false\n' >/run/systemd/system/coreward.service.d/fault.conf
systemctl daemon-reload
systemctl restart coreward.service 2>/dev/null
sleep 2
assert_named "restarts" "again and again" "journalctl -e -u coreward.service"
rm -r /run/systemd/system/coreward.service.d
systemctl daemon-reload
assert_mended "restarts"
must systemctl start coreward.service
kill -STOP "$(systemctl show -P MainPID coreward.service)"
assert_named "hangs" "did not answer" "systemctl restart coreward.service"
must systemctl kill --signal=KILL coreward.service
assert_mended "hangs"

step "the kernel sends crashes elsewhere"
must systemctl disable --now coreward-register.service
assert_named "unit" "kernel writes cores" "systemctl enable --now coreward-register.service"
must systemctl enable --now coreward-register.service
assert_mended "unit"
must systemctl stop coreward-register.service
must systemctl mask coreward-register.service
assert_named "masked" "kernel writes cores" "systemctl unmask coreward-register.service"
must systemctl unmask coreward-register.service
must systemctl enable --now coreward-register.service
assert_mended "masked"

step "a test crash is no crash"
assert_eq 0 "$(processes program=/usr/bin/coreward)" "none is counted"
assert_eq 0 "$(list_json | jq '[.[] | select(.exe == "/usr/bin/coreward")] | length')" "none is recorded"
check "they have a metric of their own" test "$(metric coreward_test_crashes_total)" -gt 0
