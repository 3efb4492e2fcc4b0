//! The metrics that Prometheus scrapes. Names and labels are an interface that alerts depend on. docs/metrics.md lists them.

use crate::crash::text::printable;
use crate::crash::{CoreOutcome, Record};
use crate::store::{Counted, CrashCount};
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// All metrics, with their registry.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    processes: IntCounterVec,
    last_crash: IntGaugeVec,
    /// Held while label sets of `processes` and `last_crash` move to `other`, and while it is read: no scrape sees a crash twice, or not at all.
    moving: Arc<Mutex<()>>,
    crashes: IntCounterVec,
    decisions: IntCounterVec,
    truncated: IntCounterVec,
    errors: IntCounterVec,
    in_flight: IntGauge,
    /// Offers of crashes that had been offered before.
    pub repeated_offers: IntCounter,
    /// Crashes without a core because of the storm rule or a rate limit.
    pub storm_suppressed: IntCounter,
    /// Crashes that were the first of their signature.
    pub new_signatures: IntCounter,
    /// New signatures that no event.d program was told about.
    pub events_dropped: IntCounter,
    /// Seconds from the start of the shim to the release of the process.
    pub held: Histogram,
    /// Bytes of core read, before compression.
    pub captured_bytes: IntCounter,
    /// Bytes of core files written.
    pub written_bytes: IntCounter,
    /// Bytes on disk that stored cores take.
    pub stored_bytes: IntGauge,
    /// Stored cores.
    pub stored_cores: IntGauge,
    /// `MaxUse=` in force, in bytes.
    pub quota_max_use: IntGauge,
    /// `KeepFree=` in force, in bytes.
    pub quota_keep_free: IntGauge,
    /// Cores deleted to make room or because of their age.
    pub evicted: IntCounter,
    /// Bytes on disk that stored modules take.
    pub modules_bytes: IntGauge,
    /// Stored modules.
    pub modules: IntGauge,
    /// `MaxModulesUse=` in force, in bytes.
    pub quota_max_modules_use: IntGauge,
    /// Modules deleted to make room.
    pub modules_evicted: IntCounter,
    /// Lines of the configuration that are wrong and ignored.
    pub config_problems: IntGauge,
    /// 1 if the catalog can be written, else 0.
    pub catalog_up: IntGauge,
    /// Crashes in the spool that could not be imported yet.
    pub spooled: IntGauge,
    registered: IntGaugeVec,
    /// Crashes that the command caused to see whether they arrive.
    pub test_crashes: IntCounter,
}

/// The values of the label `kind` of `coreward_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A message with wrong magic, version, length or descriptors.
    Message,
    /// The peer on the intake socket is not root.
    Peer,
    /// A shim did not answer in time, or closed the connection early.
    Connection,
    /// The kernel called the shim with wrong arguments.
    ShimArguments,
    /// The kernel wrote nothing, or no ELF core.
    NotACore,
    /// The disk or a file system quota was full.
    DiskFull,
    /// A quota of Coreward's own was used up.
    Quota,
    /// A core could not be read or written.
    Capture,
    /// The catalog could not be read or written.
    Catalog,
    /// A spooled crash could not be read, or its file could not be removed.
    Spool,
    /// The journal did not accept an entry.
    Journal,
}

impl ErrorKind {
    const ALL: [Self; 11] = [
        Self::Message,
        Self::Peer,
        Self::Connection,
        Self::ShimArguments,
        Self::NotACore,
        Self::DiskFull,
        Self::Quota,
        Self::Capture,
        Self::Catalog,
        Self::Spool,
        Self::Journal,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Peer => "peer",
            Self::Connection => "connection",
            Self::ShimArguments => "shim_arguments",
            Self::NotACore => "not_a_core",
            Self::DiskFull => "disk_full",
            Self::Quota => "quota",
            Self::Capture => "capture",
            Self::Catalog => "catalog",
            Self::Spool => "spool",
            Self::Journal => "journal",
        }
    }
}

