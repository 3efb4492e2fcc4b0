//! MATCH as coredumpctl(1) has it: `COREDUMP_UNIT=nginx.service`, several of which are combined as journalctl(1) combines them. Those
//! about the same field are alternatives, and all fields must match.

use crate::crash::{Record, signal};

/// The fields by which crashes are selected; others of the journal are not columns of the catalog.
pub const MATCH_FIELDS: [&str; 12] = [
    "COREDUMP_PID",
    "COREDUMP_UID",
    "COREDUMP_SIGNAL",
    "COREDUMP_SIGNAL_NAME",
    "COREDUMP_COMM",
    "COREDUMP_EXE",
    "COREDUMP_UNIT",
    "COREDUMP_USER_UNIT",
    "COREDUMP_HOSTNAME",
    "COREWARD_ID",
    "COREWARD_CONTAINER",
    "COREWARD_SIGNATURE",
];

/// What stands between several matches in one text: no name of a crash that is typed has it.
const SEPARATOR: char = '\n';

/// The field of a match such as `COREDUMP_UNIT=nginx.service`, and `Err` with its name if crashes are not selected by it. `None`: it is a
/// name, an id or a PID.
#[must_use]
pub fn field_of_match(text: &str) -> Option<Result<&'static str, &str>> {
    let (name, _) = text.split_once('=')?;
    if !(name.starts_with("COREDUMP_") || name.starts_with("COREWARD_")) {
        return None;
    }
    Some(MATCH_FIELDS.into_iter().find(|field| *field == name).ok_or(name))
}

/// Whether a text is more than one name: it has a field, or several matches.
pub(super) fn has_fields(text: &str) -> bool {
    text.contains(SEPARATOR) || matches!(field_of_match(text), Some(Ok(_)))
}

/// The alternatives of one field; without a field they are names, ids and PIDs.
struct FieldMatch<'a> {
    field: &'static str,
    values: Vec<&'a str>,
}

const NO_FIELD: &str = "";

fn parse(text: &str) -> Vec<FieldMatch<'_>> {
    let mut fields: Vec<FieldMatch<'_>> = Vec::new();
    for one in text.split(SEPARATOR) {
        let (field, value) = match field_of_match(one) {
            Some(Ok(field)) => (field, &one[field.len() + 1..]),
            _ => (NO_FIELD, one),
        };
        match fields.iter_mut().find(|known| known.field == field) {
            Some(known) => known.values.push(value),
            None => fields.push(FieldMatch { field, values: vec![value] }),
        }
    }
    fields
}

/// The condition on a field in SQL, with a question mark for each use of the value.
fn condition(field: &str) -> &'static str {
    match field {
        "COREDUMP_PID" => "CAST(pid AS TEXT) = ?",
        "COREDUMP_UID" => "CAST(uid AS TEXT) = ?",
        "COREDUMP_SIGNAL" | "COREDUMP_SIGNAL_NAME" => "signal_name = ?",
        "COREDUMP_COMM" => "comm = ?",
        "COREDUMP_EXE" => "program = ?",
        "COREDUMP_UNIT" => "unit = ?",
        "COREDUMP_USER_UNIT" => "user_unit = ?",
        "COREDUMP_HOSTNAME" => "hostname = ?",
        "COREWARD_ID" => "id = ?",
        "COREWARD_CONTAINER" => "container = ?",
        "COREWARD_SIGNATURE" => "signature = ?",
        _ => {
            "(? IN (id, CAST(pid AS TEXT), program, comm, signature, unit, user_unit) OR ? || '.service' IN (unit, user_unit))"
        }
    }
}

/// The value as the catalog has it: signals are written in several ways.
fn value_of(field: &str, value: &str) -> String {
    match (field, signal::parse(value)) {
        ("COREDUMP_SIGNAL" | "COREDUMP_SIGNAL_NAME", Some(number)) => signal::name(Some(number)),
        _ => value.to_owned(),
    }
}

/// A condition in SQL, and the value of each of its question marks.
pub(super) fn conditions(text: &str) -> Vec<(String, Vec<String>)> {
    let of_field = |FieldMatch { field, values }: FieldMatch<'_>| {
        let one = condition(field);
        let sql = vec![one; values.len()].join(" OR ");
        let uses = one.matches('?').count();
        let values = values.into_iter().flat_map(|value| vec![value_of(field, value); uses]);
        (format!("({sql})"), values.collect())
    };
    parse(text).into_iter().map(of_field).collect()
}

/// Whether a record fulfils the same conditions. `is_called` tells whether a text without a field names it.
pub(super) fn fits(text: &str, record: &Record, is_called: impl Fn(&str) -> bool) -> bool {
    let cgroup = &record.cgroup;
    let has = |field: &str, value: &str| match field {
        "COREDUMP_PID" => record.key.pid.to_string() == value,
        "COREDUMP_UID" => record.uid.is_some_and(|uid| uid.to_string() == value),
        "COREDUMP_SIGNAL" | "COREDUMP_SIGNAL_NAME" => record.signal_name == value_of(field, value),
        "COREDUMP_COMM" => record.comm == value,
        "COREDUMP_EXE" => record.program() == value,
        "COREDUMP_UNIT" => cgroup.unit.as_deref() == Some(value),
        "COREDUMP_USER_UNIT" => cgroup.user_unit.as_deref() == Some(value),
        "COREDUMP_HOSTNAME" => record.hostname == value,
        "COREWARD_ID" => record.id.as_str() == value,
        "COREWARD_CONTAINER" => cgroup.container.as_deref() == Some(value),
        "COREWARD_SIGNATURE" => record.signature_key().as_str() == value,
        _ => is_called(value),
    };
    parse(text).iter().all(|FieldMatch { field, values }| values.iter().any(|value| has(field, value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures::listed;

    #[test]
    fn alternatives_of_a_field_and_all_fields() {
        let record = listed(7).record;
        for (text, expected) in [
            ("COREDUMP_PID=7", true),
            ("COREDUMP_PID=8", false),
            ("COREDUMP_PID=8\nCOREDUMP_PID=7", true),
            ("COREDUMP_PID=7\nCOREDUMP_SIGNAL=11", true),
            ("COREDUMP_PID=7\nCOREDUMP_SIGNAL=6", false),
            ("COREDUMP_SIGNAL_NAME=SIGSEGV", true),
            ("COREDUMP_UNIT=a.service", true),
            ("COREDUMP_UNIT=a", false),
            ("a\nCOREDUMP_SIGNAL=11", true),
            ("b\n7", true),
        ] {
            assert!(has_fields(text));
            assert_eq!(fits(text, &record, |name| ["a", "7"].contains(&name)), expected, "{text}");
        }
    }

    #[test]
    fn names_with_an_equals_sign_are_names() {
        assert!(!has_fields("a=b") && !has_fields("nginx") && !has_fields("COREDUMP_NONE=1"));
        assert_eq!(field_of_match("COREDUMP_NONE=1"), Some(Err("COREDUMP_NONE")));
        assert_eq!(field_of_match("COREDUMP_EXE=/a=b"), Some(Ok("COREDUMP_EXE")));
    }

    #[test]
    fn sql_has_a_value_for_each_question_mark() {
        for (sql, values) in conditions("a\nb\nCOREDUMP_SIGNAL=11\nCOREDUMP_COMM=x\nCOREDUMP_COMM=y") {
            assert_eq!(sql.matches('?').count(), values.len(), "{sql}");
        }
    }
}
