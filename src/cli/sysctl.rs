//! The two settings of the kernel that bring crashes to the shim (core(5)).

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use thiserror::Error;

/// Why a setting can't be read or written.
#[derive(Debug, Error)]
pub(super) enum SysctlError {
    #[error("{0}: permission denied: only root of the host may set it (sudo coreward ...)")]
    NotRoot(PathBuf),
    #[error("{0}: read-only: a container can't set it, its host can")]
    ReadOnly(PathBuf),
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: the kernel has \"{found}\" after \"{wanted}\" was written")]
    NotTaken { path: PathBuf, wanted: String, found: String },
}

/// A setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Where cores go.
    CorePattern,
    /// How many dumps into pipes may run at once. With 0 there is no limit, but the kernel does not wait for the helper
    /// either: `/proc/PID` of a process whose core fits into the pipe is gone before the helper looks.
    CorePipeLimit,
}

impl Key {
    /// Its file in `/proc/sys/kernel`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CorePattern => "core_pattern",
            Self::CorePipeLimit => "core_pipe_limit",
        }
    }
}

/// `/proc/sys/kernel`, or what a test has in its place.
#[derive(Clone, Debug)]
pub(super) struct Sysctl(PathBuf);

impl Sysctl {
    /// The kernel's own, also where `--root` is given: there is only one.
    pub(super) fn kernel() -> Self {
        Self("/proc/sys/kernel".into())
    }

    #[cfg(test)]
    pub(super) fn fixture(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// The value, without its newline.
    pub(super) fn get(&self, key: Key) -> Result<String, SysctlError> {
        let path = self.0.join(key.name());
        let value = std::fs::read(&path).map_err(|error| self.failed(key, error))?;
        Ok(String::from_utf8_lossy(&value).trim_end_matches('\n').to_owned())
    }

    /// Sets a value, and looks whether the kernel took it: it cuts what is too long without a word.
    pub(super) fn set(&self, key: Key, value: &str) -> Result<(), SysctlError> {
        let path = self.0.join(key.name());
        // In one write(2), as the kernel wants it; with a newline, or an empty value would be no write at all.
        let line = format!("{value}\n");
        let file = OpenOptions::new().write(true).truncate(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|error| self.failed(key, error))?;
        let found = self.get(key)?;
        if found == value { Ok(()) } else { Err(SysctlError::NotTaken { path, wanted: value.to_owned(), found }) }
    }

    fn failed(&self, key: Key, error: io::Error) -> SysctlError {
        let path = self.0.join(key.name());
        match error.kind() {
            ErrorKind::PermissionDenied => SysctlError::NotRoot(path),
            ErrorKind::ReadOnlyFilesystem => SysctlError::ReadOnly(path),
            _ => SysctlError::Io { path, error },
        }
    }
}
