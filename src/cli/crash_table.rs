//! The table that `coreward list` prints.

use super::error::CliError;
use super::table::Table;
use super::terminal::Style;
use super::{explanations, human, lookup, time};
use crate::crash::text::push_printable;
use crate::store::{self, CrashRow, Filter, Listed};
use coreward_wire::paths::Root;
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::thread;

/// Crashes from which on two threads are faster.
const LONG: u64 = 10_000;

const HEADER: [&str; 11] = ["TIME", "PID", "UID", "SIG", "CORE", "SIZE", "ID", "EXE", "UNIT", "CONTAINER", "HOST"];
/// What most values fit into.
const STREAM_WIDTHS: [usize; 11] = [19, 7, 5, 4, 9, 6, 16, 28, 24, 12, 0];
const CONTAINER: usize = 9;
const HOST: usize = 10;

/// The crashes that `filter` selects, the oldest first.
pub(super) struct CrashTable<'a>(Vec<TablePart<'a>>);

impl<'a> CrashTable<'a> {
    /// Reads the crashes. `here` is the name of this host.
    pub(super) fn read(root: &Root, filter: &Filter, here: &'a str) -> Result<Self, CliError> {
        let read = |filter: &Filter| -> Result<TablePart<'a>, CliError> {
            let mut part = TablePart::new(here);
            lookup::for_each_row(root, filter, &mut |row| part.push(row))?;
            Ok(part)
        };
        let middle = if filter.limit.is_none() { store::median_time(root, LONG)? } else { None };
        // Nothing is before a time of 0.
        let Some(middle_us) = middle.filter(|time_us| *time_us > 0) else { return Ok(Self(vec![read(filter)?])) };
        let (earlier, later) = filter.split_at(middle_us);
        thread::scope(|scope| {
            let later = scope.spawn(|| read(&later));
            let earlier = read(&earlier)?;
            Ok(Self(vec![earlier, later.join().unwrap_or_else(|panic| resume_unwind(panic))?]))
        })
    }

    /// The rows of crashes that are shown as they are recorded: of the columns nothing is known in advance.
    pub(super) fn stream(crashes: &[Listed], here: &'a str) -> Self {
        let mut part = TablePart::new(here);
        for listed in crashes {
            part.push(&CrashRow::of_listed(listed, &listed.record.program()));
        }
        part.table.widen(&STREAM_WIDTHS);
        Self(vec![part])
    }

    /// Writes the rows of [`Self::stream`] with all columns.
    pub(super) fn write_stream(self, out: &mut dyn Write, with_header: bool) -> io::Result<()> {
        self.0.iter().try_for_each(|part| part.table.write(out, with_header))
    }

    /// Turns the order of the rows round: the newest first.
    pub(super) fn reverse(&mut self) {
        self.0.reverse();
        self.0.iter_mut().for_each(|part| part.table.reverse());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|part| part.table.is_empty())
    }

    pub(super) fn write(self, out: &mut dyn Write, with_header: bool) -> io::Result<()> {
        let any_container = self.0.iter().any(|part| part.any_container);
        let any_other_host = self.0.iter().any(|part| part.any_other_host);
        let mut tables: Vec<Table> = self.0.into_iter().map(|part| part.table).collect();
        for (column, is_shown) in [(CONTAINER, any_container), (HOST, any_other_host)] {
            if !is_shown {
                tables.iter_mut().for_each(|table| table.hide_column(column));
            }
        }
        Table::write_joined(&tables, out, with_header)
    }
}

/// Some rows of the table. CONTAINER and HOST are shown only if a row of any part has a value of interest there.
struct TablePart<'a> {
    table: Table,
    /// The name of this host.
    here: &'a str,
    times: time::Short,
    any_container: bool,
    any_other_host: bool,
}

impl<'a> TablePart<'a> {
    fn new(here: &'a str) -> Self {
        let mut table = Table::new(&HEADER);
        table.set_style(style);
        Self { table, here, times: time::Short::default(), any_container: false, any_other_host: false }
    }

