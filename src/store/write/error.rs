//! Why the catalog cannot be written, and which of SQLite's errors mean what.

use coreward_sys::{no_space, tmpfile};
use nix::errno::Errno;
use nix::sys::stat::Mode;
use rusqlite::ErrorCode;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use thiserror::Error;

/// Why the catalog cannot be read or written.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// An error of SQLite.
    #[error("catalog: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A record that cannot be written or read as JSON.
    #[error("catalog: {0}")]
    Json(#[from] serde_json::Error),
    /// The directory of the core files cannot be read.
    #[error("cores: {0}")]
    Io(#[from] io::Error),
    /// SQLite's integrity check failed.
    #[error("the catalog is damaged: {0}")]
    Damaged(String),
    /// The file can be read but not written.
    #[error("the catalog cannot be written: its file system is read-only")]
    ReadOnly,
    /// A newer Coreward wrote the file.
    #[error("the catalog has layout {0}, which a newer version of Coreward wrote: install that version again")]
    Version(i64),
    /// The writer's thread has ended although a handle exists.
    #[error("the thread that writes the catalog has ended: restart coreward.service")]
    WriterEnded,
    /// The writer's reason, already formatted.
    #[error("{0}")]
    Refused(String),
}

impl CatalogError {
    /// Whether the catalog has to be rebuilt.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Sqlite(error) => is_damage(error),
            _ => false,
        }
    }
}

/// Whether the file's content is damaged.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether somebody else has locked the file for longer than a writer waits.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

/// Whether the file has to be reopened before it can be written again.
pub(super) fn needs_reopening(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen))
}

/// Whether writing `catalog` failed for lack of space. SQLite reports ENOSPC as a full disk, but EDQUOT (a quota enforced by
/// the kernel) as an ordinary I/O error, which only a trial write can tell apart.
pub(super) fn is_full(error: &rusqlite::Error, catalog: &Path) -> bool {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => true,
        Some(ErrorCode::SystemIoFailure) => volume_is_full(catalog),
        _ => false,
    }
}

/// Tries to write a few pages to an unnamed file beside `catalog`.
fn volume_is_full(catalog: &Path) -> bool {
    static TRIAL: [u8; 64 << 10] = [0; 64 << 10];
    let write = || -> io::Result<()> {
        let dir = File::open(catalog.parent().unwrap_or(catalog))?;
        File::from(tmpfile::create_scratch(dir.as_fd(), Mode::from_bits_truncate(0o600))?).write_all(&TRIAL)
    };
    write()
        .err()
        .and_then(|error| error.raw_os_error())
        .is_some_and(|errno| no_space::is_out_of_space(Errno::from_raw(errno)))
}
