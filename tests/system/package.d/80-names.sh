# Text from a crash is hostile: names, hostnames and command lines.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh

# The file has no control characters but newlines.
is_clean() { # FILE
    ! LC_ALL=C grep --line-number --perl-regexp '[\x00-\x08\x0b-\x1f\x7f]' "$1"
}

step "a program with a newline, quotes and an escape in its name"
before=$(processes)
program segv $'x\n"} 1\n\e[31m\'y'
crash "$exe"
check "it is counted" eventually 60 is_count $((before + 1))
check "promtool accepts the metrics" metrics_are_well_formed
check "the metrics have no control characters" is_clean /tmp/metrics.txt
coreward list >/tmp/list.txt
check "coreward list prints no control characters" is_clean /tmp/list.txt
assert_eq "$((1 + $(list_json | jq length)))" "$(wc -l </tmp/list.txt)" "coreward list prints a title and one line for each crash"
assert_eq "$exe" "$(list_json | jq -r 'last | .exe')" "list --json has the name unchanged"
id=$(list_json | jq -r 'last | .id')
coreward info "$id" >/tmp/info.txt
check "coreward info prints no control characters" is_clean /tmp/info.txt
check "no file name in the state directory has a control character" not prints / find /var/lib/coreward -name '*[[:cntrl:]]*'
check "its core can be exported" coreward export --force -o "$work/odd.core" "$id"
check "the entry in the journal has the name" prints '\"' journalctl -q -o json COREWARD_ID="$id"
check "coredumpctl lists it" coredumpctl info COREWARD_ID="$id"

step "a container with an odd hostname"
before=$(processes)
program segv odd-host
# Without a slash, which the kernel replaces by "!". Set with Python, as hostname(1) would refuse it.
odd=$'a b"},x="1\n--root \\ %h'
# shellcheck disable=SC2016 # for the inner shell
crash unshare --uts --fork sh -c '
    python3 -c "import socket, sys; socket.sethostname(sys.argv[1])" "$1"; "$0"; exit 0' "$exe" "$odd"
check "it is counted" eventually 60 is_count $((before + 1))
assert_counted 1 "it is counted for its program" "program=$exe" signal=SEGV core_exists=true
assert_eq "$odd" "$(field "$exe" .hostname)" "the record has the hostname unchanged"
check "promtool accepts the metrics" metrics_are_well_formed
check "the metrics have no control characters" is_clean /tmp/metrics.txt

step "a command line of 100,000 bytes"
program segv long
crash "$exe" "$(head -c 100000 /dev/zero | tr '\0' x)"
assert_counted 1 "it is counted" "program=$exe" signal=SEGV core_exists=true

step "many names"
# Labels come from the crashed programs, so their number must be bounded.
program segv many
for i in $(seq 1 40); do cp "$exe" "$exe-$i"; crash "$exe-$i"; done
check "the sum of all counters is the number of crashes, $crashes" eventually 60 is_count "$crashes"
