//! The journal entry for a crash, with the fields that coredumpctl(1), journalctl(1) and systemctl(1) evaluate.
//!
//! `SYSLOG_IDENTIFIER=coreward` names the sender. The MESSAGE_ID is the well-known one for "a process dumped core", by which
//! coredumpctl finds entries of any sender.

use crate::crash::text::{cut, printable, to_bytes};
use crate::crash::{CoreOutcome, Record, Truncation, signal};
use coreward_wire::journal::{IDENTIFIER, MAX_ENTRY, MESSAGE_ID, PRIORITY, push_field};
use std::path::Path;

/// The longest value of a field, in bytes. Longer values are cut.
const MAX_VALUE: usize = 8192;

/// The entry as a datagram of the journal's native protocol. `core` is the core file, if one was stored.
#[must_use]
pub fn entry(record: &Record, core: Option<&Path>) -> Vec<u8> {
    fn number(value: Option<impl ToString>) -> String {
        value.map(|value| value.to_string()).unwrap_or_default()
    }
    let path = core.map(|path| path.display().to_string()).unwrap_or_default();
    let pid = record.key.pid.to_string();
    let cgroup = &record.cgroup;
    let fields = [
        ("MESSAGE_ID", MESSAGE_ID),
        ("PRIORITY", PRIORITY),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
        ("MESSAGE", &message(record)),
        ("COREDUMP_PID", &pid),
        ("COREDUMP_TID", &number(record.tid)),
        ("COREDUMP_UID", &number(record.uid)),
        ("COREDUMP_GID", &number(record.gid)),
        ("COREDUMP_SIGNAL", &number(record.signal)),
        ("COREDUMP_SIGNAL_NAME", &signal_name(record)),
        ("COREDUMP_TIMESTAMP", &record.time_us.to_string()),
        ("COREDUMP_COMM", &record.comm),
        ("COREDUMP_EXE", record.exe_path()),
        ("COREDUMP_FILENAME", &path),
        ("COREDUMP_TRUNCATED", if record.core.truncated.is_some() { "1" } else { "" }),
        ("COREDUMP_HOSTNAME", &record.hostname),
        ("COREDUMP_BOOT_ID", &record.key.boot_id),
        ("COREDUMP_RLIMIT", &record.core_limit.to_string()),
        ("COREDUMP_CMDLINE", &record.cmdline),
        ("COREDUMP_CGROUP", &cgroup.path),
        ("COREDUMP_UNIT", cgroup.unit.as_deref().unwrap_or_default()),
        ("COREDUMP_USER_UNIT", cgroup.user_unit.as_deref().unwrap_or_default()),
        ("COREDUMP_SLICE", cgroup.slice.as_deref().unwrap_or_default()),
        ("COREDUMP_CWD", &record.cwd),
        ("COREDUMP_ROOT", &record.root),
        ("COREDUMP_PROC_STATUS", &record.status),
        ("COREDUMP_PROC_LIMITS", &record.limits),
        ("COREDUMP_OPEN_FDS", &record.open_fds),
        ("COREWARD_ID", record.id.as_str()),
        ("COREWARD_CORE", outcome(record)),
        ("COREWARD_CONTAINER", cgroup.container.as_deref().unwrap_or_default()),
        ("COREWARD_CONTAINER_UNIT", cgroup.container_unit.as_deref().unwrap_or_default()),
        ("COREWARD_POD", cgroup.pod.as_deref().unwrap_or_default()),
        ("COREWARD_SIGNATURE", record.signature.as_ref().map_or("", |signature| &signature.id)),
        ("COREWARD_DECISION", record.decision.keep.name()),
        ("COREWARD_REASON", record.decision.reason.name()),
        ("COREWARD_EXE_BUILD_ID", record.exe_build_id.as_deref().unwrap_or_default()),
    ];
    let mut entry = Vec::new();
    // A process may have an empty name, and coredumpctl(1) expects the field.
    for (name, value) in fields.into_iter().filter(|(name, value)| !value.is_empty() || *name == "COREDUMP_COMM") {
        let value = cut(value, MAX_VALUE);
        // Fields that would make the entry too long are omitted. The required ones come first.
        if entry.len() + name.len() + value.len() + 16 <= MAX_ENTRY {
            push_field(&mut entry, name, &to_bytes(value));
        }
    }
    entry
}

/// `SIGSEGV`; empty where the signal is unknown or has no name.
fn signal_name(record: &Record) -> String {
    let has_name = record.signal.is_some() && record.signal_name.starts_with(|first: char| first.is_ascii_alphabetic());
    if has_name { format!("SIG{}", record.signal_name) } else { String::new() }
}

fn message(record: &Record) -> String {
    let comm = printable(&record.comm);
    let uid = record.uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
    let what = match record.core.outcome {
        CoreOutcome::Stored => "dumped core".to_owned(),
        CoreOutcome::None(reason) => format!("crashed, no core was kept ({})", reason.name()),
    };
    let truncated = match record.core.truncated {
        None => String::new(),
        Some(Truncation::Stacks) => ", only the stacks, as decided".to_owned(),
        Some(cut) => format!(", truncated ({})", cut.name()),
    };
    let meaning = match signal::meaning(record.signal) {
        "" => String::new(),
        meaning => format!(": {meaning}"),
    };
    format!(
        "Process {} ({comm}) of user {uid} {what}{truncated}.\nSignal {}{meaning}\nExecutable: {}\nDetails: coreward info {}",
        record.key.pid,
        record.signal_name,
        printable(&record.program()),
        record.id,
    )
}

fn outcome(record: &Record) -> &'static str {
    match (record.core.outcome, record.core.truncated) {
        (CoreOutcome::Stored, None) => "stored",
        (CoreOutcome::Stored, Some(_)) => "truncated",
        (CoreOutcome::None(_), _) => "none",
    }
}
