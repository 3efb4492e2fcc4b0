//! The metrics that Prometheus scrapes. Names and labels are an interface that alerts depend on. docs/metrics.md lists them.

use crate::crash::{CoreOutcome, Record};
use crate::store::CrashCount;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// All metrics, with their registry.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    processes: IntCounterVec,
    crashes: IntCounterVec,
    decisions: IntCounterVec,
    truncated: IntCounterVec,
    errors: IntCounterVec,
    in_flight: IntGauge,
    /// Offers of crashes that had been offered before.
    pub repeated_offers: IntCounter,
    /// Crashes without a core because of the storm rule or a rate limit.
    pub storm_suppressed: IntCounter,
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
    /// Lines of the configuration that are wrong and ignored.
    pub config_problems: IntGauge,
    /// 1 if the catalog can be written, else 0.
    pub catalog_up: IntGauge,
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
    /// A spooled crash could not be read.
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
            config_problems: factory
                .gauge("coreward_config_problems", "Lines of the configuration that are wrong and ignored.")?,
            catalog_up: factory.gauge("coreward_catalog_up", "1 if the catalog can be written, else 0.")?,
            registry: registry.clone(),
        };
        factory.build_info()?;
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

    /// Counts an error.
    pub fn error(&self, kind: ErrorKind) {
        self.errors.with_label_values(&[kind.label()]).inc();
    }

    /// Sets `coredump_process_count` to the values in the catalog, so that it continues after a restart.
    pub fn restore(&self, counts: &[CrashCount]) {
        self.processes.reset();
        for count in counts {
            self.add(count);
        }
    }

    /// Counts a crash whose row in the catalog is durable.
    pub fn crash(&self, record: &Record, count: &CrashCount) {
        self.add(count);
        let (core, reason) = match record.core.outcome {
            CoreOutcome::Stored if record.core.truncated.is_some() => ("truncated", ""),
            CoreOutcome::Stored => ("stored", ""),
            CoreOutcome::None(reason) => ("none", reason.name()),
        };
        let origin = match record.origin {
            crate::crash::Origin::Live => "live",
            crate::crash::Origin::Spool => "spool",
        };
        self.crashes.with_label_values(&[origin, core, reason]).inc();
        let decision = record.decision;
        self.decisions.with_label_values(&[decision.keep.name(), decision.reason.name()]).inc();
        if let Some(truncation) = record.core.truncated {
            self.truncated.with_label_values(&[truncation.name()]).inc();
        }
    }

    fn add(&self, count: &CrashCount) {
        let core_exists = if count.core_exists { "true" } else { "false" };
        let labels =
            [printable(&count.hostname), printable(&count.program), count.signal.clone(), core_exists.to_owned()];
        self.processes.with_label_values(&labels).inc_by(count.count);
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// The encoder fails.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Counts a crash in `coreward_inflight_crashes` until it is dropped.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn printable(text: &str) -> String {
    crate::crash::text::printable(text)
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

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
        let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn build_info(&self) -> Result<(), prometheus::Error> {
        let metric = IntGaugeVec::new(
            Opts::new("coreward_build_info", "Always 1; the label is the version of the running daemon."),
            &["version"],
        )?;
        metric.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        self.registry.register(Box::new(metric))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(program: &str, count: u64) -> CrashCount {
        CrashCount { hostname: "h".into(), program: program.into(), signal: "SEGV".into(), core_exists: true, count }
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
}
