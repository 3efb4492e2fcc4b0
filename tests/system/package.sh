#!/bin/bash
# Tests the package on a fresh Debian: installs it, crashes real programs in the
# places where programs run, and checks everything that an operator would use.
#
#   vm run --copy-in coreward_VERSION_ARCH.deb --copy-in ../programs package.sh [PART...]
#
# PART is the name of a file in package.d/ without its number (storms, names, ...).
# Default: all parts. The parts install and remove are always run.
source ./guest-lib.sh
source ./package.d/lib.sh

deb=$(echo "$PWD"/coreward_*.deb)
[[ -f $deb ]] || must test -f "$deb"
must test -d ./programs

for part in ./package.d/[0-9]*.sh; do
    name=${part##*-}
    name=${name%.sh}
    if (($#)) && [[ ! " install $* remove " == *" $name "* ]]; then continue; fi
    # shellcheck source=/dev/null
    source "$part"
    save_evidence "$name"
done
finish
