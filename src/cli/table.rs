//! Tables without borders: a line a row, never wrapped or cut, so that grep(1) and awk(1) find what is there.

use std::io::{self, Write};
use unicode_width::UnicodeWidthStr;

/// Between columns.
pub(super) const GAP: usize = 2;
/// What is shown in an empty cell.
pub(super) const NOTHING: &str = "-";

/// Rows of cells.
#[derive(Debug)]
pub(super) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row. What is in its cells is printable already.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Writes all of it.
    pub(super) fn write(&self, out: &mut dyn Write, with_header: bool) -> io::Result<()> {
        let header = with_header.then(|| self.header.clone());
        let rows =
            self.rows.iter().map(|row| row.iter().map(|cell| if cell.is_empty() { NOTHING } else { cell }).collect());
        let rows: Vec<Vec<&str>> = header.into_iter().chain(rows).collect();
        let wide = |column: usize| rows.iter().map(|row| width(row[column])).max().unwrap_or(0) + GAP;
        let widths: Vec<usize> = (0..self.header.len()).map(wide).collect();
        let mut lines = String::new();
        for row in &rows {
            push_line(&mut lines, row.iter().copied().zip(widths.iter().copied()));
        }
        out.write_all(lines.as_bytes())
    }
}

/// Appends a line of cells, each with the width of its column.
pub(super) fn push_line<'a>(lines: &mut String, cells: impl Iterator<Item = (&'a str, usize)>) {
    let mut missing = 0;
    for (cell, wide) in cells {
        pad(lines, missing);
        lines.push_str(cell);
        missing = wide - width(cell);
    }
    lines.push('\n');
}

/// Appends so many spaces.
pub(super) fn pad(lines: &mut String, mut missing: usize) {
    const SPACES: &str = "                                                                ";
    while missing > 0 {
        let some = missing.min(SPACES.len());
        lines.push_str(&SPACES[..some]);
        missing -= some;
    }
}

/// Appends a cell that another follows.
pub(super) fn push_cell(lines: &mut String, cell: &str, wide: usize) {
    lines.push_str(cell);
    pad(lines, wide - width(cell));
}

pub(super) fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.width() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_nothing_is_cut() {
        let long = "x".repeat(500);
        let mut table = Table::new(&["A", "B", "C"]);
        table.row(vec!["1".to_owned(), String::new(), "é".to_owned()]);
        table.row(vec!["22".to_owned(), "é".to_owned(), long.clone()]);
        let shown = |with_header: bool| {
            let mut out = Vec::new();
            table.write(&mut out, with_header).unwrap();
            String::from_utf8(out).unwrap()
        };
        let rows = format!("1   -  é\n22  é  {long}\n");
        assert_eq!(shown(true), format!("A   B  C\n{rows}"));
        assert_eq!(shown(false), rows);
    }
}
