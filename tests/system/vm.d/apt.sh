# shellcheck shell=bash
# What scripts that make Debian systems need of this machine's apt. Sourced.

# Prints the mirror that this machine's apt uses for Debian. Prints nothing if
# there is none; mmdebstrap then uses its default.
mirror() {
    command -v apt-get >/dev/null || return 0
    # shellcheck disable=SC2016 # the variables are apt's
    apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -F'|' '$1 == "Debian" && !n++ { print $2 }'
}

# Prints the settings of this machine's apt that downloads need, such as proxies.
apt_options() {
    command -v apt-config >/dev/null || return 0
    apt-config dump --format '%F "%v";%n' Acquire |
        { grep -E '^Acquire::(https?::|Check-|Retries)' || true; } | { grep -v '""' || true; }
}
