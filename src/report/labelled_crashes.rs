//! `coreward_crashes_by_total`: crashes by host, program, signal and the labels that the operator asks for (`MetricLabels=`).
//!
//! Crashed processes choose most values, and each combination is a time series in Prometheus. So the values of each label and the
//! combinations are bounded, and each principal has a share of both. What does not fit is counted as `other`. A combination that was
//! not counted for an hour makes way for a new one.

use crate::crash::text::{cut, printable};
use crate::crash::{CrashLabel, Principal, Record};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts, Registry};
use std::collections::HashMap;
use std::time::{Duration, Instant};

const NAME: &str = "coreward_crashes_by_total";
const HELP: &str = "Crashes recorded by this daemon, by the labels that MetricLabels= names.";
/// The labels that are always there, and those among them whose values are bounded: there are few signals.
const FIXED: [&str; 3] = ["hostname", "program", "signal"];
const SIGNAL: usize = 2;
/// What a value is called that has no room.
const OTHER: &str = "other";
/// The overflow of whole combinations, beside that of single labels.
const ALL: &str = "all";
/// The most bytes of a value, before it is escaped: as in coredump_process_count, which rules compare it with.
const MAX_VALUE: usize = 256;
/// The most combinations, and those of one principal.
const MAX_SERIES: Bound = Bound { all: 2000, share: 500 };
/// The most values of one label, and those that one principal adds.
const MAX_VALUES: Bound = Bound { all: 500, share: 125 };
/// A combination makes way when it was not counted for this long. So a flood of names is counted as `other`, and not one after the
/// other.
const IDLE: Duration = Duration::from_secs(3600);
/// When to look again for idle ones if there was none.
const NEXT_LOOK: Duration = Duration::from_secs(60);
/// Packages of executables that are remembered for the short records of duplicates, which lack them.
const MAX_PACKAGES: usize = 1000;

/// The counters.
#[derive(Debug, Default)]
pub(super) struct LabelledCrashes {
    labels: Vec<CrashLabel>,
    /// `None` where there are no labels.
    counter: Option<IntCounterVec>,
    /// Has the counter alone: its labels change with the configuration.
    registry: Registry,
    series: HashMap<Vec<String>, Series>,
    owners: Shares,
    /// The values in use, by the label's position.
    values: Vec<Values>,
    /// Packages by build ID.
    packages: HashMap<String, String>,
    next_look: Option<Instant>,
}

#[derive(Debug)]
struct Series {
    principal: Principal,
    counted: Instant,
}

/// Values of one label.
#[derive(Debug, Default)]
struct Values {
    by_name: HashMap<String, Value>,
    owners: Shares,
}

#[derive(Debug)]
struct Value {
    /// The number of combinations that have it.
    series: usize,
    /// Who was the first to have it.
    principal: Principal,
}

#[derive(Clone, Copy, Debug)]
struct Bound {
    all: usize,
    share: usize,
}

/// How many each principal has.
#[derive(Debug, Default)]
struct Shares {
    all: usize,
    by_principal: HashMap<Principal, usize>,
}

impl Shares {
    fn has_room(&self, principal: &Principal, bound: Bound) -> bool {
        self.all < bound.all && self.by_principal.get(principal).is_none_or(|own| *own < bound.share)
    }

    fn add(&mut self, principal: &Principal) {
        self.all += 1;
        *self.by_principal.entry(principal.clone()).or_default() += 1;
    }

    fn remove(&mut self, principal: &Principal) {
        self.all = self.all.saturating_sub(1);
        if let Some(own) = self.by_principal.get_mut(principal) {
            *own -= 1;
            if *own == 0 {
                self.by_principal.remove(principal);
            }
        }
    }
}

impl Values {
    fn has_room(&self, value: &str, principal: &Principal) -> bool {
        value.is_empty() || self.by_name.contains_key(value) || self.owners.has_room(principal, MAX_VALUES)
    }

    fn add(&mut self, value: &str, principal: &Principal) {
        if value.is_empty() || value == OTHER {
            return;
        }
        if let Some(known) = self.by_name.get_mut(value) {
            known.series += 1;
        } else {
            self.owners.add(principal);
            self.by_name.insert(value.to_owned(), Value { series: 1, principal: principal.clone() });
        }
    }

    fn remove(&mut self, value: &str) {
        let Some(known) = self.by_name.get_mut(value) else { return };
        known.series -= 1;
        if known.series == 0 {
            self.owners.remove(&known.principal.clone());
            self.by_name.remove(value);
        }
    }
}

