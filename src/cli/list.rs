//! `coreward list`.

use super::{CliError, human, json, say, table, time, words};
use crate::crash::text::printable;
use crate::store::{self, Brief, CoreState, Filter};
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
    let listed = store::brief(root, &filter)?;
    if listed.is_empty() {
        // Not a failure: "no crash since yesterday" is a good answer. Standard output stays empty for who counts lines.
        let whose = if Uid::effective().is_root() { "" } else { " (root and group adm see the crashes of all users)" };
        say(&format!("No crash.{whose}"));
        return Ok(ExitCode::SUCCESS);
    }
    let here = uname().map(|names| names.nodename().to_string_lossy().into_owned()).unwrap_or_default();
    let (header, rows) = columns(&listed, &here);
    table::write(out, (!options.no_legend).then_some(header.as_slice()), &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn microseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_microsecond()).unwrap_or(0)
}

/// Header and rows. What only a few machines have to tell apart has a column where one of the rows needs it.
fn columns(listed: &[Brief], here: &str) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let with_container = listed.iter().any(|brief| !brief.container.is_empty());
    let with_host = listed.iter().any(|brief| !brief.hostname.is_empty() && brief.hostname != here);
    let mut header = vec!["TIME", "PID", "UID", "SIG", "CORE", "SIZE", "ID", "EXE", "UNIT"];
    header.extend(with_container.then_some("CONTAINER"));
    header.extend(with_host.then_some("HOST"));
    let mut times = time::Short::default();
    let rows = listed.iter().map(|brief| {
        let mut row = row(brief, &mut times);
        row.extend(with_container.then(|| container(&brief.container)));
        row.extend(with_host.then(|| printable(&brief.hostname)));
        row
    });
    (header, rows.collect())
}

fn row(brief: &Brief, times: &mut time::Short) -> Vec<String> {
    let is_there = matches!(brief.core_state, CoreState::Stored | CoreState::Truncated);
    vec![
        times.of(brief.time_us),
        brief.pid.to_string(),
        brief.uid.map(|uid| uid.to_string()).unwrap_or_default(),
        printable(&brief.signal_name),
        words::core_word(brief.core_state, &brief.no_core),
        if is_there { human::size(brief.stored) } else { String::new() },
        brief.id.clone(),
        printable(&brief.program),
        printable(&brief.unit),
    ]
}

/// Name, or as much of an id as `docker ps` shows.
pub(super) fn container(name: &str) -> String {
    let is_id = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    printable(if is_id { &name[..12] } else { name })
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

    #[test]
    fn a_row_tells_what_became_of_the_core() {
        let mut listed = crash(7);
        let row = |listed: &Listed| row(&Brief::of(listed), &mut time::Short::default());
        assert_eq!(row(&listed)[1..6], ["7", "0", "SEGV", "stored", "2.0K"]);
        listed.core_state = CoreState::Evicted;
        assert_eq!(row(&listed)[4..6], ["evicted", ""]);
        listed.core_state = CoreState::None;
        listed.record.core = CoreReport::none(NoCore::Storm);
        assert_eq!(row(&listed)[4..6], ["none:storm", ""]);
    }

    #[test]
    fn hostile_text_stays_on_its_line() {
        let mut listed = crash(7);
        listed.record.exe = "/tmp/a\nb\x1b[2J".to_owned();
        listed.record.place.unit = Some("x\ty".to_owned());
        listed.record.hostname = "h\r".to_owned();
        let (header, rows) = columns(&[Brief::of(&listed)], "here");
        let mut out = Vec::new();
        table::write(&mut out, Some(&header), &rows).unwrap();
        let shown: Vec<String> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(shown.len(), 2, "{shown:?}");
        assert!(shown[1].ends_with(r"/tmp/a\nb\u{1b}[2J  x\ty  h\r"), "{shown:?}");
    }

    #[test]
    fn containers_and_hosts_have_a_column_where_there_are_any() {
        let (header, rows) = columns(&[Brief::of(&crash(7))], "here");
        assert_eq!((header.len(), rows[0].len()), (9, 9));
        let mut other = crash(8);
        other.record.place.container = Some("4f5c".repeat(16));
        other.record.hostname = "pod-1".to_owned();
        let (header, rows) = columns(&[Brief::of(&crash(7)), Brief::of(&other)], "here");
        assert_eq!(header[9..], ["CONTAINER", "HOST"]);
        assert_eq!(
            (rows[0][9].as_str(), &rows[1][9..]),
            ("", ["4f5c4f5c4f5c".to_owned(), "pod-1".to_owned()].as_slice())
        );
    }
}
