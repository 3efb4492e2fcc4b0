//! The head of a core: what it is, and how long it will be.

use object::elf::{ET_CORE, FileHeader32, FileHeader64, PN_XNUM, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadRef};
use thiserror::Error;

/// No core has more bytes of headers: the kernel allows a process fewer than 2^31 mappings, but vm.max_map_count
/// is 65,530 by default and a million on the largest hosts.
pub const MAX_HEADERS: usize = 64 << 20;

/// Why bytes are not the head of a core.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ElfError {
    /// Nothing there.
    #[error("the stream is empty")]
    Empty,
    /// Too short, or another magic.
    #[error("the stream does not begin with an ELF header")]
    NotElf,
    /// An ELF file of another type.
    #[error("an ELF file of type {0}, not a core")]
    NotCore(u16),
    /// Headers that contradict themselves.
    #[error("the program headers are not where the ELF header says")]
    Headers,
}

/// What the first bytes of a core say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreHead {
    /// Length that the program headers announce; `None` where not all of them are in the bytes given.
    pub expected: Option<u64>,
    /// Offset and length of the notes (the first segment, as binfmt_elf.c writes it).
    pub notes: Option<(u64, u64)>,
    /// Words of eight bytes.
    pub is_64bit: bool,
}

/// Reads the head of a core from its first bytes.
///
/// # Errors
/// Bytes that are no core. A head that is cut short is not an error: what is missing is `None`.
pub fn inspect(bytes: &[u8]) -> Result<CoreHead, ElfError> {
    if bytes.is_empty() {
        return Err(ElfError::Empty);
    }
    if let Ok(header) = FileHeader64::<Endianness>::parse(bytes) {
        head(header, bytes, true)
    } else if let Ok(header) = FileHeader32::<Endianness>::parse(bytes) {
        head(header, bytes, false)
    } else {
        Err(ElfError::NotElf)
    }
}

fn head<Elf: FileHeader<Endian = Endianness>>(
    header: &Elf,
    bytes: &[u8],
    is_64bit: bool,
) -> Result<CoreHead, ElfError> {
    let endian = header.endian().map_err(|_| ElfError::NotElf)?;
    let kind = header.e_type(endian);
    if kind != ET_CORE {
        return Err(ElfError::NotCore(kind));
    }
    let mut head = CoreHead { expected: None, notes: None, is_64bit };
    let table: u64 = header.e_phoff(endian).into();
    let Ok(first) = bytes.read_at::<Elf::ProgramHeader>(table) else { return Ok(head) };
    let notes_at: u64 = first.p_offset(endian).into();
    let is_notes = first.p_type(endian) == PT_NOTE;
    if is_notes {
        head.notes = Some((notes_at, first.p_filesz(endian).into()));
    }
    let mut count = usize::from(header.e_phnum(endian));
    if count == usize::from(PN_XNUM) {
        // With 65,535 mappings and more the true number stands in a section header behind all the memory, where a
        // stream can't look. But the kernel writes the notes directly behind the table, so its end is known.
        let length = notes_at.checked_sub(table).filter(|_| is_notes).ok_or(ElfError::Headers)?;
        count = usize::try_from(length).map_err(|_| ElfError::Headers)? / size_of::<Elf::ProgramHeader>();
    }
    if count * size_of::<Elf::ProgramHeader>() > MAX_HEADERS {
        return Err(ElfError::Headers);
    }
    if let Ok(segments) = bytes.read_slice_at::<Elf::ProgramHeader>(table, count) {
        let ends = segments.iter().map(|segment| {
            let (offset, length): (u64, u64) = (segment.p_offset(endian).into(), segment.p_filesz(endian).into());
            offset.saturating_add(length)
        });
        head.expected = ends.max();
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_core_is_named() {
        assert_eq!(inspect(b""), Err(ElfError::Empty));
        assert_eq!(inspect(b"\x7fELF"), Err(ElfError::NotElf));
        assert_eq!(inspect(&[0x41; 4096]), Err(ElfError::NotElf));
        let program = std::fs::read("/proc/self/exe").unwrap();
        assert!(matches!(inspect(&program), Err(ElfError::NotCore(2 | 3))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..4096), cut in 0..4096_usize) {
            let _ = inspect(&bytes);
            // And with a true beginning in front, so that the deeper code is reached.
            let ident = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0];
            for (byte, true_byte) in bytes.iter_mut().zip(ident) {
                *byte = true_byte;
            }
            bytes.truncate(cut);
            let _ = inspect(&bytes);
        }
    }
}
