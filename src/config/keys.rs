//! The keys, their meanings and their defaults. `coreward.conf(5)` and the shipped file say the same; a test compares.

use super::value::{parse_bool, parse_duration, parse_size};
use crate::policy::admission::{Storage, Terms};
use crate::policy::quota::Quotas;
use crate::policy::rate::Rate;
use crate::policy::storm::{Rule, Rules};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Levels above need more memory than the unit has.
const LEVELS: std::ops::RangeInclusive<i32> = -7..=19;

/// More would need more memory than the unit has, and read no faster.
pub const THREADS_MAX: usize = 8;

/// The section of the machine.
pub(super) const SECTION: &str = "Coreward";

/// Keys whose meaning is that of one crash: they may stand in the section of a unit or of an executable too.
const OF_A_CRASH: [&str; 12] = [
    "Storage",
    "ProcessSizeMax",
    "ExternalSizeMax",
    "StormBurst",
    "StormStacks",
    "StormIntervalSec",
    "UnitBurst",
    "UnitIntervalSec",
    "Compress",
    "CompressLevel",
    "MaxHold",
    "EnforceCoreLimit",
];

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `Storage=`.
    pub storage: Storage,
    /// `ProcessSizeMax=`: of a core at most this much is taken in, bytes before compression.
    pub process_size_max: u64,
    /// `ExternalSizeMax=`: no stored core takes more, bytes on disk.
    pub external_size_max: u64,
    /// `MaxUse=` and its kin.
    pub quotas: Quotas,
    /// `StormBurst=` and its kin, and the rates.
    pub rules: Rules,
    /// `MaxRecords=`: crashes that the catalog has a row of.
    pub max_records: u64,
    /// `RecordMaxAge=`: how long it has it.
    pub record_max_age: Duration,
    /// `Compress=`: whether frames are compressed for size; otherwise only as far as it costs nothing.
    pub compress: bool,
    /// `CompressLevel=`: zstd's level.
    pub compress_level: i32,
    /// `CompressThreads=`: how many compress at once; 0: one a processor.
    pub compress_threads: usize,
    /// `MaxHold=`: how long a crashed process may be held.
    pub max_hold: Duration,
    /// `EnforceCoreLimit=`: whether the process' own RLIMIT_CORE cuts its core.
    pub enforce_core_limit: bool,
}

/// A line of the configuration that is not in force, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line; 0: the file as a whole.
    pub line: usize,
    /// What is wrong and what is in force instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.message)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            storage: Storage::External,
            process_size_max: 32 << 30,
            external_size_max: 32 << 30,
            quotas: Quotas::default(),
            rules: Rules {
                storm: Rule { burst: 5, stacks: 5, interval: Duration::from_secs(600) },
                unit: Rate { burst: 30, interval: Duration::from_secs(600) },
                user: Rate { burst: 60, interval: Duration::from_secs(600) },
                total: Rate { burst: 200, interval: Duration::from_secs(600) },
            },
            max_records: 500_000,
            record_max_age: Duration::MAX,
            compress: true,
            compress_level: 1,
            compress_threads: 0,
            max_hold: Duration::from_secs(30),
            enforce_core_limit: false,
        }
    }
}

impl Config {
    /// The level that frames are compressed with.
    pub fn level(&self) -> i32 {
        if self.compress { self.compress_level } else { *zstd::compression_level_range().start() }
    }

    /// What admission depends on.
    pub fn terms(&self) -> Terms {
        Terms { storage: self.storage, enforce_core_limit: self.enforce_core_limit, rules: self.rules }
    }

    /// Whether a key may stand in the section of a unit or of an executable.
    pub(super) fn is_of_a_crash(key: &str) -> bool {
        OF_A_CRASH.contains(&key)
    }

