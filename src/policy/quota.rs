//! How much may be written: asked before and during every write.

/// The limits in force, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `MaxUse=`: all cores together.
    pub max_use: u64,
    /// `KeepFree=`: left free on the volume.
    pub keep_free: u64,
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
            let limits = Limits { max_use, keep_free };
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
