//! Sizes, durations, users and groups in the form that people read and write.

use crate::crash::text::printable;
use crate::crash::{Dump, signal};
use nix::sys::utsname::uname;
use nix::unistd::{Gid, Group, Uid, User};
use std::time::Duration;

/// `512B`, `15.4K`, `3.1G`: one word, powers of 1024, as systemd's tools write sizes.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];
    // Tenths, rounded. Floating point has too few digits for the largest sizes.
    let tenths = |shift: u32| (u128::from(bytes) * 10 + (1 << (shift - 1))) >> shift;
    let found = UNITS.iter().zip((10..).step_by(10)).find(|(_, shift)| tenths(*shift) < 10_240);
    match found {
        _ if bytes < 1024 => format!("{bytes}B"),
        Some((unit, shift)) => format!("{}.{}{unit}", tenths(shift) / 10, tenths(shift) % 10),
        None => format!("{bytes}B"),
    }
}

/// `1 core`, `3 cores`, `3 crashes`.
pub(super) fn count(number: u64, noun: &str) -> String {
    let plural = match number {
        1 => "",
        _ if noun.ends_with("sh") => "es",
        _ => "s",
    };
    format!("{number} {noun}{plural}")
}

/// `12.3 ms`, `4.5 s`.
pub(super) fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

/// `1h 30min`, `90s` as in the configuration; at most two units.
pub(super) fn span(time: Duration) -> String {
    if time == Duration::MAX { "infinity".to_owned() } else { super::time::rough(time) }
}

/// `1000 (alice)`; only the number if this machine has no such user.
pub(super) fn user(uid: Uid) -> String {
    let user = User::from_uid(uid).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| format!("{uid} ({})", printable(&user.name)))
}

/// The same as [`user`], for a group.
pub(super) fn group(gid: Gid) -> String {
    let group = Group::from_gid(gid).ok().flatten();
    group.map_or_else(|| gid.to_string(), |group| format!("{gid} ({})", printable(&group.name)))
}

/// Parses an argument that is a user name or a uid.
pub(super) fn uid_of(text: &str) -> Result<Uid, String> {
    if let Ok(uid) = text.parse() {
        return Ok(Uid::from_raw(uid));
    }
    let user = User::from_name(text).ok().flatten();
    user.map(|user| user.uid).ok_or_else(|| "no such user on this machine".to_owned())
}

/// The name of this host; empty if the kernel does not say it.
pub(super) fn host_name() -> String {
    uname().map(|names| names.nodename().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Parses an argument that is a signal, and returns its name in records.
pub(super) fn signal_name_of(text: &str) -> Result<String, String> {
    // Records whose signal nobody told have this name.
    let unknown = signal::name(None);
    if text == unknown {
        return Ok(unknown);
    }
    if text.eq_ignore_ascii_case(Dump::SIGNAL_NAME) {
        return Ok(Dump::SIGNAL_NAME.to_owned());
    }
    let number = signal::parse(text).ok_or("not a signal: write SEGV, SIGSEGV, 11 or RTMIN+3, for example")?;
    Ok(signal::name(Some(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_understood_or_refused() {
        for text in ["segv", "SIGSEGV", "11", "SEGV"] {
            assert_eq!(signal_name_of(text).as_deref(), Ok("SEGV"));
        }
        assert_eq!(signal_name_of("dump").as_deref(), Ok("dump"));
        assert_eq!(signal_name_of("DUMP").as_deref(), Ok("dump"));
        assert_eq!(signal_name_of("unknown").as_deref(), Ok("unknown"));
        assert!(signal_name_of("foo").is_err() && signal_name_of("").is_err());
    }

    #[test]
    fn sizes_are_one_word() {
        for (bytes, expected) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0K"),
            (15_800, "15.4K"),
            (1024 * 1024 - 1, "1.0M"),
            (3 << 30, "3.0G"),
            (u64::MAX, "16.0E"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(|number| count(number, "core")), ["0 cores", "1 core", "2 cores"]);
        assert_eq!([1, 2].map(|number| count(number, "crash")), ["1 crash", "2 crashes"]);
    }

    #[test]
    fn times() {
        assert_eq!([duration(7), duration(1_234), duration(61_500_000)], ["7 us", "1.2 ms", "61.5 s"]);
    }

    #[test]
    fn root_has_a_name_and_a_containers_user_has_none() {
        assert_eq!(user(Uid::from_raw(0)), "0 (root)");
        assert_eq!(user(Uid::from_raw(4_000_000_000)), "4000000000");
        assert_eq!(group(Gid::from_raw(0)), "0 (root)");
    }
}
