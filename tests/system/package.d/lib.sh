# What the parts of package.sh share. Sourced after guest-lib.sh.
# shellcheck shell=bash disable=SC2034 # the parts use what is set here

work=/opt/t
host=$(hostname)
# Crashes that have been made, by all parts: the totals must come to this.
crashes=0
mkdir -p "$work"
# Programs and what they lie in may be read by everybody who is to run them.
chmod 755 "$work"

# A program under a name of its own, and with a build-id of its own: by name counts are exact,
# and by signature no check uses up the cores that the storm rule leaves to another.
program() { # SOURCE NAME -> sets `exe`
    local id
    exe=$work/$2
    if [[ ! -e $work/.$1.o ]]; then must gcc -g -O1 -pthread -c -o "$work/.$1.o" "./programs/$1.c"; fi
    id=$(printf %s "$2" | md5sum | cut -c 1-32)
    must gcc -pthread "-Wl,--build-id=0x$id" -o "$exe" "$work/.$1.o"
}

# Runs a command that crashes one process. The status says nothing that is the same
# for all of runuser, nspawn, systemd-run and bash: the crash is checked where it is counted.
crash() { # CMD...
    crashes=$((crashes + 1))
    # In braces: bash itself says "Segmentation fault" when it is its own child.
    { "$@"; } >/dev/null 2>&1 </dev/null || true
}

as() { # USER CMD...
    runuser -u "$1" -- "${@:2}"
}

# bob with the rights that members of adm have.
as_adm() { runuser -u bob -g bob -G adm -- "$@"; }

# For check: the command must fail.
not() { ! "$@"; }

# For check: TEXT is printed by the command.
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

# The sum of the samples of a metric that have all of these labels. Values as they
# stand in the text format, with its escapes. No such sample: 0. No answer: nothing.
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

# A crash is counted when its record is durable, a moment after the process is gone.
assert_counted() { # WANT TITLE [LABEL=VALUE...]
    local want=$1 title=$2
    shift 2
    check "$title" eventually 60 is_count "$want" "$@"
}

# The crashes as one JSON array, whether the tool prints an array or a line each.
list_json() { coreward list --json "$@" | jq -s 'flatten(1)'; }

# A field of the newest crash that matches.
field() { # MATCH JQ-FILTER
    list_json "$1" | jq -r "last | $2"
}

coredumpctl() { /opt/systemd-coredump/usr/bin/coredumpctl --no-pager "$@"; }

# One line of JSON for each entry of a crash in the journal.
# shellcheck disable=SC2120 # some want all of them
entries() { # [FIELD=VALUE...]
    journalctl --quiet --output=json MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1 "$@"
}

# `coredump_process_count` is the name that was asked for; promtool would have a
# counter end in _total. Nothing else may be found fault with.
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

# COUNT processes of PROGRAM crash, PARALLEL at a time. Counts itself in only when
# the caller does: it may run in the background, where `crashes` is a copy.
storm() { # PROGRAM COUNT PARALLEL
    local i
    for ((i = 1; i <= $2; i++)); do
        "$1" &
        ((i % $3)) || wait
    done
    wait
} >/dev/null 2>&1

# What is worth having when something failed.
save_evidence() { # PART
    command -v coreward >/dev/null || return 0
    mkdir -p "/run/vm/out/$1"
    scrape >"/run/vm/out/$1/metrics.txt" 2>&1
    coreward list --json >"/run/vm/out/$1/list.json" 2>&1
    systemctl status --no-pager --full 'coreward*' >"/run/vm/out/$1/units.txt" 2>&1
}