impl Metrics {
    /// Creates the metrics, all at zero.
    ///
    /// # Errors
    /// Two metrics have the same name, which is a bug.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let factory = MetricFactory { registry: &registry };
        let metrics = Self {
            processes: factory.counters(
                "coredump_process_count",
                "Processes that dumped core since Coreward was installed.",
                &["hostname", "program", "signal", "core_exists"],
            )?,
            last_crash: factory.gauges(
                "coreward_last_crash_timestamp_seconds",
                "Time of the newest crash that is counted in coredump_process_count with the same labels.",
                &["hostname", "program", "signal", "core_exists"],
            )?,
            crashes: factory.counters(
                "coreward_crashes_total",
                "Crashes recorded by this daemon, by origin and outcome for the core.",
                &["origin", "core", "reason"],
            )?,
            decisions: factory.counters(
                "coreward_decisions_total",
                "Crashes recorded by this daemon, by what was decided to keep and why.",
                &["keep", "reason"],
            )?,
            truncated: factory.counters(
                "coreward_truncated_total",
                "Stored cores that are incomplete, by reason.",
                &["reason"],
            )?,
            errors: factory.counters("coreward_errors_total", "Errors, by kind.", &["kind"])?,
            in_flight: factory
                .gauge("coreward_inflight_crashes", "Crashes that were offered and are not yet answered.")?,
            repeated_offers: factory.counter(
                "coreward_repeated_offers_total",
                "Offers of crashes that an earlier daemon or connection had accepted but not completed.",
            )?,
            storm_suppressed: factory.counter(
                "coreward_storm_suppressed_total",
                "Crashes without a core because of the storm rule or a rate limit.",
            )?,
            new_signatures: factory.counter(
                "coreward_new_signatures_total",
                "Crashes that were the first of their signature and of the user or container that answers for them.",
            )?,
            events_dropped: factory.counter(
                "coreward_events_dropped_total",
                "New signatures that no program in event.d was told about: EventBurst= was reached, or the earlier ones wait.",
            )?,
            held: factory.histogram(
                "coreward_held_seconds",
                "Time from the start of the shim to the release of the crashed process.",
                &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0],
            )?,
            captured_bytes: factory
                .counter("coreward_captured_bytes_total", "Bytes of core read, before compression.")?,
            written_bytes: factory.counter("coreward_written_bytes_total", "Bytes of core files written.")?,
            stored_bytes: factory.gauge("coreward_stored_bytes", "Bytes on disk that stored cores take.")?,
            stored_cores: factory.gauge("coreward_stored_cores", "Stored cores.")?,
            quota_max_use: factory.gauge("coreward_quota_max_use_bytes", "MaxUse= in force, in bytes.")?,
            quota_keep_free: factory.gauge("coreward_quota_keep_free_bytes", "KeepFree= in force, in bytes.")?,
            evicted: factory
                .counter("coreward_evicted_total", "Cores deleted to make room or because of their age.")?,
            modules_bytes: factory.gauge("coreward_modules_bytes", "Bytes on disk that stored modules take.")?,
            modules: factory.gauge("coreward_modules", "Stored modules.")?,
            quota_max_modules_use: factory
                .gauge("coreward_quota_max_modules_use_bytes", "MaxModulesUse= in force, in bytes.")?,
            modules_evicted: factory
                .counter("coreward_modules_evicted_total", "Modules deleted to make room for others.")?,
            config_problems: factory
                .gauge("coreward_config_problems", "Lines of the configuration that are wrong and ignored.")?,
            catalog_up: factory.gauge("coreward_catalog_up", "1 if the catalog can be written, else 0.")?,
            spooled: factory
                .gauge("coreward_spooled_crashes", "Crashes that wait in the spool; they are not counted yet.")?,
            registered: factory.gauges(
                "coreward_registered",
                "1 if this setting of the kernel lets crashes reach Coreward, 0 if somebody else has changed it.",
                &["setting"],
            )?,
            test_crashes: factory.counter(
                "coreward_test_crashes_total",
                "Crashes that `coreward status` or `coreward register` caused and that arrived; they are counted nowhere else.",
            )?,
            registry: registry.clone(),
            moving: Arc::default(),
        };
        factory.build_info()?;
        factory.start_time()?;
        for kind in ErrorKind::ALL {
            metrics.errors.with_label_values(&[kind.label()]);
        }
        Ok(metrics)
    }

    /// Counts a crash as offered and not yet answered, until the guard is dropped.
    #[must_use]
    pub fn count_in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Says whether a setting of the kernel is ours.
    pub fn set_registered(&self, setting: &str, is_ours: bool) {
        self.registered.with_label_values(&[setting]).set(i64::from(is_ours));
    }

    /// Counts an error.
    pub fn error(&self, kind: ErrorKind) {
        self.errors.with_label_values(&[kind.label()]).inc();
    }

    /// Sets `coredump_process_count` to the values in the catalog, so that it continues after a restart.
    pub fn restore(&self, counts: &[CrashCount]) {
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        self.processes.reset();
        self.last_crash.reset();
        for count in counts {
            self.add(count);
        }
    }

    /// Counts a crash in `coredump_process_count` as the catalog has counted it.
    pub fn count(&self, Counted { raised, left, .. }: &Counted) {
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = left {
            // An error means that there is no such set.
            let _ = self.processes.remove_label_values(&labels(left));
            let _ = self.last_crash.remove_label_values(&labels(left));
            self.add(&left.other());
        }
        self.add(raised);
    }

    /// Counts a crash whose row in the catalog is durable in all other metrics.
    pub fn crash(&self, record: &Record) {
        let (core, reason) = match record.core.outcome {
            CoreOutcome::Stored if record.core.truncated.is_some() => ("truncated", ""),
            CoreOutcome::Stored => ("stored", ""),
            CoreOutcome::None(reason) => ("none", reason.name()),
        };
        let origin = match record.origin {
            crate::crash::Origin::Live => "live",
            crate::crash::Origin::Spool => "spool",
            crate::crash::Origin::Import => "import",
        };
        self.crashes.with_label_values(&[origin, core, reason]).inc();
        let decision = record.decision;
        self.decisions.with_label_values(&[decision.keep.name(), decision.reason.name()]).inc();
        if let Some(truncation) = record.core.truncated {
            self.truncated.with_label_values(&[truncation.name()]).inc();
        }
    }

    fn add(&self, count: &CrashCount) {
        let labels = labels(count);
        self.processes.with_label_values(&labels).inc_by(count.count);
        if count.last_us > 0 {
            let last = self.last_crash.with_label_values(&labels);
            last.set(last.get().max(i64::try_from(count.last_us / 1_000_000).unwrap_or(i64::MAX)));
        }
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// The encoder fails.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Keeps a crash counted in `coreward_inflight_crashes` until it is dropped.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The values of the labels of `coredump_process_count`.
fn labels(count: &CrashCount) -> [String; 4] {
    let core_exists = if count.core_exists { "true" } else { "false" };
    [printable(&count.hostname), printable(&count.program), count.signal.clone(), core_exists.to_owned()]
}

/// Creates metrics and registers them.
struct MetricFactory<'a> {
    registry: &'a Registry,
}

