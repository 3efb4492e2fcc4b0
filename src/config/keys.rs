//! The keys, their meanings and their defaults. `coreward.conf(5)` and the shipped file say the same; a test compares.

use super::value::{parse_bool, parse_duration, parse_size};
use crate::policy::storm::Rule;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Levels above need more memory than the unit has.
const LEVELS: std::ops::RangeInclusive<i32> = -7..=19;

/// More would need more memory than the unit has, and read no faster.
pub const THREADS_MAX: usize = 8;

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

/// Where cores go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Files of their own.
    External,
    /// Files of their own, with notes and stacks only.
    Stacks,
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

    /// Puts one key in force. An empty value puts its default back.
    ///
    /// # Errors
    /// In words, what is wrong; the key keeps the value it had.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        const SIZE: &str = "a size such as 512M or infinity";
        let default = Self::default();
        let result = match key {
            "Storage" => {
                put(&mut self.storage, value, default.storage, parse_storage, "\"external\", \"stacks\" or \"none\"")
            }
            "ProcessSizeMax" => put(&mut self.process_size_max, value, default.process_size_max, parse_size, SIZE),
            "ExternalSizeMax" => put(&mut self.external_size_max, value, default.external_size_max, parse_size, SIZE),
            "MaxUse" => put(&mut self.max_use, value, default.max_use, |text| parse_size(text).map(Some), SIZE),
            "KeepFree" => put(&mut self.keep_free, value, default.keep_free, |text| parse_size(text).map(Some), SIZE),
            "StormBurst" => {
                let burst = |text: &str| text.parse().ok();
                put(&mut self.storm.burst, value, default.storm.burst, burst, "a number; 0 keeps every core")
            }
            "StormIntervalSec" => {
                put(&mut self.storm.interval, value, default.storm.interval, parse_duration, "a time such as 10min")
            }
            "Compress" => put(&mut self.compress, value, default.compress, parse_bool, "yes or no"),
            "CompressLevel" => {
                let level = |text: &str| text.parse().ok().filter(|level| LEVELS.contains(level));
                put(&mut self.compress_level, value, default.compress_level, level, "a level of zstd from -7 to 19")
            }
            "CompressThreads" => {
                let threads = |text: &str| text.parse().ok().filter(|threads| *threads <= THREADS_MAX);
                put(
                    &mut self.compress_threads,
                    value,
                    default.compress_threads,
                    threads,
                    "a number up to 8; 0: one a processor",
                )
            }
            "MaxHold" => {
                put(&mut self.max_hold, value, default.max_hold, parse_duration, "a time such as 30s or infinity")
            }
            "EnforceCoreLimit" => {
                put(&mut self.enforce_core_limit, value, default.enforce_core_limit, parse_bool, "yes or no")
            }
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
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../systemd/coreward.conf");
    const MANUAL: &str = include_str!("../../man/coreward.conf.5");

    /// Keys and defaults of the shipped file, where they stand as comments.
    fn shipped() -> Vec<(&'static str, &'static str)> {
        let comments = SHIPPED.lines().filter_map(|line| line.strip_prefix('#'));
        comments.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split_once('=')).collect()
    }

    /// Keys and defaults of the manual: `.B Key=` after a `.TP`, and what follows "Default:".
    fn described() -> Vec<(&'static str, &'static str)> {
        let blocks = MANUAL.split("\n.TP\n.B ").skip(1);
        let pairs = blocks.map(|block| {
            let key = block.lines().next().and_then(|line| line.strip_suffix('=')).unwrap();
            let default =
                block.split_once("\nDefault:").map(|(_, default)| default.trim_start().lines().next().unwrap());
            (key, default.unwrap().trim_start_matches(".BR ").trim_end_matches([' ', '.']).trim_start_matches("empty"))
        });
        pairs.collect()
    }

    #[test]
    fn the_shipped_file_and_the_manual_say_what_is_in_force() {
        // All fields stand here, and each with another value than its default: a key that is described nowhere keeps it.
        for said in [shipped(), described()] {
            let mut config = Config {
                storage: Storage::None,
                process_size_max: 1,
                external_size_max: 1,
                max_use: Some(1),
                keep_free: Some(1),
                storm: Rule { burst: 1, interval: Duration::ZERO },
                compress: false,
                compress_level: 7,
                compress_threads: 3,
                max_hold: Duration::ZERO,
                enforce_core_limit: true,
            };
            for (key, value) in &said {
                config.set(key, value).unwrap();
            }
            assert_eq!(config, Config::default(), "{said:?}");
        }
        let keys = |said: Vec<(&'static str, &'static str)>| said.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(shipped()), keys(described()), "in the same order");
    }

    #[test]
    fn the_shipped_file_is_read_without_a_complaint() {
        let dir = tempfile::tempdir().unwrap();
        let root = crate::wire::paths::Root::new(dir.path());
        std::fs::create_dir_all(root.join("/etc/coreward")).unwrap();
        let uncommented: Vec<String> = SHIPPED
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => key.to_owned(),
                _ => line.to_owned(),
            })
            .collect();
        for text in [SHIPPED.to_owned(), uncommented.join("\n")] {
            std::fs::write(root.join("/etc/coreward/coreward.conf"), text).unwrap();
            let loaded = super::super::load(&root);
            assert_eq!((loaded.config, loaded.problems), (Config::default(), Vec::new()));
        }
    }
}
