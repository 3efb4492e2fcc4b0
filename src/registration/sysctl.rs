//! The three kernel settings that decide whether a crash reaches the shim (core(5), proc_sys_fs(5)).

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use thiserror::Error;

/// Why a setting cannot be read or written.
#[derive(Debug, Error)]
pub enum SysctlError {
    /// The caller may not set it.
    #[error("{0}: permission denied: only root on the host may set it (sudo coreward ...)")]
    NotRoot(PathBuf),
    /// `/proc/sys` is mounted read-only.
    #[error("{0}: read-only: it can be set on the host, not in a container")]
    ReadOnly(PathBuf),
    /// Another error.
    #[error("{path}: {error}")]
    Io {
        /// The file of the setting.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// The kernel has another value than the one that was written.
    #[error("{path}: \"{wanted}\" was written, but the kernel has \"{found}\"")]
    Changed {
        /// The file of the setting.
        path: PathBuf,
        /// What was written.
        wanted: String,
        /// What was read back.
        found: String,
    },
}

/// A setting below `/proc/sys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysctlKey {
    /// The file name or the program that receives cores.
    CorePattern,
    /// The number of dumps into pipes that may run at the same time. 0 means no limit, but then the kernel does not wait for
    /// the helper either: `/proc/PID` of a process whose core fits into the pipe is gone before the helper can read it.
    CorePipeLimit,
    /// Whether processes that changed their privileges are dumped: set-uid programs, those with file capabilities, and those
    /// that began as root and became another user. 0, the kernel's default: they are not, and no handler hears of them. 2: they
    /// are, into a pipe only.
    SuidDumpable,
}

impl SysctlKey {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::CorePattern, Self::CorePipeLimit, Self::SuidDumpable];

    /// The name in the directory, such as `core_pattern`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.path().split_once('/').map_or("", |(_, name)| name)
    }

    /// The path below `/proc/sys`, as in a file of sysctl.d(5).
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::CorePattern => "kernel/core_pattern",
            Self::CorePipeLimit => "kernel/core_pipe_limit",
            Self::SuidDumpable => "fs/suid_dumpable",
        }
    }

    /// The name as sysctl(8) has it, such as `kernel.core_pattern`.
    #[must_use]
    pub fn dotted(self) -> String {
        self.path().replace('/', ".")
    }
}

/// `/proc/sys`, or a directory in its place for tests.
#[derive(Clone, Debug)]
pub struct Sysctl(PathBuf);

impl Sysctl {
    /// The settings of the running kernel. `--root` does not apply: a machine has one kernel.
    #[must_use]
    pub fn kernel() -> Self {
        Self("/proc/sys".into())
    }

    /// A directory in the place of `/proc/sys`, with these values.
    #[cfg(test)]
    pub(crate) fn fixture(dir: PathBuf, values: [&str; 3]) -> Self {
        for (key, value) in SysctlKey::ALL.into_iter().zip(values) {
            let path = dir.join(key.path());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{value}\n")).unwrap();
        }
        Self(dir)
    }

    /// The value, without its newline.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get(&self, key: SysctlKey) -> Result<String, SysctlError> {
        let path = self.0.join(key.path());
        let value = std::fs::read(&path).map_err(|error| self.failed(key, error))?;
        Ok(String::from_utf8_lossy(&value).trim_end_matches('\n').to_owned())
    }

    /// Sets a value and reads it back, because the kernel silently truncates long ones.
    ///
    /// # Errors
    /// The file cannot be written, or the kernel has another value afterwards.
    pub fn set(&self, key: SysctlKey, value: &str) -> Result<(), SysctlError> {
        let path = self.0.join(key.path());
        // One write(2), as the kernel requires; with a newline, since an empty value would not be written at all.
        let line = format!("{value}\n");
        let file = OpenOptions::new().write(true).truncate(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|error| self.failed(key, error))?;
        let found = self.get(key)?;
        if found == value { Ok(()) } else { Err(SysctlError::Changed { path, wanted: value.to_owned(), found }) }
    }

    fn failed(&self, key: SysctlKey, error: io::Error) -> SysctlError {
        let path = self.0.join(key.path());
        match error.kind() {
            ErrorKind::PermissionDenied => SysctlError::NotRoot(path),
            ErrorKind::ReadOnlyFilesystem => SysctlError::ReadOnly(path),
            _ => SysctlError::Io { path, error },
        }
    }
}
