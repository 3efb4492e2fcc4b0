//! The two classes of ELF files (EI_CLASS, elf(5)): the same fields, in words of four bytes or of eight.

use super::notes::{u32_at, u64_at};
use object::LittleEndian;
use object::elf::{
    ELFCLASS32, ELFCLASS64, ELFDATA2LSB, FileHeader32, FileHeader64, ProgramHeader32, ProgramHeader64, SectionHeader32,
    SectionHeader64,
};
use std::mem::offset_of;

/// The class of a core and its process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ElfClass {
    /// Addresses have 32 bits: i386, x32, 32-bit ARM.
    Elf32,
    /// Addresses have 64 bits.
    #[default]
    Elf64,
}

/// Byte offsets of fields of the ELF header that say where the program headers are and how many.
pub(super) struct HeaderFields {
    pub(super) phoff: usize,
    pub(super) shoff: usize,
    pub(super) phnum: usize,
    pub(super) shentsize: usize,
    pub(super) shnum: usize,
}

impl ElfClass {
    /// The class of a little-endian ELF file with these first bytes; `None` if they are not of one.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes.first_chunk()? {
            [0x7f, b'E', b'L', b'F', class, ELFDATA2LSB, 1, _] if *class == ELFCLASS32 => Some(Self::Elf32),
            [0x7f, b'E', b'L', b'F', class, ELFDATA2LSB, 1, _] if *class == ELFCLASS64 => Some(Self::Elf64),
            _ => None,
        }
    }

    /// The greatest offset in a file, and the greatest address, in bytes.
    #[must_use]
    pub fn max_offset(self) -> u64 {
        self.choose(u32::MAX.into(), u64::MAX)
    }

    /// Length of an address in bytes.
    #[must_use]
    pub fn word_len(self) -> usize {
        self.choose(4, 8)
    }

    /// Length of a file's header in bytes.
    #[must_use]
    pub fn header_len(self) -> usize {
        self.choose(size_of::<FileHeader32<LittleEndian>>(), size_of::<FileHeader64<LittleEndian>>())
    }

    /// Length of a program header in bytes.
    #[must_use]
    pub fn segment_len(self) -> usize {
        self.choose(size_of::<ProgramHeader32<LittleEndian>>(), size_of::<ProgramHeader64<LittleEndian>>())
    }

    /// Length of a section header in bytes.
    pub(super) fn section_len(self) -> usize {
        self.choose(size_of::<SectionHeader32<LittleEndian>>(), size_of::<SectionHeader64<LittleEndian>>())
    }

    /// Where some fields are in a file's header.
    pub(super) fn header_fields(self) -> HeaderFields {
        macro_rules! fields {
            ($header:ty) => {
                HeaderFields {
                    phoff: offset_of!($header, e_phoff),
                    shoff: offset_of!($header, e_shoff),
                    phnum: offset_of!($header, e_phnum),
                    shentsize: offset_of!($header, e_shentsize),
                    shnum: offset_of!($header, e_shnum),
                }
            };
        }
        self.choose(fields!(FileHeader32<LittleEndian>), fields!(FileHeader64<LittleEndian>))
    }

    /// The address at byte `offset`.
    pub(super) fn word_at(self, bytes: &[u8], offset: usize) -> Option<u64> {
        match self {
            Self::Elf32 => u32_at(bytes, offset).map(u64::from),
            Self::Elf64 => u64_at(bytes, offset),
        }
    }

    fn choose<T>(self, elf32: T, elf64: T) -> T {
        match self {
            Self::Elf32 => elf32,
            Self::Elf64 => elf64,
        }
    }
}
