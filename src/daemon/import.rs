//! Takes crashes of other machines into the catalog, from the directory where `coreward import` puts them. They are not counted: they did
//! not happen here.

use super::blocking::run_blocking;
use super::error::SessionError;
use super::shared::Shared;
use crate::crash::{CrashId, Record};
use crate::policy::evict::Attribution;
use crate::report::ErrorKind;
use crate::store::{Grant, ImportDir, Layout, ModuleUser, core_file_name, module_file_name};
use coreward_sys::rename::move_new;
use coreward_sys::tmpfile;
use nix::errno::Errno;
use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::interval;

/// How often the directory is looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long modules stay whose crash does not come: the command puts them there before the core, and may be at work for long.
const MODULE_AGE: Duration = Duration::from_secs(3600);

/// Imports what is in the directory, again and again, until the daemon stops.
pub(super) async fn import_crashes(shared: Arc<Shared>) {
    let mut tick = interval(INTERVAL);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.shutdown.stopped() => return,
        }
        let layout = Layout::new(&shared.root);
        let list = move || {
            let dir = ImportDir::open(&layout)?;
            // What the command was killed over.
            let _ = tmpfile::sweep(dir.dir().as_fd());
            let crashes = dir.crashes()?;
            if crashes.is_empty() {
                dir.remove_old_modules(MODULE_AGE)?;
            }
            Ok::<_, io::Error>((crashes, dir))
        };
        // Mostly nobody has imported anything.
        let Ok(Ok((ids, dir))) = run_blocking(list).await else { continue };
        let dir = Arc::new(dir);
        for id in ids {
            if shared.shutdown.is_stopped() {
                return;
            }
            let crash_lock = shared.crash_lock(&id);
            let _crash_lock = crash_lock.lock().await;
            if let Err(error) = import(&shared, &dir, &id).await {
                tracing::error!("crash {id} is not imported: {error}");
                shared.metrics.error(ErrorKind::Spool);
            }
        }
    }
}

/// Imports one crash. Its file is gone afterwards, unless the catalog cannot be written now.
async fn import(shared: &Arc<Shared>, dir: &Arc<ImportDir>, id: &CrashId) -> Result<(), SessionError> {
    if let Some(error) = shared.catalog.unavailable() {
        return Err(error.into());
    }
    let is_known = shared.catalog.find(id.clone()).await?.is_some();
    let (with, from, of) = (Arc::clone(shared), Arc::clone(dir), id.clone());
    let take = move || {
        let taken = if is_known { Ok(None) } else { take_core(&with, &from, &of).map(Some) };
        let _ = from.remove(&core_file_name(&of));
        taken
    };
    let taken = run_blocking(take).await.and_then(|taken| taken);
    let record = match taken {
        Ok(Some(record)) => Arc::new(record),
        Ok(None) => return Ok(()),
        Err(error) => {
            tracing::error!("crash {id} is not imported: {error}");
            shared.metrics.error(ErrorKind::Spool);
            return Ok(());
        }
    };
    shared.catalog.insert(Arc::clone(&record)).await?;
    let (with, from) = (Arc::clone(shared), Arc::clone(dir));
    let _ = run_blocking(move || take_modules(&with, &from, &record)).await;
    tracing::info!("crash {id} was imported");
    shared.refresh_metrics();
    Ok(())
}

/// Moves a core to the others. Blocks.
fn take_core(shared: &Shared, dir: &ImportDir, id: &CrashId) -> io::Result<Record> {
    let (record, bytes) = dir.open_core(id).map_err(io::Error::other)?;
    let attribution = Attribution::of_record(&record);
    if let Grant::Full(limit) = shared.ledger.reserve(&attribution, bytes) {
        return Err(io::Error::other(format!("there is no room for its core ({limit})")));
    }
    let name = core_file_name(id);
    match move_new(dir.dir().as_fd(), shared.ledger.dir().as_fd(), name.as_ref()) {
        Ok(()) => shared.ledger.commit(attribution, bytes, id.clone(), record.time_us, bytes),
        Err(error) => {
            shared.ledger.cancel(&attribution, bytes);
            return Err(error.into());
        }
    }
    Ok(record)
}

/// Moves the modules of a crash to the others, as far as there is room. Those of other crashes, which may be on their way, stay. Blocks.
fn take_modules(shared: &Shared, dir: &ImportDir, record: &Record) {
    let build_ids: HashSet<String> = record.modules.iter().filter_map(|module| module.build_id.clone()).collect();
    let (principal, _) = record.answering();
    let user = ModuleUser { principal: &principal, build_ids: &build_ids };
    let found = dir.build_ids().unwrap_or_default();
    for build_id in found.into_iter().filter(|build_id| build_ids.contains(build_id)) {
        if let Err(error) = shared.modules.adopt(dir.dir(), &build_id, user)
            && error.raw_os_error() != Some(Errno::EEXIST as i32)
        {
            tracing::warn!("module {build_id} is not stored: {error}");
        }
        if let Some(name) = module_file_name(&build_id) {
            let _ = dir.remove(&name);
        }
    }
    shared.modules.mark_used(&build_ids);
}
