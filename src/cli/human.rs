//! Sizes, durations, users and groups in the form that people read and write.

use crate::crash::text::printable;
use nix::unistd::{Gid, Group, Uid, User};

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

/// `12.3 ms`, `4.5 s`.
pub(super) fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