impl LabelledCrashes {
    /// Exports these labels from now on. Others than before start all counters at zero.
    pub(super) fn set_labels(&mut self, labels: &[CrashLabel]) {
        if self.labels == labels {
            return;
        }
        let names: Vec<&str> = FIXED.into_iter().chain(labels.iter().map(|label| label.name())).collect();
        let registry = Registry::new();
        // It fails for invalid names, and these are constant.
        let counter = IntCounterVec::new(Opts::new(NAME, HELP), &names).ok().filter(|_| !labels.is_empty());
        let counter = counter.filter(|counter| registry.register(Box::new(counter.clone())).is_ok());
        let values = names.iter().map(|_| Values::default()).collect();
        *self = Self { labels: labels.to_vec(), counter, registry, values, ..Self::default() };
    }

    /// Counts a crash. Returns the labels whose value is counted as `other` since there is no room.
    pub(super) fn count(&mut self, record: &Record, now: Instant) -> Vec<&'static str> {
        let Some(counter) = self.counter.clone() else { return Vec::new() };
        let mut key = self.key(record);
        let mut overflow = Vec::new();
        if !self.series.contains_key(&key) {
            let principal = record.answering().0;
            let has_room = |labelled: &Self, at: usize, value: &str| {
                at == SIGNAL || labelled.values.get(at).is_some_and(|values| values.has_room(value, &principal))
            };
            let is_full = |labelled: &Self| {
                let fits = |(at, value): (usize, &String)| has_room(labelled, at, value);
                !labelled.owners.has_room(&principal, MAX_SERIES) || !key.iter().enumerate().all(fits)
            };
            if is_full(self) {
                self.drop_idle(&counter, now);
            }
            let names: Vec<&'static str> =
                FIXED.into_iter().chain(self.labels.iter().map(|label| label.name())).collect();
            for (at, value) in key.iter_mut().enumerate() {
                if !has_room(self, at, value) {
                    OTHER.clone_into(value);
                    overflow.extend(names.get(at));
                }
            }
            if !self.series.contains_key(&key) && !self.owners.has_room(&principal, MAX_SERIES) {
                key = other(&key);
                overflow = vec![ALL];
            }
            if !self.series.contains_key(&key) {
                self.add(key.clone(), principal, now);
            }
        }
        counter.with_label_values(&key).inc();
        if let Some(series) = self.series.get_mut(&key) {
            series.counted = now;
        }
        overflow
    }

    /// The counters, if there are labels.
    pub(super) fn collect(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    fn key(&mut self, record: &Record) -> Vec<String> {
        let escape = |text: &str| printable(cut(text, MAX_VALUE));
        let mut key = vec![escape(&record.hostname), escape(&record.program()), record.signal_name.clone()];
        for label in self.labels.clone() {
            let value = if label == CrashLabel::Package { self.package(record) } else { label.value(record) };
            key.push(escape(&value));
        }
        key
    }

    /// The package of the executable, or of an earlier crash of the same build.
    fn package(&mut self, record: &Record) -> String {
        let package = CrashLabel::Package.value(record);
        let Some(build_id) = &record.exe_build_id else { return package };
        if package.is_empty() {
            return self.packages.get(build_id).cloned().unwrap_or_default();
        }
        if self.packages.len() >= MAX_PACKAGES {
            self.packages.clear();
        }
        self.packages.insert(build_id.clone(), package.clone());
        package
    }

    fn add(&mut self, key: Vec<String>, principal: Principal, now: Instant) {
        // The combinations of `other` are few, and everybody's.
        if !is_other(&key) {
            self.owners.add(&principal);
            for (values, value) in self.values.iter_mut().zip(&key) {
                values.add(value, &principal);
            }
        }
        self.series.insert(key, Series { principal, counted: now });
    }

    /// Makes room: the combinations that were not counted for long end. Their crashes do not become `other`, which would look like new
    /// crashes; a combination that comes back starts at zero, as after a restart of the daemon.
    fn drop_idle(&mut self, counter: &IntCounterVec, now: Instant) {
        if self.next_look.is_some_and(|next| now < next) {
            return;
        }
        self.next_look = Some(now + NEXT_LOOK);
        let is_idle = |(key, series): &(&Vec<String>, &Series)| {
            !is_other(key) && now.saturating_duration_since(series.counted) >= IDLE
        };
        let idle: Vec<Vec<String>> = self.series.iter().filter(is_idle).map(|(key, _)| key.clone()).collect();
        for key in idle {
            let Some(Series { principal, .. }) = self.series.remove(&key) else { continue };
            self.owners.remove(&principal);
            for (values, value) in self.values.iter_mut().zip(&key) {
                values.remove(value);
            }
            // An error means that there is no such combination.
            let _ = counter.remove_label_values(&key);
        }
    }
}

/// Where the crashes of a combination are counted if it has no room.
fn other(key: &[String]) -> Vec<String> {
    let values = key.iter().enumerate();
    values.map(|(at, value)| if at == SIGNAL { value.clone() } else { OTHER.to_owned() }).collect()
}

fn is_other(key: &[String]) -> bool {
    key.iter().enumerate().all(|(at, value)| at == SIGNAL || value == OTHER)
}

#[cfg(test)]
mod tests;
