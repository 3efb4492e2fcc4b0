//! Where everything is in a core that the kernel wrote. elf_core_dump in fs/binfmt_elf.c writes, in this order: ELF header,
//! program headers, notes, the memory from the next page on, and a section header if there are 65,535 program headers or more.

use super::ElfError;
use super::class::ElfClass;
use super::crash_notes::{CrashNotes, is_known};
use crate::crash::MapsLine;
use object::elf::{
    ET_CORE, FileHeader32, FileHeader64, PF_R, PF_W, PF_X, PN_XNUM, PT_LOAD, PT_NOTE, ProgramHeader32, ProgramHeader64,
    SectionHeader32, SectionHeader64,
};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadRef};
use std::mem::offset_of;
use std::ops::Range;

/// Bytes at the beginning of a core that contain its ELF header: 64 where it is 64-bit, and 52 where it is 32-bit.
pub const HEADER_LEN: usize = 64;

/// A mapping of the process (PT_LOAD).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadSegment {
    /// The range of the core that holds its memory, p_offset and p_filesz. Empty if the memory was left out.
    pub offset: Range<u64>,
    /// Its address in the process (p_vaddr).
    pub address: u64,
    /// Its length in the process, in bytes (p_memsz).
    pub length: u64,
    /// PF_R, PF_W, PF_X (p_flags).
    pub flags: u32,
}

impl LoadSegment {
    /// A mapping that a line of `/proc/PID/maps` describes (proc_pid_maps(5)): `begin-end perms ...`. None of it is in a core.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let MapsLine { start: address, end, permissions, .. } = MapsLine::parse(line)?;
        let flag = |letter, flag| if permissions.contains(letter) { flag } else { 0 };
        let flags = flag('r', PF_R) | flag('w', PF_W) | flag('x', PF_X);
        Some(Self { offset: 0..0, address, length: end.checked_sub(address)?, flags })
    }

    /// Whether the stack with this pointer may be in the mapping. After an overflow the pointer is below it.
    #[must_use]
    pub fn is_stack_of(&self, pointer: u64) -> bool {
        const GUARD: u64 = 1 << 20;
        let end = self.address.saturating_add(self.length);
        self.flags & PF_W != 0 && pointer < end && self.address.saturating_sub(pointer) <= GUARD
    }
}

/// The layout of a little-endian core, according to its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreLayout {
    /// Whether the process was a 32-bit or a 64-bit one.
    pub class: ElfClass,
    /// The first bytes, with the ELF header.
    pub header: [u8; HEADER_LEN],
    /// The range of the core that holds the notes.
    pub notes_range: Range<u64>,
    /// The mappings, in the order of their memory in the core; the ranges do not overlap.
    pub loads: Vec<LoadSegment>,
    /// Addresses and indices of `loads`, sorted by address: with kernel.core_sort_vma=1 a core is sorted by size.
    by_address: Vec<(u64, u32)>,
    /// Length of the complete core, in bytes.
    pub total_len: u64,
    /// The section header that follows the memory if the number of program headers does not fit into e_phnum; else empty.
    pub trailer: Vec<u8>,
    /// What the notes say about the crash.
    pub notes: CrashNotes,
}

/// Length of a core's headers, all notes included, in bytes. The first `bytes` of the core must contain the ELF header and one
/// program header.
///
/// # Errors
/// Not a little-endian core that begins with its notes.
pub fn headers_len(bytes: &[u8]) -> Result<u64, ElfError> {
    Ok(notes_range(bytes)?.end)
}

/// The range of a core's notes. The first `bytes` of the core must contain the ELF header and one program header.
///
/// # Errors
/// As [`headers_len`].
pub fn notes_range(bytes: &[u8]) -> Result<Range<u64>, ElfError> {
    match class_of(bytes)? {
        ElfClass::Elf32 => Ok(first_segment::<FileHeader32<LittleEndian>>(bytes)?.1),
        ElfClass::Elf64 => Ok(first_segment::<FileHeader64<LittleEndian>>(bytes)?.1),
    }
}

