# Memory that nobody may read but the kernel is in the core: since Linux 6.12 this machine runs with proc_mem.force_override=never.
# shellcheck shell=bash disable=SC2154 # the variables of the libraries

[[ -e /usr/libexec/coreward/coreward-shim ]] || must apt-get install --yes "$deb"
program shapes forbidden

# Of each 32 bytes of its 4 MiB these are the beginning.
lines_in_core() {
    coreward export --force -o "$work/forbidden.core" "$exe" >/dev/null &&
        grep -ao 'this memory may not be read now' "$work/forbidden.core" | wc -l
}
has_all_lines() { (($(lines_in_core) >= 131072)); }

step "memory that may not be read"
# Where the kernel does not know the parameter, the memory can be read in any case.
assert_contains "$(cat /proc/cmdline)" "proc_mem.force_override=never" "the kernel was told to refuse"
crash "$exe" forbidden
check "all of it is in the core" eventually 60 has_all_lines
assert_lacks "$(coreward info "$exe")" "refused to read" "and nothing is said to be missing"
rm -f "$work/forbidden.core"
