//! Disk quotas: whether a number of bytes may be written.

use super::modules::default_max_modules_use;
use std::time::Duration;

/// The limits as configured, in bytes; `None` stands for the default, which depends on the size of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// `MaxUse=`.
    pub max_use: Option<u64>,
    /// `KeepFree=`.
    pub keep_free: Option<u64>,
    /// `MaxUsePerUnit=`.
    pub per_unit: Option<u64>,
    /// `MaxUsePerUser=`.
    pub per_user: Option<u64>,
    /// `MaxUsePerExecutable=`.
    pub per_executable: Option<u64>,
    /// `MaxUsePerSignature=`.
    pub per_signature: Option<u64>,
    /// `MaxModulesUse=`.
    pub modules: Option<u64>,
    /// `MaxCores=`: the number of cores.
    pub cores: u64,
    /// `MaxAge=`: the age at which a core is deleted.
    pub age: Duration,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            max_use: None,
            keep_free: None,
            per_unit: None,
            per_user: None,
            per_executable: None,
            per_signature: None,
            modules: None,
            cores: 10_000,
            age: Duration::MAX,
        }
    }
}

/// The limits in force, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaLimits {
    /// `MaxUse=`: all cores together.
    pub max_use: u64,
    /// `KeepFree=`: space to leave free on the volume.
    pub keep_free: u64,
    /// `MaxUsePerUnit=`: all cores of one [`crate::crash::Principal`].
    pub per_unit: u64,
    /// `MaxUsePerUser=`: all cores of one uid other than root.
    pub per_user: u64,
    /// `MaxUsePerExecutable=`: all cores of one program.
    pub per_executable: u64,
    /// `MaxUsePerSignature=`: all cores of one signature.
    pub per_signature: u64,
    /// `MaxModulesUse=`: all modules together.
    pub modules: u64,
    /// `MaxCores=`.
    pub cores: u64,
    /// `MaxAge=`.
    pub age: Duration,
}

impl Quotas {
    /// The limits in force on a volume of `volume` bytes. By default one unit, user, executable or signature may use half of
    /// `MaxUse=`, so that none of them takes all of it.
    #[must_use]
    pub fn on_volume(&self, volume: u64) -> QuotaLimits {
        let max_use = self.max_use.unwrap_or_else(|| default_max_use(volume));
        QuotaLimits {
            max_use,
            keep_free: self.keep_free.unwrap_or_else(|| default_keep_free(volume)),
            per_unit: self.per_unit.unwrap_or(max_use / 2),
            per_user: self.per_user.unwrap_or(max_use / 2),
            per_executable: self.per_executable.unwrap_or(max_use / 2),
            per_signature: self.per_signature.unwrap_or(max_use / 2),
            modules: self.modules.unwrap_or_else(|| default_max_modules_use(volume)),
            cores: self.cores,
            age: self.age,
        }
    }
}

impl QuotaLimits {
    /// These limits where all cores together may take no more than `bytes`, and all modules no more than a quarter of that.
    #[must_use]
    pub fn within(self, bytes: u64) -> Self {
        Self {
            max_use: self.max_use.min(bytes),
            per_unit: self.per_unit.min(bytes),
            per_user: self.per_user.min(bytes),
            per_executable: self.per_executable.min(bytes),
            per_signature: self.per_signature.min(bytes),
            modules: self.modules.min(bytes / 4),
            ..self
        }
    }

    /// The most bytes of records in the catalog: a quarter of `MaxUse=`, and no more than 2 GiB. Where `MaxUse=` is very small, a
    /// few MiB all the same: without its record nobody finds a core.
    #[must_use]
    pub fn catalog(&self) -> u64 {
        (self.max_use / 4).clamp(4 << 20, 2 << 30)
    }
}

/// The state of the volume, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeUsage {
    /// Used by cores, including those being written.
    pub used: u64,
    /// Free for this user.
    pub free: u64,
}

/// Whether a number of bytes may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It may.
    Fits,
    /// It may once this many bytes of stored cores have been evicted.
    AfterEvicting(u64),
}

/// Whether writing `wanted` bytes stays within `MaxUse=` and `KeepFree=`.
#[must_use]
pub fn room_for(limits: QuotaLimits, usage: VolumeUsage, wanted: u64) -> Room {
    let above_max_use = usage.used.saturating_add(wanted).saturating_sub(limits.max_use);
    let below_keep_free = limits.keep_free.saturating_add(wanted).saturating_sub(usage.free);
    match above_max_use.max(below_keep_free) {
        0 => Room::Fits,
        bytes => Room::AfterEvicting(bytes),
    }
}

/// Default of `MaxUse=`: 10% of the volume, at most 4 GiB, as in coredump.conf(5).
#[must_use]
pub fn default_max_use(volume: u64) -> u64 {
    (volume / 10).min(4 << 30)
}

/// Default of `KeepFree=`: 15% of the volume, at most 4 GiB, as in coredump.conf(5).
#[must_use]
pub fn default_keep_free(volume: u64) -> u64 {
    (volume / 100 * 15).min(4 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_fits_keeps_both_limits_and_evicting_makes_it_fit(
            max_use in 0..1_u64 << 50, keep_free in 0..1_u64 << 50,
            used in 0..1_u64 << 50, free in 0..1_u64 << 50, wanted in 0..1_u64 << 50,
        ) {
            let quotas = Quotas { max_use: Some(max_use), keep_free: Some(keep_free), ..Quotas::default() };
            let limits = quotas.on_volume(0);
            match room_for(limits, VolumeUsage { used, free }, wanted) {
                Room::Fits => prop_assert!(used + wanted <= max_use && free >= keep_free + wanted),
                Room::AfterEvicting(bytes) => {
                    prop_assert!(bytes > 0);
                    if bytes <= used {
                        let after = VolumeUsage { used: used - bytes, free: free + bytes };
                        prop_assert_eq!(room_for(limits, after, wanted), Room::Fits);
                    }
                }
            }
        }
    }
}
