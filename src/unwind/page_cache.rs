//! A cache of the memory that an unwinder reads: a few bytes at a time, often from the same pages.

use std::collections::HashMap;

/// The memory of a process, by address.
pub trait ReadMemory {
    /// Fills `buffer` with the memory at `address`. Returns false if any of it cannot be read; then the contents of
    /// `buffer` are unspecified.
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool;
}

impl<M: ReadMemory + ?Sized> ReadMemory for &M {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        (**self).read_exact_at(address, buffer)
    }
}

/// `None` is memory of which nothing can be read.
impl<M: ReadMemory> ReadMemory for Option<M> {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.as_ref().is_some_and(|memory| memory.read_exact_at(address, buffer))
    }
}

/// The pages that were read, and those that cannot be.
pub struct PageCache<'a> {
    memory: &'a dyn ReadMemory,
    pages: HashMap<u64, Option<Box<[u8; PAGE]>>>,
}

const PAGE: usize = 4096;
/// Pages that are read at most: no ordinary stack needs as many.
pub const MAX_PAGES: usize = 1024;

impl<'a> PageCache<'a> {
    /// A cache of this memory.
    #[must_use]
    pub fn new(memory: &'a dyn ReadMemory) -> Self {
        Self { memory, pages: HashMap::new() }
    }

    /// How many pages may still be read.
    #[must_use]
    pub fn left(&self) -> usize {
        MAX_PAGES.saturating_sub(self.pages.len())
    }

    /// Forgets all pages once half of the limit is used up.
    pub(super) fn make_room(&mut self) {
        if self.pages.len() > MAX_PAGES / 2 {
            self.pages.clear();
        }
    }

    /// The `length` bytes at `address`; `None` if any of them cannot be read.
    pub fn read(&mut self, address: u64, length: usize) -> Option<Vec<u8>> {
        if length > MAX_PAGES * PAGE {
            return None;
        }
        let mut bytes = vec![0; length];
        self.fill(address, &mut bytes)?;
        Some(bytes)
    }

    /// Reads bytes at `address` into all of `buffer`; `None` if any of them cannot be read.
    fn fill(&mut self, address: u64, buffer: &mut [u8]) -> Option<()> {
        address.checked_add(buffer.len() as u64)?;
        let (mut at, mut rest) = (address, buffer);
        while !rest.is_empty() {
            let begin = usize::try_from(at % PAGE as u64).ok()?;
            let page = self.page(at / PAGE as u64)?.get(begin..)?;
            let (part, after) = rest.split_at_mut(page.len().min(rest.len()));
            part.copy_from_slice(page.get(..part.len())?);
            at += part.len() as u64;
            rest = after;
        }
        Some(())
    }

    fn read_array<const LENGTH: usize>(&mut self, address: u64) -> Option<[u8; LENGTH]> {
        let mut bytes = [0; LENGTH];
        self.fill(address, &mut bytes)?;
        Some(bytes)
    }

    pub(super) fn read_u64(&mut self, address: u64) -> Option<u64> {
        self.read_array(address).map(u64::from_le_bytes)
    }

    pub(super) fn read_u32(&mut self, address: u64) -> Option<u32> {
        self.read_array(address).map(u32::from_le_bytes)
    }

    /// The address at `address`, which has `length` bytes: 4 or 8.
    pub(super) fn read_word(&mut self, address: u64, length: u64) -> Option<u64> {
        if length == 4 { self.read_u32(address).map(u64::from) } else { self.read_u64(address) }
    }

    fn page(&mut self, number: u64) -> Option<&[u8; PAGE]> {
        if self.pages.len() >= MAX_PAGES && !self.pages.contains_key(&number) {
            return None;
        }
        let memory = self.memory;
        let page = self.pages.entry(number).or_insert_with(|| {
            let mut page = Box::new([0; PAGE]);
            memory.read_exact_at(number.checked_mul(PAGE as u64)?, page.as_mut_slice()).then_some(page)
        });
        page.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct Counting(Cell<usize>);

    impl ReadMemory for Counting {
        fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
            self.0.set(self.0.get() + 1);
            buffer.fill((address / PAGE as u64).to_le_bytes()[0]);
            address < 0x10_0000_0000
        }
    }

    #[test]
    fn a_page_is_read_once_and_the_number_of_pages_is_bounded() {
        let source = Counting(Cell::new(0));
        let mut pages = PageCache::new(&source);
        assert_eq!(pages.read(0x1ffe, 4), Some(vec![1, 1, 2, 2]));
        assert_eq!(pages.read_u32(0x2ffc), Some(0x0202_0202));
        assert_eq!(source.0.get(), 2);
        assert_eq!(pages.read_u64(u64::MAX - 3), None);
        assert_eq!(pages.read_u64(0x20_0000_0000), None);
        for number in 0..2 * MAX_PAGES as u64 {
            let _ = pages.read_u64(number * PAGE as u64);
        }
        assert!(source.0.get() <= MAX_PAGES);
        assert_eq!(pages.read(0, usize::MAX), None);
    }
}
