//! `coreward list`.

use super::table::Table;
use super::{CliError, human, json, say, time, words};
use crate::crash::text::push_printable;
use crate::store::{self, Brief, CoreState, Filter, Take};
use crate::wire::paths::Root;
use clap::Args;
use jiff::Timestamp;
use nix::sys::utsname::uname;
use nix::unistd::Uid;
use std::io::Write;
use std::process::ExitCode;

/// Options of `list`.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// Only crashes of this id or its beginning, PID, path of an executable, unit, or name of a process [default: all]
    #[arg(value_name = "MATCH")]
    name: Option<String>,
    /// Only crashes at this time or later
    ///
    /// A TIME is written as journalctl(1) takes it: "2026-01-02", "2026-01-02 10:00", "10:00", "today", "yesterday", "-1h",
    /// "2 days ago", "@1767348000", "2026-01-02T10:00:00Z", "2026-01-02 10:00 UTC".
    #[arg(long, short = 'S', value_name = "TIME", value_parser = time::argument, allow_hyphen_values = true)]
    since: Option<Timestamp>,
    /// Only crashes at this time or earlier
    #[arg(long, short = 'U', value_name = "TIME", value_parser = time::argument, allow_hyphen_values = true)]
    until: Option<Timestamp>,
    /// Only crashes of this unit, system's or user's
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// Only crashes in this container: its name, its id or the beginning of it
    #[arg(long, value_name = "CONTAINER")]
    container: Option<String>,
    /// Only crashes in this pod
    #[arg(long, value_name = "UID")]
    pod: Option<String>,
    /// Only crashes on this host, as the crashed process called it
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Only crashes of this user's processes
    #[arg(long, value_name = "USER", value_parser = human::uid_of)]
    user: Option<u32>,
    /// Only crashes of this executable
    #[arg(long, value_name = "PATH")]
    executable: Option<String>,
    /// Only crashes with this signal, such as SEGV
    #[arg(long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Only crashes of this signature, or of all that begin so
    #[arg(long, value_name = "SIGNATURE")]
    signature: Option<String>,
    /// Only the newest N crashes
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<usize>,
    /// Show no line with the names of the columns
    #[arg(long)]
    no_legend: bool,
    /// Show the whole records as one JSON array
    #[arg(long)]
    json: bool,
}

pub(super) fn run(root: &Root, options: Options, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let filter = Filter {
        matches: options.name,
        since_us: options.since.map(microseconds),
        until_us: options.until.map(microseconds),
        limit: options.limit,
        unit: options.unit,
        container: options.container,
        pod: options.pod,
        hostname: options.host,
        uid: options.user,
        executable: options.executable,
        signal: options.signal.map(|name| name.strip_prefix("SIG").map(str::to_owned).unwrap_or(name)),
        signature: options.signature,
    };
    if options.json {
        json::write(out, &store::list(root, &filter)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let here = uname().map(|names| names.nodename().to_string_lossy().into_owned()).unwrap_or_default();
    let (mut list, mut rest) = (List::new(&here), List::new(&here));
    store::brief(root, &filter, &mut list, &mut rest)?;
    list.append(rest);
    if list.times.is_empty() {
        // Not a failure: "no crash since yesterday" is a good answer. Standard output stays empty for who counts lines.
        let whose = if Uid::effective().is_root() { "" } else { " (root and group adm see the crashes of all users)" };
        say(&format!("No crash.{whose}"));
        return Ok(ExitCode::SUCCESS);
    }
    list.write(out, !options.no_legend)?;
    Ok(ExitCode::SUCCESS)
}

fn microseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_microsecond()).unwrap_or(0)
}

/// The lines of a list.
struct List<'a> {
    here: &'a str,
    table: Table,
    times: Vec<u64>,
    /// Of the times, so many came first; those behind them came backwards.
    upwards: usize,
    clock: time::Short,
    with_container: bool,
    with_host: bool,
}

const HEADER: [&str; 11] = ["TIME", "PID", "UID", "SIG", "CORE", "SIZE", "ID", "EXE", "UNIT", "CONTAINER", "HOST"];
/// What only a few machines have to tell apart is shown where one of the rows needs it.
const CONTAINER: usize = 9;
const HOST: usize = 10;

impl<'a> List<'a> {
    fn new(here: &'a str) -> Self {
        let (table, clock) = (Table::new(&HEADER), time::Short::default());
        Self { here, table, times: Vec::new(), upwards: 0, clock, with_container: false, with_host: false }
    }

    fn append(&mut self, rest: Self) {
        self.upwards = self.times.len();
        self.table.append(rest.table);
        self.times.extend(rest.times);
        self.with_container |= rest.with_container;
        self.with_host |= rest.with_host;
    }