/// Headers as the beginning of longer ones: `first` has the ELF header and one program header, as in [`headers_len`], and `notes` are
/// the first notes. Other program headers are left out, of which there may be more than fit into memory.
///
/// # Errors
/// As [`headers_len`].
pub fn beginning_of_headers(first: &[u8], notes: &[u8]) -> Result<Vec<u8>, ElfError> {
    notes_range(first)?;
    let class = class_of(first)?;
    let (segment_at, notes_at) = (class.header_len(), class.header_len() + class.segment_len());
    let mut headers = first.get(..notes_at).ok_or(ElfError::Headers)?.to_vec();
    put(&mut headers, class.header_fields().phnum, 1_u16.to_le_bytes());
    let [offset, length] = match class {
        ElfClass::Elf32 => {
            [offset_of!(ProgramHeader32<LittleEndian>, p_offset), offset_of!(ProgramHeader32<LittleEndian>, p_filesz)]
        }
        ElfClass::Elf64 => {
            [offset_of!(ProgramHeader64<LittleEndian>, p_offset), offset_of!(ProgramHeader64<LittleEndian>, p_filesz)]
        }
    };
    put_word(&mut headers, class, segment_at + offset, notes_at as u64);
    // One more than there are, so that nobody takes them for all.
    put_word(&mut headers, class, segment_at + length, notes.len() as u64 + 1);
    headers.extend_from_slice(notes);
    Ok(headers)
}

/// The kind of processor (e_machine) of a core with these first bytes, if its registers are not known.
#[must_use]
pub fn unknown_machine(bytes: &[u8]) -> Option<u16> {
    // The field is at the same place in both classes.
    let bytes = bytes.get(offset_of!(FileHeader64<LittleEndian>, e_machine)..)?.first_chunk()?;
    Some(u16::from_le_bytes(*bytes)).filter(|machine| !is_known(*machine))
}

/// The class of a core with these first bytes.
fn class_of(bytes: &[u8]) -> Result<ElfClass, ElfError> {
    ElfClass::of(bytes).ok_or(ElfError::NotElf)
}

/// The ELF header, and the range of the notes.
fn first_segment<Elf: FileHeader<Endian = LittleEndian>>(bytes: &[u8]) -> Result<(&Elf, Range<u64>), ElfError> {
    let endian = LittleEndian;
    let header = bytes.read_at::<Elf>(0).map_err(|()| ElfError::NotElf)?;
    if header.e_type(endian) != ET_CORE {
        return Err(ElfError::NotCore(header.e_type(endian)));
    }
    let table: u64 = header.e_phoff(endian).into();
    let first = bytes.read_at::<Elf::ProgramHeader>(table).map_err(|()| ElfError::Headers)?;
    let (begin, length): (u64, u64) = (first.p_offset(endian).into(), first.p_filesz(endian).into());
    let notes = begin..begin.saturating_add(length);
    let after_table = notes.start >= table && notes.end < u64::MAX;
    if first.p_type(endian) != PT_NOTE || table != size_of::<Elf>() as u64 || !after_table {
        return Err(ElfError::Headers);
    }
    Ok((header, notes))
}

impl CoreLayout {
    /// Reads the layout from the headers of a core, which must be complete ([`headers_len`]).
    ///
    /// # Errors
    /// The headers are incomplete, or not what the kernel would write.
    pub fn read(headers: &[u8]) -> Result<Self, ElfError> {
        if headers_len(headers)? > headers.len() as u64 {
            return Err(ElfError::Headers);
        }
        Self::read_beginning(headers)
    }

    /// Reads the layout from the first bytes of a core, as far as they tell. Notes of the process and of the thread that crashed are
    /// the first ones (elf_core_dump, fs/binfmt_elf.c).
    ///
    /// # Errors
    /// The bytes are not what the kernel would write.
    pub fn read_beginning(headers: &[u8]) -> Result<Self, ElfError> {
        match class_of(headers)? {
            class @ ElfClass::Elf32 => Self::read_as::<FileHeader32<LittleEndian>>(headers, class),
            class @ ElfClass::Elf64 => Self::read_as::<FileHeader64<LittleEndian>>(headers, class),
        }
    }

