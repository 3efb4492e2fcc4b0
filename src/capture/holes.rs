//! Mapped pages that have never held anything, though the page table does not tell, as the shim found them.

use coreward_sys::pagemap::PAGE;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Longest list that is read, in bytes: 2^18 holes.
const MAX_LEN: u64 = 4 << 20;

/// Ranges of addresses in which pages that are not in the page table hold nothing but zeros, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holes(Vec<Range<u64>>);

impl Holes {
    /// Reads a list ([`coreward_wire::FdKind::Holes`]).
    ///
    /// # Errors
    /// The error of read(2), or `InvalidData` if this is no such list.
    pub fn read(file: &File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let length = usize::try_from(length).ok().filter(|_| length <= MAX_LEN).ok_or(ErrorKind::InvalidData)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        Self::parse(&bytes).ok_or_else(|| ErrorKind::InvalidData.into())
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (pairs, rest) = bytes.as_chunks::<16>();
        let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let ranges: Option<Vec<Range<u64>>> =
            pairs.iter().map(|pair| Some(number(pair)?..number(&pair[8..])?)).collect();
        let ranges = ranges.filter(|_| rest.is_empty())?;
        let mut end = 0;
        let in_order = ranges.iter().all(|range| {
            let follows = end <= range.start && range.start < range.end;
            end = range.end;
            follows && range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE)
        });
        in_order.then_some(Self(ranges))
    }

    /// Where what `range` begins with ends, and whether that is a hole.
    #[must_use]
    pub fn first_part(&self, range: &Range<u64>) -> (u64, bool) {
        match self.next(range.start) {
            Some(hole) if hole.start <= range.start => (hole.end.min(range.end), true),
            Some(hole) => (hole.start.min(range.end), false),
            None => (range.end, false),
        }
    }

    /// The hole that `address` is in, or else the next one.
    fn next(&self, address: u64) -> Option<&Range<u64>> {
        self.0.get(self.0.partition_point(|hole| hole.end <= address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(numbers: &[u64]) -> Option<Holes> {
        Holes::parse(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())
    }

    #[test]
    fn a_list_that_the_shim_would_not_send_is_refused() {
        assert_eq!(list(&[]), Some(Holes::default()));
        assert!(list(&[0x1000, 0x3000, 0x3000, 0x4000]).is_some());
        for wrong in
            [&[0x1000][..], &[0x3000, 0x1000], &[0x1000, 0x1000], &[0x1001, 0x2000], &[0x2000, 0x3000, 0x1000, 0x2000]]
        {
            assert_eq!(list(wrong), None, "{wrong:x?}");
        }
    }

    #[test]
    fn a_range_is_divided_where_holes_begin_and_end() {
        let holes = list(&[0x2000, 0x3000, 0x5000, 0x9000]).unwrap();
        assert_eq!(holes.first_part(&(0x1000..0x8000)), (0x2000, false));
        assert_eq!(holes.first_part(&(0x2000..0x8000)), (0x3000, true));
        assert_eq!(holes.first_part(&(0x3000..0x4000)), (0x4000, false));
        assert_eq!(holes.first_part(&(0x6000..0x7000)), (0x7000, true));
        assert_eq!(holes.first_part(&(0x9000..0xa000)), (0xa000, false));
    }
}
