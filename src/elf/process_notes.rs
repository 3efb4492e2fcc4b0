//! The notes of a core that identify its process, for crashes whose core_pattern arguments could not be read.

use super::CoreSummary;
use super::notes::{notes, u32_at};
use nix::unistd::{Gid, Uid};

/// Facts from NT_PRSTATUS and NT_PRPSINFO (struct elf_prstatus and elf_prpsinfo, include/linux/elfcore.h).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessNotes {
    /// `pr_cursig` of the first thread, which is the one that crashed.
    pub signal: Option<u32>,
    /// `pr_uid`.
    pub uid: Option<Uid>,
    /// `pr_gid`.
    pub gid: Option<Gid>,
    /// `pr_fname`.
    pub comm: Option<Vec<u8>>,
}

const NT_PRSTATUS: u32 = 1;
const NT_PRPSINFO: u32 = 3;

/// Reads the notes among the first `bytes` of a core. Those of other than 64-bit little-endian cores yield nothing.
pub fn process_notes(bytes: &[u8], summary: &CoreSummary) -> ProcessNotes {
    let mut facts = ProcessNotes::default();
    let Some((offset, length)) = summary.notes.filter(|_| summary.is_64bit) else { return facts };
    let clamp = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let table = bytes.get(clamp(offset)..clamp(offset.saturating_add(length))).unwrap_or_default();
    for (kind, name, description) in notes(table) {
        match kind {
            _ if name != b"CORE" => {}
            // struct elf_siginfo has 12 bytes; the short pr_cursig follows.
            NT_PRSTATUS if facts.signal.is_none() => facts.signal = u32_at(description, 12).map(|both| both & 0xffff),
            // Four chars, a long and its padding, pr_uid, pr_gid, four PIDs, then pr_fname.
            NT_PRPSINFO => {
                facts.uid = u32_at(description, 16).map(Uid::from_raw);
                facts.gid = u32_at(description, 20).map(Gid::from_raw);
                let comm = description.get(40..56).and_then(|name| name.split(|byte| *byte == 0).next());
                facts.comm = comm.map(<[u8]>::to_vec);
            }
            _ => {}
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..512), offset in 0..600_u64, length: u64,
        ) {
            let summary = CoreSummary { expected_len: None, last_segment: 0, notes: Some((offset, length)), is_64bit: true };
            let _ = process_notes(&bytes, &summary);
        }
    }
}
