//! The keys, their meanings and their defaults. `coreward.conf(5)` and the shipped file say the same; a test compares.

use super::value::{parse_bool, parse_duration, parse_size};
use crate::policy::storm::Rule;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The one section.
pub(super) const SECTION: &str = "Coreward";

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `Storage=`.
    pub storage: Storage,
    /// `ProcessSizeMax=`: of a core at most this much is taken in, bytes before compression.
    pub process_size_max: u64,
    /// `ExternalSizeMax=`: no stored core takes more, bytes on disk.
    pub external_size_max: u64,
    /// `MaxUse=`: all stored cores together, bytes; `None`: a tenth of the volume, at most 4 GiB.
    pub max_use: Option<u64>,
    /// `KeepFree=`: left free on the volume, bytes; `None`: 15% of it, at most 4 GiB.
    pub keep_free: Option<u64>,
    /// `StormBurst=` and `StormIntervalSec=`.
    pub storm: Rule,
    /// `EnforceCoreLimit=`: whether the process' own RLIMIT_CORE cuts its core.
    pub enforce_core_limit: bool,
}

/// Where cores go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Files of their own.
    External,
    /// Nowhere: crashes are only recorded.
    None,
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
            max_use: None,
            keep_free: None,
            storm: Rule { burst: 5, interval: Duration::from_secs(600) },
            enforce_core_limit: false,
        }
    }
}

impl Config {
    /// Puts one key in force. An empty value puts its default back.
    ///
    /// # Errors
    /// In words, what is wrong; the key keeps the value it had.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let default = Self::default();
        let empty = value.is_empty();
        let size = |default: u64| if empty { Ok(default) } else { parse_size(value).ok_or("a size such as 512M or infinity") };
        let result = match key {
            "Storage" => match value {
                "external" | "" => Ok(self.storage = Storage::External),
                "none" => Ok(self.storage = Storage::None),
                _ => Err("\"external\" or \"none\""),
            },
            "ProcessSizeMax" => size(default.process_size_max).map(|size| self.process_size_max = size),
            "ExternalSizeMax" => size(default.external_size_max).map(|size| self.external_size_max = size),
            "MaxUse" if empty => Ok(self.max_use = None),
            "MaxUse" => size(0).map(|size| self.max_use = Some(size)),
            "KeepFree" if empty => Ok(self.keep_free = None),
            "KeepFree" => size(0).map(|size| self.keep_free = Some(size)),
            "StormBurst" if empty => Ok(self.storm.burst = default.storm.burst),
            "StormBurst" => value.parse().map(|burst| self.storm.burst = burst).map_err(|_| "a number; 0 keeps every core"),
            "StormIntervalSec" if empty => Ok(self.storm.interval = default.storm.interval),
            "StormIntervalSec" => {
                parse_duration(value).map(|time| self.storm.interval = time).ok_or("a time such as 10min")
            }
            "EnforceCoreLimit" if empty => Ok(self.enforce_core_limit = default.enforce_core_limit),
            "EnforceCoreLimit" => parse_bool(value).map(|yes| self.enforce_core_limit = yes).ok_or("yes or no"),
            _ => return Err(format!("unknown key {key}=, ignored; the keys are described in coreward.conf(5)")),
        };
        result.map_err(|expected| format!("{key}={value} is not {expected}; the line is ignored"))
    }
}
