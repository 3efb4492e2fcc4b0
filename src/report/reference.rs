//! The tables of docs/metrics.md, from the metrics themselves.
//!
//! `COREWARD_UPDATE_DOCS=1 cargo test --lib reference` writes them into the page; without the variable the test compares them.

use super::metrics::{ErrorKind, Metrics};
use crate::crash::fixtures::record;
use crate::crash::{CoreReport, CrashLabel, Decision, Reason, Record};
use crate::store::{Counted, CrashCount};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::SystemTime;

/// What each label means.
const LABELS: [(&str, &str); 16] = [
    (
        "class",
        "Who answers for the crash: root, another system account or a service, a user, or containers whose uids are their own.",
    ),
    ("container", "Name or ID of the innermost container; empty outside of containers."),
    ("core", "Outcome for the core: stored completely, stored in part, or not stored."),
    ("core_exists", "Whether a core was stored."),
    (
        "hostname",
        "Host name in the UTS namespace of the crashed process; for a process in a container, usually the container's.",
    ),
    ("keep", "What was decided to keep: the whole core, notes and stacks, or the record alone."),
    ("kind", "Kind of the error, see below."),
    ("label", "The label that had no room for a value; `all` if the metric had no room for a combination of values."),
    (
        "origin",
        "How the crash reached the daemon: offered by a shim that held the process, or imported from the spool.",
    ),
    (
        "package",
        "Package of the executable, `NAME=VERSION`: the one that its `.note.package` names, else the one of which dpkg(1) had the file when it crashed.",
    ),
    (
        "program",
        "Path of the executable in the mount namespace of the process; `[comm]` if the path is unknown, `unknown` if both are.",
    ),
    ("reason", "Depends on the metric, see below."),
    ("setting", "A setting of the kernel, see below. They are read every two seconds."),
    (
        "signal",
        "Name without `SIG`: `SEGV`, `ABRT`, `RTMIN+3`. A number if the signal has no name, `unknown` if there is none.",
    ),
    ("signature", "The signature of the crash ([signature.md](signature.md))."),
    ("unit", "Unit of the system manager; empty outside of units."),
];
const VERSION: (&str, &str) = ("version", "Version of the running daemon.");
/// Labels whose values are not from a fixed set.
const OPEN: [&str; 8] = ["container", "hostname", "package", "program", "signal", "signature", "unit", "version"];

fn meaning(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Message => {
            "A message on the intake socket was malformed: wrong magic, version, length or descriptors."
        }
        ErrorKind::Peer => "A process that is not root connected to the intake socket.",
        ErrorKind::Connection => "A shim did not answer in time, or closed the connection early.",
        ErrorKind::ShimArguments => "The kernel called the shim with wrong arguments.",
        ErrorKind::NotACore => "The kernel wrote nothing, or something other than an ELF core.",
        ErrorKind::DiskFull => "The disk or a file system quota was full.",
        ErrorKind::Quota => "One of Coreward's own quotas was used up.",
        ErrorKind::Capture => "A core could not be read or written.",
        ErrorKind::Catalog => "The catalog could not be read or written.",
        ErrorKind::Spool => "A spooled crash could not be read, or its file could not be removed.",
        ErrorKind::Journal => "The journal did not accept an entry.",
    }
}

/// Every value that serde accepts for the enum `T`, taken from the error for a value that it rejects.
fn variants<T: serde::de::DeserializeOwned + std::fmt::Debug>() -> Vec<T> {
    let error = serde_json::from_str::<T>("\"?\"").unwrap_err().to_string();
    let (_, expected) = error.split_once("expected ").unwrap();
    let names = expected.split('`').skip(1).step_by(2);
    names.map(|name| serde_json::from_value(name.into()).unwrap()).collect()
}

