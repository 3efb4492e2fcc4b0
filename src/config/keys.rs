//! The keys: name, syntax and the setting that each stands for. coreward.conf(5) and the shipped file list the same keys; a
//! test compares them.

use super::settings::{Config, CrashConfig};
use super::value::{parse_bool, parse_duration, parse_size};
use crate::crash::CrashLabel;
use crate::policy::admission::Storage;
use crate::policy::modules::ModulePolicy;
use std::ops::RangeInclusive;

/// zstd levels. Higher ones need more memory than the unit may use.
const LEVELS: RangeInclusive<i32> = -7..=19;

/// The most threads that compress at the same time. More would need more memory than the unit may use, and read no faster.
pub const THREADS_MAX: usize = 8;

/// A key of the configuration, and whose setting it stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key {
    /// May also be set in `[Unit NAME]` and `[Executable PATH]`.
    Crash(&'static KeyOf<CrashConfig>),
    /// Concerns the whole machine.
    Machine(&'static KeyOf<Config>),
}

/// A key that stands for one of these settings.
#[derive(Debug)]
pub(super) struct KeyOf<Settings> {
    name: &'static str,
    /// What a value looks like, for messages.
    expected: &'static str,
    /// Sets the setting to what the text says; false: the text is not a value of this key.
    parse: fn(&mut Settings, &str) -> bool,
    /// Copies the setting from the second configuration to the first.
    copy: fn(&mut Settings, &Settings),
}

const SIZE: &str = "a size such as 512M or infinity";
const TIME: &str = "a time such as 10min or infinity";
const LIMIT: &str = "a number or infinity";
const BURST: &str = "a number; 0 is no limit";
const YES: &str = "yes or no";
const MODULES: &str = "\"containers\", \"all\" or \"none\"";
const LABELS: &str = "some of unit, container, signature and package, with spaces between them";
const STORAGE: &str = "\"external\", \"stacks\" or \"none\"";

macro_rules! key {
    ($name:literal, $($field:ident).+, $parse:expr, $expected:expr) => {
        KeyOf {
            name: $name,
            expected: $expected,
            parse: |config, text| $parse(text).map(|value| config.$($field).+ = value).is_some(),
            copy: |to, from| to.$($field).+.clone_from(&from.$($field).+),
        }
    };
}

/// Keys that concern a single crash.
static CRASH_KEYS: [KeyOf<CrashConfig>; 13] = [
    key!("Storage", storage, parse_storage, STORAGE),
    key!("ProcessSizeMax", process_size_max, parse_size, SIZE),
    key!("ExternalSizeMax", external_size_max, parse_size, SIZE),
    key!("StormBurst", rules.storm.burst, parse_number, "a number; 0 keeps every core"),
    key!("StormStacks", rules.storm.stacks, parse_number, "a number"),
    key!("StormIntervalSec", rules.storm.interval, parse_duration, TIME),
    key!("UnitBurst", rules.unit.burst, parse_number, BURST),
    key!("UnitIntervalSec", rules.unit.interval, parse_duration, TIME),
    key!("Compress", compress, parse_bool, YES),
    key!("CompressLevel", compress_level, parse_level, "a level of zstd from -7 to 19"),
    key!("Modules", modules, parse_modules, MODULES),
    key!("MaxHold", max_hold, parse_duration, TIME),
    key!("EnforceCoreLimit", enforce_core_limit, parse_bool, YES),
];

/// Keys that concern the whole machine.
static MACHINE_KEYS: [KeyOf<Config>; 21] = [
    key!("MaxUse", quotas.max_use, parse_quota, SIZE),
    key!("KeepFree", quotas.keep_free, parse_quota, SIZE),
    key!("MaxUsePerUnit", quotas.per_unit, parse_quota, SIZE),
    key!("MaxUsePerUser", quotas.per_user, parse_quota, SIZE),
    key!("MaxUsePerExecutable", quotas.per_executable, parse_quota, SIZE),
    key!("MaxUsePerSignature", quotas.per_signature, parse_quota, SIZE),
    key!("MaxModulesUse", quotas.modules, parse_quota, SIZE),
    key!("MaxCores", quotas.cores, parse_count, LIMIT),
    key!("MaxAge", quotas.age, parse_duration, TIME),
    key!("MaxRecords", max_records, parse_count, LIMIT),
    key!("RecordMaxAge", record_max_age, parse_duration, TIME),
    key!("UserBurst", crash.rules.user.burst, parse_number, BURST),
    key!("UserIntervalSec", crash.rules.user.interval, parse_duration, TIME),
    key!("TotalBurst", crash.rules.total.burst, parse_number, BURST),
    key!("TotalIntervalSec", crash.rules.total.interval, parse_duration, TIME),
    key!("EventBurst", events.burst, parse_number, BURST),
    key!("EventIntervalSec", events.interval, parse_duration, TIME),
    key!("CompressThreads", compress_threads, parse_threads, "a number up to 8; 0: one per processor"),
    key!("KeepRegistered", keep_registered, parse_bool, YES),
    key!("Environment", environment, parse_variables, "names of variables, with spaces between them"),
    key!("MetricLabels", metric_labels, parse_labels, LABELS),
];

impl Key {
    /// The key of this name.
    ///
    /// # Errors
    /// There is none; the message says so.
    pub(super) fn find(name: &str) -> Result<Self, String> {
        let crash = CRASH_KEYS.iter().find(|key| key.name == name).map(Self::Crash);
        crash
            .or_else(|| MACHINE_KEYS.iter().find(|key| key.name == name).map(Self::Machine))
            .ok_or_else(|| format!("unknown key {name}=, ignored; the keys are described in coreward.conf(5)"))
    }

    /// Sets the key to a value.
    ///
    /// # Errors
    /// As [`KeyOf::assign`].
    pub(super) fn assign(self, config: &mut Config, value: &str) -> Result<(), String> {
        match self {
            Self::Crash(key) => key.assign(&mut config.crash, value),
            Self::Machine(key) => key.assign(config, value),
        }
    }
}

impl<Settings: Default> KeyOf<Settings> {
    /// Sets the key to a value. An empty value restores the default.
    ///
    /// # Errors
    /// The text is not a value of this key, as the message says. The setting is unchanged.
    pub(super) fn assign(&self, settings: &mut Settings, value: &str) -> Result<(), String> {
        if value.is_empty() {
            self.copy(settings, &Settings::default());
        } else if !(self.parse)(settings, value) {
            return Err(format!("{}={value} is not {}; the line is ignored", self.name, self.expected));
        }
        Ok(())
    }

    /// Copies the value of this key.
    pub(super) fn copy(&self, to: &mut Settings, from: &Settings) {
        (self.copy)(to, from);
    }
}

fn parse_storage(text: &str) -> Option<Storage> {
    match text {
        "external" => Some(Storage::External),
        "stacks" => Some(Storage::Stacks),
        "none" => Some(Storage::None),
        _ => None,
    }
}

fn parse_modules(text: &str) -> Option<ModulePolicy> {
    match text {
        "containers" => Some(ModulePolicy::Containers),
        "all" => Some(ModulePolicy::All),
        "none" => Some(ModulePolicy::None),
        _ => None,
    }
}

fn parse_number(text: &str) -> Option<u32> {
    text.parse().ok()
}

/// A count whose limit may be switched off.
fn parse_count(text: &str) -> Option<u64> {
    if text == "infinity" { Some(u64::MAX) } else { text.parse().ok() }
}

/// A size in place of the default, which depends on the volume.
#[expect(clippy::option_option, reason = "every parser returns None for a text that is no value of its key")]
fn parse_quota(text: &str) -> Option<Option<u64>> {
    parse_size(text).map(Some)
}

/// Names of environment variables. No pattern: a secret must not come along with what is wanted.
fn parse_variables(text: &str) -> Option<Vec<String>> {
    let is_name =
        |name: &&str| name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let names: Vec<&str> = text.split_ascii_whitespace().collect();
    let is_list = names.len() <= 64 && names.iter().all(is_name);
    is_list.then(|| names.into_iter().map(str::to_owned).collect())
}

/// Labels of a metric, each once, in the order in which they are exported.
fn parse_labels(text: &str) -> Option<Vec<CrashLabel>> {
    let mut labels: Vec<CrashLabel> =
        text.split_ascii_whitespace().map(CrashLabel::parse).collect::<Option<Vec<CrashLabel>>>()?;
    labels.sort_unstable();
    labels.dedup();
    Some(labels)
}

fn parse_level(text: &str) -> Option<i32> {
    text.parse().ok().filter(|level| LEVELS.contains(level))
}

fn parse_threads(text: &str) -> Option<usize> {
    text.parse().ok().filter(|threads| *threads <= THREADS_MAX)
}
