//! What Prometheus sees. Names and labels are a contract: alerts are written against them.

use crate::crash::{CoreOutcome, Record};
use crate::store::CrashCount;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// All metrics, in a registry of their own.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    processes: IntCounterVec,
    crashes: IntCounterVec,
    decisions: IntCounterVec,
    truncated: IntCounterVec,
    errors: IntCounterVec,
    in_flight: IntGauge,
    /// Offers by shims that had to offer again.
    pub repeated_offers: IntCounter,
    /// Crashes that the storm rule or a rate left without a core.
    pub storm_suppressed: IntCounter,
    /// How long processes were held.
    pub held: Histogram,
    /// Core bytes taken in.
    pub captured_bytes: IntCounter,
    /// Bytes of core files written.
    pub written_bytes: IntCounter,
    /// Bytes that stored cores take.
    pub stored_bytes: IntGauge,
    /// Stored cores.
    pub stored_cores: IntGauge,
    /// `MaxUse=` in force.
    pub quota_max_use: IntGauge,
    /// `KeepFree=` in force.
    pub quota_keep_free: IntGauge,
    /// Cores deleted to make room.
    pub evicted: IntCounter,
    /// Lines of the configuration that are not in force.
    pub config_problems: IntGauge,
    /// 1 while the catalog can be written.
    pub catalog_up: IntGauge,
}

/// What can go wrong, as the label `kind` of `coreward_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A message that is not one of ours: magic, version, length, descriptors.
    Message,
    /// Somebody else than root spoke on the intake stream.
    Peer,
    /// A shim that said nothing in time, or went in the middle.
    Connection,
    /// The kernel called the shim with wrong arguments.
    ShimArguments,
    /// The stream was empty, or not an ELF core.
    NotACore,
    /// The disk, or a kernel quota, was full.
    DiskFull,
    /// The quota had no room.
    Quota,
    /// A core could not be read or written.
    Capture,
    /// The catalog could not be read or written.
    Catalog,
    /// A spooled crash could not be taken in.
    Spool,
    /// The journal did not take an entry.
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
    /// New metrics, all at zero.
    ///
    /// # Errors
    /// Two metrics of one name: a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let make = Maker { registry: &registry };
        let metrics = Self {
            processes: make.counters(
                "coredump_process_count",
                "Processes that dumped core, since Coreward was installed.",
                &["hostname", "program", "signal", "core_exists"],
            )?,
            crashes: make.counters(
                "coreward_crashes_total",
                "Crashes recorded by this daemon, by how they came and what became of the core.",
                &["origin", "core", "reason"],
            )?,
            decisions: make.counters(
                "coreward_decisions_total",
                "Crashes by what was to be kept of them, and why.",
                &["keep", "reason"],
            )?,
            truncated: make.counters(
                "coreward_truncated_total",
                "Stored cores that are not whole, by reason.",
                &["reason"],
            )?,
            errors: make.counters("coreward_errors_total", "What went wrong, by kind.", &["kind"])?,
            in_flight: make.gauge("coreward_inflight_crashes", "Crashes between offer and record.")?,
            repeated_offers: make.counter(
                "coreward_repeated_offers_total",
                "Offers of crashes that an earlier daemon or connection had taken and not finished.",
            )?,
            storm_suppressed: make
                .counter("coreward_storm_suppressed_total", "Crashes whose core the storm rule let go.")?,
            held: make.histogram(
                "coreward_held_seconds",
                "From the start of the shim to the release of the crashed process.",
                &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0],
            )?,
            captured_bytes: make
                .counter("coreward_captured_bytes_total", "Bytes of core taken in, before compression.")?,
            written_bytes: make.counter("coreward_written_bytes_total", "Bytes of core files written.")?,
            stored_bytes: make.gauge("coreward_stored_bytes", "Bytes that stored cores take.")?,
            stored_cores: make.gauge("coreward_stored_cores", "Stored cores.")?,
            quota_max_use: make.gauge("coreward_quota_max_use_bytes", "MaxUse= in force.")?,
            quota_keep_free: make.gauge("coreward_quota_keep_free_bytes", "KeepFree= in force.")?,
            evicted: make.counter("coreward_evicted_total", "Cores deleted to make room.")?,
            config_problems: make
                .gauge("coreward_config_problems", "Lines of the configuration that are not in force.")?,
            catalog_up: make.gauge("coreward_catalog_up", "1 while the catalog can be written.")?,
            registry: registry.clone(),
        };
        make.build_info()?;
        for kind in ErrorKind::ALL {
            metrics.errors.with_label_values(&[kind.label()]);
        }
        Ok(metrics)
    }

    /// Counts a crash between offer and answer, until the guard is dropped.
    #[must_use]
    pub fn count_in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts an error.
    pub fn error(&self, kind: ErrorKind) {
        self.errors.with_label_values(&[kind.label()]).inc();
    }

    /// Puts the counters where the catalog has them: a restart takes nothing back.
    pub fn restore(&self, counts: &[CrashCount]) {
        self.processes.reset();
        for count in counts {
            self.add(count);
        }
    }

    /// Counts a crash whose row is durable.
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
        if let Some(cut) = record.core.truncated {
            self.truncated.with_label_values(&[cut.name()]).inc();
        }
    }

    fn add(&self, count: &CrashCount) {
        let core_exists = if count.core_exists { "true" } else { "false" };
        let labels =
            [printable(&count.hostname), printable(&count.program), count.signal.clone(), core_exists.to_owned()];
        self.processes.with_label_values(&labels).inc_by(count.count);
    }

    /// All metrics in the text format 0.0.4.
    ///
    /// # Errors
    /// What the encoder says.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// A crash that is counted as being in flight.
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

struct Maker<'a> {
    registry: &'a Registry,
}

impl Maker<'_> {
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
        let metric =
            IntGaugeVec::new(Opts::new("coreward_build_info", "Always 1; the labels say what runs."), &["version"])?;
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
    fn hostile_names_stay_inside_of_their_label() {
        let metrics = Metrics::new().unwrap();
        metrics.restore(&[count("/tmp/a\"} 1\nevil_metric 5\u{1b}", 1)]);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(!text.lines().any(|line| line.starts_with("evil")), "{text}");
        assert!(!text.contains('\u{1b}'));
    }
}