impl MetricFactory<'_> {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        let metric = IntCounter::new(name, help)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        let metric = IntGauge::new(name, help)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
        let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn build_info(&self) -> Result<(), prometheus::Error> {
        let help = "Always 1; the label is the version of the running daemon.";
        let metric = self.gauges("coreward_build_info", help, &["version"])?;
        metric.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(())
    }

    fn start_time(&self) -> Result<(), prometheus::Error> {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let metric = self.gauge("coreward_start_time_seconds", "Time at which the daemon started.")?;
        metric.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::fixtures::record;
    use crate::crash::{CoreReport, Decision, Origin};
    use std::collections::{BTreeMap, BTreeSet};

    const REFERENCE: &str = include_str!("../../docs/metrics.md");

    fn count(program: &str, count: u64) -> CrashCount {
        CrashCount {
            hostname: "h".into(),
            program: program.into(),
            signal: "SEGV".into(),
            core_exists: true,
            count,
            last_us: 1_700_000_000_999_999,
        }
    }

    #[test]
    fn the_contract_that_alerts_are_written_against() {
        let metrics = Metrics::new().unwrap();
        metrics.restore(&[count("/usr/bin/a", 7)]);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        let line =
            "coredump_process_count{core_exists=\"true\",hostname=\"h\",program=\"/usr/bin/a\",signal=\"SEGV\"} 7";
        assert!(text.lines().any(|found| found == line), "{text}");
        assert!(text.contains("# TYPE coredump_process_count counter"));
        assert!(text.contains("coreward_errors_total{kind=\"disk_full\"} 0"), "every kind is there from the start");
    }

    #[test]
    fn hostile_names_stay_inside_their_label() {
        let metrics = Metrics::new().unwrap();
        metrics.restore(&[count("/tmp/a\"} 1\nevil_metric 5\u{1b}", 1)]);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(!text.lines().any(|line| line.starts_with("evil")), "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_label_set_that_leaves_is_counted_as_other() {
        let metrics = Metrics::new().unwrap();
        metrics.restore(&[count("/usr/bin/a", 7), count("/usr/bin/b", 2)]);
        metrics.count(&Counted { raised: count("/usr/bin/c", 1), left: Some(count("/usr/bin/a", 7)), new_bug: false });
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        let mut samples: Vec<&str> = text.lines().filter(|line| line.starts_with("coredump_process_count{")).collect();
        samples.sort_unstable_by_key(|line| line.len());
        let programs: Vec<&str> = samples.iter().map(|line| line.split("program=\"").nth(1).unwrap()).collect();
        assert_eq!(
            programs,
            ["other\",signal=\"SEGV\"} 7", "/usr/bin/b\",signal=\"SEGV\"} 2", "/usr/bin/c\",signal=\"SEGV\"} 1"]
        );
    }

    /// Every value that serde accepts for the enum `T`, taken from the error for a value that it rejects.
    fn variants<T: serde::de::DeserializeOwned + std::fmt::Debug>() -> Vec<T> {
        let error = serde_json::from_str::<T>("\"?\"").unwrap_err().to_string();
        let (_, expected) = error.split_once("expected ").unwrap();
        let names = expected.split('`').skip(1).step_by(2);
        names.map(|name| serde_json::from_value(name.into()).unwrap()).collect()
    }

    /// Counts a crash for every origin, outcome, decision and truncation that there is.
    fn count_every_kind_of_crash(metrics: &Metrics) {
        let mut records = Vec::new();
        let whole = record(1);
        // Imported crashes are not counted.
        let origins = variants().into_iter().filter(|origin| *origin != Origin::Import);
        records.extend(origins.map(|origin| Record { origin, ..whole.clone() }));
        for reason in variants() {
            records.push(Record { core: CoreReport::none(reason), ..whole.clone() });
        }
        for truncation in variants() {
            let core = CoreReport { truncated: Some(truncation), ..whole.core.clone() };
            records.push(Record { core, ..whole.clone() });
        }
        for keep in variants() {
            for reason in variants() {
                records.push(Record { decision: Decision { keep, reason }, ..whole.clone() });
            }
        }
        for setting in ["core_pattern", "core_pipe_limit", "suid_dumpable"] {
            metrics.set_registered(setting, true);
        }
        for record in records {
            let core_exists = record.core.is_stored();
            metrics.count(&Counted {
                raised: CrashCount { core_exists, ..count("/usr/bin/a", 1) },
                left: None,
                new_bug: false,
            });
            metrics.crash(&record);
        }
    }

    /// The cells of every table row in `document` that has this number of cells.
    fn rows(document: &str, cells: usize) -> Vec<Vec<&str>> {
        let rows = document.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
        rows.map(|row| row.split(" | ").collect::<Vec<_>>()).filter(|row| row.len() == cells).collect()
    }

    fn backticked(cell: &str) -> BTreeSet<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_reference_lists_the_metrics_of_the_registry() {
        let metrics = Metrics::new().unwrap();
        count_every_kind_of_crash(&metrics);
        let exported: BTreeSet<_> = metrics
            .registry
            .gather()
            .iter()
            .map(|family| {
                let labels = family.get_metric()[0].get_label();
                let labels: BTreeSet<String> = labels.iter().map(|label| label.name().to_owned()).collect();
                let kind = format!("{:?}", family.get_field_type()).to_lowercase();
                (family.name().to_owned(), kind, labels, family.help().to_owned())
            })
            .collect();
        let listed: Vec<_> = rows(REFERENCE, 4)
            .into_iter()
            .filter(|row| row[0].starts_with('`'))
            .map(|row| (row[0].replace('`', ""), row[1].to_owned(), backticked(row[2]), row[3].to_owned()))
            .collect();
        assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), exported);
        assert_eq!(listed.len(), exported.len(), "no metric is listed twice");
        let used: BTreeSet<String> = exported.into_iter().flat_map(|(_, _, labels, _)| labels).collect();
        let section = REFERENCE.split("## ").find(|section| section.starts_with("Labels\n")).unwrap();
        let explained = rows(section, 2).into_iter().flat_map(|row| backticked(row[0])).collect::<BTreeSet<_>>();
        assert_eq!(explained, used, "each label is explained");
    }

    #[test]
    fn the_reference_lists_the_values_of_labels() {
        const OPEN: [&str; 4] = ["hostname", "program", "signal", "version"];
        let metrics = Metrics::new().unwrap();
        count_every_kind_of_crash(&metrics);
        let mut exported: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for family in metrics.registry.gather() {
            for label in family.get_metric().iter().flat_map(prometheus::proto::Metric::get_label) {
                if !OPEN.contains(&label.name()) {
                    let values = exported.entry((family.name().to_owned(), label.name().to_owned())).or_default();
                    // The reason of a crash with a stored core is empty.
                    values.extend(Some(label.value().to_owned()).filter(|value| !value.is_empty()));
                }
            }
        }
        let section = REFERENCE.split("## ").find(|section| section.starts_with("Values of labels\n")).unwrap();
        let mut listed: BTreeMap<(String, String), BTreeSet<String>> = rows(section, 3)
            .into_iter()
            .filter(|row| row[0].starts_with('`'))
            .map(|row| ((row[0].replace('`', ""), row[1].replace('`', "")), backticked(row[2])))
            .collect();
        let kinds = rows(section, 2).into_iter().map(|row| row[0].replace('`', "")).filter(|kind| kind != "kind");
        listed.insert(("coreward_errors_total".to_owned(), "kind".to_owned()), kinds.collect());
        assert_eq!(listed, exported);
    }
}
