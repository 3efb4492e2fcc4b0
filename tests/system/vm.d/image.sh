# The cache of base images. Sourced by ../vm.
#
#   $cache/SUITE/KEY/{root.img,vmlinuz,initrd}
#
# KEY is a hash of everything the image is made from, so that a changed recipe
# builds anew and an unchanged one never does.
# shellcheck shell=bash disable=SC2154 # here and cache are set in ../vm

image_key() { # SUITE
    { echo "$1"; cat "$here/vm.d/recipe.sh" "$here/vm.d/init"; } | sha256sum | cut -c1-16
}

image_main() {
    local force=
    if [[ ${1-} == --force ]]; then force=1; shift; fi
    (($# <= 1)) || die "image: too many arguments, see vm --help"
    image_ensure "${1:-trixie}" "$force"
    printf '%s\n' "$image"
}

# Sets `image` to the directory of the suite's image; builds it if need be.
image_ensure() { # SUITE [FORCE]
    local suite=$1 force=${2-} lock
    # The name becomes a path and an apt source: nothing but a name gets through.
    [[ $suite =~ ^[a-z]+(-backports)?$ ]] || die "not a suite: $suite"
    image=$cache/$suite/$(image_key "$suite")
    if [[ ! $force && -e $image/root.img ]]; then return; fi

    mkdir -p "$cache/$suite"
    exec {lock}>"$cache/$suite/lock"
    flock -n "$lock" || { say "another build of $suite is under way, waiting for it"; flock "$lock"; }
    # The other build may have made what this one wanted.
    if [[ $force || ! -e $image/root.img ]]; then image_build "$suite"; fi
    exec {lock}>&-
}

# Under the lock: builds beside the final place, then moves it there in one step.
image_build() { # SUITE
    local suite=$1 old build tool started=$SECONDS
    for tool in mmdebstrap mkfs.ext4 unshare; do
        command -v "$tool" >/dev/null || die "$tool is missing (Debian: mmdebstrap e2fsprogs util-linux)"
    done
    ((EUID == 0)) || die "building an image needs root: the files in it are root's"
    build=$cache/$suite/build.$$
    # What a killed build left. One file system: whatever may be mounted inside stays whole.
    rm -rf --one-file-system "$cache/$suite"/build.*
    mkdir "$build"
    say "building the $suite image, its log is $cache/$suite/build.log"
    # A mount namespace of its own: mounts of an interrupted build vanish with its processes.
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
