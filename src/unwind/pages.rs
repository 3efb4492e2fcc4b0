//! The memory of the crashed process as an unwinder reads it: a few bytes here and there, often from the same pages.

use std::collections::HashMap;

/// Where memory is read from: a parked process, or its core.
pub trait ReadMemory {
    /// Fills `buffer` from `address`, whole or not at all.
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool;
}

/// Pages that were read.
pub(super) struct Pages<'a> {
    source: &'a dyn ReadMemory,
    pages: HashMap<u64, Option<Box<[u8; PAGE]>>>,
}

const PAGE: usize = 4096;
/// No honest stack needs as many; more are not held.
const MAX_PAGES: usize = 1024;

impl<'a> Pages<'a> {
    pub(super) fn new(source: &'a dyn ReadMemory) -> Self {
        Self { source, pages: HashMap::new() }
    }

    /// Forgets all pages where less than half of them may still be read.
    pub(super) fn make_room(&mut self) {
        if self.pages.len() > MAX_PAGES / 2 {
            self.pages.clear();
        }
    }

    /// A stretch of memory, whole or not at all.
    pub(super) fn read(&mut self, address: u64, length: usize) -> Option<Vec<u8>> {
        let end = address.checked_add(length as u64)?;
        if length > MAX_PAGES * PAGE {
            return None;
        }
        let mut bytes = Vec::with_capacity(length);
        let mut at = address;
        while at < end {
            let begin = (at % PAGE as u64) as usize;
            let count = usize::try_from(end - at).map_or(PAGE, |left| left.min(PAGE - begin));
            bytes.extend_from_slice(&self.page(at / PAGE as u64)?[begin..begin + count]);
            at += count as u64;
        }
        Some(bytes)
    }

    pub(super) fn word(&mut self, address: u64) -> Option<u64> {
        let bytes = self.read(address, 8)?;
        Some(u64::from_le_bytes(*bytes.first_chunk()?))
    }

    pub(super) fn half(&mut self, address: u64) -> Option<u32> {
        let bytes = self.read(address, 4)?;
        Some(u32::from_le_bytes(*bytes.first_chunk()?))
    }

    fn page(&mut self, number: u64) -> Option<&[u8; PAGE]> {
        if self.pages.len() >= MAX_PAGES && !self.pages.contains_key(&number) {
            return None;
        }
        let source = self.source;
        let page = self.pages.entry(number).or_insert_with(|| {
            let mut page = Box::new([0; PAGE]);
            source.read_exact_at(number.checked_mul(PAGE as u64)?, page.as_mut_slice()).then_some(page)
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
            buffer.fill((address / PAGE as u64) as u8);
            address < 0x10_0000_0000
        }
    }

    #[test]
    fn a_page_is_read_once_and_so_many_at_most() {
        let source = Counting(Cell::new(0));
        let mut pages = Pages::new(&source);
        assert_eq!(pages.read(0x1ffe, 4), Some(vec![1, 1, 2, 2]));
        assert_eq!(pages.half(0x2ffc), Some(0x0202_0202));
        assert_eq!(source.0.get(), 2);
        assert_eq!(pages.word(u64::MAX - 3), None);
        assert_eq!(pages.word(0x20_0000_0000), None);
        for number in 0..2 * MAX_PAGES as u64 {
            let _ = pages.word(number * PAGE as u64);
        }
        assert!(source.0.get() <= MAX_PAGES);
        assert_eq!(pages.read(0, usize::MAX), None);
    }
}