/// Metrics in which every origin, outcome, decision and truncation that there is was counted, with all labels.
fn full_metrics() -> Metrics {
    let metrics = Metrics::new().unwrap();
    metrics.set_labels(&CrashLabel::ALL);
    metrics.new_signature(1);
    for label in ["hostname", "program"].into_iter().chain(CrashLabel::ALL.map(CrashLabel::name)).chain(["all"]) {
        metrics.count_overflow(label);
    }
    for setting in ["core_pattern", "core_pipe_limit", "suid_dumpable"] {
        metrics.set_registered(setting, true);
        metrics.set_registered_changed(setting, SystemTime::now());
    }
    let mut records = Vec::new();
    let whole = record(1);
    records.extend(variants().into_iter().map(|origin| Record { origin, ..whole.clone() }));
    for reason in variants() {
        records.push(Record { core: CoreReport::none(reason), ..whole.clone() });
    }
    for truncation in variants() {
        let core = CoreReport { truncated: Some(truncation), ..whole.core.clone() };
        records.push(Record { core, ..whole.clone() });
    }
    for keep in variants() {
        for reason in variants().into_iter().filter(|reason| *reason != Reason::Requested) {
            records.push(Record { decision: Decision { keep, reason }, ..whole.clone() });
        }
    }
    for record in records {
        let raised = CrashCount {
            hostname: record.hostname.clone(),
            program: record.program(),
            signal: record.signal_name.clone(),
            core_exists: record.core.is_stored(),
            count: 1,
            last_us: record.time_us,
        };
        metrics.count(&Counted { raised, left: None, new_bug: false });
        metrics.crash(&record);
        metrics.dump(&record);
    }
    metrics
}

fn row(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn code<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The tables, by the names that they have in the page.
fn tables() -> BTreeMap<&'static str, String> {
    let families = full_metrics().families();
    let mut metrics = row(&["name", "type", "labels", "meaning"]) + "|---|---|---|---|\n";
    let mut values = row(&["metric", "label", "values"]) + "|---|---|---|\n";
    let mut used = BTreeSet::new();
    for family in &families {
        let mut by_label: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for label in family.get_metric().iter().flat_map(prometheus::proto::Metric::get_label) {
            by_label.entry(label.name().to_owned()).or_default().insert(label.value().to_owned());
        }
        let labels = if by_label.is_empty() { "-".to_owned() } else { code(by_label.keys()) };
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        metrics += &row(&[&format!("`{}`", family.name()), &kind, &labels, family.help()]);
        for (label, found) in &by_label {
            if !OPEN.contains(&label.as_str()) && label != "kind" {
                // The reason of a crash with a stored core is empty.
                let found = code(found.iter().filter(|value| !value.is_empty()));
                values += &row(&[&format!("`{}`", family.name()), &format!("`{label}`"), &found]);
            }
        }
        used.extend(by_label.into_keys());
    }
    let mut labels = row(&["label", "meaning"]) + "|---|---|\n";
    let meanings: BTreeMap<&str, &str> = LABELS.into_iter().chain([VERSION]).collect();
    assert_eq!(used.iter().map(String::as_str).collect::<Vec<_>>(), meanings.keys().copied().collect::<Vec<_>>());
    for (label, meaning) in meanings {
        labels += &row(&[&format!("`{label}`"), meaning]);
    }
    let mut kinds = row(&["`kind`", "error"]) + "|---|---|\n";
    for kind in ErrorKind::ALL {
        kinds += &row(&[&format!("`{}`", kind.label()), meaning(kind)]);
    }
    BTreeMap::from([("metrics", metrics), ("labels", labels), ("values", values), ("kinds", kinds)])
}

#[test]
fn the_tables_of_the_reference_are_those_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let page = fs::read_to_string(&path).unwrap();
    let mut generated = page.clone();
    for (name, table) in tables() {
        let (begin, end) = (format!("<!-- generated: {name} -->\n"), "<!-- end -->\n");
        let (before, rest) = generated.split_once(&begin).unwrap_or_else(|| panic!("docs/metrics.md has no {begin}"));
        let (_, after) = rest.split_once(end).unwrap();
        generated = format!("{before}{begin}{table}{end}{after}");
    }
    if std::env::var_os("COREWARD_UPDATE_DOCS").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let is_new = |line: &&str| !page.contains(line);
    let news: Vec<&str> = generated.lines().filter(is_new).collect();
    assert!(
        std::env::var_os("COREWARD_UPDATE_DOCS").is_some() || generated == page,
        "docs/metrics.md is old (COREWARD_UPDATE_DOCS=1 cargo test --lib reference): {news:#?}"
    );
}
