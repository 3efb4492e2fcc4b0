//! The options that select crashes, which `list` and `watch` share.

use super::crash_selector::{ForeignOptions, match_parser, name_parser, text_parser};
use super::{human, time};
use crate::store::Filter;
use clap::builder::TypedValueParser;
use clap::{Args, ValueHint};
use jiff::Timestamp;
use nix::unistd::Uid;

/// Which crashes are meant.
#[derive(Args, Debug)]
pub(super) struct CrashFilter {
    /// Only crashes with this id, PID, executable path, unit, process name, signature, or prefix of an id [default: all]
    ///
    /// The first of these that any crash has is meant: an id, then a PID, then a name, then a prefix. FIELD=VALUE is understood as by
    /// coredumpctl(1). Of several, those about the same field are alternatives, and all fields must match.
    #[arg(value_name = "MATCH", value_parser = match_parser())]
    names: Vec<String>,
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
    #[arg(long, short = 'M', visible_alias = "machine", value_name = "CONTAINER", value_parser = name_parser())]
    container: Option<String>,
    /// Only crashes in this pod
    #[arg(long, value_name = "UID")]
    pod: Option<String>,
    /// Only crashes with this host name, as the crashed process saw it
    #[arg(long, value_name = "NAME", value_parser = text_parser())]
    host: Option<String>,
    /// Only crashes of this user's processes
    #[arg(long, value_name = "USER", value_parser = human::uid_of, value_hint = ValueHint::Username)]
    user: Option<Uid>,
    /// Only crashes of this executable: its absolute path, or the name in brackets that the column EXE shows
    #[arg(long, value_name = "PATH", value_parser = text_parser().try_map(program_of), value_hint = ValueHint::FilePath)]
    executable: Option<String>,
    /// Only crashes with this signal: SEGV, SIGSEGV and 11 are the same; "dump": only dumps of living processes
    #[arg(long, value_name = "SIGNAL", value_parser = human::signal_name_of)]
    signal: Option<String>,
    /// Only crashes with this signature, or with any that begins like this
    #[arg(long, value_name = "SIGNATURE")]
    signature: Option<String>,
    #[command(flatten)]
    foreign: ForeignOptions,
}

impl CrashFilter {
    /// The filter for the catalog; of more than `limit` crashes, the newest.
    pub(super) fn into_filter(self, limit: Option<usize>) -> Filter {
        Filter {
            // As `store` reads several of them.
            matches: (!self.names.is_empty()).then(|| self.names.join("\n")),
            since_us: self.since.map(time::microseconds),
            until_us: self.until.map(time::microseconds),
            crashes_only: false,
            limit,
            unit: self.unit,
            container: self.container,
            pod: self.pod,
            hostname: self.host,
            uid: self.user,
            executable: self.executable,
            signal: self.signal,
            signature: self.signature,
        }
    }
}

/// Parses an argument that names a program as the records do.
fn program_of(text: String) -> Result<String, String> {
    let is_program = text.starts_with(['/', '[']) || text == "unknown";
    let expected = "not an absolute path; `coreward list NAME` shows the crashes of processes with a name";
    if is_program { Ok(text) } else { Err(expected.to_owned()) }
}
