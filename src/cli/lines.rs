//! The lines of a list of crashes, of which there may be hundreds of thousands.

use super::pen::Pen;
use super::table::{GAP, NOTHING, push_line};
use super::texts::Texts;
use super::{human, list, time, words};
use crate::store::{Brief, Take};
use std::io::{self, Write};
use std::sync::mpsc::{channel, sync_channel};

pub(super) const COLUMNS: usize = 11;
pub(super) const TIME: usize = 0;
pub(super) const PID: usize = 1;
pub(super) const UID: usize = 2;
const SIGNAL: usize = 3;
const CORE: usize = 4;
const SIZE: usize = 5;
pub(super) const ID: usize = 6;
pub(super) const EXE: usize = 7;
const UNIT: usize = 8;
const CONTAINER: usize = 9;
const HOST: usize = 10;
const HEADER: [&str; COLUMNS] = ["TIME", "PID", "UID", "SIG", "CORE", "SIZE", "ID", "EXE", "UNIT", "CONTAINER", "HOST"];

/// So many rows are formatted by two threads.
const MANY: usize = 10_000;
/// Rows that are formatted and written at once: some 30 KiB.
const PIECE: usize = 256;
/// Pieces that a thread may be ahead of the other.
const AHEAD: usize = 4;

/// Crashes as they came. They become text only when they are written: 100,000 lines are 15 MB, and every page of that would
/// have to be asked of the kernel.
pub(super) struct Lines<'a> {
    here: &'a str,
    pub(super) rows: Vec<Row>,
    /// What a row shares with those before it, as in a storm.
    shared: Vec<Shared>,
    texts: [Texts; COLUMNS],
    highest_pid: u32,
    /// What only a few machines have to tell apart is shown where one of the rows needs it.
    with_container: bool,
    with_host: bool,
    /// Room for a word about the core.
    word: String,
}

pub(super) struct Row {
    pub(super) time_us: u64,
    /// An id as they are. Another is a text of its column.
    pub(super) id: [u8; ID_LENGTH],
    pub(super) pid: u32,
    pub(super) shared: u32,
}

const ID_LENGTH: usize = 16;

/// The number of each column's text. [`Row`] has what is not here.
type Shared = [u32; COLUMNS];

