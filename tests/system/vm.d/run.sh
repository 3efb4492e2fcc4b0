# One run: makes the payload, runs qemu, retrieves status and files. Sourced by ../vm.
#
# A run leaves nothing behind, even if this process is killed with SIGKILL: its
# disks are unlinked files, open as descriptors of this shell, and qemu is killed
# when its parent ends (PR_SET_PDEATHSIG).
# shellcheck shell=bash disable=SC2154 # here, cache and image are set in ../vm and image.sh

run_main() {
    local suite=trixie timeout=900 out='' reboots='' kernel_args='' arg
    local -a copy=()
    while (($#)); do
        arg=$1
        case $arg in
            --suite | --timeout | --copy-in | --out | --kernel-arg)
                (($# >= 2)) || die "run: $arg needs a value"
                case $arg in
                    --suite) suite=$2 ;;
                    --timeout) timeout=$2 ;;
                    --copy-in) copy+=("$2") ;;
                    --out) out=$2 ;;
                    --kernel-arg) kernel_args+=" $2" ;;
                esac
                shift 2
                ;;
            --reboots) reboots=1; shift ;;
            --) shift; break ;;
            -*) die "run: unknown option $arg, see vm --help" ;;
            *) break ;;
        esac
    done
    (($#)) || die "run: no SCRIPT, see vm --help"
    [[ $timeout =~ ^[1-9][0-9]*$ ]] || die "run: --timeout $timeout is not a number of seconds"
    for arg in qemu-system-x86_64 setpriv flock; do
        command -v $arg >/dev/null || die "$arg is missing (Debian: qemu-system-x86 util-linux)"
    done

    image_ensure "$suite"
    open_out "$out" "$(basename "$1" .sh)-$suite"
    make_payload "$timeout" "$@"
    make_disks
    boot "$timeout"
    bring_back
}

# Sets `out` and locks it, so that two runs cannot write to the same directory. A
# directory in the cache is emptied first, one that the caller named is not.
open_out() { # DIR NAME
    out=${1:-$cache/out/$2}
    mkdir -p "$out" || die "cannot write to $out"
    exec {out_lock}<"$out"
    flock -n "$out_lock" || die "another run writes to $out: give --out"
    if [[ ! $1 ]]; then find "$out" -mindepth 1 -delete; fi
    : >"$out/console.log"
    rm -f "$out/journal.log"
}

# Makes the files that will be in the guest's /run. Sets `stage`, their directory.
make_payload() { # TIMEOUT SCRIPT [ARG...]
    local timeout=$1 script=$2 path command
    shift 2
    stage=$(mktemp -d "${TMPDIR:-/tmp}/coreward-vm.XXXXXXXX")
    trap on_exit EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    local units=$stage/systemd/system
    mkdir -p "$stage"/vm/{in,lib,out} "$units"/multi-user.target.wants "$units"/emergency.service.d
    cp "$here"/vm.d/guest/*.service "$units/"
    cp "$here"/vm.d/guest/emergency.conf "$units/emergency.service.d/"
    cp "$here"/vm.d/guest/{output,collect} "$stage/vm/lib/"
    ln -s ../vm-script.service "$units/multi-user.target.wants/"
    if ((timeout > 60)); then
        printf '[Unit]\nDescription=Time limit\n[Timer]\nOnBootSec=%s\nAccuracySec=1s\n' $((timeout - 20)) \
            >"$units/vm-deadline.timer"
        ln -s ../vm-deadline.timer "$units/multi-user.target.wants/"
    fi
    mkfifo -m 600 "$stage/vm/output"
    : >"$stage/vm/started"

    if [[ -f $script ]]; then
        copy+=("$script" "$here/guest-lib.sh")
        if [[ $script == *.sh && -d ${script%.sh}.d ]]; then copy+=("${script%.sh}.d"); fi
        command=./$(basename "$script")
    elif [[ $script != */* ]]; then
        command=$script
    else
        die "no such script: $script"
    fi
    for path in "${copy[@]}"; do
        [[ -e $path ]] || die "no such file: $path"
        [[ ! -e $stage/vm/in/$(basename "$path") ]] || die "two files to copy have one name: $path"
        # A symbolic link given as argument is followed; those in directories are copied as links.
        cp -RPH --preserve=mode,timestamps "$path" "$stage/vm/in/"
    done
    if [[ $command == ./* ]]; then chmod a+x "$stage/vm/in/$command"; fi
    {
        echo '#!/bin/bash'
        echo 'cut -d" " -f1 /proc/uptime >/run/vm/started'
        echo 'echo "vm: script started" >/dev/console'
        echo 'cd /run/vm/in'
        printf 'exec'
        printf ' %q' "$command" "$@"
        echo
    } >"$stage/vm/lib/start"
    chmod +x "$stage/vm/lib/start"
}

# Sets the descriptors `payload` and `results` and deletes the files' names.
make_disks() {
    exec {payload}<>"$stage/payload.tar" {results}<>"$stage/results.tar"
    tar -C "$stage" --owner=0 --group=0 --numeric-owner --format=gnu -cf "/dev/fd/$payload" systemd vm ||
        die "the payload could not be made"
    truncate -s %1M "/dev/fd/$payload"
    truncate -s 2G "/dev/fd/$results"
    rm -rf "$stage"
}

on_exit() {
    # timeout(1) passes the signal on to qemu, which ends at once.
    if [[ ${machine-} ]]; then
        kill -TERM "$machine" 2>/dev/null || true
        wait "$machine" || true
    fi
    rm -rf "${stage:?}"
}

# Runs qemu. Sets `ended` to its exit status, which is 124 or 137 after a timeout.
boot() { # TIMEOUT
    local timeout=$1 lines copier
    exec {lines}> >(exec tee "$out/output.log")
    copier=$!
    began=$EPOCHREALTIME
    # shellcheck disable=SC2054 # the commas are qemu's
    # svm and la57 are off: the guest needs neither, svm makes it load modules, and la57
    # adds a level to the emulated page tables.
    local -a qemu=(
        qemu-system-x86_64 -no-user-config -nodefaults -display none -nic none
        -M q35 -accel "${COREWARD_VM_ACCEL:-tcg,thread=multi}" -cpu max,la57=off,svm=off
        -smp "${COREWARD_VM_CPUS:-2}" -m "${COREWARD_VM_MEMORY:-2048}"
        -kernel "$image/vmlinuz" -initrd "$image/initrd"
        -append 'console=ttyS0 panic=-1 mitigations=off fsck.mode=skip systemd.show_status=1'"$kernel_args"
        -drive "file=$image/root.img,format=raw,if=virtio,snapshot=on,cache=unsafe"
        -drive "file=/dev/fd/$payload,format=raw,if=virtio,read-only=on"
        -drive "file=/dev/fd/$results,format=raw,if=virtio,cache=unsafe"
        -serial "file:$out/console.log"
        -chardev "file,id=script,path=/dev/fd/$lines,append=on"
        -device virtio-serial -device virtserialport,chardev=script,name=vm.script
    )
    # A reboot ends the run, as it does after a panic, unless the script makes them.
    if [[ ! $reboots ]]; then qemu+=(-no-reboot); fi
    setpriv --pdeathsig KILL timeout --kill-after=5 "$timeout" \
        setpriv --pdeathsig KILL "${qemu[@]}" </dev/null >"$out/qemu.log" 2>&1 {out_lock}<&- &
    machine=$!
    ended=0
    wait "$machine" || ended=$?
    machine=
    exec {lines}>&-
    wait "$copier" || true
}

# Writes the results to `out` and exits with the script's status.
bring_back() {
    local status started took
    took=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    status=$(tar -xOf "/dev/fd/$results" status 2>/dev/null) || status=
    if [[ ! $status =~ ^[0-9]+$ ]]; then
        tail -n 40 "$out/console.log" | tr -d '\r' >&2
        cat "$out/qemu.log" >&2
        # A timeout after the script has started is the script's failure.
        if ((ended == 124 || ended == 137)) && grep -q 'vm: script started' "$out/console.log"; then
            say "timeout after $took s, and no results could be collected"
            exit 124
        fi
        die "the machine ended after $took s without a result (qemu: $ended), see $out/console.log"
    fi
    tar -xf "/dev/fd/$results" -C "$out" --no-same-owner journal.log
    tar -xf "/dev/fd/$results" -C "$out" --no-same-owner --strip-components=1 out ||
        die "the files of the script could not be retrieved, see the end of $out/journal.log"
    started=$(tar -xOf "/dev/fd/$results" started)
    say "status $status; script began $started s after power-on, run took $took s; files in $out"
    exit "$status"
}
