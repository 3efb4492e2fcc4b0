//! The file system of the state directory, as the command sees it.

use crate::policy::quota::{QuotaLimits, Quotas};
use crate::store::{Volume, memory_of_the_unit};
use coreward_sys::file_system::Space;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// The limits on a volume, and what it lacks.
pub(super) struct StateVolume {
    pub(super) limits: QuotaLimits,
    /// Free bytes.
    pub(super) free: u64,
    pub(super) limitations: Vec<String>,
}

impl StateVolume {
    /// The volume of the directory `cores`. Before the first start that does not exist; its parent is on the same volume, but nothing is
    /// tried there.
    pub(super) fn inspect(cores: &Path, quotas: &Quotas) -> Self {
        let Some(dir) = cores.ancestors().find_map(|dir| File::open(dir).ok()) else {
            return Self { limits: quotas.on_volume(0), free: 0, limitations: Vec::new() };
        };
        let Space { size, free } = Space::of(dir.as_fd()).unwrap_or(Space { size: 0, free: 0 });
        if !cores.exists() {
            return Self { limits: quotas.on_volume(size), free, limitations: Vec::new() };
        }
        let volume = Volume::probe(dir.as_fd(), memory_of_the_unit());
        Self { limits: volume.limits(quotas, size), free, limitations: volume.limitations() }
    }
}