    fn push(&mut self, row: &CrashRow<'_>) {
        self.any_container |= !row.container.is_empty();
        self.any_other_host |= !row.hostname.is_empty() && row.hostname != self.here;
        let (table, mut digits) = (&mut self.table, itoa::Buffer::new());
        table.push_cell(|cell| self.times.push(cell, row.time_us));
        table.push_cell(|cell| cell.push_str(digits.format(row.pid.as_raw())));
        table.push_cell(|cell| cell.push_str(row.uid.map_or("", |uid| digits.format(uid.as_raw()))));
        table.push_cell(|cell| push_printable(cell, row.signal_name));
        table.push_cell(|cell| explanations::push_core_state(cell, row.core_state, row.stacks_only, row.no_core));
        table.push_cell(|cell| {
            if row.core_state.is_present() {
                cell.push_str(&human::size(row.stored));
            }
        });
        for text in [row.id, row.program, row.unit, short_container(row.container), row.hostname] {
            table.push_cell(|cell| push_printable(cell, text));
        }
    }
}

/// What became of the core is seen at a glance.
fn style(column: &str, cell: &str) -> Style {
    match (column, cell) {
        ("CORE", "stored") => Style::Green,
        ("CORE", "truncated" | "missing") => Style::Red,
        ("CORE", cell) if cell == "stacks" || cell.starts_with("none") => Style::Yellow,
        ("CORE" | "TIME", _) => Style::Dim,
        _ => Style::Plain,
    }
}

/// A container's name, or the first twelve digits of its id, as `docker ps` shows it.
pub(super) fn short_container(name: &str) -> &str {
    let is_id = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { &name[..12] } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::{CoreReport, NoCore};
    use crate::store::CoreState;
    use crate::store::fixtures::listed;

    /// The cells of these crashes, line by line, the header first.
    fn lines(crashes: &[Listed]) -> Vec<Vec<String>> {
        let mut part = TablePart::new("here");
        for listed in crashes {
            part.push(&CrashRow::of_listed(listed, &listed.record.program()));
        }
        let mut out = Vec::new();
        CrashTable(vec![part]).write(&mut out, true).unwrap();
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
    fn columns_that_tell_nothing_are_left_out() {
        assert_eq!(lines(&[listed(7)])[0], HEADER[..CONTAINER]);
        let mut other = listed(8);
        other.record.time_us -= 1;
        other.record.cgroup.container = Some("4f5c".repeat(16));
        other.record.hostname = "pod-1".to_owned();
        let shown = lines(&[other, listed(7)]);
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
    fn two_parts_are_written_as_one_table() {
        let (mut first, mut second) = (TablePart::new("here"), TablePart::new("here"));
        let mut other = listed(8);
        other.record.cgroup.container = Some("web".to_owned());
        other.record.exe = "/usr/bin/with-a-longer-name".to_owned();
        first.push(&CrashRow::of_listed(&listed(7), "/bin/a"));
        second.push(&CrashRow::of_listed(&other, &other.record.program()));
        let mut out = Vec::new();
        CrashTable(vec![first, second]).write(&mut out, true).unwrap();
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].ends_with("CONTAINER") && lines[1].ends_with("  -") && lines[2].ends_with("  web"), "{out}");
        let units = [lines[0].find("UNIT"), lines[1].find("a.service"), lines[2].find("a.service")];
        assert!(units.iter().all(|unit| unit.is_some() && *unit == units[0]), "{out}");
    }

    #[test]
    fn ids_are_shown_whatever_they_are() {
        let one = listed(7);
        let mut part = TablePart::new("here");
        for id in ["0123456789abcdef", "short", "", "0123456789abcde\n", "fedcba9876543210"] {
            part.push(&CrashRow { id, ..CrashRow::of_listed(&one, "/bin/a") });
        }
        let mut out = Vec::new();
        CrashTable(vec![part]).write(&mut out, true).unwrap();
        let out = String::from_utf8(out).unwrap();
        let shown: Vec<&str> = out.lines().skip(1).filter_map(|line| line.split_whitespace().nth(7)).collect();
        assert_eq!(shown, ["0123456789abcdef", "short", "-", "0123456789abcde\\n", "fedcba9876543210"]);
        let begins: Vec<Option<usize>> = out.lines().map(|line| line.find("/bin/a").or(line.find("EXE"))).collect();
        assert!(begins.iter().all(|begin| *begin == begins[0]), "{out}");
    }
}
