//! Where everything lies in a core of the kernel's: the order of fs/binfmt_elf.c (elf_core_dump) is header, program
//! headers, notes, memory from the next page on, and where 65,535 mappings or more must be counted, a section header.

use super::ElfError;
use super::dump::Dump;
use object::elf::{ET_CORE, FileHeader64, PF_X, PN_XNUM, PT_LOAD, PT_NOTE, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadRef};
use std::ops::Range;

/// Length of the ELF header of a 64-bit core.
pub const HEADER_LEN: usize = 64;
/// Length of a program header of a 64-bit core.
pub(super) const SEGMENT_LEN: usize = size_of::<ProgramHeader64<LittleEndian>>();

/// One mapping, as its PT_LOAD announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Where its memory lies in the core; `offset.end - offset.start` is p_filesz.
    pub offset: Range<u64>,
    /// Where it begins in the process.
    pub address: u64,
    /// How long it is in the process (p_memsz).
    pub length: u64,
    /// Read, write, execute (p_flags).
    pub flags: u32,
}

/// A core of 64 bits, little-endian, as its head announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreLayout {
    /// The ELF header.
    pub header: [u8; HEADER_LEN],
    /// Where the notes lie in the core.
    pub notes: Range<u64>,
    /// The mappings, by their place in the core; none overlaps another.
    pub loads: Vec<Load>,
    /// The mappings by address, as indices of `loads` (kernel.core_sort_vma=1 orders a core by size).
    by_address: Vec<u32>,
    /// Bytes of the whole core.
    pub total: u64,
    /// The section header behind the memory that counts the program headers, where their number does not fit into e_phnum.
    pub tail: Vec<u8>,
    /// What the notes tell of the crash.
    pub dump: Dump,
}

/// How many bytes from the beginning of a core hold its headers and all its notes.
///
/// # Errors
/// Not a 64-bit little-endian core with its notes in front; `Headers` also where fewer bytes are given than the ELF
/// header and one program header have.
pub fn head_length(bytes: &[u8]) -> Result<u64, ElfError> {
    Ok(first_segment(bytes)?.1.end)
}

/// The ELF header and where the notes are.
fn first_segment(bytes: &[u8]) -> Result<(&FileHeader64<LittleEndian>, Range<u64>), ElfError> {
    let endian = LittleEndian;
    let header = bytes.read_at::<FileHeader64<LittleEndian>>(0).map_err(|()| ElfError::NotElf)?;
    if !header.is_supported() || !header.is_class_64() || header.e_ident.data != 1 {
        return Err(ElfError::NotElf);
    }
    if header.e_type(endian) != ET_CORE {
        return Err(ElfError::NotCore(header.e_type(endian)));
    }
    let first =
        bytes.read_at::<ProgramHeader64<LittleEndian>>(header.e_phoff(endian)).map_err(|()| ElfError::Headers)?;
    let notes = first.p_offset(endian)..first.p_offset(endian).saturating_add(first.p_filesz(endian));
    let behind_table = notes.start >= header.e_phoff(endian) && notes.end < u64::MAX;
    if first.p_type(endian) != PT_NOTE || header.e_phoff(endian) != HEADER_LEN as u64 || !behind_table {
        return Err(ElfError::Headers);
    }
    Ok((header, notes))
}