    fn read_as<Elf: FileHeader<Endian = LittleEndian>>(headers: &[u8], class: ElfClass) -> Result<Self, ElfError> {
        let endian = LittleEndian;
        let (header, notes_range) = first_segment::<Elf>(headers)?;
        let (table_at, segment_len) = (size_of::<Elf>(), size_of::<Elf::ProgramHeader>());
        let mut count = usize::from(header.e_phnum(endian));
        if count == usize::from(PN_XNUM) {
            let table_len = notes_range.start - table_at as u64;
            count = usize::try_from(table_len).map_err(|_| ElfError::Headers)? / segment_len;
        }
        let present = count.min(headers.len().saturating_sub(table_at) / segment_len);
        let table: &[Elf::ProgramHeader] =
            headers.read_slice_at(table_at as u64, present).map_err(|()| ElfError::Headers)?;
        let mut loads = Vec::with_capacity(present);
        let mut memory_end = notes_range.end;
        for segment in table.iter().filter(|segment| segment.p_type(endian) == PT_LOAD) {
            let (begin, file_len): (u64, u64) = (segment.p_offset(endian).into(), segment.p_filesz(endian).into());
            let (address, length): (u64, u64) = (segment.p_vaddr(endian).into(), segment.p_memsz(endian).into());
            let end = begin.checked_add(file_len).ok_or(ElfError::Headers)?;
            let in_order = begin >= memory_end && file_len <= length;
            if !in_order || address.checked_add(length).is_none() || i64::try_from(end).is_err() {
                return Err(ElfError::Headers);
            }
            memory_end = end;
            loads.push(LoadSegment { offset: begin..end, address, length, flags: segment.p_flags(endian) });
        }
        let trailer = if present == count { trailer(header, class, memory_end, count)? } else { Vec::new() };
        let clamp = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let notes_end = clamp(notes_range.end).min(headers.len());
        let notes = headers.get(clamp(notes_range.start)..notes_end).unwrap_or_default();
        let notes = CrashNotes::read(notes, class, header.e_machine(endian));
        let header = *headers.first_chunk().ok_or(ElfError::Headers)?;
        let by_address = sorted(&loads);
        let total_len = memory_end + trailer.len() as u64;
        Ok(Self { class, header, notes_range, loads, by_address, total_len, trailer, notes })
    }

    /// This layout with other mappings, which are in no core.
    #[must_use]
    pub fn with_mappings(self, loads: Vec<LoadSegment>) -> Self {
        let by_address = sorted(&loads);
        Self { loads, by_address, ..self }
    }

    /// Offset of the memory; the bytes between the end of the notes and this are zeros.
    #[must_use]
    pub fn memory_start(&self) -> u64 {
        self.loads.first().map_or(self.total_len, |load| load.offset.start)
    }

    /// The range of the core from the byte at `address` to the end of its segment; `None` if the core does not have it.
    #[must_use]
    pub fn file_range(&self, address: u64) -> Option<Range<u64>> {
        let load = self.segment_at(address)?;
        let begin = load.offset.start + (address - load.address);
        (begin < load.offset.end).then_some(begin..load.offset.end)
    }

    /// The first segment after `address` that is `wanted`.
    pub fn next_segment(&self, address: u64, wanted: impl Fn(&LoadSegment) -> bool) -> Option<&LoadSegment> {
        let next = self.by_address.partition_point(|(start, _)| *start <= address);
        self.segments_from(next).find(|load| wanted(load))
    }

    /// The last segment that begins at or below `address`.
    #[must_use]
    pub fn previous_segment(&self, address: u64) -> Option<&LoadSegment> {
        let next = self.by_address.partition_point(|(start, _)| *start <= address);
        self.segments_from(next.checked_sub(1)?).next()
    }

