//! Tables without borders: a line a row, never wrapped or cut, so that grep(1) and awk(1) find what is there.

use std::io::{self, Write};
use unicode_width::UnicodeWidthStr;

/// Between columns.
const GAP: usize = 2;

/// Writes a table. What stands in the cells is printable already; an empty cell is shown as a dash.
pub(super) fn write<Row: AsRef<[String]>>(
    out: &mut dyn Write,
    header: Option<&[&str]>,
    rows: &[Row],
) -> io::Result<()> {
    let mut widths: Vec<usize> = header.unwrap_or_default().iter().map(|cell| width(cell)).collect();
    for row in rows {
        let cells = row.as_ref();
        widths.resize(widths.len().max(cells.len()), 0);
        for (widest, cell) in widths.iter_mut().zip(cells) {
            *widest = (*widest).max(width(shown(cell)));
        }
    }
    let mut line = String::new();
    if let Some(header) = header {
        write_line(out, &mut line, header.iter().copied(), &widths)?;
    }
    for row in rows {
        write_line(out, &mut line, row.as_ref().iter().map(|cell| shown(cell)), &widths)?;
    }
    Ok(())
}

fn write_line<'a>(
    out: &mut dyn Write,
    line: &mut String,
    cells: impl Iterator<Item = &'a str>,
    widths: &[usize],
) -> io::Result<()> {
    line.clear();
    let mut missing = 0;
    for (cell, widest) in cells.zip(widths) {
        line.extend(std::iter::repeat_n(' ', missing));
        line.push_str(cell);
        missing = widest - width(cell) + GAP;
    }
    line.push('\n');
    out.write_all(line.as_bytes())
}

fn shown(cell: &str) -> &str {
    if cell.is_empty() { "-" } else { cell }
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
        let rows =
            [vec!["1".to_owned(), String::new(), "é".to_owned()], vec!["22".to_owned(), "b".to_owned(), long.clone()]];
        let mut out = Vec::new();
        write(&mut out, Some(&["A", "B", "C"]), &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), format!("A   B  C\n1   -  é\n22  b  {long}\n"));
    }
}