impl CoreLayout {
    /// Reads the layout from the head of a core, which must be whole ([`head_length`]).
    ///
    /// # Errors
    /// Anything that the kernel would not write.
    pub fn read(head: &[u8]) -> Result<Self, ElfError> {
        let endian = LittleEndian;
        let (header, notes) = first_segment(head)?;
        let mut count = usize::from(header.e_phnum(endian));
        if count == usize::from(PN_XNUM) {
            count = usize::try_from(notes.start - HEADER_LEN as u64).map_err(|_| ElfError::Headers)? / SEGMENT_LEN;
        }
        let table: &[ProgramHeader64<LittleEndian>] =
            head.read_slice_at(HEADER_LEN as u64, count).map_err(|()| ElfError::Headers)?;
        let mut loads = Vec::with_capacity(count);
        let mut at = notes.end;
        for segment in table.iter().filter(|segment| segment.p_type(endian) == PT_LOAD) {
            let (begin, length) = (segment.p_offset(endian), segment.p_filesz(endian));
            let (address, in_memory) = (segment.p_vaddr(endian), segment.p_memsz(endian));
            let end = begin.checked_add(length).ok_or(ElfError::Headers)?;
            if begin < at || length > in_memory || address.checked_add(in_memory).is_none() || end > i64::MAX as u64 {
                return Err(ElfError::Headers);
            }
            at = end;
            loads.push(Load { offset: begin..end, address, length: in_memory, flags: segment.p_flags(endian) });
        }
        let tail = tail(header, at, count)?;
        let range =
            usize::try_from(notes.start).unwrap_or(usize::MAX)..usize::try_from(notes.end).unwrap_or(usize::MAX);
        let machine = header.e_machine(endian);
        let dump = Dump::read(head.get(range).ok_or(ElfError::Headers)?, machine);
        let header = *head.first_chunk().ok_or(ElfError::Headers)?;
        let mut by_address: Vec<u32> = (0..loads.len() as u32).collect();
        by_address.sort_by_key(|index| loads[*index as usize].address);
        Ok(Self { header, notes, loads, by_address, total: at + tail.len() as u64, tail, dump })
    }

    /// Where the memory begins; between the end of the notes and this there are zeros.
    pub fn data_at(&self) -> u64 {
        self.loads.first().map_or(self.total, |load| load.offset.start)
    }

    /// Where the byte at `address` lies in the core, and how many behind it are of the same mapping and in the core.
    pub fn find(&self, address: u64) -> Option<Range<u64>> {
        let load = self.mapping(address)?;
        let begin = load.offset.start + (address - load.address);
        (begin < load.offset.end).then_some(begin..load.offset.end)
    }

    /// The first mapping behind `address` that is `wanted`.
    pub fn next_mapping(&self, address: u64, wanted: impl Fn(&Load) -> bool) -> Option<&Load> {
        let next = self.by_address.partition_point(|index| self.loads[*index as usize].address <= address);
        self.by_address[next..].iter().map(|index| &self.loads[*index as usize]).find(|load| wanted(load))
    }

    /// Whether instructions may lie at `address`.
    pub fn is_code(&self, address: u64) -> bool {
        self.mapping(address).is_some_and(|load| load.flags & PF_X != 0)
    }

    /// Whether instructions may lie anywhere in a range of addresses.
    pub fn has_code(&self, range: Range<u64>) -> bool {
        let first = self.by_address.partition_point(|index| self.loads[*index as usize].address < range.start);
        let loads = self.by_address[first..].iter().map(|index| &self.loads[*index as usize]);
        loads.take_while(|load| load.address < range.end).any(|load| load.flags & PF_X != 0)
    }

    /// The mapping that `address` is in.
    pub fn mapping(&self, address: u64) -> Option<&Load> {
        let next = self.by_address.partition_point(|index| self.loads[*index as usize].address <= address);
        let load = &self.loads[*self.by_address.get(next.checked_sub(1)?)? as usize];
        (address < load.address + load.length).then_some(load)
    }
}

/// The section header that counts (fill_extnum_info in fs/binfmt_elf.c).
fn tail(header: &FileHeader64<LittleEndian>, at: u64, count: usize) -> Result<Vec<u8>, ElfError> {
    if header.e_phnum(LittleEndian) != PN_XNUM {
        return Ok(Vec::new());
    }
    if header.e_shoff(LittleEndian) != at {
        return Err(ElfError::Headers);
    }
    Ok(counting_section(count))
}

