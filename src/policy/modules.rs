//! Which mapped files of a crashed process the module store keeps.

/// `Modules=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModulePolicy {
    /// Those that may be gone when somebody reads the core: of containers and other root directories, deleted and replaced files, and
    /// files that no package of this host has.
    #[default]
    Containers,
    /// All.
    All,
    /// None.
    None,
}

/// Default of `MaxModulesUse=`: a twentieth of the volume, at most 2 GiB.
#[must_use]
pub fn default_max_modules_use(volume: u64) -> u64 {
    (volume / 20).min(2 << 30)
}
