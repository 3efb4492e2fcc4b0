//! The two kernel settings that send crashes to the shim (core(5)).

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use thiserror::Error;

/// Why a setting cannot be read or written.
#[derive(Debug, Error)]
pub(super) enum SysctlError {
    #[error("{0}: permission denied: only root on the host may set it (sudo coreward ...)")]
    NotRoot(PathBuf),
    #[error("{0}: read-only: it can be set on the host, not in a container")]
    ReadOnly(PathBuf),
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: \"{wanted}\" was written, but the kernel has \"{found}\"")]
    Changed { path: PathBuf, wanted: String, found: String },
}

/// A setting below `/proc/sys/kernel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SysctlKey {
    /// The file name or the program that receives cores.
    CorePattern,
    /// The number of dumps into pipes that may run at the same time. 0 means no limit, but then the kernel does not wait for
    /// the helper either: `/proc/PID` of a process whose core fits into the pipe is gone before the helper can read it.
    CorePipeLimit,
}

impl SysctlKey {
    /// The file name in `/proc/sys/kernel`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CorePattern => "core_pattern",
            Self::CorePipeLimit => "core_pipe_limit",
        }
    }
}

/// `/proc/sys/kernel`, or a directory in its place for tests.
#[derive(Clone, Debug)]
pub(super) struct Sysctl(PathBuf);

impl Sysctl {
    /// The settings of the running kernel. `--root` does not apply: a machine has one kernel.
    pub(super) fn kernel() -> Self {
        Self("/proc/sys/kernel".into())
    }

    #[cfg(test)]
    pub(super) fn fixture(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// The value, without its newline.
    pub(super) fn get(&self, key: SysctlKey) -> Result<String, SysctlError> {
        let path = self.0.join(key.name());
        let value = std::fs::read(&path).map_err(|error| self.failed(key, error))?;
        Ok(String::from_utf8_lossy(&value).trim_end_matches('\n').to_owned())
    }

    /// Sets a value and reads it back, because the kernel silently truncates long ones.
    pub(super) fn set(&self, key: SysctlKey, value: &str) -> Result<(), SysctlError> {
        let path = self.0.join(key.name());
        // One write(2), as the kernel requires; with a newline, since an empty value would not be written at all.
        let line = format!("{value}\n");
        let file = OpenOptions::new().write(true).truncate(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|error| self.failed(key, error))?;
        let found = self.get(key)?;
        if found == value { Ok(()) } else { Err(SysctlError::Changed { path, wanted: value.to_owned(), found }) }
    }

    fn failed(&self, key: SysctlKey, error: io::Error) -> SysctlError {
        let path = self.0.join(key.name());
        match error.kind() {
            ErrorKind::PermissionDenied => SysctlError::NotRoot(path),
            ErrorKind::ReadOnlyFilesystem => SysctlError::ReadOnly(path),
            _ => SysctlError::Io { path, error },
        }
    }
}