impl<'a> Lines<'a> {
    pub(super) fn new(here: &'a str) -> Self {
        Self {
            here,
            rows: Vec::new(),
            shared: Vec::new(),
            texts: std::array::from_fn(|_| Texts::default()),
            highest_pid: 0,
            with_container: false,
            with_host: false,
            word: String::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds what came from the newest backwards.
    pub(super) fn append_backwards(&mut self, rest: Self) {
        let known = self.shared.len() as u32;
        self.rows.extend(rest.rows.into_iter().rev().map(|row| Row { shared: known + row.shared, ..row }));
        let mut texts = self.texts.iter_mut().zip(&rest.texts);
        let more: Shared = std::array::from_fn(|_| texts.next().map_or(0, |(texts, rest)| texts.append(rest)));
        let moved = |column: usize, number: u32| if number == Texts::EMPTY { number } else { more[column] + number };
        let shared = rest.shared.iter().map(|shared| std::array::from_fn(|column| moved(column, shared[column])));
        self.shared.extend(shared);
        self.highest_pid = self.highest_pid.max(rest.highest_pid);
        self.with_container |= rest.with_container;
        self.with_host |= rest.with_host;
    }

    /// Writes all, the oldest first.
    pub(super) fn write(mut self, out: &mut dyn Write, with_header: bool) -> io::Result<()> {
        // Nearly sorted: a crash out of the spool comes late.
        self.rows.sort_by_key(|row| row.time_us);
        let widths = self.widths(with_header);
        let wanted = |column: &usize| match *column {
            CONTAINER => self.with_container,
            HOST => self.with_host,
            _ => true,
        };
        let columns: Vec<usize> = (0..COLUMNS).filter(wanted).collect();
        let mut lines = String::new();
        if with_header {
            push_line(&mut lines, columns.iter().map(|column| (HEADER[*column], widths[*column])));
            out.write_all(lines.as_bytes())?;
        }
        let new_pen = || Pen::new(&self, &widths, &columns[EXE..]);
        let pieces = || self.rows.chunks(PIECE).enumerate();
        let is_many = self.rows.len() >= MANY;
        std::thread::scope(|scope| {
            // Every other piece comes from a second thread, and its room goes back: what is small stays in the cache.
            let (send, receive) = sync_channel(AHEAD);
            let (give_back, given_back) = channel();
            if is_many {
                let mut pen = new_pen();
                scope.spawn(move || {
                    for (_, piece) in pieces().skip(1).step_by(2) {
                        let mut lines = given_back.try_recv().unwrap_or_default();
                        pen.write(&mut lines, piece);
                        if send.send(lines).is_err() {
                            return;
                        }
                    }
                });
            }
            let mut pen = new_pen();
            for (number, piece) in pieces() {
                if !is_many || number % 2 == 0 {
                    pen.write(&mut lines, piece);
                    out.write_all(lines.as_bytes())?;
                } else if let Ok(lines) = receive.recv() {
                    out.write_all(lines.as_bytes())?;
                    let _ = give_back.send(lines);
                }
            }
            Ok(())
        })
    }

    /// How wide each column is with the gap behind it.
    fn widths(&self, with_header: bool) -> [usize; COLUMNS] {
        let mut widths = self.texts.each_ref().map(Texts::widest);
        // What the calendar doesn't reach is shown as a number: the later, the wider.
        let ends = self.rows.first().into_iter().chain(self.rows.last());
        widths[TIME] = ends.map(|row| time::short(row.time_us).len()).max().unwrap_or(0);
        widths[PID] = itoa::Buffer::new().format(self.highest_pid).len();
        for (wide, name) in widths.iter_mut().zip(HEADER) {
            *wide = GAP + if with_header { name.len().max(*wide) } else { *wide };
        }
        widths
    }

    /// What is shown in one of the columns that rows share.
    pub(super) fn text(&self, shared: u32, column: usize) -> &str {
        self.texts[column].get(self.shared[shared as usize][column])
    }

    /// An id that is not as ids are.
    pub(super) fn odd_id(&self, shared: u32) -> Option<&str> {
        let number = self.shared[shared as usize][ID];
        (number != Texts::EMPTY).then(|| self.texts[ID].get(number))
    }
}

impl Take for Lines<'_> {
    fn take(&mut self, brief: &Brief<'_>) {
        self.with_container |= !brief.container.is_empty();
        self.with_host |= !brief.hostname.is_empty() && brief.hostname != self.here;
        self.highest_pid = self.highest_pid.max(brief.pid);
        self.word.clear();
        words::push_core(&mut self.word, brief.core_state, brief.no_core);
        let is_there = brief.core_state.is_there();
        let mut digits = itoa::Buffer::new();
        let mut shared = [Texts::EMPTY; COLUMNS];
        let cells: [(usize, &str); 8] = [
            (UID, brief.uid.map_or("", |uid| digits.format(uid))),
            (SIGNAL, brief.signal_name),
            (CORE, &self.word),
            (SIZE, if is_there { &human::size(brief.stored) } else { "" }),
            (EXE, brief.program),
            (UNIT, brief.unit),
            (CONTAINER, list::container(brief.container)),
            (HOST, brief.hostname),
        ];
        for (column, text) in cells {
            shared[column] = self.texts[column].number(text);
        }
        let id = usual(brief.id);
        match id {
            Some(_) => self.texts[ID].widen(ID_LENGTH),
            None => shared[ID] = self.texts[ID].number(if brief.id.is_empty() { NOTHING } else { brief.id }),
        }
        let id = id.unwrap_or_default();
        if self.shared.last() != Some(&shared) {
            self.shared.push(shared);
        }
        self.rows.push(Row { time_us: brief.time_us, id, pid: brief.pid, shared: self.shared.len() as u32 - 1 });
    }
}

/// An id that can be shown as it is.
fn usual(id: &str) -> Option<[u8; ID_LENGTH]> {
    let id: [u8; ID_LENGTH] = id.as_bytes().try_into().ok()?;
    id.iter().all(u8::is_ascii_hexdigit).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::{CoreReport, NoCore};
    use crate::store::fixtures::listed;
    use crate::store::{CoreState, Listed};

    /// The lines of these crashes, header first, their cells separated.
    fn lines(crashes: &[Listed]) -> Vec<Vec<String>> {
        let mut lines = Lines::new("here");
        for listed in crashes {
            lines.take(&Brief::of(listed, &listed.record.program()));
        }
        let mut out = Vec::new();
        lines.write(&mut out, true).unwrap();
        let split =
            |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect();
        String::from_utf8(out).unwrap().lines().map(split).collect()
    }

    #[test]
    fn a_row_tells_what_became_of_the_core() {
        let mut listed = listed(7);
        let row = |listed: &Listed| lines(std::slice::from_ref(listed))[1].clone();
        assert_eq!(row(&listed)[1..6], ["7", "0", "SEGV", "stored", "2.0K"]);
        listed.core_state = CoreState::Evicted;
        assert_eq!(row(&listed)[4..6], ["evicted", "-"]);
        listed.core_state = CoreState::None;
        listed.record.core = CoreReport::none(NoCore::Storm);
        assert_eq!(row(&listed)[4..6], ["none:storm", "-"]);
    }

    #[test]
    fn hostile_text_stays_on_its_line() {
        let mut listed = listed(7);
        listed.record.exe = "/tmp/a\nb\x1b[2J".to_owned();
        listed.record.cgroup.unit = Some("x\ty".to_owned());
        listed.record.hostname = "h\r".to_owned();
        let shown = lines(&[listed]);
        assert_eq!(shown.len(), 2);
        assert_eq!(shown[1][7..], ["/tmp/a\\nb\\u{1b}[2J", "x\\ty", "h\\r"]);
    }

    #[test]
    fn columns_that_tell_nothing_are_left_out_and_the_oldest_is_first() {
        assert_eq!(lines(&[listed(7)])[0], HEADER[..CONTAINER]);
        let mut other = listed(8);
        other.record.time_us -= 1;
        other.record.cgroup.container = Some("4f5c".repeat(16));
        other.record.hostname = "pod-1".to_owned();
        let shown = lines(&[listed(7), other]);
        assert_eq!(shown[0], HEADER);
        assert_eq!(shown[1][1], "8");
        assert_eq!(
            (&shown[1][9..], &shown[2][9..]),
            (
                ["4f5c4f5c4f5c".to_owned(), "pod-1".to_owned()].as_slice(),
                ["-".to_owned(), "here".to_owned()].as_slice()
            )
        );
    }

    #[test]
    fn many_rows_of_two_halves_come_in_the_order_of_their_times() {
        let mut halves = [Lines::new("here"), Lines::new("here")];
        let one = listed(7);
        let take = |lines: &mut Lines<'_>, number: usize| {
            let program = format!("/bin/{}", number % 300);
            // Those at the very end came late.
            let time_us = if number < 3 * MANY { number } else { number - 3 * MANY };
            lines.take(&Brief { time_us: time_us as u64, pid: number as u32, ..Brief::of(&one, &program) });
        };
        let all = 3 * MANY + 5;
        (0..MANY + 7).for_each(|number| take(&mut halves[0], number));
        (MANY + 7..all).rev().for_each(|number| take(&mut halves[1], number));
        let [mut lines, rest] = halves;
        lines.append_backwards(rest);
        let mut out = Vec::new();
        lines.write(&mut out, false).unwrap();
        let out = String::from_utf8(out).unwrap();
        let shown: Vec<(&str, &str)> = out
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .map(|cells| (cells[2], cells[8]))
            .collect();
        let late = (0..5).flat_map(|number| [number, 3 * MANY + number]);
        let wanted: Vec<(String, String)> =
            late.chain(5..3 * MANY).map(|number| (number.to_string(), format!("/bin/{}", number % 300))).collect();
        assert!(shown.into_iter().eq(wanted.iter().map(|(pid, program)| (pid.as_str(), program.as_str()))));
    }

    #[test]
    fn ids_are_shown_whatever_they_are() {
        let one = listed(7);
        let mut halves = [Lines::new("here"), Lines::new("here")];
        let ids = ["0123456789abcdef", "short", "", "0123456789abcde\n", "fedcba9876543210"];
        for (number, id) in ids.into_iter().enumerate() {
            halves[number % 2].take(&Brief { id, time_us: number as u64, ..Brief::of(&one, "/bin/a") });
        }
        let [mut lines, rest] = halves;
        lines.append_backwards(rest);
        let mut out = Vec::new();
        lines.write(&mut out, true).unwrap();
        let out = String::from_utf8(out).unwrap();
        let shown: Vec<&str> = out.lines().skip(1).filter_map(|line| line.split_whitespace().nth(7)).collect();
        assert_eq!(shown, ["0123456789abcdef", "short", "-", "0123456789abcde\\n", "fedcba9876543210"]);
        let begins: Vec<Option<usize>> = out.lines().map(|line| line.find("/bin/a").or(line.find("EXE"))).collect();
        assert!(begins.iter().all(|begin| *begin == begins[0]), "{out}");
    }
}
