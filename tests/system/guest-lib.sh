# Helpers for the scenarios that run in the guest. A scenario is a bash script:
#
#   source ./guest-lib.sh
#   step "what comes now"
#   assert_eq 3 "$(count)" "three crashes are counted"
#   finish
#
# A check that fails is counted and the scenario goes on: one run in the virtual
# machine takes a while, it should tell all that it can.
# shellcheck shell=bash

passed=0 failed=0 current_step='(start)' finished=
declare -a failures=()

step() { # TITLE
    current_step=$1
    printf '\n== %s (at %s s)\n' "$1" "$(cut -d. -f1 /proc/uptime)"
}

ok() { # TITLE
    passed=$((passed + 1))
    printf '   ok    %s\n' "$1"
}

fail() { # WHY
    failed=$((failed + 1))
    failures+=("$current_step: $1")
    printf '   FAIL  %s\n' "$1"
}

# What is printed beside a result, indented and bounded.
note() { head -c 4000 | sed 's/^/         | /'; }

# Runs the command; ok or fail by its status, its output is shown on failure.
check() { # TITLE CMD...
    local title=$1 output status=0
    shift
    output=$("$@" 2>&1) || status=$?
    if ((status == 0)); then
        ok "$title"
    else
        fail "$title"
        printf '%s (status %s)\n%s\n' "$*" "$status" "$output" | note
        return 1
    fi
}

# For what the rest of the scenario stands on: ends it on failure. Not in a
# subshell, which is all that it could end.
must() { # CMD...
    local output
    if output=$("$@" 2>&1); then return 0; fi
    fail "must: $*"
    printf '%s\n' "$output" | note
    finish
}

# Runs the command again until it succeeds; not counted: `check TITLE eventually 10 CMD`.
eventually() { # SECONDS CMD...
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        # Once more with its words, for the caller's report.
        if ((SECONDS >= until)); then "$@"; return; fi
        sleep 0.3
    done
}

assert_eq() { # WANT GOT TITLE
    if [[ $1 == "$2" ]]; then
        ok "$3"
    else
        fail "$3"
        printf 'want: %s\ngot:  %s\n' "$1" "$2" | note
        return 1
    fi
}

# The text is in it, as it stands: no pattern.
assert_contains() { # TEXT PART TITLE
    if [[ $1 == *"$2"* ]]; then
        ok "$3"
    else
        fail "$3"
        printf 'want: %s\nin:\n%s\n' "$2" "$1" | note
        return 1
    fi
}

assert_lacks() { # TEXT PART TITLE
    if [[ $1 != *"$2"* ]]; then
        ok "$3"
    else
        fail "$3"
        printf 'do not want: %s\nin:\n%s\n' "$2" "$1" | note
        return 1
    fi
}

# The last line is the verdict.
finish() {
    finished=1
    printf '\n'
    if ((failed)); then printf 'FAILED  %s\n' "${failures[@]}"; fi
    printf '%s passed, %s failed\n' "$passed" "$failed"
    ((failed == 0))
    exit
}

# A script that ends before its `finish` has not passed, whatever it counted.
at_exit() {
    if [[ ! $finished ]]; then
        fail "the scenario ended early, after: $current_step"
        finish
    fi
}
trap at_exit EXIT

# A small root tree of its own for a container: busybox, the programs, and the
# libraries they need. Copies, so that nothing in it is a file of the host.
make_root() { # DIR PROGRAM...
    local dir=$1 file name
    shift
    mkdir -p "$dir"/{dev,etc,proc,sys,tmp,run,var,root,usr/{bin,sbin,lib,lib64}}
    for name in bin sbin lib lib64; do ln -sfn "usr/$name" "$dir/$name"; done
    echo ID=coreward-test >"$dir/etc/os-release"
    for file in "$(command -v busybox)" "$@"; do
        install -m 755 "$file" "$dir/usr/bin/"
        # The loader and what stands behind "=>"; a static program has neither.
        ldd "$file" 2>/dev/null | grep -o '/[^ ]*' | while read -r name; do
            install -D "$(readlink -f "$name")" "$dir/usr/${name#/usr}"
        done
    done
    for name in sh sleep hostname cat; do ln -sfn busybox "$dir/usr/bin/$name"; done
}
