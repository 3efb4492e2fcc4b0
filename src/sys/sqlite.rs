//! What the operating system told SQLite.

use nix::errno::Errno;
use rusqlite::{Connection, ffi};

/// The error of the system call behind the newest I/O error of `db` (sqlite3_system_errno).
pub fn system_errno(db: &Connection) -> Errno {
    // SAFETY: the connection is open as long as it is borrowed, and this reads a number of it.
    Errno::from_raw(unsafe { ffi::sqlite3_system_errno(db.handle()) })
}
