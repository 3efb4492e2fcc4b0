//! Single fields of a crash, by the names of the journal's fields or of JSON.

use super::error::CliError;
use super::similar::{closest, did_you_mean};
use super::titles::Titles;
use crate::crash::text::printable;
use crate::store::Listed;
use clap::builder::{StringValueParser, TypedValueParser};
use serde_json::Value;
use std::io::{self, Write};

/// Fields of the journal, and where JSON has them.
const JOURNAL: [(&str, &str); 42] = [
    ("COREDUMP_BOOT_ID", "boot_id"),
    ("COREDUMP_CGROUP", "cgroup"),
    ("COREDUMP_CMDLINE", "cmdline"),
    ("COREDUMP_CODE", "siginfo.code"),
    ("COREDUMP_COMM", "comm"),
    ("COREDUMP_CWD", "cwd"),
    ("COREDUMP_DUMPABLE", "dumpable"),
    ("COREDUMP_ENVIRON", "environ"),
    ("COREDUMP_EXE", "exe"),
    ("COREDUMP_FILENAME", "core_file"),
    ("COREDUMP_GID", "gid"),
    ("COREDUMP_HOSTNAME", "hostname"),
    ("COREDUMP_OPEN_FDS", "open_fds"),
    ("COREDUMP_PID", "pid"),
    ("COREDUMP_PROC_AUXV", "auxv"),
    ("COREDUMP_PROC_LIMITS", "limits"),
    ("COREDUMP_PROC_MAPS", "maps"),
    ("COREDUMP_PROC_MOUNTINFO", "mountinfo"),
    ("COREDUMP_PROC_STATUS", "status"),
    ("COREDUMP_RLIMIT", "core_limit"),
    ("COREDUMP_ROOT", "root"),
    ("COREDUMP_SIGNAL", "signal"),
    ("COREDUMP_SIGNAL_NAME", "signal_name"),
    ("COREDUMP_SLICE", "slice"),
    ("COREDUMP_THREAD_NAME", "thread_name"),
    ("COREDUMP_TID", "tid"),
    ("COREDUMP_TIMESTAMP", "time_us"),
    ("COREDUMP_TRUNCATED", "core.truncated"),
    ("COREDUMP_UID", "uid"),
    ("COREDUMP_UNIT", "unit"),
    ("COREDUMP_USER_UNIT", "user_unit"),
    ("COREWARD_CONTAINER", "container"),
    ("COREWARD_CONTAINER_UNIT", "container_unit"),
    ("COREWARD_CORE", "core_state"),
    ("COREWARD_DECISION", "decision.keep"),
    ("COREWARD_DUMP_REASON", "dump.reason"),
    ("COREWARD_EXE_BUILD_ID", "exe_build_id"),
    ("COREWARD_ID", "id"),
    ("COREWARD_POD", "pod"),
    ("COREWARD_REASON", "decision.reason"),
    ("COREWARD_SIGNATURE", "signature.id"),
    ("COREWARD_TITLE", "title"),
];

/// Fields of JSON. What is within them has a path with dots, such as `core.stored`.
const JSON: [&str; 68] = [
    "arguments",
    "arguments_end",
    "arguments_omitted",
    "attempt",
    "auxv",
    "boot_id",
    "cgroup",
    "cmdline",
    "comm",
    "container",
    "container_unit",
    "core",
    "core_file",
    "core_limit",
    "core_state",
    "cwd",
    "decision",
    "dump",
    "dumpable",
    "environ",
    "exe",
    "exe_build_id",
    "exe_deleted",
    "failure",
    "fault",
    "format",
    "gid",
    "held_us",
    "hostname",
    "id",
    "in_namespace",
    "interpreter",
    "kernel",
    "limits",
    "login_uid",
    "machine",
    "machine_id",
    "maps",
    "modules",
    "mountinfo",
    "namespaces",
    "open_fds",
    "origin",
    "other_threads",
    "parent_cmdline",
    "pid",
    "pidfd",
    "pod",
    "privileged",
    "root",
    "runtime_report",
    "siginfo",
    "signal",
    "signal_name",
    "signature",
    "slice",
    "stack",
    "start_time",
    "status",
    "subuid_owner",
    "thread_name",
    "tid",
    "time_us",
    "title",
    "trouble",
    "uid",
    "unit",
    "user_unit",
];

