# After installation on a fresh system the package works without any other step.
# shellcheck shell=bash disable=SC2154 # the variables of package.sh and lib.sh
step "install"
pattern_before=$(cat /proc/sys/kernel/core_pattern)
limit_before=$(cat /proc/sys/kernel/core_pipe_limit)
note <<<"found: core_pattern=$pattern_before core_pipe_limit=$limit_before suid_dumpable=$(cat /proc/sys/fs/suid_dumpable) $(uname -r), systemd $(systemctl --version | head -n 1)"
# Debian's systemd sets |/bin/false or nothing. Distinct values show later whether the previous ones were restored.
pattern_before='core.%p' limit_before=3
echo "$pattern_before" >/proc/sys/kernel/core_pattern
echo "$limit_before" >/proc/sys/kernel/core_pipe_limit
export DEBIAN_FRONTEND=noninteractive

must apt-get install --yes "$deb"
check "dpkg reports it as installed" prints "install ok installed" dpkg --status coreward

# The many crashes of these checks must not reach the rate limits, or one check would affect the next.
mkdir -p /etc/coreward/coreward.conf.d
printf '%s\n' '[Coreward]' UnitBurst=0 UserBurst=0 TotalBurst=0 EventBurst=0 >/etc/coreward/coreward.conf.d/80-checks.conf

step "after the install"
pattern=$(cat /proc/sys/kernel/core_pattern)
note <<<"core_pattern=$pattern core_pipe_limit=$(cat /proc/sys/kernel/core_pipe_limit) suid_dumpable=$(cat /proc/sys/fs/suid_dumpable)"
assert_eq '|/usr/libexec/coreward/coreward-shim' "${pattern%% *}" "core_pattern starts the shim"
check "core_pattern is within the kernel's limit" test "${#pattern}" -le 127
if (($(cat /proc/sys/kernel/core_pipe_limit) == limit_before)); then
    fail "core_pipe_limit is still $limit_before"
else
    ok "core_pipe_limit is set"
fi
for unit in coreward.socket coreward-metrics.socket coreward-query.socket coreward-delete.socket coreward-register.service; do
    check "$unit is active" systemctl is-active "$unit"
    check "$unit is enabled" systemctl is-enabled "$unit"
done
for script in bash-completion/completions/coreward zsh/vendor-completions/_coreward fish/vendor_completions.d/coreward.fish; do
    check "$script is installed" test -s "/usr/share/$script"
done
# The daemon is started by its socket and may not have been needed yet, but it must not have failed.
assert_eq success "$(systemctl show -P Result coreward.service)" "coreward.service has not failed"
check "the daemon starts and reports that it is ready" systemctl start coreward.service
check "systemctl status coreward.service is fine" systemctl status coreward.service
check "coreward status is fine" coreward status
assert_eq coreward "$(systemctl show -P User coreward.service)" "the daemon is not root"
assert_eq coreward "$(stat -c %U "/proc/$(systemctl show -P MainPID coreward.service)")" "its process runs as user coreward"
check "no unit has failed" no_failed_unit
# It also reports on units of other packages. The image has no man(1).
faults=$(systemd-analyze verify --man=no coreward.service coreward.socket coreward-metrics.socket coreward-register.service coreward-query.service coreward-query.socket coreward-delete.socket 2>&1 | grep -i coreward)
assert_eq "" "$faults" "systemd-analyze verify accepts the units"

step "exposure"
exposure() { # UNIT
    systemd-analyze security --no-pager "$1" | tee "/run/vm/out/security-$1.txt" | tail -n 1 | grep -o '[0-9]\+\.[0-9]' | head -n 1
}
assert_eq 0.4 "$(exposure coreward.service)" "systemd-analyze security of coreward.service"
assert_eq 0.7 "$(exposure coreward-register.service)" "systemd-analyze security of coreward-register.service"
assert_eq 0.4 "$(exposure coreward-query.service)" "systemd-analyze security of coreward-query.service"
assert_eq 0.9 "$(exposure coreward-reregister.service)" "systemd-analyze security of coreward-reregister.service"
assert_eq 0.9 "$(exposure coreward-event.service)" "systemd-analyze security of coreward-event.service"
assert_eq 1.3 "$(exposure coreward-event@x.service)" "systemd-analyze security of coreward-event@.service"
unfiltered=$(grep -L '^Seccomp:[[:space:]]*2$' /proc/"$(systemctl show -P MainPID coreward.service)"/task/*/status)
assert_eq "" "$unfiltered" "all threads of the daemon are filtered"
assert_eq "" "$(journalctl -u coreward.service --grep 'system calls are restricted by its unit only' -q --no-pager)" "the daemon could restrict itself"

step "metrics before the first crash"
check "the metrics are served" scrape
assert_eq 0 "$(processes)" "no crash is counted yet"
listen=$(systemctl show -P Listen coreward-metrics.socket)
assert_contains "$listen" 127.0.0.1: "the metrics are served to this machine only"
