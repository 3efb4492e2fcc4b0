//! The memory that a walk reads: so many pages and no more, and numbers, texts and lists out of them.

use crate::crash::InterpreterStack;
use crate::crash::text::{cut, from_bytes};
use crate::unwind::{PageCache, ReadMemory};

pub use crate::unwind::MAX_PAGES;
/// Pages that a search for the interpreter's own data leaves to the walk.
pub(super) const RESERVED_PAGES: usize = 384;
/// The longest table of line numbers that is read, in bytes. Python writes some two bytes for an instruction.
const MAX_TABLE: u64 = 256 << 10;

/// The memory of one process.
pub(super) struct Memory<'a> {
    pages: PageCache<'a>,
    keep_going: &'a dyn Fn() -> bool,
}

impl<'a> Memory<'a> {
    /// Nothing more is read when `keep_going` returns false.
    pub(super) fn new(memory: &'a dyn ReadMemory, keep_going: &'a dyn Fn() -> bool) -> Self {
        Self { pages: PageCache::new(memory), keep_going }
    }

    /// The pages, for whoever reads an ELF file in memory.
    pub(super) fn pages(&mut self) -> &mut PageCache<'a> {
        &mut self.pages
    }

    /// How many pages may still be read.
    pub(super) fn pages_left(&self) -> usize {
        self.pages.left()
    }

    /// Why memory is not read any more; `None` as long as it is.
    pub(super) fn exhausted(&self) -> Option<&'static str> {
        if self.pages_left() == 0 {
            return Some("too much memory would have to be read");
        }
        (!(self.keep_going)()).then_some("it took too long")
    }

    pub(super) fn bytes(&mut self, address: u64, length: usize) -> Option<Vec<u8>> {
        (self.keep_going)().then_some(())?;
        self.pages.read(address, length)
    }

    fn array<const N: usize>(&mut self, address: u64) -> Option<[u8; N]> {
        self.bytes(address, N)?.first_chunk().copied()
    }

    pub(super) fn u8(&mut self, address: u64) -> Option<u8> {
        Some(u8::from_le_bytes(self.array(address)?))
    }

    pub(super) fn u32(&mut self, address: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.array(address)?))
    }

    pub(super) fn u64(&mut self, address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.array(address)?))
    }

    /// The field at `offset` of a structure.
    pub(super) fn u32_at(&mut self, structure: u64, offset: u64) -> Option<u32> {
        self.u32(structure.checked_add(offset)?)
    }

    /// The field at `offset` of a structure.
    pub(super) fn u64_at(&mut self, structure: u64, offset: u64) -> Option<u64> {
        self.u64(structure.checked_add(offset)?)
    }

    /// The pointer at `offset` of a structure; `None` also if it is a null pointer.
    pub(super) fn pointer_at(&mut self, structure: u64, offset: u64) -> Option<u64> {
        self.u64_at(structure, offset).filter(|pointer| *pointer != 0)
    }

    /// A table of `length` bytes, if it is not longer than such tables are.
    pub(super) fn table(&mut self, address: u64, length: u64) -> Option<Vec<u8>> {
        self.bytes(address, usize::try_from(length).ok().filter(|_| length <= MAX_TABLE)?)
    }

    /// `length` bytes of text, of which the end is left out if they are too many.
    pub(super) fn text(&mut self, address: u64, length: u64) -> Option<String> {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(InterpreterStack::MAX_TEXT);
        Some(short(from_bytes(&self.bytes(address, length)?)))
    }

    /// Text up to its null byte, of which the end is left out if it is too long.
    pub(super) fn c_text(&mut self, address: u64) -> Option<String> {
        const PART: u64 = 32;
        let mut text = Vec::new();
        while text.len() < InterpreterStack::MAX_TEXT {
            let at = address.checked_add(text.len() as u64)?;
            // Not beyond the page: there may be nothing.
            let part = PART.min(PAGE - at % PAGE);
            text.extend(self.bytes(at, usize::try_from(part).ok()?)?);
            if let Some(end) = text.iter().position(|byte| *byte == 0) {
                text.truncate(end);
                break;
            }
        }
        Some(short(from_bytes(&text)))
    }
}

const PAGE: u64 = 4096;

/// A text that is not too long for a record. What is not text has become longer.
pub(super) fn short(text: String) -> String {
    if text.len() <= InterpreterStack::MAX_TEXT { text } else { cut(&text, InterpreterStack::MAX_TEXT).to_owned() }
}