    /// Whether `address` is in an executable segment.
    #[must_use]
    pub fn is_code(&self, address: u64) -> bool {
        self.segment_at(address).is_some_and(|load| load.flags & PF_X != 0)
    }

    /// Whether an executable segment begins in this range of addresses.
    #[must_use]
    pub fn has_code(&self, range: Range<u64>) -> bool {
        let first = self.by_address.partition_point(|(start, _)| *start < range.start);
        self.segments_from(first).take_while(|load| load.address < range.end).any(|load| load.flags & PF_X != 0)
    }

    /// The segment that `address` is in.
    #[must_use]
    pub fn segment_at(&self, address: u64) -> Option<&LoadSegment> {
        self.previous_segment(address).filter(|load| address < load.address + load.length)
    }

    /// The segments by address, from the `first`-th on.
    fn segments_from(&self, first: usize) -> impl Iterator<Item = &LoadSegment> {
        let sorted = self.by_address.get(first..).unwrap_or_default();
        sorted.iter().filter_map(|(_, index)| self.loads.get(*index as usize))
    }
}

/// Addresses and indices of segments, sorted by address.
fn sorted(loads: &[LoadSegment]) -> Vec<(u64, u32)> {
    let mut by_address: Vec<(u64, u32)> = loads.iter().zip(0..).map(|(load, index)| (load.address, index)).collect();
    by_address.sort_by_key(|(address, _)| *address);
    by_address
}

/// The section header after the memory, if the number of program headers needs one; the memory ends at offset `memory_end`.
fn trailer<Elf: FileHeader<Endian = LittleEndian>>(
    header: &Elf,
    class: ElfClass,
    memory_end: u64,
    count: usize,
) -> Result<Vec<u8>, ElfError> {
    if header.e_phnum(LittleEndian) != PN_XNUM {
        return Ok(Vec::new());
    }
    if header.e_shoff(LittleEndian).into() != memory_end {
        return Err(ElfError::Headers);
    }
    Ok(counting_section(class, count))
}

