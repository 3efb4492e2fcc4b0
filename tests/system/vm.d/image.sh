# The cache of base images. Sourced by ../vm.
#
#   $cache/SUITE/KEY/{root.img,vmlinuz,initrd}
#
# KEY is a hash of everything the image is made from: an image is rebuilt when, and
# only when, its recipe changes.
# shellcheck shell=bash disable=SC2154 # here and cache are set in ../vm

image_key() { # SUITE
    { echo "$1"; cat "$here/vm.d/recipe.sh" "$here/vm.d/apt.sh" "$here/vm.d/init"; } | sha256sum | cut -c1-16
}

image_main() {
    local force=
    if [[ ${1-} == --force ]]; then force=1; shift; fi
    (($# <= 1)) || die "image: too many arguments, see vm --help"
    image_ensure "${1:-trixie}" "$force"
    printf '%s\n' "$image"
}

# Sets `image` to the directory of the suite's image, which is built if necessary.
image_ensure() { # SUITE [FORCE]
    local suite=$1 force=${2-} lock
    # The name becomes part of a path and of an apt source, so it must be a plain name.
    [[ $suite =~ ^[a-z]+(-backports)?$ ]] || die "not a suite: $suite"
    image=$cache/$suite/$(image_key "$suite")
    if [[ ! $force && -e $image/root.img ]]; then return; fi

    mkdir -p "$cache/$suite"
    exec {lock}>"$cache/$suite/lock"
    flock -n "$lock" || { say "waiting for another build of $suite"; flock "$lock"; }
    # The other build may have made this image.
    if [[ $force || ! -e $image/root.img ]]; then image_build "$suite"; fi
    exec {lock}>&-
}

# Called with the lock held: builds in a temporary directory and renames it when it is complete.
image_build() { # SUITE
    local suite=$1 old build tool started=$SECONDS
    for tool in mmdebstrap mkfs.ext4 unshare; do
        command -v "$tool" >/dev/null || die "$tool is missing (Debian: mmdebstrap e2fsprogs util-linux)"
    done
    ((EUID == 0)) || die "building an image needs root: the files in it are root's"
    build=$cache/$suite/build.$$
    # Removes what a killed build left. --one-file-system, in case something is still mounted in it.
    rm -rf --one-file-system "$cache/$suite"/build.*
    mkdir "$build"
    say "building the $suite image, its log is $cache/$suite/build.log"
    # In a mount namespace, so that an interrupted build leaves no mounts behind.
    if ! nice unshare --mount --propagation private \
        "$here/vm.d/recipe.sh" "$suite" "$build" "$here/vm.d/init" >"$cache/$suite/build.log" 2>&1; then
        rm -rf --one-file-system "$build"
        tail -n 30 "$cache/$suite/build.log" >&2
        die "the $suite image could not be built"
    fi
    for old in "$cache/$suite"/*/; do
        if [[ $old != "$build/" ]]; then rm -rf --one-file-system "$old"; fi
    done
    mv -T "$build" "$image"
    say "built in $((SECONDS - started)) s, $(du -h "$image/root.img" | cut -f1)"
}
