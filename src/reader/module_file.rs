//! What a reader says of mapped files.

use serde::{Deserialize, Serialize};

/// What a reader found out about a mapped file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleFile {
    /// Its length in bytes.
    pub length: u64,
    /// Its build-id.
    pub build_id: Option<String>,
    /// The host's file at this path, which was to be compared with it, has the same build-id.
    pub is_hosts: bool,
    /// Nobody but root could have written it.
    pub only_root: bool,
}

/// Why a module was not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleError {
    /// Compressed, it is longer than it may be.
    TooLong,
    /// The error number (errno(3)) of what failed.
    Io(i32),
}