/// All names, those of the journal first.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    JOURNAL.into_iter().map(|(name, _)| name).chain(JSON)
}

/// Whether records can have a field of this name.
pub(super) fn is_known(name: &str) -> bool {
    let whole = name.split('.').next().unwrap_or_default();
    JOURNAL.iter().any(|(known, _)| *known == name) || JSON.contains(&whole)
}

/// Parses the name of a field.
pub(super) fn parser() -> impl TypedValueParser<Value = String> {
    StringValueParser::new().try_map(|name| if is_known(&name) { Ok(name) } else { Err(unknown(&name)) })
}

fn unknown(name: &str) -> String {
    let suggestion = did_you_mean(&closest(name, names()));
    format!(
        "no such field: {suggestion}fields are those of the journal (COREDUMP_EXE) and of JSON, with dots for what is within them (core.stored); \
         `coreward complete field` lists them"
    )
}

/// A crash in JSON.
pub(super) fn json_of(listed: &Listed, titles: &mut Titles<'_>) -> io::Result<Value> {
    serde_json::to_value(titles.with_title(listed)).map_err(io::Error::other)
}

/// Writes the fields of each crash on a line, with a tab between two. If it is one field only, crashes without it have no line.
pub(super) fn write(
    crashes: &[Listed],
    fields: &[String],
    titles: &mut Titles<'_>,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    for listed in crashes {
        let json = json_of(listed, titles)?;
        let values: Vec<String> = fields.iter().map(|field| value(&json, field)).collect();
        if values.len() > 1 || values.iter().any(|value| !value.is_empty()) {
            writeln!(out, "{}", values.join("\t"))?;
        }
    }
    Ok(())
}

/// The field as text, empty if the crash has none of this name.
pub(super) fn value(json: &Value, field: &str) -> String {
    let path = JOURNAL.iter().find(|(name, _)| *name == field).map_or(field, |(_, path)| path);
    let found = json.pointer(&format!("/{}", path.replace('.', "/")));
    match found {
        // The journal has it with its prefix, records without.
        Some(Value::String(name))
            if field == "COREDUMP_SIGNAL_NAME" && name.starts_with(|first: char| first.is_ascii_uppercase()) =>
        {
            format!("SIG{}", printable(name))
        }
        // It is escaped.
        Some(Value::String(text)) if path == "title" => text.clone(),
        Some(Value::String(text)) => printable(text),
        None | Some(Value::Null) => String::new(),
        Some(other) => printable(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures::listed;
    use coreward_wire::paths::Root;

    #[test]
    fn fields_have_the_names_of_the_journal_and_of_json() {
        let mut crash = listed(7);
        crash.record.comm = "a\nb".to_owned();
        let json = serde_json::to_value(&crash).unwrap();
        for (field, expected) in [
            ("COREDUMP_PID", "7"),
            ("pid", "7"),
            ("COREDUMP_SIGNAL_NAME", "SIGSEGV"),
            ("signal_name", "SEGV"),
            ("COREDUMP_UNIT", "a.service"),
            ("COREDUMP_COMM", r"a\nb"),
            ("core.state", "stored"),
            ("COREDUMP_NONE", ""),
            ("none", ""),
        ] {
            assert_eq!(value(&json, field), expected, "{field}");
        }
        let mut out = Vec::new();
        let root = Root::new("/nowhere");
        write(&[crash], &["pod".to_owned()], &mut Titles::new(&root), &mut out).unwrap();
        assert!(out.is_empty());
    }

    /// The records of the test `output` have most fields.
    #[test]
    fn all_fields_are_known() {
        let records: Vec<serde_json::Map<String, Value>> =
            serde_json::from_str(include_str!("../../tests/output/records.json")).unwrap();
        for field in records.iter().flat_map(|record| record.keys()) {
            assert!(JSON.contains(&field.as_str()), "{field}");
        }
        let root = Root::new("/nowhere");
        let crash = json_of(&listed(7), &mut Titles::new(&root)).unwrap();
        for field in crash.as_object().unwrap().keys() {
            assert!(JSON.contains(&field.as_str()), "{field}");
        }
        assert!(JOURNAL.iter().all(|(_, path)| is_known(path)) && is_known("core.stored"));
        assert!(!is_known("COREDUMP_NONE") && !is_known("none") && !is_known(""));
        assert!(JSON.is_sorted() && JOURNAL.is_sorted());
    }
}
