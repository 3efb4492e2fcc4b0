//! The notes of a core that name the process: what is left to go by when the kernel's arguments were unreadable.

use super::CoreHead;

/// Facts from NT_PRSTATUS and NT_PRPSINFO (struct elf_prstatus and elf_prpsinfo, include/linux/elfcore.h).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessNotes {
    /// `pr_cursig` of the first thread, the one that crashed.
    pub signal: Option<u32>,
    /// `pr_uid`.
    pub uid: Option<u32>,
    /// `pr_gid`.
    pub gid: Option<u32>,
    /// `pr_fname`.
    pub comm: Option<Vec<u8>>,
}

const NT_PRSTATUS: u32 = 1;
const NT_PRPSINFO: u32 = 3;

/// Reads them from the first `bytes` of a 64-bit little-endian core; other layouts yield nothing.
pub fn process_notes(bytes: &[u8], head: &CoreHead) -> ProcessNotes {
    let mut facts = ProcessNotes::default();
    let Some((offset, length)) = head.notes.filter(|_| head.is_64bit) else { return facts };
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let to = usize::try_from(offset.saturating_add(length)).unwrap_or(usize::MAX).min(bytes.len());
    let number = |data: &[u8], at: usize| Some(u32::from_le_bytes(*data.get(at..)?.first_chunk()?));
    for (kind, name, data) in notes(&bytes[from..to]) {
        match kind {
            _ if name != b"CORE" => {}
            // struct elf_siginfo has 12 bytes, then short pr_cursig.
            NT_PRSTATUS if facts.signal.is_none() => facts.signal = number(data, 12).map(|both| both & 0xffff),
            // Four chars, a padded long, pr_uid, pr_gid, four pids, then pr_fname.
            NT_PRPSINFO => {
                facts.uid = number(data, 16);
                facts.gid = number(data, 20);
                facts.comm =
                    data.get(40..56).map(|name| name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec());
            }
            _ => {}
        }
    }
    facts
}

/// The notes in `bytes` as (type, name without NUL, description), up to the first that is cut (elf(5)).
pub(super) fn notes(bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, after) = rest.split_first_chunk::<12>()?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (name_length, data_length) = (word(0) as usize, word(4) as usize);
        let name = after.get(..name_length)?;
        let after = after.get(name_length.checked_next_multiple_of(4)?..)?;
        let data = after.get(..data_length)?;
        rest = after.get(data_length.checked_next_multiple_of(4)?..).unwrap_or_default();
        Some((word(8), name.strip_suffix(b"\0").unwrap_or(name), data))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_for_ever(bytes in prop::collection::vec(any::<u8>(), 0..512), at in 0..600_u64, length: u64) {
            let head = CoreHead { expected: None, notes: Some((at, length)), is_64bit: true };
            let _ = process_notes(&bytes, &head);
            prop_assert!(notes(&bytes).count() <= bytes.len() / 12);
        }
    }
}
