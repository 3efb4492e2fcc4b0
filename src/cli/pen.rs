//! How the lines of a list are written down.

use super::lines::{COLUMNS, ID, Lines, PID, Row, TIME, UID};
use super::table::{pad, push_cell, push_line};
use super::time;

/// Makes lines of rows.
pub(super) struct Pen<'a> {
    lines: &'a Lines<'a>,
    widths: &'a [usize; COLUMNS],
    /// The columns behind the id.
    last: &'a [usize],
    clock: time::Short,
    /// What the row before shared, and how that is shown: the cells in front of the id, and those behind it.
    shared: Option<u32>,
    front: String,
    back: String,
}

impl<'a> Pen<'a> {
    pub(super) fn new(lines: &'a Lines<'a>, widths: &'a [usize; COLUMNS], last: &'a [usize]) -> Self {
        let clock = time::Short::default();
        Self { lines, widths, last, clock, shared: None, front: String::new(), back: String::new() }
    }

    /// Puts the lines of these rows in place of what was in `text`.
    pub(super) fn write(&mut self, text: &mut String, rows: &[Row]) {
        text.clear();
        let mut digits = itoa::Buffer::new();
        for row in rows {
            if self.shared != Some(row.shared) {
                self.share(row.shared);
            }
            let begin = text.len();
            self.clock.push(text, row.time_us);
            pad(text, self.widths[TIME] - (text.len() - begin));
            push_cell(text, digits.format(row.pid), self.widths[PID]);
            text.push_str(&self.front);
            let odd = self.lines.odd_id(row.shared);
            push_cell(text, odd.or_else(|| str::from_utf8(&row.id).ok()).unwrap_or_default(), self.widths[ID]);
            text.push_str(&self.back);
        }
    }

    fn share(&mut self, shared: u32) {
        let (lines, widths) = (self.lines, self.widths);
        let cell = |column: usize| (lines.text(shared, column), widths[column]);
        self.front.clear();
        (UID..ID).map(cell).for_each(|(text, wide)| push_cell(&mut self.front, text, wide));
        self.back.clear();
        push_line(&mut self.back, self.last.iter().map(|column| cell(*column)));
        self.shared = Some(shared);
    }
}
