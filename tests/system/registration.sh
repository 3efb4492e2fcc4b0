#!/bin/bash
# Tests that the kernel's settings are Coreward's from sysinit.target to power-off, that it says when they are not, and that the
# removal puts back what was found. Reboots the machine: this script runs once for each boot.
#
#   vm run --reboots --copy-in coreward_VERSION_ARCH.deb --copy-in ../programs --copy-in package.d registration.sh [PART...]
#
# PART is the name of a file in registration.d/ without its number. Default: all parts. The reboots come in any case.
source ./guest-lib.sh
source ./package.d/lib.sh
source ./registration.d/lib.sh

deb=$(echo "$PWD"/coreward_*.deb)
[[ -f $deb ]] || must test -f "$deb"

case $(boots) in
    0)
        for part in ./registration.d/[0-9]*.sh; do
            name=${part##*-}
            if (($#)) && [[ " $* " != *" ${name%.sh} "* ]]; then continue; fi
            # shellcheck source=/dev/null
            source "$part"
        done
        plant_boot_crashes
        reboot_machine
        ;;
    1 | 2)
        check_boot_crashes
        reboot_machine
        ;;
    *) check_boot_crashes ;;
esac
finish
