//! Tables without borders: a line a row, never wrapped or cut, so that grep(1) and awk(1) find what is there.

use std::io::{self, Write};
use std::sync::mpsc::{channel, sync_channel};
use unicode_width::UnicodeWidthStr;

/// Between columns.
const GAP: usize = 2;
/// What is shown in an empty cell.
const NOTHING: &str = "-";

/// So many rows are formatted by two threads.
const MANY: usize = 10_000;
/// Rows that are formatted and written at once: some 30 KiB.
const PIECE: usize = 256;
/// Pieces that a thread may be ahead of the other.
const AHEAD: usize = 4;

/// Rows of cells in a few pieces of text: a list may have hundreds of thousands.
#[derive(Debug)]
pub(super) struct Table {
    header: Vec<&'static str>,
    parts: Vec<Part>,
    widths: Vec<usize>,
}

/// Rows that stand together.
#[derive(Debug, Default)]
struct Part {
    text: String,
    /// Where each cell ends in the text, row by row.
    ends: Vec<u32>,
}

impl Part {
    /// No cell begins behind this, and none is longer.
    const MAX: usize = 1 << 30;

    fn get(&self, index: usize) -> &str {
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[begin as usize..self.ends[index] as usize]
    }
}

impl Table {
    pub(super) fn new(header: &[&'static str]) -> Self {
        let widths = vec![0; header.len()];
        Self { header: header.to_vec(), parts: vec![Part::default()], widths }
    }

    /// Adds the next cell, which `write` appends. What it appends is printable already.
    pub(super) fn cell(&mut self, write: impl FnOnce(&mut String)) {
        let columns = self.header.len();
        if self.parts.last().is_none_or(|part| part.text.len() > Part::MAX && part.ends.len().is_multiple_of(columns)) {
            self.parts.push(Part::default());
        }
        let Some(part) = self.parts.last_mut() else { return };
        let begin = part.text.len();
        write(&mut part.text);
        if part.text.len() == begin {
            part.text.push_str(NOTHING);
        }
        let column = part.ends.len() % columns;
        let cell = &part.text[begin..];
        // A byte is at least as wide as what it stands for; only where that would decide is it looked at more closely.
        if cell.len() > self.widths[column] {
            self.widths[column] = self.widths[column].max(width(cell));
        }
        part.ends.push(u32::try_from(part.text.len()).unwrap_or(u32::MAX));
    }

    /// Adds the rows of another table with the same columns.
    pub(super) fn append(&mut self, other: Self) {
        self.parts.extend(other.parts);
        for (widest, other) in self.widths.iter_mut().zip(other.widths) {
            *widest = (*widest).max(other);
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: &[String]) {
        for cell in cells {
            self.cell(|text| text.push_str(cell));
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.ends.len()).sum::<usize>() / self.header.len()
    }

    /// Writes the rows in this order, the columns that are `wanted`.
    pub(super) fn write(
        &self,
        out: &mut dyn Write,
        with_header: bool,
        order: &[usize],
        wanted: impl Fn(usize) -> bool,
    ) -> io::Result<()> {
        let columns: Vec<usize> = (0..self.header.len()).filter(|column| wanted(*column)).collect();
        let wide =
            |column: usize| self.widths[column].max(if with_header { self.header[column].len() } else { 0 }) + GAP;
        let widths: Vec<usize> = columns.iter().map(|column| wide(*column)).collect();
        let format = |lines: &mut String, rows: &[usize]| {
            lines.clear();
            for row in rows {
                let (part, row) = self.part_of(*row);
                let first = row * self.header.len();
                push_line(lines, &widths, columns.iter().map(|column| part.get(first + column)));
            }
        };
        let mut lines = String::new();
        if with_header {
            push_line(&mut lines, &widths, columns.iter().map(|column| self.header[*column]));
            out.write_all(lines.as_bytes())?;
        }
        let is_shared = order.len() >= MANY;
        std::thread::scope(|scope| {
            // Every other piece comes from a second thread, and its room goes back: what is small stays in the cache.
            let (send, receive) = sync_channel(AHEAD);
            let (give_back, given_back) = channel();
            if is_shared {
                let format = &format;
                scope.spawn(move || {
                    for piece in order.chunks(PIECE).skip(1).step_by(2) {
                        let mut lines = given_back.try_recv().unwrap_or_default();
                        format(&mut lines, piece);
                        if send.send(lines).is_err() {
                            return;
                        }
                    }
                });
            }
            for (number, piece) in order.chunks(PIECE).enumerate() {
                if !is_shared || number % 2 == 0 {
                    format(&mut lines, piece);
                    out.write_all(lines.as_bytes())?;
                } else if let Ok(lines) = receive.recv() {
                    out.write_all(lines.as_bytes())?;
                    let _ = give_back.send(lines);
                }
            }
            Ok(())
        })
    }

    /// Writes all of it.
    pub(super) fn write_all(&self, out: &mut dyn Write, with_header: bool) -> io::Result<()> {
        let all: Vec<usize> = (0..self.rows()).collect();
        self.write(out, with_header, &all, |_| true)
    }

    /// Where a row is.
    fn part_of(&self, mut row: usize) -> (&Part, usize) {
        let columns = self.header.len();
        for part in &self.parts[..self.parts.len() - 1] {
            let rows = part.ends.len() / columns;
            if row < rows {
                return (part, row);
            }
            row -= rows;
        }
        (&self.parts[self.parts.len() - 1], row)
    }
}

fn push_line<'a>(lines: &mut String, widths: &[usize], cells: impl Iterator<Item = &'a str>) {
    const SPACES: &str = "                                                                ";
    let mut missing = 0;
    for (cell, wide) in cells.zip(widths) {
        while missing > 0 {
            let some = missing.min(SPACES.len());
            lines.push_str(&SPACES[..some]);
            missing -= some;
        }
        lines.push_str(cell);
        missing = wide - width(cell);
    }
    lines.push('\n');
}

fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.width() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_nothing_is_cut() {
        let long = "x".repeat(500);
        let mut table = Table::new(&["A", "B", "C"]);
        table.row(&["1".to_owned(), String::new(), "é".to_owned()]);
        table.row(&["22".to_owned(), "é".to_owned(), long.clone()]);
        let shown = |with_header: bool, order: &[usize], wanted: fn(usize) -> bool| {
            let mut out = Vec::new();
            table.write(&mut out, with_header, order, wanted).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(true, &[0, 1], |_| true), format!("A   B  C\n1   -  é\n22  é  {long}\n"));
        assert_eq!(shown(false, &[1, 0], |column| column != 2), "22  é\n1   -\n");
    }

    #[test]
    fn many_rows_of_two_tables_come_in_the_order_asked_for() {
        let mut tables = [Table::new(&["N", "SQUARE"]), Table::new(&["N", "SQUARE"])];
        let row = |number: usize| [number.to_string(), (number * number).to_string()];
        for number in 0..3 * MANY {
            tables[number % 2].row(&row(number));
        }
        let [mut even, odd] = tables;
        let evens = even.rows();
        even.append(odd);
        let order: Vec<usize> = (0..3 * MANY).map(|number| number / 2 + (number % 2) * evens).collect();
        let mut out = Vec::new();
        even.write(&mut out, true, &order, |column| column == 1).unwrap();
        let wanted: String = (0..3 * MANY).map(|number| format!("{}\n", number * number)).collect();
        assert_eq!(String::from_utf8(out).unwrap(), format!("SQUARE\n{wanted}"));
    }
}
