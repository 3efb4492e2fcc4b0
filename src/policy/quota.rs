//! How much may be written: asked before and during every write.

use std::time::Duration;

/// The limits as they are configured. Sizes are bytes; `None` is the default for the volume.
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
    /// `MaxCores=`: how many cores.
    pub cores: u64,
    /// `MaxAge=`: how old a core becomes.
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
            cores: 10_000,
            age: Duration::MAX,
        }
    }
}

/// The limits in force, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `MaxUse=`: all cores together.
    pub max_use: u64,
    /// `KeepFree=`: left free on the volume.
    pub keep_free: u64,
    /// `MaxUsePerUnit=`: all cores of one system unit, or of what stands for one.
    pub per_unit: u64,
    /// `MaxUsePerUser=`: all cores of one uid that is not root's.
    pub per_user: u64,
    /// `MaxUsePerExecutable=`: all cores of one program.
    pub per_executable: u64,
    /// `MaxUsePerSignature=`: all cores of one signature.
    pub per_signature: u64,
    /// `MaxCores=`.
    pub cores: u64,
    /// `MaxAge=`.
    pub age: Duration,
}

impl Quotas {
    /// The limits on a volume of `volume` bytes. One unit, user, executable or signature may take half of all, unless it is said
    /// otherwise: no single core takes the whole disk.
    pub fn on(&self, volume: u64) -> Limits {
        let max_use = self.max_use.unwrap_or_else(|| default_max_use(volume));
        Limits {
            max_use,
            keep_free: self.keep_free.unwrap_or_else(|| default_keep_free(volume)),
            per_unit: self.per_unit.unwrap_or(max_use / 2),
            per_user: self.per_user.unwrap_or(max_use / 2),
            per_executable: self.per_executable.unwrap_or(max_use / 2),
            per_signature: self.per_signature.unwrap_or(max_use / 2),
            cores: self.cores,
            age: self.age,
        }
    }
}

/// The state of the volume, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What cores take, those that are being written included.
    pub used: u64,
    /// What is free for this user.
    pub free: u64,
}

/// The answer to "may I write this many bytes more?"
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Fits,
    /// After this many bytes of older cores are gone.
    AfterEvicting(u64),
}

/// Whether `want` more bytes keep both limits.
pub fn room(limits: Limits, usage: Usage, want: u64) -> Room {
    let over = usage.used.saturating_add(want).saturating_sub(limits.max_use);
    let short = limits.keep_free.saturating_add(want).saturating_sub(usage.free);
    match over.max(short) {
        0 => Room::Fits,
        bytes => Room::AfterEvicting(bytes),
    }
}

/// Default of `MaxUse=`: a tenth of the volume, at most 4 GiB, as coredump.conf(5) has it.
pub fn default_max_use(volume: u64) -> u64 {
    (volume / 10).min(4 << 30)
}

/// Default of `KeepFree=`: 15% of the volume, at most 4 GiB, as coredump.conf(5) has it.
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
            used in 0..1_u64 << 50, free in 0..1_u64 << 50, want in 0..1_u64 << 50,
        ) {
            let quotas = Quotas { max_use: Some(max_use), keep_free: Some(keep_free), ..Quotas::default() };
            let limits = quotas.on(0);
            match room(limits, Usage { used, free }, want) {
                Room::Fits => prop_assert!(used + want <= max_use && free >= keep_free + want),
                Room::AfterEvicting(bytes) => {
                    prop_assert!(bytes > 0);
                    if bytes <= used {
                        let after = Usage { used: used - bytes, free: free + bytes };
                        prop_assert_eq!(room(limits, after, want), Room::Fits);
                    }
                }
            }
        }
    }
}
