//! Tables without borders. A row is one line that is never wrapped, and not shortened where a program reads it, so that grep(1) and awk(1)
//! can find what is in it. On a terminal wide columns are cut to its width, unless `--full` is given.

use super::terminal::{Style, terminal};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::io::{self, Write};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Spaces between two columns.
const GAP: usize = 2;
/// Shown in an empty cell.
const EMPTY_CELL: &str = "-";
/// Columns up to this width are not cut: those of times, numbers and ids.
const UNCUT: usize = 20;
/// Stands for what was cut from the middle of a cell: paths differ at their ends.
const CUT: char = '…';
/// Bytes of lines that are written at once.
const WRITE_SIZE: usize = 64 << 10;

/// A table of printable text. Long lists have a million cells, so all cells share one string.
#[derive(Debug)]
pub(super) struct Table {
    header: Vec<String>,
    /// The widest cell of each column, in columns of the terminal.
    widths: Vec<usize>,
    /// The columns that are shown, in this order.
    shown: Vec<usize>,
    /// A column that is shown only where a line has room for it.
    optional: Option<usize>,
    /// The cells, row by row.
    text: String,
    /// Where each cell ends in `text`.
    ends: Vec<usize>,
    /// The last row is written first.
    backwards: bool,
    /// How a cell looks on a terminal, by the name of its column and its text.
    style: fn(&str, &str) -> Style,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self {
            header: header.iter().map(|name| (*name).to_owned()).collect(),
            widths: vec![0; header.len()],
            shown: (0..header.len()).collect(),
            optional: None,
            text: String::new(),
            ends: Vec::new(),
            backwards: false,
            style: |_, _| Style::Plain,
        }
    }

    /// A table whose columns users name in small letters.
    pub(super) fn with_columns(names: &[&str]) -> Self {
        let header: Vec<String> = names.iter().map(|name| name.to_uppercase()).collect();
        Self::new(&header.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Sets how cells look on a terminal.
    pub(super) fn set_style(&mut self, style: fn(&str, &str) -> Style) {
        self.style = style;
    }

    /// Makes columns at least this wide, so that tables that are written one after the other look like one.
    pub(super) fn widen(&mut self, widths: &[usize]) {
        for (width, least) in self.widths.iter_mut().zip(widths) {
            *width = (*width).max(*least);
        }
    }

    /// Turns the order of the rows round.
    pub(super) fn reverse(&mut self) {
        self.backwards = !self.backwards;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Leaves a column out of the output.
    pub(super) fn hide_column(&mut self, column: usize) {
        self.shown.retain(|shown| *shown != column);
    }

    /// Shows these columns only, in this order.
    pub(super) fn show_columns(&mut self, columns: &[usize]) {
        self.shown = columns.to_vec();
    }

    /// Leaves a column out where the terminal is too narrow for it, although the others are cut.
    pub(super) fn set_optional(&mut self, column: usize) {
        self.optional = Some(column);
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
        let with_width = |column: &usize| {
            let name = if with_header { width(&first.header[*column]) } else { 0 };
            (*column, tables.iter().fold(name, |widest, table| widest.max(table.widths[*column])))
        };
        let mut shown: Vec<(usize, usize)> = first.shown.iter().map(with_width).collect();
        if let Some(width) = terminal().width {
            drop_optional(&mut shown, first.optional, width);
            fit(&mut shown, width);
        }
        let mut lines = String::with_capacity(2 * WRITE_SIZE);
        if with_header {
            let (begin, end) = Style::Underlined.sequences();
            lines.push_str(begin);
            push_line(
                &mut lines,
                shown.iter().map(|(column, width)| (first.header[*column].as_str(), *width, Style::Plain)),
            );
            lines.insert_str(lines.len() - 1, end);
        }
        let has_colours = terminal().colours;
        for table in tables {
            let rows = table.ends.len() / table.header.len();
            for number in 0..rows {
                let row = table.header.len() * if table.backwards { rows - 1 - number } else { number };
                let cells = shown.iter().map(|(column, width)| {
                    let cell = table.cell(row + column);
                    let style = if has_colours { (table.style)(&table.header[*column], cell) } else { Style::Plain };
                    (cell, *width, style)
                });
                push_line(&mut lines, cells);
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

/// Parses one of these names of columns into its number.
pub(super) fn column_parser(names: &'static [&'static str]) -> impl TypedValueParser<Value = usize> {
    let number = |text: String| names.iter().position(|name| name.eq_ignore_ascii_case(&text)).unwrap_or_default();
    PossibleValuesParser::new(names).map(number)
}

/// Drops the optional column unless all columns fit into `width` once they are cut.
fn drop_optional(columns: &mut Vec<(usize, usize)>, optional: Option<usize>, width: usize) {
    let least: usize = columns.iter().map(|(_, width)| width.min(&UNCUT) + GAP).sum();
    if least > GAP + width {
        columns.retain(|(column, _)| Some(*column) != optional);
    }
}

/// Cuts the widest columns until a line fits into `width`, or only narrow ones are left.
fn fit(columns: &mut [(usize, usize)], width: usize) {
    loop {
        let line: usize = columns.iter().map(|(_, width)| width + GAP).sum();
        let excess = line.saturating_sub(GAP + width);
        let widest = columns.iter_mut().map(|(_, width)| width).max().filter(|widest| excess > 0 && **widest > UNCUT);
        let Some(widest) = widest else { return };
        // One column at a time, so that all wide ones end up with the same width.
        *widest -= 1;
    }
}

/// Appends a line of cells, each with the width of its column, padded to that unless it is the last.
fn push_line<'a>(lines: &mut String, cells: impl Iterator<Item = (&'a str, usize, Style)>) {
    let mut padding = 0;
    for (cell, column_width, style) in cells {
        push_spaces(lines, padding);
        let (begin, end) = style.sequences();
        lines.push_str(begin);
        let cell_width = width(cell);
        if cell_width > column_width {
            push_cut(lines, cell, column_width);
        } else {
            lines.push_str(cell);
        }
        lines.push_str(end);
        padding = column_width.saturating_sub(cell_width) + GAP;
    }
    lines.push('\n');
}

/// Appends the beginning and the end of a text that is wider than `columns`.
fn push_cut(line: &mut String, text: &str, columns: usize) {
    let room = columns.saturating_sub(1);
    let fitting = |characters: &mut dyn Iterator<Item = char>, room: usize| -> String {
        let mut left = room;
        let fits = |character: &char| {
            let taken = character.width().unwrap_or(0);
            let fits = taken <= left;
            left -= if fits { taken } else { 0 };
            fits
        };
        characters.take_while(fits).collect()
    };
    let end = fitting(&mut text.chars().rev(), room.div_ceil(2));
    line.push_str(&fitting(&mut text.chars(), room - room.div_ceil(2)));
    line.push(CUT);
    line.extend(end.chars().rev());
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
    fn wide_columns_are_cut_in_the_middle_until_a_line_fits() {
        let mut columns = [(0, 19), (1, 50), (2, 40)];
        fit(&mut columns, 80);
        assert_eq!(columns.map(|(_, width)| width).iter().sum::<usize>() + 2 * GAP, 80);
        assert_eq!(columns[0].1, 19);
        assert!(columns[1].1.abs_diff(columns[2].1) <= 1, "{columns:?}");
        fit(&mut columns, 10);
        assert_eq!(columns.map(|(_, width)| width), [19, UNCUT, UNCUT], "times, numbers and ids stay");
        let cut = |text: &str, width: usize| {
            let mut line = String::new();
            push_cut(&mut line, text, width);
            line
        };
        assert_eq!(cut("/usr/lib/postgresql/15/bin/postgres", 20), "/usr/lib/…n/postgres");
        assert_eq!(cut("ééééé", 3), "é…é");
        assert_eq!(width(&cut("漢字漢字漢字", 6)), 5, "a wide character is left out rather than halved");
    }

    #[test]
    fn rows_are_turned_round_and_columns_widened() {
        let mut table = Table::new(&["A", "B"]);
        table.push_row(&["1", "2"]);
        table.push_row(&["3", "4"]);
        table.reverse();
        table.widen(&[3, 3]);
        let mut out = Vec::new();
        table.write(&mut out, true).unwrap();
        assert_eq!(out, b"A    B\n3    4\n1    2\n");
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

    #[test]
    fn columns_are_shown_in_the_order_that_was_chosen() {
        let mut table = Table::new(&["A", "B", "C"]);
        table.push_row(&["1", "22", "3"]);
        table.show_columns(&[2, 1, 2]);
        let mut out = Vec::new();
        table.write(&mut out, true).unwrap();
        assert_eq!(out, b"C  B   C\n3  22  3\n");
    }

    #[test]
    fn an_optional_column_needs_room_beside_the_others() {
        let shown = |terminal: usize| {
            let mut columns = vec![(0, 16), (1, 90), (2, 50)];
            drop_optional(&mut columns, Some(2), terminal);
            columns.len()
        };
        let least = 16 + UNCUT + UNCUT + 2 * GAP;
        assert_eq!((shown(least), shown(least - 1)), (3, 2));
    }
}
