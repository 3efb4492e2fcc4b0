//! Tables without borders. A row is one line that is never wrapped or shortened, so that grep(1) and awk(1) can find what is
//! in it.

use std::io::{self, Write};
use unicode_width::UnicodeWidthStr;

/// Spaces between two columns.
const GAP: usize = 2;
/// Shown in an empty cell.
const EMPTY_CELL: &str = "-";
/// Bytes of lines that are written at once.
const WRITE_SIZE: usize = 64 << 10;

/// A table of printable text. Long lists have a million cells, so all cells share one string.
#[derive(Debug)]
pub(super) struct Table {
    header: Vec<&'static str>,
    /// The widest cell of each column, in columns of the terminal.
    widths: Vec<usize>,
    /// Columns that are not shown.
    hidden: Vec<usize>,
    /// The cells, row by row.
    text: String,
    /// Where each cell ends in `text`.
    ends: Vec<usize>,
}

impl Table {
    pub(super) fn new(header: &[&'static str]) -> Self {
        Self {
            header: header.to_vec(),
            widths: vec![0; header.len()],
            hidden: Vec::new(),
            text: String::new(),
            ends: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Leaves a column out of the output.
    pub(super) fn hide_column(&mut self, column: usize) {
        self.hidden.push(column);
    }

    /// Adds a row of printable cells.
    pub(super) fn push_row(&mut self, cells: &[&str]) {
        for cell in cells {
            self.push_cell(|text| text.push_str(cell));
        }
    }

    /// Adds the next cell, whose printable text `append` appends to the string that it is given.
    pub(super) fn push_cell(&mut self, append: impl FnOnce(&mut String)) {
        let column = self.ends.len() % self.header.len();
        let begin = self.text.len();
        append(&mut self.text);
        if self.text.len() == begin {
            self.text.push_str(EMPTY_CELL);
        }
        self.ends.push(self.text.len());
        let cell = &self.text[begin..];
        // No text is wider than it has bytes.
        if cell.len() > self.widths[column] {
            self.widths[column] = self.widths[column].max(width(cell));
        }
    }

    /// Writes the table, with or without the names of its columns.
    pub(super) fn write(&self, out: &mut dyn Write, with_header: bool) -> io::Result<()> {
        Self::write_joined(std::slice::from_ref(self), out, with_header)
    }

    /// Writes tables with the same columns as one.
    pub(super) fn write_joined(tables: &[Self], out: &mut dyn Write, with_header: bool) -> io::Result<()> {
        let Some(first) = tables.first() else { return Ok(()) };
        let shown: Vec<(usize, usize)> = (0..first.header.len())
            .filter(|column| !first.hidden.contains(column))
            .map(|column| {
                let name = if with_header { width(first.header[column]) } else { 0 };
                (column, tables.iter().fold(name, |widest, table| widest.max(table.widths[column])) + GAP)
            })
            .collect();
        let mut lines = String::with_capacity(2 * WRITE_SIZE);
        if with_header {
            push_line(&mut lines, shown.iter().map(|(column, width)| (first.header[*column], *width)));
        }
        for table in tables {
            for row in (0..table.ends.len()).step_by(table.header.len()) {
                push_line(&mut lines, shown.iter().map(|(column, width)| (table.cell(row + column), *width)));
                if lines.len() >= WRITE_SIZE {
                    out.write_all(lines.as_bytes())?;
                    lines.clear();
                }
            }
        }
        out.write_all(lines.as_bytes())
    }

    fn cell(&self, number: usize) -> &str {
        let begin = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[begin..self.ends[number]]
    }
}

/// Appends a line of cells, each padded to the width of its column unless it is the last.
fn push_line<'a>(lines: &mut String, cells: impl Iterator<Item = (&'a str, usize)>) {
    let mut padding = 0;
    for (cell, column_width) in cells {
        push_spaces(lines, padding);
        lines.push_str(cell);
        padding = column_width - width(cell);
    }
    lines.push('\n');
}

fn push_spaces(lines: &mut String, mut count: usize) {
    const SPACES: &str = "                                                                ";
    while count > 0 {
        let some = count.min(SPACES.len());
        lines.push_str(&SPACES[..some]);
        count -= some;
    }
}

/// Columns of a terminal that `text` takes.
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
        table.push_row(&["1", "", "é"]);
        table.push_row(&["22", "é", &long]);
        let shown = |with_header: bool| {
            let mut out = Vec::new();
            table.write(&mut out, with_header).unwrap();
            String::from_utf8(out).unwrap()
        };
        let rows = format!("1   -  é\n22  é  {long}\n");
        assert_eq!(shown(true), format!("A   B  C\n{rows}"));
        assert_eq!(shown(false), rows);
    }

    #[test]
    fn a_hidden_column_is_left_out() {
        let mut table = Table::new(&["A", "B", "C"]);
        table.push_row(&["1", "2", "3"]);
        table.hide_column(1);
        let mut out = Vec::new();
        table.write(&mut out, true).unwrap();
        assert_eq!(out, b"A  C\n1  3\n");
    }
}
