//! What journalctl(1) and Prometheus are given of crashes.

use crate::assert_output;
use crate::machine::records;
use coreward::crash::{CrashLabel, PrincipalClass};
use coreward::report::{Metrics, entry};
use coreward::store::{ClassUsage, Counted, CrashCount, core_file_name};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The fields of an entry in the journal's native protocol, one a line: `NAME=value`, or a name, a length and bytes.
fn fields(mut entry: &[u8]) -> String {
    let mut fields = String::new();
    while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
        let line = str::from_utf8(&entry[..end]).unwrap();
        entry = &entry[end + 1..];
        fields.push_str(line);
        if !line.contains('=') {
            let (length, rest) = entry.split_first_chunk().unwrap();
            let (value, rest) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
            let text =
                str::from_utf8(value).map_or_else(|_| value.escape_ascii().to_string(), |text| format!("{text:?}"));
            fields.push_str(&format!(" ({} bytes) {text}", value.len()));
            entry = rest.strip_prefix(b"\n").unwrap();
        }
        fields.push('\n');
    }
    assert_eq!(entry, b"");
    fields
}

#[test]
fn journal_entries() {
    for (record, name) in records().iter().zip(["stored", "storm", "truncated", "spooled", "hostile_text"]) {
        let core = Path::new("/var/lib/coreward/cores").join(core_file_name(&record.id));
        let core = record.core.is_stored().then_some(core.as_path());
        assert_output(&format!("journal_{name}"), &fields(&entry(record, core)));
    }
}

#[test]
fn exposition() {
    let metrics = Metrics::new().unwrap();
    let count = |hostname: &str, program: &str, signal: &str, core_exists, count| CrashCount {
        hostname: hostname.to_owned(),
        program: program.to_owned(),
        signal: signal.to_owned(),
        core_exists,
        count,
        last_us: 1_780_000_000_000_000,
    };
    metrics.set_labels(&CrashLabel::ALL);
    metrics.restore(&[count("build-7", "/usr/sbin/nginx", "SEGV", true, 41)]);
    for record in records() {
        let exists = record.core.is_stored();
        let raised = count(&record.hostname, &record.program(), &record.signal_name, exists, 1);
        metrics.count(&Counted { raised, left: None, new_bug: true });
        metrics.crash(&record);
        metrics.held.observe(Duration::from_micros(record.held_us).as_secs_f64());
    }
    metrics.error(coreward::report::ErrorKind::DiskFull);
    // Its age depends on when the test looks.
    drop(metrics.count_in_flight(Duration::from_secs(3)));
    metrics.repeated_offers.inc();
    metrics.storm_suppressed.inc();
    metrics.new_signature(1_780_000_000_000_000);
    metrics.events_announced.inc();
    metrics.capture.observe(0.7);
    metrics.set_registered("core_pattern", true);
    metrics.set_registered_changed("core_pattern", SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000));
    metrics.set_usage_by_class(&[(PrincipalClass::System, ClassUsage { bytes: 1 << 20, cores: 3 })]);
    metrics.events_dropped.inc();
    metrics.captured_bytes.inc_by(3 << 20);
    metrics.written_bytes.inc_by(1 << 20);
    metrics.stored_bytes.set(1 << 20);
    metrics.stored_cores.set(3);
    metrics.quota_max_use.set(1 << 30);
    metrics.quota_keep_free.set(100 << 20);
    metrics.evicted.inc_by(4);
    metrics.spooled.set(2);
    metrics.config_problems.set(1);
    metrics.catalog_up.set(1);
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    let started = text.lines().find(|line| line.starts_with("coreward_start_time_seconds ")).unwrap();
    let text = text.replace(started, "coreward_start_time_seconds TIME");
    assert_output("metrics", &text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}
