//! The table that `coreward list` prints.

use super::crash_columns::CrashColumn;
use super::error::CliError;
use super::table::Table;
use super::terminal::Style;
use super::titles::Titles;
use super::{explanations, human, lookup, record_field, time};
use crate::crash::signal;
use crate::crash::text::{printable, push_printable};
use crate::crash::{Dump, title_of};
use crate::store::{self, CrashRow, Filter, Listed};
use coreward_wire::paths::Root;
use serde_json::Value;
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::thread;

/// Crashes from which on two threads are faster.
const LONG: u64 = 10_000;

/// The columns that are shown, and whether somebody asked for them.
#[derive(Clone, Debug)]
pub(super) struct ShownColumns {
    columns: Vec<CrashColumn>,
    /// Otherwise columns that tell nothing are left out.
    chosen: bool,
}

impl ShownColumns {
    /// The chosen columns, or the usual ones.
    pub(super) fn new(chosen: Option<Vec<CrashColumn>>) -> Self {
        Self { chosen: chosen.is_some(), columns: chosen.unwrap_or_else(CrashColumn::by_default) }
    }

    /// The same for crashes that are shown one by one: the usual columns without the function. Whether there is room for it would be decided
    /// anew for each of them.
    pub(super) fn one_by_one(chosen: Option<Vec<CrashColumn>>) -> Self {
        let mut shown = Self::new(chosen);
        if !shown.chosen {
            shown.columns.retain(|column| *column != CrashColumn::Function);
        }
        shown
    }

    fn need_records(&self) -> bool {
        self.columns.iter().any(|column| matches!(column, CrashColumn::Field(_)))
    }

    fn position(&self, wanted: &CrashColumn) -> Option<usize> {
        self.columns.iter().position(|column| column == wanted)
    }
}

/// The crashes that `filter` selects, the oldest first.
pub(super) struct CrashTable<'a>(Vec<TablePart<'a>>);

