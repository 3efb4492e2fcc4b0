//! The settings in force, and their defaults.

use crate::crash::CrashLabel;
use crate::policy::admission::{AdmissionConfig, Storage};
use crate::policy::modules::ModulePolicy;
use crate::policy::quota::Quotas;
use crate::policy::rate::Rate;
use crate::policy::storm::{StormRule, StormRules};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The settings of the machine. See coreward.conf(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Those of a crash to which no section of its unit or executable applies.
    pub crash: CrashConfig,
    /// `MaxUse=`, `KeepFree=`, `MaxUsePer*=`, `MaxModulesUse=`, `MaxCores=` and `MaxAge=`.
    pub quotas: Quotas,
    /// `MaxRecords=`: the most rows of crashes in the catalog.
    pub max_records: u64,
    /// `RecordMaxAge=`: the age at which the row of a crash is dropped.
    pub record_max_age: Duration,
    /// `CompressThreads=`: the number of threads that compress at the same time; 0: one per processor.
    pub compress_threads: usize,
    /// `KeepRegistered=`: whether settings of the kernel that somebody else changed are set again.
    pub keep_registered: bool,
    /// `EventBurst=` and `EventIntervalSec=`: new signatures that the programs in event.d are told about.
    pub events: Rate,
    /// `Environment=`: the variables of a crashed process' environment that its record has.
    pub environment: Vec<String>,
    /// `MetricLabels=`: what crashes are also counted by.
    pub metric_labels: Vec<CrashLabel>,
}

/// The settings of one crash: its unit and its executable may have values of their own. Copied for each crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashConfig {
    /// `Storage=`.
    pub storage: Storage,
    /// `ProcessSizeMax=`: the most that is stored of a core, in bytes before compression.
    pub process_size_max: u64,
    /// `ExternalSizeMax=`: the largest core file, in bytes on disk.
    pub external_size_max: u64,
    /// `Storm*=`, `Unit*=`, `User*=` and `Total*=`; the last two are those of the machine.
    pub rules: StormRules,
    /// `Compress=`: whether cores are compressed for size. If not, zstd's fastest level is used.
    pub compress: bool,
    /// `CompressLevel=`: zstd's level.
    pub compress_level: i32,
    /// `MaxHold=`: the longest time that a crashed process is held.
    pub max_hold: Duration,
    /// `Modules=`: which mapped files are stored with the core.
    pub modules: ModulePolicy,
    /// `EnforceCoreLimit=`: whether the process's own RLIMIT_CORE limits its core.
    pub enforce_core_limit: bool,
}

/// A line of the configuration that is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1; 0 stands for the whole file.
    pub line: usize,
    /// What is wrong, and what is in force instead.
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
            crash: CrashConfig::default(),
            quotas: Quotas::default(),
            max_records: 500_000,
            record_max_age: Duration::MAX,
            compress_threads: 0,
            keep_registered: false,
            events: Rate { burst: 20, interval: Duration::from_secs(3600) },
            environment: Vec::new(),
            metric_labels: Vec::new(),
        }
    }
}

impl Default for CrashConfig {
    fn default() -> Self {
        Self {
            storage: Storage::External,
            process_size_max: 32 << 30,
            external_size_max: 32 << 30,
            rules: StormRules {
                storm: StormRule { burst: 5, stacks: 5, interval: Duration::from_secs(600) },
                unit: Rate { burst: 30, interval: Duration::from_secs(600) },
                user: Rate { burst: 60, interval: Duration::from_secs(600) },
                total: Rate { burst: 200, interval: Duration::from_secs(600) },
            },
            compress: true,
            compress_level: 1,
            max_hold: Duration::from_secs(30),
            modules: ModulePolicy::Containers,
            enforce_core_limit: false,
        }
    }
}

impl CrashConfig {
    /// The zstd level that frames are compressed with.
    #[must_use]
    pub fn level(&self) -> i32 {
        if self.compress { self.compress_level } else { *zstd::compression_level_range().start() }
    }

    /// The settings that admission depends on.
    #[must_use]
    pub fn admission(&self) -> AdmissionConfig {
        AdmissionConfig { storage: self.storage, enforce_core_limit: self.enforce_core_limit, rules: self.rules }
    }
}
