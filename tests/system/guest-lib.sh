# Helpers for the scenarios that run in the guest. A scenario is a bash script such as:
#
#   source ./guest-lib.sh
#   step "title of the following checks"
#   assert_eq 3 "$(count)" "three crashes are counted"
#   finish
#
# After a failed check the scenario continues, as one run in the virtual machine
# takes minutes and should find as much as it can.
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

# Prints standard input, indented and truncated, as a detail of a result.
note() { head -c 4000 | sed 's/^/         | /'; }

# Runs the command and counts it as ok or failed by its status. Prints its output if it failed.
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

# Runs a command that the rest of the scenario depends on: ends the scenario on
# failure. Not for use in a subshell, which is all it could end.
must() { # CMD...
    local output
    if output=$("$@" 2>&1); then return 0; fi
    fail "must: $*"
    printf '%s\n' "$output" | note
    finish
}

# Repeats the command until it succeeds. Not counted itself: `check TITLE eventually 10 CMD`.
eventually() { # SECONDS CMD...
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        # Once more, with its output for the caller.
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

# PART occurs literally in TEXT.
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

# The last line is the result.
finish() {
    finished=1
    printf '\n'
    if ((failed)); then printf 'FAILED  %s\n' "${failures[@]}"; fi
    printf '%s passed, %s failed\n' "$passed" "$failed"
    ((failed == 0))
    exit
}

# A script that ends before `finish` has failed, whatever it counted.
at_exit() {
    if [[ ! $finished ]]; then
        fail "the scenario ended early, after: $current_step"
        finish
    fi
}
trap at_exit EXIT

# Makes a small root directory for a container: busybox, the programs, and the
# libraries they need. All are copies, so that no file belongs to the host.
make_root() { # DIR PROGRAM...
    local dir=$1 file name
    shift
    mkdir -p "$dir"/{dev,etc,proc,sys,tmp,run,var,root,usr/{bin,sbin,lib,lib64}}
    for name in bin sbin lib lib64; do ln -sfn "usr/$name" "$dir/$name"; done
    echo ID=coreward-test >"$dir/etc/os-release"
    for file in "$(command -v busybox)" "$@"; do
        install -m 755 "$file" "$dir/usr/bin/"
        # The dynamic loader and the paths after "=>"; a static program has neither.
        ldd "$file" 2>/dev/null | grep -o '/[^ ]*' | while read -r name; do
            install -D "$(readlink -f "$name")" "$dir/usr/${name#/usr}"
        done
    done
    for name in sh sleep hostname cat; do ln -sfn busybox "$dir/usr/bin/$name"; done
}
