//! Moving a damaged catalog out of the way.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Renames the catalog and its journal files so that a new one can be created and the damaged one examined. Returns its new
/// path.
///
/// # Errors
/// The error of rename(2).
pub(super) fn quarantine(catalog: &Path) -> io::Result<PathBuf> {
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let with_suffix = |path: &Path, suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let quarantined = with_suffix(catalog, &format!(".damaged-{now}"));
    std::fs::rename(catalog, &quarantined)?;
    for journal in ["-wal", "-shm"] {
        match std::fs::rename(with_suffix(catalog, journal), with_suffix(&quarantined, journal)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(quarantined)
}