/// A section header that holds the number of program headers: its type is SHT_NULL, sh_size 1 and sh_info the number (elf(5);
/// fill_extnum_info in fs/binfmt_elf.c).
pub(super) fn counting_section(class: ElfClass, count: usize) -> Vec<u8> {
    let [size, info] = match class {
        ElfClass::Elf32 => {
            [offset_of!(SectionHeader32<LittleEndian>, sh_size), offset_of!(SectionHeader32<LittleEndian>, sh_info)]
        }
        ElfClass::Elf64 => {
            [offset_of!(SectionHeader64<LittleEndian>, sh_size), offset_of!(SectionHeader64<LittleEndian>, sh_info)]
        }
    };
    let mut section = vec![0; class.section_len()];
    put_word(&mut section, class, size, 1);
    put(&mut section, info, u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    section
}

/// Writes an address or offset, which fits into a word of this class, at byte `offset` of a header.
pub(super) fn put_word(header: &mut [u8], class: ElfClass, offset: usize, value: u64) {
    let bytes = value.to_le_bytes();
    match (class, bytes) {
        (ElfClass::Elf32, [b0, b1, b2, b3, ..]) => put(header, offset, [b0, b1, b2, b3]),
        (ElfClass::Elf64, bytes) => put(header, offset, bytes),
    }
}

/// Writes `value` at byte `offset` of a header, which must have room for it.
pub(super) fn put<const N: usize>(header: &mut [u8], offset: usize, value: [u8; N]) {
    if let Some(field) = header.get_mut(offset..).and_then(|rest| rest.first_chunk_mut()) {
        *field = value;
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test may panic")]
pub(crate) mod tests {
    use super::*;
    use object::elf::{EM_386, EM_ARM, EM_X86_64};
    use proptest::prelude::*;

    /// The headers of a 64-bit core with these mappings: address, bytes in the core, bytes in memory.
    pub(crate) fn headers(loads: &[(u64, u64, u64)], notes: &[u8]) -> Vec<u8> {
        headers_of(ElfClass::Elf64, loads, notes)
    }

    /// The headers of a core of this class, of an x86 processor.
    pub(crate) fn headers_of(class: ElfClass, loads: &[(u64, u64, u64)], notes: &[u8]) -> Vec<u8> {
        let (table_at, segment_len) = (class.header_len(), class.segment_len());
        let mut bytes = vec![0_u8; table_at];
        let (number, machine) = match class {
            ElfClass::Elf32 => (1, EM_386),
            ElfClass::Elf64 => (2, EM_X86_64),
        };
        bytes[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', number, 1, 1, 0]);
        put(&mut bytes, 16, ET_CORE.to_le_bytes());
        put(&mut bytes, 18, machine.to_le_bytes());
        put_word(&mut bytes, class, class.header_fields().phoff, table_at as u64);
        let phnum = class.header_fields().phnum;
        // e_phentsize and e_phnum.
        put(&mut bytes, phnum - 2, (segment_len as u16).to_le_bytes());
        put(&mut bytes, phnum, (loads.len() as u16 + 1).to_le_bytes());
        let word = |value: u64| value.to_le_bytes()[..class.word_len()].to_vec();
        let mut segment = |kind: u32, offset: u64, address: u64, in_file: u64, in_memory: u64| {
            let (flags, kind) = (6_u32.to_le_bytes(), kind.to_le_bytes());
            let fields = [offset, address, 0, in_file, in_memory].map(word).concat();
            bytes.extend(match class {
                ElfClass::Elf32 => [&kind[..], &fields, &flags, &word(4096)].concat(),
                ElfClass::Elf64 => [&kind[..], &flags, &fields, &word(4096)].concat(),
            });
        };
        let notes_at = (table_at + segment_len * (loads.len() + 1)) as u64;
        segment(PT_NOTE, notes_at, 0, notes.len() as u64, 0);
        let mut at = (notes_at + notes.len() as u64).next_multiple_of(4096);
        for (address, in_file, in_memory) in loads {
            segment(PT_LOAD, at, *address, *in_file, *in_memory);
            at += in_file;
        }
        bytes.extend_from_slice(notes);
        bytes
    }

    pub(crate) const CLASSES: [ElfClass; 2] = [ElfClass::Elf32, ElfClass::Elf64];

    #[test]
    fn offsets_and_addresses_are_related() {
        for class in CLASSES {
            let bytes = headers_of(class, &[(0x1000, 4096, 4096), (0x8000, 0, 8192), (0x20000, 8192, 12288)], b"");
            assert_eq!(headers_len(&bytes), Ok(bytes.len() as u64));
            let layout = CoreLayout::read(&bytes).unwrap();
            assert_eq!(layout.class, class);
            assert_eq!((layout.memory_start(), layout.total_len), (4096, 4096 + 4096 + 8192));
            assert_eq!(layout.file_range(0x1010), Some(4096 + 0x10..8192));
            assert_eq!(layout.file_range(0x8000), None, "left out of the core");
            assert_eq!(layout.file_range(0x22fff), None, "beyond p_filesz");
            assert_eq!(layout.file_range(0x3000), None);
        }
    }

    #[test]
    fn the_machines_without_a_stack_are_told() {
        for class in CLASSES {
            let mut bytes = headers_of(class, &[], b"");
            assert_eq!(unknown_machine(&bytes), None);
            put(&mut bytes, 18, EM_ARM.to_le_bytes());
            assert_eq!(unknown_machine(&bytes), Some(40));
            assert!(CoreLayout::read(&bytes).is_ok(), "its memory is copied all the same");
        }
        assert_eq!(unknown_machine(b"\x7fELF"), None);
    }

    #[test]
    fn a_section_header_counts_program_headers_that_the_elf_header_cannot() {
        for class in CLASSES {
            let mut bytes = headers_of(class, &[(0x1000, 4096, 4096), (0x8000, 4096, 4096)], b"");
            put(&mut bytes, class.header_fields().phnum, PN_XNUM.to_le_bytes());
            assert_eq!(CoreLayout::read(&bytes), Err(ElfError::Headers), "without a place for the section header");
            put_word(&mut bytes, class, class.header_fields().shoff, 3 * 4096);
            let layout = CoreLayout::read(&bytes).unwrap();
            assert_eq!((layout.loads.len(), layout.trailer.len()), (2, class.section_len()));
        }
    }

    #[test]
    fn a_beginning_has_the_notes_that_it_was_made_of_and_is_not_complete() {
        for (class, notes_at, machine) in [(ElfClass::Elf32, 84, 3), (ElfClass::Elf64, 120, 62)] {
            let whole = headers_of(class, &[(0x1000, 4096, 4096), (0x8000, 4096, 4096)], &[7; 64]);
            let range = notes_range(&whole).unwrap();
            let first = &whole[range.start as usize..][..40];
            let beginning = beginning_of_headers(&whole[..200], first).unwrap();
            assert_eq!(notes_range(&beginning), Ok(notes_at..notes_at + 41));
            assert_eq!(CoreLayout::read(&beginning), Err(ElfError::Headers));
            let layout = CoreLayout::read_beginning(&beginning).unwrap();
            assert_eq!((layout.header[18..20].to_vec(), layout.loads.len()), (vec![machine, 0], 0));
        }
        let layout = CoreLayout::read(&headers(&[], b"")).unwrap();
        let maps = [
            "1000-3000 rw-p 00000000 00:00 0 ",
            "7f00-9000 r-xp 00002000 fe:00 7          /lib/a b\\012c",
            "9000-a000",
        ];
        let layout = layout.with_mappings(maps.iter().filter_map(|line| LoadSegment::parse(line)).collect());
        assert!(layout.is_code(0x8000) && !layout.is_code(0x1000) && layout.segment_at(0x2fff).is_some());
        assert!(layout.loads[0].is_stack_of(0xf00) && !layout.loads[0].is_stack_of(0x3000));
        let file = crate::elf::MappedFile::parse(maps[1]).unwrap();
        assert_eq!((file.start, file.end, file.offset, &*file.path), (0x7f00, 0x9000, 0x2000, "/lib/a b\\012c"));
        assert_eq!(crate::elf::MappedFile::parse(maps[0]), None);
    }

    #[test]
    fn headers_that_the_kernel_would_not_write_are_refused() {
        let mut overlapping = headers(&[(0x1000, 4096, 4096), (0x8000, 4096, 4096)], b"");
        let second = 64 + 2 * 56 + 8;
        overlapping[second..second + 8].copy_from_slice(&4096_u64.to_le_bytes());
        assert_eq!(CoreLayout::read(&overlapping), Err(ElfError::Headers));
        assert_eq!(CoreLayout::read(&headers(&[(0x1000, 8192, 4096)], b"")), Err(ElfError::Headers));
        assert_eq!(CoreLayout::read(&headers(&[(u64::MAX - 100, 4096, 4096)], b"")), Err(ElfError::Headers));
        assert_eq!(CoreLayout::read(&headers(&[], b"")[..100]), Err(ElfError::Headers));
    }

    proptest! {
        #[test]
        fn arbitrary_headers_do_not_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0..600_usize, cut in 0..700_usize,
            class in prop::sample::select(CLASSES.to_vec()),
        ) {
            let _ = CoreLayout::read(&bytes);
            let mut mutant = headers_of(class, &[(0x1000, 4096, 4096), (0x8000, 4096, 8192)], &[1; 64]);
            bytes.truncate(16);
            for (index, byte) in bytes.iter().enumerate() {
                if let Some(place) = mutant.get_mut(at + index) {
                    *place = *byte;
                }
            }
            mutant.truncate(cut);
            let _ = headers_len(&mutant);
            if let Ok(layout) = CoreLayout::read(&mutant) {
                prop_assert!(layout.loads.is_sorted_by_key(|load| load.offset.start));
                let _ = layout.file_range(0x1000);
            }
        }
    }
}
