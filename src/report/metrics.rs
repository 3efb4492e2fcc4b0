//! The metrics that Prometheus scrapes. Names and labels are an interface that alerts depend on. docs/metrics.md lists them.

use super::in_flight::{InFlight, InFlightTable};
use super::labelled_crashes::LabelledCrashes;
use super::metric_factory::MetricFactory;
use crate::crash::text::printable;
use crate::crash::{CoreOutcome, CrashLabel, PrincipalClass, Record};
use crate::store::{ClassUsage, Counted, CrashCount};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// All metrics, with their registry.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    processes: IntCounterVec,
    last_crash: IntGaugeVec,
    /// Held while label sets of `processes` and `last_crash` move to `other`, and while they are read: no scrape sees a crash twice, or not at
    /// all.
    moving: Arc<Mutex<()>>,
    labelled: Arc<Mutex<LabelledCrashes>>,
    labelled_overflow: IntCounterVec,
    crashes: IntCounterVec,
    decisions: IntCounterVec,
    truncated: IntCounterVec,
    errors: IntCounterVec,
    in_flight: InFlightTable,
    in_flight_crashes: IntGauge,
    in_flight_oldest: Gauge,
    held_oldest: Gauge,
    /// Offers of crashes that had been offered before.
    pub repeated_offers: IntCounter,
    /// Crashes without a core because of the storm rule or a rate limit.
    pub storm_suppressed: IntCounter,
    new_signatures: IntCounter,
    /// No sample until there was one.
    last_new_signature: IntGaugeVec,
    /// New signatures that event.d programs are told about.
    pub events_announced: IntCounter,
    /// New signatures that no event.d program was told about.
    pub events_dropped: IntCounter,
    /// Seconds from the start of the shim to the release of the process.
    pub held: Histogram,
    /// Seconds from the decision to keep a core to its publication.
    pub capture: Histogram,
    /// Bytes of core read, before compression.
    pub captured_bytes: IntCounter,
    /// Bytes of core files written.
    pub written_bytes: IntCounter,
    /// Bytes on disk that stored cores take.
    pub stored_bytes: IntGauge,
    /// Stored cores.
    pub stored_cores: IntGauge,
    stored_bytes_by_class: IntGaugeVec,
    stored_cores_by_class: IntGaugeVec,
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
    registered_changed: IntGaugeVec,
    /// Crashes that the command caused to see whether they arrive.
    pub test_crashes: IntCounter,
    dumps: IntCounterVec,
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
    pub(super) const ALL: [Self; 11] = [
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

    pub(super) fn label(self) -> &'static str {
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
            labelled: Arc::default(),
            labelled_overflow: factory.counters(
                "coreward_crashes_by_overflow_total",
                "Crashes counted as `other` in coreward_crashes_by_total, by the label that had no room; `all`: for all labels.",
                &["label"],
            )?,
            in_flight: InFlightTable::default(),
            in_flight_crashes: factory
                .gauge("coreward_inflight_crashes", "Crashes that were offered and are not yet answered.")?,
            in_flight_oldest: factory.float_gauge(
                "coreward_inflight_oldest_seconds",
                "Time since the start of the shim of the oldest crash in flight; 0 if there is none.",
            )?,
            held_oldest: factory.float_gauge(
                "coreward_held_oldest_seconds",
                "Time for which the process that waits longest has been held; 0 if none is held.",
            )?,
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
                "Crashes that were the first of their signature from their user or container.",
            )?,
            last_new_signature: factory.gauges(
                "coreward_last_new_signature_timestamp_seconds",
                "Time of the newest crash that is counted in coreward_new_signatures_total.",
                &[],
            )?,
            events_announced: factory.counter(
                "coreward_events_announced_total",
                "New signatures that the programs in event.d are told about.",
            )?,
            events_dropped: factory.counter(
                "coreward_events_dropped_total",
                "New signatures that no program in event.d was told about: EventBurst= was reached, or too many earlier ones were still waiting.",
            )?,
            held: factory.histogram(
                "coreward_held_seconds",
                "Time from the start of the shim to the release of the crashed process.",
                &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0],
            )?,
            capture: factory.histogram(
                "coreward_capture_seconds",
                "Time from the decision to keep a core to its publication, for stored cores.",
                &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0],
            )?,
            captured_bytes: factory
                .counter("coreward_captured_bytes_total", "Bytes of core read, before compression.")?,
            written_bytes: factory.counter("coreward_written_bytes_total", "Bytes of core files written.")?,
            stored_bytes: factory
                .gauge("coreward_stored_bytes", "Bytes on disk that stored cores take, with those reserved for captures.")?,
            stored_cores: factory.gauge("coreward_stored_cores", "Stored cores.")?,
            stored_bytes_by_class: factory.gauges(
                "coreward_stored_class_bytes",
                "Bytes on disk that stored cores take, by who answers for the crash.",
                &["class"],
            )?,
            stored_cores_by_class: factory.gauges(
                "coreward_stored_class_cores",
                "Stored cores, by who answers for the crash.",
                &["class"],
            )?,
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
            registered_changed: factory.gauges(
                "coreward_registered_changed_timestamp_seconds",
                "Time at which the daemon noticed the last change of this setting; of the registration if there was none since the start.",
                &["setting"],
            )?,
            test_crashes: factory.counter(
                "coreward_test_crashes_total",
                "Crashes that `coreward status` or `coreward register` caused and that arrived; they are counted nowhere else.",
            )?,
            dumps: factory.counters(
                "coreward_dumps_total",
                "Dumps of living processes that root asked for (`coreward dump`); they are counted nowhere else.",
                &["core"],
            )?,
            registry: registry.clone(),
            moving: Arc::default(),
        };
        factory.build_info()?;
        factory.start_time(seconds_since_epoch(SystemTime::now()))?;
        for kind in ErrorKind::ALL {
            metrics.errors.with_label_values(&[kind.label()]);
        }
        metrics.set_usage_by_class(&PrincipalClass::ALL.map(|class| (class, ClassUsage::default())));
        Ok(metrics)
    }

    /// Counts a crash as offered and not yet answered, until the guard is dropped. Its shim started `age` ago.
    #[must_use]
    pub fn count_in_flight(&self, age: Duration) -> InFlight {
        self.in_flight.add(age)
    }

    /// Says whether a setting of the kernel is ours.
    pub fn set_registered(&self, setting: &str, is_ours: bool) {
        self.registered.with_label_values(&[setting]).set(i64::from(is_ours));
    }

    /// Says when a setting of the kernel changed.
    pub fn set_registered_changed(&self, setting: &str, at: SystemTime) {
        self.registered_changed.with_label_values(&[setting]).set(seconds_since_epoch(at));
    }

    /// Says what the cores of each class of principals take.
    pub fn set_usage_by_class(&self, usage: &[(PrincipalClass, ClassUsage)]) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for (class, ClassUsage { bytes, cores }) in usage {
            self.stored_bytes_by_class.with_label_values(&[class.name()]).set(gauge(*bytes));
            self.stored_cores_by_class.with_label_values(&[class.name()]).set(gauge(*cores));
        }
    }

    /// `MetricLabels=`. Labels other than before start the counters at zero.
    pub fn set_labels(&self, labels: &[CrashLabel]) {
        self.labelled().set_labels(labels);
    }

    /// Counts a crash at `time_us` (microseconds since 1970) that is the first of its signature.
    pub fn new_signature(&self, time_us: u64) {
        self.new_signatures.inc();
        let last = self.last_new_signature.with_label_values::<&str>(&[]);
        last.set(last.get().max(i64::try_from(time_us / 1_000_000).unwrap_or(i64::MAX)));
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
        let (core, reason) = outcome(record);
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
        for label in self.labelled().count(record, Instant::now()) {
            self.count_overflow(label);
        }
    }

    /// Counts a dump whose row in the catalog is durable.
    pub fn dump(&self, record: &Record) {
        self.dumps.with_label_values(&[outcome(record).0]).inc();
    }

    pub(super) fn count_overflow(&self, label: &str) {
        self.labelled_overflow.with_label_values(&[label]).inc();
    }

    fn labelled(&self) -> std::sync::MutexGuard<'_, LabelledCrashes> {
        self.labelled.lock().unwrap_or_else(PoisonError::into_inner)
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
        let families = self.families();
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }

    /// All metrics, sorted by name. What is counted waits while they are copied, and not while they are written as text.
    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let state = self.in_flight.state();
        self.in_flight_crashes.set(i64::try_from(state.crashes).unwrap_or(i64::MAX));
        self.in_flight_oldest.set(state.oldest.as_secs_f64());
        self.held_oldest.set(state.held_oldest.as_secs_f64());
        let labelled = self.labelled().collect();
        let mut families = {
            let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
            self.registry.gather()
        };
        families.extend(labelled);
        families.sort_by(|a, b| a.name().cmp(b.name()));
        families
    }
}

/// What became of the core, and why there is none.
fn outcome(record: &Record) -> (&'static str, &'static str) {
    match record.core.outcome {
        CoreOutcome::Stored if record.core.truncated.is_some() => ("truncated", ""),
        CoreOutcome::Stored => ("stored", ""),
        CoreOutcome::None(reason) => ("none", reason.name()),
    }
}

/// Time as a gauge has it.
fn seconds_since_epoch(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The values of the labels of `coredump_process_count`.
fn labels(count: &CrashCount) -> [String; 4] {
    let core_exists = if count.core_exists { "true" } else { "false" };
    [printable(&count.hostname), printable(&count.program), count.signal.clone(), core_exists.to_owned()]
}

#[cfg(test)]
mod tests;
