# The removal puts back what was found, whatever state the package is in.
# shellcheck shell=bash disable=SC2154 # the variables of the libraries

# Either may be unknown to dpkg.
dpkg --purge coreward systemd-coredump >/dev/null 2>&1
found=(core.%e.%p 7 1)

fresh() {
    set_settings "${found[@]}"
    must apt-get install --yes "$deb"
    is_registered || fail "not registered"
}
assert_put_back() { # TITLE
    check "$1: what was found is put back" has_settings "${found[*]}"
    check "$1: no file is left in /run/sysctl.d" not test -e /run/sysctl.d/99-zz-coreward.conf
}

step "removal"
fresh
must apt-get remove --yes coreward
assert_put_back "installed"
fresh
must coreward register
must systemctl restart coreward-register.service
must systemctl reload coreward-register.service
must coreward register
must apt-get remove --yes coreward
assert_put_back "registered several times"
fresh
printf '#!/bin/false\n' >/usr/bin/coreward
must apt-get remove --yes coreward
assert_put_back "its command broken"
must apt-get purge --yes coreward
set_settings "${found[@]}"
must dpkg --unpack "$deb"
check "unpacked: nothing is changed" has_settings "${found[*]}"
must systemctl restart systemd-sysctl.service
set_settings "${found[@]}"
must dpkg --remove coreward
assert_put_back "unpacked"
must dpkg --unpack "$deb"
must /usr/bin/coreward register
check "unpacked and registered by hand" is_registered
must dpkg --remove coreward
assert_put_back "unpacked and registered by hand"
# Half configured: the configuration of the package failed.
must dpkg --unpack "$deb"
mv /usr/bin/systemd-sysusers /usr/bin/systemd-sysusers.away
printf '#!/bin/false\n' >/usr/bin/systemd-sysusers
chmod 755 /usr/bin/systemd-sysusers
dpkg --configure coreward >/dev/null 2>&1
mv /usr/bin/systemd-sysusers.away /usr/bin/systemd-sysusers
must /usr/bin/coreward register
must dpkg --remove coreward
assert_put_back "half configured"
check "no unit has failed" no_failed_unit
must apt-get purge --yes coreward
fresh
must apt-get purge --yes coreward
assert_put_back "purged"

must apt-get install --yes "$deb"
check "installed again" is_registered
