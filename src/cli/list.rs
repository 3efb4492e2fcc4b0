//! `coreward list`.

use super::crash_selector::text_parser;
use super::crash_table::CrashTable;
use super::error::CliError;
use super::message::print_message;
use super::titles::{TitledCrash, Titles};
use super::{human, json, lookup, time};
use crate::store::Filter;
use clap::Args;
use clap::builder::TypedValueParser;
use coreward_wire::paths::Root;
use jiff::Timestamp;
use nix::sys::utsname::uname;
use nix::unistd::Uid;
use std::io::Write;
use std::process::ExitCode;

/// Options of `list`.
#[derive(Args, Debug)]
pub(super) struct ListOptions {
    /// Only crashes with this id, PID, executable path, unit, process name, signature, or prefix of an id [default: all]
    ///
    /// The first of these that any crash has is meant: an id, then a PID, then a name, then a prefix.
    #[arg(value_name = "MATCH", value_parser = text_parser())]
    name: Option<String>,
    /// Only crashes at or after this time
    ///
    /// A TIME is written as for journalctl(1): "2026-01-02", "2026-01-02 10:00", "10:00", "today", "yesterday", "-1h",
    /// "2 days ago", "@1767348000", "2026-01-02T10:00:00Z", "2026-01-02 10:00 UTC".
    #[arg(long, short = 'S', value_name = "TIME", value_parser = time::argument, allow_hyphen_values = true)]
    since: Option<Timestamp>,
    /// Only crashes at or before this time
    #[arg(long, short = 'U', value_name = "TIME", value_parser = time::argument, allow_hyphen_values = true)]
    until: Option<Timestamp>,
    /// Only crashes of this system or user unit
    #[arg(long, value_name = "UNIT", value_parser = text_parser())]
    unit: Option<String>,
    /// Only crashes in this container, given its name, id or a prefix of the id
    #[arg(long, value_name = "CONTAINER", value_parser = text_parser())]
    container: Option<String>,
    /// Only crashes in this pod
    #[arg(long, value_name = "UID")]
    pod: Option<String>,
    /// Only crashes with this host name, as the crashed process saw it
    #[arg(long, value_name = "NAME", value_parser = text_parser())]
    host: Option<String>,
    /// Only crashes of this user's processes
    #[arg(long, value_name = "USER", value_parser = human::uid_of)]
    user: Option<Uid>,
    /// Only crashes of this executable: its absolute path, or the name in brackets that the column EXE shows
    #[arg(long, value_name = "PATH", value_parser = text_parser().try_map(program_of))]
    executable: Option<String>,
    /// Only crashes with this signal: SEGV, SIGSEGV and 11 are the same
    #[arg(long, value_name = "SIGNAL", value_parser = human::signal_name_of)]
    signal: Option<String>,
    /// Only crashes with this signature, or with any that begins like this
    #[arg(long, value_name = "SIGNATURE")]
    signature: Option<String>,
    /// Only the newest N crashes
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<usize>,
    /// Omit the line with the names of the columns
    #[arg(long)]
    no_legend: bool,
    /// Show the complete records as a JSON array
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(root: &Root, caller: Uid, options: ListOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
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
        signal: options.signal,
        signature: options.signature,
    };
    if lookup::is_incomplete(root) {
        print_message(
            "Only crashes whose cores you can read are shown: coreward-query.socket, which knows the others, is not active.",
        );
    }
    if options.json {
        let crashes = lookup::list(root, &filter)?;
        let mut titles = Titles::new(root);
        let titled: Vec<TitledCrash<'_>> = crashes.iter().map(|listed| titles.with_title(listed)).collect();
        json::write(out, &titled)?;
        return Ok(ExitCode::SUCCESS);
    }
    let here = uname().map(|names| names.nodename().to_string_lossy().into_owned()).unwrap_or_default();
    let table = CrashTable::read(root, &filter, &here)?;
    if table.is_empty() {
        // Not a failure: "no crash since yesterday" is a good answer. Standard output stays empty for scripts that count lines.
        let whose = if caller.is_root() { "" } else { " (root and group adm see the crashes of all users)" };
        print_message(&format!("No crash.{whose}"));
        return Ok(ExitCode::SUCCESS);
    }
    table.write(out, !options.no_legend)?;
    Ok(ExitCode::SUCCESS)
}

/// Parses an argument that names a program as the records do.
fn program_of(text: String) -> Result<String, String> {
    let is_program = text.starts_with(['/', '[']) || text == "unknown";
    let expected = "not an absolute path; `coreward list NAME` shows the crashes of processes with a name";
    if is_program { Ok(text) } else { Err(expected.to_owned()) }
}

fn microseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_microsecond()).unwrap_or(0)
}
