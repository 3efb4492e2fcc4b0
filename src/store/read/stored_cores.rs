//! The stored cores and their disk usage, for `usage`, `rm` and `vacuum`.

use super::error::QueryError;
use super::query::list_stored;
use crate::crash::CrashId;
use crate::policy::evict::{self, Attribution, Candidate};
use crate::store::core_dir::open_core;
use crate::store::{Layout, pin};
use coreward_wire::paths::Root;

/// A stored core.
#[derive(Clone, Debug)]
pub struct StoredCore {
    /// The id of its crash.
    pub id: CrashId,
    /// The accounts it is charged to.
    pub attribution: Attribution,
    /// When it crashed, microseconds since 1970.
    pub time_us: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// Whether it is protected from eviction.
    pub pinned: bool,
}

/// All stored cores.
///
/// # Errors
/// There is no catalog, or it cannot be read.
pub fn stored_cores(root: &Root) -> Result<Vec<StoredCore>, QueryError> {
    let Ok(dir) = Layout::new(root).open_cores() else { return Ok(Vec::new()) };
    let found = list_stored(root)?.into_iter().filter_map(|listed| {
        let id = listed.record.id.clone();
        let bytes = open_core(&dir, &id).ok()?.metadata().ok()?.len();
        let attribution = Attribution::of_record(&listed.record);
        Some(StoredCore { attribution, time_us: listed.record.time_us, bytes, pinned: pin::is_pinned(&dir, &id), id })
    });
    Ok(found.collect())
}

/// The index of the core that the daemon would evict first; `None` if all are pinned.
#[must_use]
pub fn least_valuable(cores: &[StoredCore]) -> Option<usize> {
    let candidates: Vec<Candidate<'_, CrashId>> = cores
        .iter()
        .map(|core| Candidate {
            id: &core.id,
            attribution: &core.attribution,
            time_us: core.time_us,
            cost: core.bytes,
            evictable: !core.pinned,
        })
        .collect();
    let order = evict::eviction_order(&candidates, None);
    let id = order.first()?;
    cores.iter().position(|core| core.id == **id)
}
