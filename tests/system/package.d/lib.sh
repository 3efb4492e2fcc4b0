# Functions and variables that the parts of package.sh share. Sourced after guest-lib.sh.
# shellcheck shell=bash disable=SC2034 # the parts use what is set here

work=/opt/t
host=$(hostname)
# Number of crashes that all parts have made so far: the totals must equal it.
crashes=0
mkdir -p "$work"
# All users must be able to run the programs in it.
chmod 755 "$work"

# Builds a program with a unique name and build-id. The unique name makes its counters exact. The
# unique build-id gives it a signature of its own, so that the storm rule never counts two checks together.
program() { # SOURCE NAME -> sets `exe`
    local id
    exe=$work/$2
    if [[ ! -e $work/.$1.o ]]; then must gcc -g -O1 -pthread -c -o "$work/.$1.o" "./programs/$1.c"; fi
    id=$(printf %s "$2" | md5sum | cut -c 1-32)
    must gcc -pthread "-Wl,--build-id=0x$id" -o "$exe" "$work/.$1.o"
}

# Runs a command in which one process crashes. The exit status is ignored, as runuser, nspawn,
# systemd-run and bash each report a crash differently; assert_counted checks for the crash.
crash() { # CMD...
    crashes=$((crashes + 1))
    # The braces also redirect bash's own message "Segmentation fault".
    { "$@"; } >/dev/null 2>&1 </dev/null || true
}

as() { # USER CMD...
    runuser -u "$1" -- "${@:2}"
}

# Runs a command as bob, as a member of group adm.
as_adm() { runuser -u bob -g bob -G adm -- "$@"; }

# For check: the command must fail.
not() { ! "$@"; }

# For check: the command's output contains TEXT.
prints() { # TEXT CMD...
    "${@:2}" 2>&1 | tee /tmp/printed | grep --quiet --fixed-strings -- "$1" || { cat /tmp/printed; return 1; }
}

metrics_url() {
    local listen
    listen=$(systemctl show -P Listen coreward-metrics.socket)
    listen=${listen%% *}
    echo "http://127.0.0.1:${listen##*:}/metrics"
}

scrape() { curl --silent --show-error --fail --max-time 20 "$(metrics_url)"; }

# Prints the sum of the samples of a metric that have all of these labels, 0 if there are none. Label
# values are given as in the text format, with its escapes. Prints nothing if the scrape fails.
metric() { # NAME [LABEL=VALUE...]
    local name=$1 text IFS=$'\n'
    shift
    text=$(scrape) || return
    name=$name labels="$*" awk '
        BEGIN {
            n = split(ENVIRON["labels"], wanted, "\n")
            for (i = 1; i <= n; i++) {
                at = index(wanted[i], "=")
                wanted[i] = substr(wanted[i], 1, at) "\"" substr(wanted[i], at + 1) "\""
            }
            name = ENVIRON["name"]
        }
        index($0, name "{") == 1 || index($0, name " ") == 1 {
            for (i = 1; i <= n; i++)
                if (!index($0, "{" wanted[i]) && !index($0, "," wanted[i])) next
            sum += $NF
        }
        END { printf "%d\n", sum }' <<<"$text"
}

processes() { metric coredump_process_count "$@"; }

is_count() { # WANT [LABEL=VALUE...]
    local want=$1 got
    shift
    got=$(processes "$@")
    if [[ $got != "$want" ]]; then echo "want $want, got $got for: $*"; return 1; fi
}

# A crash is counted when its record is durable, shortly after the process has ended.
assert_counted() { # WANT TITLE [LABEL=VALUE...]
    local want=$1 title=$2
    shift 2
    check "$title" eventually 60 is_count "$want" "$@"
}

# The crashes as one JSON array.
list_json() { coreward list --json "$@" | jq -s 'flatten(1)'; }

# Prints a field of the newest crash that matches.
field() { # MATCH JQ-FILTER
    list_json "$1" | jq -r "last | $2"
}

coredumpctl() { /opt/systemd-coredump/usr/bin/coredumpctl --no-pager "$@"; }

# Prints the journal's entries about crashes, one line of JSON each.
# shellcheck disable=SC2120 # not all callers pass arguments
entries() { # [FIELD=VALUE...]
    journalctl --quiet --output=json MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1 "$@"
}

# promtool wants the name of a counter to end in _total. The name coredump_process_count is fixed;
# there must be no other complaint.
metrics_are_well_formed() {
    local faults
    scrape >/tmp/metrics.txt || return
    faults=$(promtool check metrics </tmp/metrics.txt 2>&1 | grep -v '^coredump_process_count ')
    if [[ $faults ]]; then echo "$faults"; return 1; fi
}

one_entry_each() {
    local found
    # shellcheck disable=SC2119
    found=$(entries | wc -l)
    if [[ $found != "$crashes" ]]; then echo "want $crashes, got $found"; return 1; fi
}

no_failed_unit() {
    local failed_units
    failed_units=$(systemctl list-units --state=failed --no-legend --plain)
    [[ ! $failed_units ]] || { echo "$failed_units"; return 1; }
}

# Runs PROGRAM, which crashes, COUNT times, PARALLEL at a time. The caller adds to `crashes`: this
# function may run in a background shell, which has a copy of the variable.
storm() { # PROGRAM COUNT PARALLEL
    local i
    for ((i = 1; i <= $2; i++)); do
        "$1" &
        ((i % $3)) || wait
    done
    wait
} >/dev/null 2>&1

# Saves metrics, list and unit states for the analysis of a failure.
save_evidence() { # PART
    command -v coreward >/dev/null || return 0
    mkdir -p "/run/vm/out/$1"
    scrape >"/run/vm/out/$1/metrics.txt" 2>&1
    coreward list --json >"/run/vm/out/$1/list.json" 2>&1
    systemctl status --no-pager --full 'coreward*' >"/run/vm/out/$1/units.txt" 2>&1
}
