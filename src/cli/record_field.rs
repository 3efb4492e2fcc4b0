//! Single fields of a crash, by the names of the journal's fields or of JSON.

use super::error::CliError;
use crate::crash::text::printable;
use crate::store::Listed;
use serde_json::Value;
use std::io::{self, Write};

/// Fields of the journal whose name in JSON is not the same in small letters.
const OTHER_NAMES: [(&str, &str); 12] = [
    ("COREDUMP_TIMESTAMP", "time_us"),
    ("COREDUMP_FILENAME", "core_file"),
    ("COREDUMP_RLIMIT", "core_limit"),
    ("COREDUMP_PROC_STATUS", "status"),
    ("COREDUMP_PROC_LIMITS", "limits"),
    ("COREDUMP_PROC_AUXV", "auxv"),
    ("COREDUMP_PROC_MAPS", "maps"),
    ("COREDUMP_PROC_MOUNTINFO", "mountinfo"),
    ("COREWARD_SIGNATURE", "signature.id"),
    ("COREWARD_CORE", "core_state"),
    ("COREWARD_DECISION", "decision.keep"),
    ("COREWARD_REASON", "decision.reason"),
];

/// Writes the fields of each crash on a line, with a tab between two. If it is one field only, crashes without it have no line.
pub(super) fn write(crashes: &[Listed], fields: &[String], out: &mut dyn Write) -> Result<(), CliError> {
    for listed in crashes {
        let json = serde_json::to_value(listed).map_err(io::Error::other)?;
        let values: Vec<String> = fields.iter().map(|field| value(&json, field)).collect();
        if values.len() > 1 || values.iter().any(|value| !value.is_empty()) {
            writeln!(out, "{}", values.join("\t"))?;
        }
    }
    Ok(())
}

/// The field as text, empty if the crash has none of this name.
fn value(json: &Value, field: &str) -> String {
    let other = OTHER_NAMES.iter().find(|(name, _)| *name == field).map(|(_, path)| (*path).to_owned());
    let own = field.strip_prefix("COREDUMP_").or_else(|| field.strip_prefix("COREWARD_"));
    let path = other.or_else(|| own.map(str::to_lowercase)).unwrap_or_else(|| field.to_owned());
    let found = json.pointer(&format!("/{}", path.replace('.', "/")));
    match found {
        // The journal has it with its prefix, records without.
        Some(Value::String(name))
            if field == "COREDUMP_SIGNAL_NAME" && name.starts_with(|first: char| first.is_ascii_uppercase()) =>
        {
            format!("SIG{}", printable(name))
        }
        Some(Value::String(text)) => printable(text),
        None | Some(Value::Null) => String::new(),
        Some(other) => printable(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures::listed;

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
        write(&[crash], &["none".to_owned()], &mut out).unwrap();
        assert!(out.is_empty());
    }
}