    fn write(&self, out: &mut dyn Write, with_header: bool) -> std::io::Result<()> {
        let mut order: Vec<usize> = (0..self.upwards).chain((self.upwards..self.times.len()).rev()).collect();
        // Nearly sorted: a crash out of the spool comes late.
        order.sort_by_key(|row| self.times[*row]);
        let wanted = |column| match column {
            CONTAINER => self.with_container,
            HOST => self.with_host,
            _ => true,
        };
        self.table.write(out, with_header, &order, wanted)
    }
}

impl Take for List<'_> {
    fn take(&mut self, brief: &Brief<'_>) {
        self.times.push(brief.time_us);
        self.with_container |= !brief.container.is_empty();
        self.with_host |= !brief.hostname.is_empty() && brief.hostname != self.here;
        let is_there = matches!(brief.core_state, CoreState::Stored | CoreState::Truncated);
        let (table, clock) = (&mut self.table, &mut self.clock);
        let number = |text: &mut String, number: u64| text.push_str(itoa::Buffer::new().format(number));
        table.cell(|text| clock.push(text, brief.time_us));
        table.cell(|text| number(text, brief.pid.into()));
        table.cell(|text| brief.uid.iter().for_each(|uid| number(text, (*uid).into())));
        table.cell(|text| push_printable(text, brief.signal_name));
        table.cell(|text| words::push_core(text, brief.core_state, brief.no_core));
        table.cell(|text| {
            if is_there {
                text.push_str(&human::size(brief.stored));
            }
        });
        table.cell(|text| push_printable(text, brief.id));
        table.cell(|text| push_printable(text, brief.program));
        table.cell(|text| push_printable(text, brief.unit));
        table.cell(|text| push_printable(text, container(brief.container)));
        table.cell(|text| push_printable(text, brief.hostname));
    }
}

/// Name, or as much of an id as `docker ps` shows.
pub(super) fn container(name: &str) -> &str {
    let is_id = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { &name[..12] } else { name }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::crash::cgroup::Place;
    use crate::crash::{CoreOutcome, CoreReport, CrashKey, Decision, NoCore, Origin, Record};
    use crate::store::Listed;

    /// A crash for the tests of this room.
    pub(crate) fn crash(pid: u32) -> Listed {
        let key = CrashKey { boot_id: "0".repeat(32), pid, start_time: 1 };
        let record = Record {
            format: Record::FORMAT,
            id: key.id(),
            key,
            time_us: 1_767_348_000_000_000,
            tid: Some(pid),
            uid: Some(0),
            gid: Some(0),
            signal: Some(11),
            signal_name: "SEGV".to_owned(),
            comm: "segv".to_owned(),
            exe: "/usr/bin/segv".to_owned(),
            exe_build_id: None,
            cmdline: "segv -x".to_owned(),
            cwd: "/".to_owned(),
            root: "/".to_owned(),
            hostname: "here".to_owned(),
            place: Place { unit: Some("a.service".to_owned()), ..Place::default() },
            in_namespace: false,
            privileged: false,
            core_limit: u64::MAX,
            status: String::new(),
            limits: String::new(),
            open_fds: String::new(),
            kernel: "6.12.0".to_owned(),
            machine: "x86_64".to_owned(),
            origin: Origin::Live,
            attempt: 1,
            held_us: 1500,
            signature: None,
            stack: Vec::new(),
            other_threads: Vec::new(),
            modules: Vec::new(),
            siginfo: None,
            decision: Decision::default(),
            core: CoreReport {
                outcome: CoreOutcome::Stored,
                bytes: 8192,
                expected: 8192,
                stored: 2048,
                truncated: None,
            },
            trouble: Vec::new(),
        };
        Listed { record, core_state: CoreState::Stored, core_file: Some("/cores/x".into()) }
    }

    /// The lines of these crashes, header first, their cells separated.
    fn lines(crashes: &[Listed]) -> Vec<Vec<String>> {
        let mut list = List::new("here");
        for listed in crashes {
            list.take(&Brief::of(listed, &listed.record.program()));
        }
        let mut out = Vec::new();
        list.write(&mut out, true).unwrap();
        let split =
            |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect();
        String::from_utf8(out).unwrap().lines().map(split).collect()
    }

    #[test]
    fn a_row_tells_what_became_of_the_core() {
        let mut listed = crash(7);
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
        let mut listed = crash(7);
        listed.record.exe = "/tmp/a\nb\x1b[2J".to_owned();
        listed.record.place.unit = Some("x\ty".to_owned());
        listed.record.hostname = "h\r".to_owned();
        let shown = lines(&[listed]);
        assert_eq!(shown.len(), 2);
        assert_eq!(shown[1][7..], ["/tmp/a\\nb\\u{1b}[2J", "x\\ty", "h\\r"]);
    }

    #[test]
    fn columns_that_tell_nothing_are_left_out_and_the_oldest_is_first() {
        assert_eq!(lines(&[crash(7)])[0], HEADER[..9]);
        let mut other = crash(8);
        other.record.time_us -= 1;
        other.record.place.container = Some("4f5c".repeat(16));
        other.record.hostname = "pod-1".to_owned();
        let shown = lines(&[crash(7), other]);
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
}