    /// Puts one key in force. An empty value puts its default back.
    ///
    /// # Errors
    /// In words, what is wrong; the key keeps the value it had.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        const SIZE: &str = "a size such as 512M or infinity";
        const TIME: &str = "a time such as 10min or infinity";
        const COUNT: &str = "a number; 0 is no limit";
        const YES: &str = "yes or no";
        let default = Self::default();
        let (quotas, quota) = (&mut self.quotas, default.quotas);
        let (rules, rule) = (&mut self.rules, default.rules);
        let some_size = |text: &str| parse_size(text).map(Some);
        let number = |text: &str| text.parse::<u32>().ok();
        let count = |text: &str| if text == "infinity" { Some(u64::MAX) } else { text.parse::<u64>().ok() };
        let result = match key {
            "Storage" => {
                put(&mut self.storage, value, default.storage, parse_storage, "\"external\", \"stacks\" or \"none\"")
            }
            "ProcessSizeMax" => put(&mut self.process_size_max, value, default.process_size_max, parse_size, SIZE),
            "ExternalSizeMax" => put(&mut self.external_size_max, value, default.external_size_max, parse_size, SIZE),
            "MaxUse" => put(&mut quotas.max_use, value, quota.max_use, some_size, SIZE),
            "KeepFree" => put(&mut quotas.keep_free, value, quota.keep_free, some_size, SIZE),
            "MaxUsePerUnit" => put(&mut quotas.per_unit, value, quota.per_unit, some_size, SIZE),
            "MaxUsePerUser" => put(&mut quotas.per_user, value, quota.per_user, some_size, SIZE),
            "MaxUsePerExecutable" => put(&mut quotas.per_executable, value, quota.per_executable, some_size, SIZE),
            "MaxUsePerSignature" => put(&mut quotas.per_signature, value, quota.per_signature, some_size, SIZE),
            "MaxCores" => put(&mut quotas.cores, value, quota.cores, count, "a number or infinity"),
            "MaxAge" => put(&mut quotas.age, value, quota.age, parse_duration, TIME),
            "MaxRecords" => put(&mut self.max_records, value, default.max_records, count, "a number or infinity"),
            "RecordMaxAge" => put(&mut self.record_max_age, value, default.record_max_age, parse_duration, TIME),
            "StormBurst" => {
                put(&mut rules.storm.burst, value, rule.storm.burst, number, "a number; 0 keeps every core")
            }
            "StormStacks" => put(&mut rules.storm.stacks, value, rule.storm.stacks, number, "a number"),
            "StormIntervalSec" => put(&mut rules.storm.interval, value, rule.storm.interval, parse_duration, TIME),
            "UnitBurst" => put(&mut rules.unit.burst, value, rule.unit.burst, number, COUNT),
            "UnitIntervalSec" => put(&mut rules.unit.interval, value, rule.unit.interval, parse_duration, TIME),
            "UserBurst" => put(&mut rules.user.burst, value, rule.user.burst, number, COUNT),
            "UserIntervalSec" => put(&mut rules.user.interval, value, rule.user.interval, parse_duration, TIME),
            "TotalBurst" => put(&mut rules.total.burst, value, rule.total.burst, number, COUNT),
            "TotalIntervalSec" => put(&mut rules.total.interval, value, rule.total.interval, parse_duration, TIME),
            "Compress" => put(&mut self.compress, value, default.compress, parse_bool, YES),
            "CompressLevel" => {
                let level = |text: &str| text.parse().ok().filter(|level| LEVELS.contains(level));
                put(&mut self.compress_level, value, default.compress_level, level, "a level of zstd from -7 to 19")
            }
            "CompressThreads" => {
                let threads = |text: &str| text.parse().ok().filter(|threads| *threads <= THREADS_MAX);
                let expected = "a number up to 8; 0: one a processor";
                put(&mut self.compress_threads, value, default.compress_threads, threads, expected)
            }
            "MaxHold" => put(&mut self.max_hold, value, default.max_hold, parse_duration, TIME),
            "EnforceCoreLimit" => put(&mut self.enforce_core_limit, value, default.enforce_core_limit, parse_bool, YES),
            _ => return Err(format!("unknown key {key}=, ignored; the keys are described in coreward.conf(5)")),
        };
        result.map_err(|expected| format!("{key}={value} is not {expected}; the line is ignored"))
    }
}

/// Puts a value into its place; an empty one means the default.
fn put<T>(
    place: &mut T,
    value: &str,
    default: T,
    parse: impl Fn(&str) -> Option<T>,
    expected: &'static str,
) -> Result<(), &'static str> {
    *place = if value.is_empty() { default } else { parse(value).ok_or(expected)? };
    Ok(())
}

fn parse_storage(text: &str) -> Option<Storage> {
    match text {
        "external" => Some(Storage::External),
        "stacks" => Some(Storage::Stacks),
        "none" => Some(Storage::None),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