/// A section header of type NULL whose sh_size is 1 and whose sh_info is the number of program headers (elf(5)).
pub(super) fn counting_section(count: usize) -> Vec<u8> {
    let mut section = vec![0; 64];
    section[32..40].copy_from_slice(&1_u64.to_le_bytes());
    section[44..48].copy_from_slice(&(count as u32).to_le_bytes());
    section
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The head of a core with these mappings: (address, bytes in the core, bytes in memory).
    pub fn head(loads: &[(u64, u64, u64)], notes: &[u8]) -> Vec<u8> {
        let mut head = vec![0_u8; 64];
        head[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
        head[16..20].copy_from_slice(&[4, 0, 62, 0]);
        head[32..40].copy_from_slice(&64_u64.to_le_bytes());
        head[54..56].copy_from_slice(&56_u16.to_le_bytes());
        head[56..58].copy_from_slice(&(loads.len() as u16 + 1).to_le_bytes());
        let mut segment = |kind: u32, offset: u64, address: u64, in_file: u64, in_memory: u64| {
            head.extend_from_slice(&kind.to_le_bytes());
            head.extend_from_slice(&6_u32.to_le_bytes());
            for value in [offset, address, 0, in_file, in_memory, 4096] {
                head.extend_from_slice(&value.to_le_bytes());
            }
        };
        let notes_at = 64 + 56 * (loads.len() as u64 + 1);
        segment(PT_NOTE, notes_at, 0, notes.len() as u64, 0);
        let mut at = (notes_at + notes.len() as u64).next_multiple_of(4096);
        for (address, in_file, in_memory) in loads {
            segment(PT_LOAD, at, *address, *in_file, *in_memory);
            at += in_file;
        }
        head.extend_from_slice(notes);
        head
    }

    #[test]
    fn a_layout_adds_up() {
        let head = head(&[(0x1000, 4096, 4096), (0x8000, 0, 8192), (0x20000, 8192, 12288)], b"");
        assert_eq!(head_length(&head), Ok(head.len() as u64));
        let layout = CoreLayout::read(&head).unwrap();
        assert_eq!((layout.data_at(), layout.total), (4096, 4096 + 4096 + 8192));
        assert_eq!(layout.find(0x1010), Some(4096 + 0x10..8192));
        assert_eq!(layout.find(0x8000), None, "left out of the core");
        assert_eq!(layout.find(0x22fff), None, "behind p_filesz");
        assert_eq!(layout.find(0x3000), None);
    }

    #[test]
    fn what_the_kernel_would_not_write_is_refused() {
        let mut overlapping = head(&[(0x1000, 4096, 4096), (0x8000, 4096, 4096)], b"");
        let second = 64 + 2 * 56 + 8;
        overlapping[second..second + 8].copy_from_slice(&4096_u64.to_le_bytes());
        assert_eq!(CoreLayout::read(&overlapping), Err(ElfError::Headers));
        assert_eq!(CoreLayout::read(&head(&[(0x1000, 8192, 4096)], b"")), Err(ElfError::Headers));
        assert_eq!(CoreLayout::read(&head(&[(u64::MAX - 100, 4096, 4096)], b"")), Err(ElfError::Headers));
        assert_eq!(CoreLayout::read(&head(&[], b"")[..100]), Err(ElfError::Headers));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0..600_usize, cut in 0..700_usize,
        ) {
            let _ = CoreLayout::read(&bytes);
            let mut mutant = head(&[(0x1000, 4096, 4096), (0x8000, 4096, 8192)], &[1; 64]);
            bytes.truncate(16);
            for (index, byte) in bytes.iter().enumerate() {
                if let Some(place) = mutant.get_mut(at + index) {
                    *place = *byte;
                }
            }
            mutant.truncate(cut);
            let _ = head_length(&mutant);
            if let Ok(layout) = CoreLayout::read(&mutant) {
                prop_assert!(layout.loads.is_sorted_by_key(|load| load.offset.start));
                let _ = layout.find(0x1000);
            }
        }
    }
}