impl<'a> CrashTable<'a> {
    /// Reads the crashes. `here` is the name of this host.
    pub(super) fn read(root: &Root, filter: &Filter, here: &'a str, shown: &'a ShownColumns) -> Result<Self, CliError> {
        // Without the catalog and the service, records are all there is.
        if shown.need_records() || lookup::is_incomplete(root) {
            let mut part = TablePart::new(here, shown);
            let mut titles = Titles::new(root);
            for listed in lookup::list(root, filter)? {
                part.push_listed(&listed, &mut titles)?;
            }
            return Ok(Self(vec![part]));
        }
        let read = |filter: &Filter| -> Result<TablePart<'a>, CliError> {
            let mut part = TablePart::new(here, shown);
            let mut titles = Titles::new(root);
            lookup::for_each_row(root, filter, &mut |row| part.push(row, None, &mut titles))?;
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
    pub(super) fn stream(
        crashes: &[Listed],
        here: &'a str,
        shown: &'a ShownColumns,
        titles: &mut Titles<'_>,
    ) -> io::Result<Self> {
        let mut part = TablePart::new(here, shown);
        for listed in crashes {
            part.push_listed(listed, titles)?;
        }
        let widths: Vec<usize> = shown.columns.iter().map(usual_width).collect();
        part.table.widen(&widths);
        Ok(Self(vec![part]))
    }

    /// Writes the rows of [`Self::stream`] with all columns.
    pub(super) fn write_stream(mut self, out: &mut dyn Write, with_header: bool) -> io::Result<()> {
        self.0.iter_mut().for_each(TablePart::set_optional);
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

    pub(super) fn write(mut self, out: &mut dyn Write, with_header: bool) -> io::Result<()> {
        let any = |is_of_interest: fn(&TablePart<'a>) -> bool| self.0.iter().any(is_of_interest);
        let of_interest = [
            (CrashColumn::Container, any(|part| part.any_container)),
            (CrashColumn::Host, any(|part| part.any_other_host)),
            (CrashColumn::Function, any(|part| part.any_function)),
        ];
        for part in &mut self.0 {
            part.set_optional();
            for (column, is_shown) in &of_interest {
                if let Some(column) = part.shown.position(column).filter(|_| !is_shown && !part.shown.chosen) {
                    part.table.hide_column(column);
                }
            }
        }
        let tables: Vec<Table> = self.0.into_iter().map(|part| part.table).collect();
        Table::write_joined(&tables, out, with_header)
    }
}

/// What most values of a column fit into.
fn usual_width(column: &CrashColumn) -> usize {
    match column {
        CrashColumn::Time => 19,
        CrashColumn::Pid => 7,
        CrashColumn::Uid => 5,
        CrashColumn::Signal => 4,
        CrashColumn::Core => 9,
        CrashColumn::Size => 6,
        CrashColumn::Id => 16,
        CrashColumn::Exe => 28,
        CrashColumn::Unit => 24,
        CrashColumn::Container | CrashColumn::Host => 12,
        CrashColumn::Signature => 27,
        CrashColumn::Function | CrashColumn::Title | CrashColumn::Field(_) => 0,
    }
}

/// Some rows of the table. Unless they are asked for, CONTAINER, HOST and FUNCTION are shown only if a row of any part has a value of interest
/// there.
struct TablePart<'a> {
    table: Table,
    /// The name of this host.
    here: &'a str,
    shown: &'a ShownColumns,
    times: time::Short,
    any_container: bool,
    any_other_host: bool,
    any_function: bool,
}

impl<'a> TablePart<'a> {
    fn new(here: &'a str, shown: &'a ShownColumns) -> Self {
        let header: Vec<&str> = shown.columns.iter().map(CrashColumn::header).collect();
        let mut table = Table::new(&header);
        table.set_style(style);
        Self {
            table,
            here,
            shown,
            times: time::Short::default(),
            any_container: false,
            any_other_host: false,
            any_function: false,
        }
    }

    /// FUNCTION is the widest column, and the last.
    fn set_optional(&mut self) {
        if let Some(column) = self.shown.position(&CrashColumn::Function).filter(|_| !self.shown.chosen) {
            self.table.set_optional(column);
        }
    }

    fn push_listed(&mut self, listed: &Listed, titles: &mut Titles<'_>) -> io::Result<()> {
        let json = self.shown.need_records().then(|| record_field::json_of(listed, titles)).transpose()?;
        let program = listed.record.program();
        self.push(&CrashRow::of_listed(listed, &program), Some((listed, json.as_ref())), titles);
        Ok(())
    }

    /// Adds a crash, with its record if that was read.
    fn push(&mut self, row: &CrashRow<'_>, record: Option<(&Listed, Option<&Value>)>, titles: &mut Titles<'_>) {
        self.any_container |= !row.container.is_empty();
        self.any_other_host |= !row.hostname.is_empty() && row.hostname != self.here;
        let mut digits = itoa::Buffer::new();
        for column in &self.shown.columns {
            let (times, any_function) = (&mut self.times, &mut self.any_function);
            self.table.push_cell(|cell| match column {
                CrashColumn::Time => times.push(cell, row.time_us),
                CrashColumn::Pid => cell.push_str(digits.format(row.pid.as_raw())),
                CrashColumn::Uid => cell.push_str(row.uid.map_or("", |uid| digits.format(uid.as_raw()))),
                CrashColumn::Signal => push_printable(cell, row.signal_name),
                CrashColumn::Core => explanations::push_core_state(cell, row.core_state, row.stacks_only, row.no_core),
                CrashColumn::Size => {
                    if row.core_state.is_present() {
                        cell.push_str(&human::size(row.stored));
                    }
                }
                CrashColumn::Id => push_printable(cell, row.id),
                CrashColumn::Exe => push_printable(cell, row.program),
                CrashColumn::Unit => push_printable(cell, row.unit),
                CrashColumn::Container => push_printable(cell, short_container(row.container)),
                CrashColumn::Host => push_printable(cell, row.hostname),
                CrashColumn::Function => {
                    let begin = cell.len();
                    match record {
                        Some((listed, _)) => cell.push_str(&titles.functions_of(&listed.record)),
                        // The stack of another dump is no news of this one.
                        None if row.signal_name == Dump::SIGNAL_NAME => {}
                        None => cell.push_str(&titles.of_row(row).functions),
                    }
                    *any_function |= cell.len() > begin;
                }
                CrashColumn::Title => match record {
                    Some((listed, _)) => cell.push_str(&titles.of(&listed.record)),
                    None if row.signal_name == Dump::SIGNAL_NAME => push_title(cell, row, ""),
                    None => push_title(cell, row, &titles.of_row(row).title),
                },
                CrashColumn::Signature if row.signal_name == Dump::SIGNAL_NAME => {}
                CrashColumn::Signature => push_printable(cell, row.signature),
                CrashColumn::Field(field) => {
                    let json = record.and_then(|(_, json)| json);
                    cell.push_str(&json.map(|json| record_field::value(json, field)).unwrap_or_default());
                }
            });
        }
    }
}

/// The title of a crash, given that of its signature, which is empty if no crash of it has a stack.
fn push_title(cell: &mut String, row: &CrashRow<'_>, known: &str) {
    if known.is_empty() {
        let is_known = row.signal_name != signal::name(None);
        cell.push_str(&title_of(row.signal_name, is_known, &printable(row.program)));
    } else {
        cell.push_str(known);
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
        let (shown, root) = (ShownColumns::new(None), Root::new("/nowhere"));
        let mut part = TablePart::new("here", &shown);
        for listed in crashes {
            part.push_listed(listed, &mut Titles::new(&root)).unwrap();
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
        let header: Vec<String> = CrashColumn::by_default().iter().map(|column| column.header().to_owned()).collect();
        assert_eq!(lines(&[listed(7)])[0], header[..9]);
        let mut other = listed(8);
        other.record.time_us -= 1;
        other.record.cgroup.container = Some("4f5c".repeat(16));
        other.record.hostname = "pod-1".to_owned();
        let shown = lines(&[other, listed(7)]);
        assert_eq!(shown[0], header[..11]);
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
        let (shown, root) = (ShownColumns::new(None), Root::new("/nowhere"));
        let titles = &mut Titles::new(&root);
        let (mut first, mut second) = (TablePart::new("here", &shown), TablePart::new("here", &shown));
        let mut other = listed(8);
        other.record.cgroup.container = Some("web".to_owned());
        other.record.exe = "/usr/bin/with-a-longer-name".to_owned();
        first.push(&CrashRow::of_listed(&listed(7), "/bin/a"), None, titles);
        second.push_listed(&other, titles).unwrap();
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
        let (shown, root) = (ShownColumns::new(None), Root::new("/nowhere"));
        let mut part = TablePart::new("here", &shown);
        for id in ["0123456789abcdef", "short", "", "0123456789abcde\n", "fedcba9876543210"] {
            part.push(&CrashRow { id, ..CrashRow::of_listed(&one, "/bin/a") }, None, &mut Titles::new(&root));
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
