//! Tables without borders: a line a row, never wrapped or cut, so that grep(1) and awk(1) find what is there.

use std::io::{self, Write};
use unicode_width::UnicodeWidthStr;

/// Between columns.
const GAP: usize = 2;
/// What is shown in an empty cell.
const NOTHING: &str = "-";

/// Rows of cells in one piece of text: a list may have hundreds of thousands.
#[derive(Debug)]
pub(super) struct Table {
    header: Vec<&'static str>,
    text: String,
    /// Where each cell ends in the text, row by row.
    ends: Vec<usize>,
    widths: Vec<usize>,
}

impl Table {
    pub(super) fn new(header: &[&'static str]) -> Self {
        let widths = vec![0; header.len()];
        Self { header: header.to_vec(), text: String::new(), ends: Vec::new(), widths }
    }

    /// Adds the next cell, which `write` appends. What it appends is printable already.
    pub(super) fn cell(&mut self, write: impl FnOnce(&mut String)) {
        let begin = self.text.len();
        write(&mut self.text);
        if self.text.len() == begin {
            self.text.push_str(NOTHING);
        }
        let column = self.ends.len() % self.header.len();
        let cell = &self.text[begin..];
        // A byte is at least as wide as what it stands for; only where that would decide is it looked at more closely.
        if cell.len() > self.widths[column] {
            self.widths[column] = self.widths[column].max(width(cell));
        }
        self.ends.push(self.text.len());
    }

    /// Adds the rows of another table with the same columns.
    pub(super) fn append(&mut self, other: &Self) {
        let before = self.text.len();
        self.text.push_str(&other.text);
        self.ends.extend(other.ends.iter().map(|end| before + end));
        for (widest, other) in self.widths.iter_mut().zip(&other.widths) {
            *widest = (*widest).max(*other);
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: &[String]) {
        for cell in cells {
            self.cell(|text| text.push_str(cell));
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.ends.len() / self.header.len()
    }

    /// Writes the rows in this order, the columns that are `wanted`.
    pub(super) fn write(
        &self,
        out: &mut dyn Write,
        with_header: bool,
        order: impl Iterator<Item = usize>,
        wanted: impl Fn(usize) -> bool,
    ) -> io::Result<()> {
        let columns: Vec<usize> = (0..self.header.len()).filter(|column| wanted(*column)).collect();
        let wide =
            |column: usize| self.widths[column].max(if with_header { self.header[column].len() } else { 0 }) + GAP;
        let widths: Vec<usize> = columns.iter().map(|column| wide(*column)).collect();
        let mut lines = String::with_capacity(1 << 16);
        if with_header {
            push_line(&mut lines, &widths, columns.iter().map(|column| self.header[*column]));
        }
        for row in order {
            push_line(&mut lines, &widths, columns.iter().map(|column| self.get(row, *column)));
            if lines.len() > 1 << 15 {
                out.write_all(lines.as_bytes())?;
                lines.clear();
            }
        }
        out.write_all(lines.as_bytes())
    }

    /// Writes all of it.
    pub(super) fn write_all(&self, out: &mut dyn Write, with_header: bool) -> io::Result<()> {
        self.write(out, with_header, 0..self.rows(), |_| true)
    }

    fn get(&self, row: usize, column: usize) -> &str {
        let index = row * self.header.len() + column;
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[begin..self.ends[index]]
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
            table.write(&mut out, with_header, order.iter().copied(), wanted).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(true, &[0, 1], |_| true), format!("A   B  C\n1   -  é\n22  é  {long}\n"));
        assert_eq!(shown(false, &[1, 0], |column| column != 2), "22  é\n1   -\n");
    }
}
