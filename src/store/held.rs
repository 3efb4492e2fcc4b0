//! Who holds which core, as it is on disk now: what `usage`, `rm` and `vacuum` go by.

use super::query::{Filter, QueryError, list_stored};
use super::{Layout, file_name, keep};
use crate::crash::CrashId;
use crate::policy::evict::{self, Attribution, Candidate};
use coreward_sys::openat;
use coreward_wire::paths::Root;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A stored core.
#[derive(Clone, Debug)]
pub struct Held {
    /// Whose.
    pub id: CrashId,
    /// What it is accounted to.
    pub owner: Attribution,
    /// When it crashed, microseconds since 1970.
    pub time_us: u64,
    /// Bytes of file.
    pub bytes: u64,
    /// It is not evicted.
    pub pinned: bool,
}

/// All stored cores.
///
/// # Errors
/// No catalog, or one that can't be read; the directory can't be opened.
pub fn held(root: &Root) -> Result<Vec<Held>, QueryError> {
    let layout = Layout::of(root);
    let Ok(dir) = layout.open_cores() else { return Ok(Vec::new()) };
    let listed = list_stored(root, &Filter::default())?;
    let found = listed.into_iter().filter_map(|listed| {
        let id = listed.record.id.clone();
        let file = File::from(openat::open_file_below(dir.as_fd(), &file_name(&id)).ok()?);
        let bytes = file.metadata().ok()?.len();
        let pinned = keep::is_pinned(&dir, &id);
        Some(Held { id, owner: Attribution::of(&listed.record), time_us: listed.record.time_us, bytes, pinned })
    });
    Ok(found.collect())
}

/// The core that tells least, as the daemon would choose.
pub fn least(cores: &[Held]) -> Option<usize> {
    let candidates: Vec<Candidate<'_, CrashId>> = cores
        .iter()
        .map(|core| Candidate {
            id: &core.id,
            owner: &core.owner,
            time_us: core.time_us,
            bytes: core.bytes,
            may_go: !core.pinned,
        })
        .collect();
    let id = evict::choose(&candidates)?;
    cores.iter().position(|core| core.id == *id)
}

/// Deletes a core. The daemon, if there is one, notices; else the next one does.
///
/// # Errors
/// What unlinkat(2) says.
pub fn remove(dir: &OwnedFd, id: &CrashId) -> io::Result<()> {
    Ok(unlinkat(dir, &file_name(id), UnlinkatFlags::NoRemoveDir)?)
}
