//! The notes of a core that identify its process, for crashes whose core_pattern arguments could not be read.

use super::CoreSummary;
use super::class::ElfClass;
use super::note_types::{NT_PRPSINFO, NT_PRSTATUS};
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

/// Where struct elf_prpsinfo has pr_uid, pr_gid and pr_fname.
struct PrpsinfoFields {
    ids: [usize; 2],
    /// Ids have 16 bits.
    is_short: bool,
    fname: usize,
}

impl PrpsinfoFields {
    /// Four chars, a long, pr_uid, pr_gid, four PIDs, pr_fname, and 80 bytes of arguments. A structure of 124 bytes has ids of 16 bits, as
    /// i386 and ARM.
    fn of(class: ElfClass, length: usize) -> Self {
        match class {
            ElfClass::Elf64 => Self { ids: [16, 20], is_short: false, fname: 40 },
            ElfClass::Elf32 if length == 124 => Self { ids: [8, 10], is_short: true, fname: 28 },
            ElfClass::Elf32 => Self { ids: [8, 12], is_short: false, fname: 32 },
        }
    }

    /// One of the ids. The kernel writes 65534 for those that do not fit into 16 bits (fs.overflowuid).
    fn id(&self, description: &[u8], index: usize) -> Option<u32> {
        const OVERFLOW: u32 = 65534;
        let id = u32_at(description, *self.ids.get(index)?)?;
        if self.is_short { Some(id & 0xffff).filter(|id| *id != OVERFLOW) } else { Some(id) }
    }
}

/// Reads the notes among the first `bytes` of a core. Those of other than little-endian cores yield nothing.
pub fn process_notes(bytes: &[u8], summary: &CoreSummary) -> ProcessNotes {
    let mut facts = ProcessNotes::default();
    let (Some((offset, length)), Some(class)) = (summary.notes, ElfClass::of(bytes)) else { return facts };
    let clamp = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let table = bytes.get(clamp(offset)..clamp(offset.saturating_add(length))).unwrap_or_default();
    for (kind, name, description) in notes(table) {
        match kind {
            _ if name != b"CORE" => {}
            // struct elf_siginfo has 12 bytes; the short pr_cursig follows.
            NT_PRSTATUS if facts.signal.is_none() => facts.signal = u32_at(description, 12).map(|both| both & 0xffff),
            NT_PRPSINFO => {
                let fields = PrpsinfoFields::of(class, description.len());
                facts.uid = fields.id(description, 0).map(Uid::from_raw);
                facts.gid = fields.id(description, 1).map(Gid::from_raw);
                let comm = description.get(fields.fname..fields.fname + 16);
                facts.comm = comm.and_then(|name| name.split(|byte| *byte == 0).next()).map(<[u8]>::to_vec);
            }
            _ => {}
        }
    }
    facts
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The core of a process of this class with one note, of type NT_PRPSINFO.
    fn core(class: u8, description: &[u8]) -> Vec<u8> {
        let mut bytes = [0x7f, b'E', b'L', b'F', class, 1, 1, 0].to_vec();
        bytes.extend([5, u32::try_from(description.len()).unwrap(), NT_PRPSINFO].map(u32::to_le_bytes).concat());
        bytes.extend_from_slice(b"CORE\0\0\0\0");
        bytes.extend_from_slice(description);
        bytes
    }

    #[test]
    fn the_owner_and_the_name_are_found_in_every_form_of_the_note() {
        for (class, length, ids, is_short, fname) in
            [(2, 136, 16, false, 40), (1, 124, 8, true, 28), (1, 128, 8, false, 32)]
        {
            let mut description = vec![0; length];
            let (uid, gid) = (1000_u32.to_le_bytes(), 1001_u32.to_le_bytes());
            let both = if is_short { [&uid[..2], &gid[..2]].concat() } else { [uid, gid].concat() };
            description[ids..ids + both.len()].copy_from_slice(&both);
            description[fname..fname + 5].copy_from_slice(b"worke");
            let bytes = core(class, &description);
            let notes = Some((8, bytes.len() as u64 - 8));
            let found = process_notes(&bytes, &CoreSummary { expected_len: None, last_segment: 0, notes });
            let expected = (Some(Uid::from_raw(1000)), Some(Gid::from_raw(1001)), Some(b"worke".to_vec()));
            assert_eq!((found.uid, found.gid, found.comm), expected, "{class} {length}");
        }
        let mut description = vec![0; 124];
        description[8..12].copy_from_slice(&[0xfe, 0xff, 0xfe, 0xff]);
        let found = process_notes(
            &core(1, &description),
            &CoreSummary { expected_len: None, last_segment: 0, notes: Some((8, 200)) },
        );
        assert_eq!((found.uid, found.gid), (None, None), "an id that did not fit");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 8..512), class in 1..3_u8, offset in 0..600_u64, length: u64,
        ) {
            bytes[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1, 1, 0]);
            let summary = CoreSummary { expected_len: None, last_segment: 0, notes: Some((offset, length)) };
            let _ = process_notes(&bytes, &summary);
        }
    }
}
