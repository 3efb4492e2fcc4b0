#!/bin/bash
# The package on a fresh Debian: installs it, crashes real programs in every
# place where programs run, and looks at all that an operator would look at.
#
#   vm run --copy-in coreward_VERSION_ARCH.deb --copy-in ../programs package.sh [PART...]
#
# PARTs (storms, names, ...) are the names of the files in package.d/ without
# their numbers; default: all. Installing and removing are always done.
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
