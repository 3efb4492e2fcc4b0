//! The auxiliary vector (getauxval(3)), as read from `/proc/PID/auxv`.

use nix::unistd::{Gid, Uid};

/// The entries that Coreward uses. `None`: the entry is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Auxv {
    /// AT_PHDR: address of the executable's program headers.
    pub phdr: Option<u64>,
    /// AT_PHNUM: number of program headers.
    pub phnum: Option<u64>,
    /// AT_SECURE is set: the program was started with more privilege than its caller.
    pub secure: Option<bool>,
    /// AT_UID and AT_EUID: the real and the effective uid when the program was started.
    pub uids: Option<[Uid; 2]>,
    /// AT_GID and AT_EGID.
    pub gids: Option<[Gid; 2]>,
    /// The words of the vector are eight bytes long.
    pub is_64bit: bool,
}

const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const AT_UID: u64 = 11;
const AT_EUID: u64 = 12;
const AT_GID: u64 = 13;
const AT_EGID: u64 = 14;
const AT_SECURE: u64 = 23;

/// Parses a vector of either word size. It is taken for a 64-bit one if its second 32-bit word, the upper half of a first
/// 64-bit word, is zero.
#[must_use]
pub fn parse(bytes: &[u8]) -> Auxv {
    let is_64bit = bytes.len() >= 8 && bytes.len().is_multiple_of(16) && bytes[4..8] == [0; 4];
    let word = if is_64bit { 8 } else { 4 };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let entries: Vec<(u64, u64)> =
        bytes.chunks_exact(2 * word).map(|pair| (number(&pair[..word]), number(&pair[word..]))).collect();
    let find = |kind: u64| entries.iter().find(|(key, _)| *key == kind).map(|(_, value)| *value);
    let pair = |left, right| Some([find(left)?.try_into().ok()?, find(right)?.try_into().ok()?]);
    Auxv {
        phdr: find(AT_PHDR),
        phnum: find(AT_PHNUM),
        secure: find(AT_SECURE).map(|value| value != 0),
        uids: pair(AT_UID, AT_EUID).map(|ids| ids.map(Uid::from_raw)),
        gids: pair(AT_GID, AT_EGID).map(|ids| ids.map(Gid::from_raw)),
        is_64bit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(entries: &[(u64, u64)], word: usize) -> Vec<u8> {
        let words = entries.iter().chain(&[(0, 0)]).flat_map(|(key, value)| [*key, *value]);
        words.flat_map(|value| value.to_le_bytes()[..word].to_vec()).collect()
    }

    #[test]
    fn both_word_sizes_are_read() {
        let entries = [
            (33, 0x7ff0),
            (AT_PHDR, 0x4040),
            (AT_PHNUM, 9),
            (AT_UID, 5),
            (AT_EUID, 5),
            (AT_GID, 6),
            (AT_EGID, 6),
            (AT_SECURE, 0),
        ];
        for word in [4, 8] {
            let auxv = parse(&vector(&entries, word));
            assert_eq!((auxv.phdr, auxv.phnum, auxv.is_64bit), (Some(0x4040), Some(9), word == 8));
            assert_eq!((auxv.secure, auxv.uids), (Some(false), Some([Uid::from_raw(5); 2])));
            assert_eq!(auxv.gids, Some([Gid::from_raw(6); 2]));
        }
    }

    #[test]
    fn a_set_uid_program_shows() {
        let auxv =
            parse(&vector(&[(33, 1), (AT_UID, 1000), (AT_EUID, 0), (AT_GID, 1), (AT_EGID, 1), (AT_SECURE, 1)], 8));
        assert_eq!((auxv.secure, auxv.uids), (Some(true), Some([1000, 0].map(Uid::from_raw))));
    }

    #[test]
    fn what_is_missing_stays_unknown() {
        assert_eq!(parse(&[]), Auxv::default());
        assert_eq!(parse(&[1, 2, 3]).secure, None);
        assert_eq!(parse(&vector(&[(33, 1), (AT_UID, 1000), (AT_GID, 1 << 32), (AT_EGID, 1)], 8)).uids, None);
    }
}
