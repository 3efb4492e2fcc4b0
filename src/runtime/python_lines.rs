//! The tables of line numbers of CPython's code objects.

use super::python_tables::LineTable;

/// The line of the instruction at byte `position` of a function that begins at `first_line`; `None` if it has none.
pub(super) fn line_at(format: LineTable, table: &[u8], first_line: u32, position: i64) -> Option<u32> {
    // A function that has not begun yet is at its first line.
    if position < 0 {
        return Some(first_line);
    }
    let line = match format {
        LineTable::Lnotab => lnotab(table, first_line.into(), position),
        LineTable::Ranges => ranges(table, first_line.into(), position)?,
        LineTable::Locations => locations(table, first_line.into(), position)?,
    };
    u32::try_from(line).ok()
}

/// Pairs of bytes: by how many instruction bytes and by how many lines, signed, to go on (Objects/lnotab_notes.txt).
fn lnotab(table: &[u8], first_line: i64, position: i64) -> i64 {
    let (mut at, mut line) = (0, first_line);
    for pair in table.chunks_exact(2) {
        let [bytes, lines] = [pair.first(), pair.get(1)].map(|byte| byte.copied().unwrap_or_default());
        at += i64::from(bytes);
        if at > position {
            break;
        }
        line += i64::from(lines.cast_signed());
    }
    line
}

/// Pairs of bytes: how many instruction bytes the entry is for, and its line less that of the one before; -128 is for those without
/// a line (PEP 626).
fn ranges(table: &[u8], first_line: i64, position: i64) -> Option<i64> {
    const NO_LINE: i8 = -128;
    let (mut end, mut line) = (0, first_line);
    for pair in table.chunks_exact(2) {
        let [bytes, lines] = [pair.first(), pair.get(1)].map(|byte| byte.copied().unwrap_or_default());
        let delta = lines.cast_signed();
        end += i64::from(bytes);
        line += if delta == NO_LINE { 0 } else { i64::from(delta) };
        if position < end {
            return (delta != NO_LINE).then_some(line);
        }
    }
    None
}

/// Entries of a byte and what belongs to it: bits 3 to 6 tell the form, the lowest three the length in units of two instruction bytes less
/// one (Objects/locations.md, Objects/codeobject.c).
fn locations(table: &[u8], first_line: i64, position: i64) -> Option<i64> {
    const NO_LOCATION: u8 = 15;
    const LONG: u8 = 14;
    const NO_COLUMNS: u8 = 13;
    const ONE_LINE: u8 = 10;
    let mut bytes = table.iter().copied().peekable();
    let (mut end, mut line) = (0, first_line);
    while let Some(first) = bytes.next() {
        let form = first >> 3 & 15;
        end += (i64::from(first & 7) + 1) * 2;
        // The rest of an entry has no bytes with the highest bit.
        let mut rest = std::iter::from_fn(|| bytes.next_if(|byte| byte & 0x80 == 0));
        line += match form {
            LONG | NO_COLUMNS => signed(&mut rest)?,
            ONE_LINE..NO_COLUMNS => i64::from(form - ONE_LINE),
            _ => 0,
        };
        rest.for_each(drop);
        if position < end {
            return (form != NO_LOCATION).then_some(line);
        }
    }
    None
}

/// A signed number: six bits to a byte, the lowest first, as long as bit 6 is set; the lowest bit is the sign.
fn signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let mut value: u32 = 0;
    for shift in (0..32).step_by(6) {
        let byte = bytes.next()?;
        value |= u32::from(byte & 0x3f) << shift;
        if byte & 0x40 == 0 {
            let magnitude = i64::from(value >> 1);
            return Some(if value & 1 == 0 { magnitude } else { -magnitude });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_of_the_three_formats() {
        // 3.9: instruction bytes 0 to 5 are line 10, 6 to 7 are line 11, then back to line 9.
        let lnotab = [6, 1, 2, 254];
        let of = |position| line_at(LineTable::Lnotab, &lnotab, 10, position);
        assert_eq!([-1, 0, 5, 6, 7, 8, 100].map(of), [10, 10, 10, 11, 11, 9, 9].map(Some));
        // 3.10: the same, and 4 bytes without a line in between.
        let ranges = [6, 0, 4, 128, 2, 1, 2, 254];
        let of = |position| line_at(LineTable::Ranges, &ranges, 10, position);
        assert_eq!([0, 5, 6, 9, 10, 12, 14].map(of), [Some(10), Some(10), None, None, Some(11), Some(9), None]);
        // 3.11: one unit without columns, a short one, one line on, none, a long one with a negative distance.
        let locations = [0xe8, 0x00, 0x80, 0x35, 0xdb, 1, 2, 0xf8, 0xf1, 0x07, 0, 1, 1];
        let of = |position| line_at(LineTable::Locations, &locations, 10, position);
        let lines = [Some(10), Some(10), Some(11), Some(11), None, Some(8), None];
        assert_eq!([0, 2, 4, 10, 12, 14, 18].map(of), lines);
    }

    proptest! {
        #[test]
        fn any_table_is_read_to_its_end(table in prop::collection::vec(any::<u8>(), 0..300), first: u32, position: i64) {
            for format in [LineTable::Lnotab, LineTable::Ranges, LineTable::Locations] {
                let _ = line_at(format, &table, first, position);
            }
        }
    }
}
