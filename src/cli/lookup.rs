//! Where verbs find crashes. Root and the members of group adm read the catalog. Others ask coreward-query.service, which knows whose
//! crashes they are; where it is not there, they see the crashes whose cores they can read.

use super::crash_selector::CrashSelector;
use super::error::CliError;
use crate::crash::SignatureKey;
use crate::query::Client;
use crate::store::{self, CrashRow, CrashSummary, Filter, Group, Listed, Meaning, Occurrence, QueryError};
use coreward_wire::paths::Root;
use nix::unistd::{Pid, Uid};
use std::io::ErrorKind;

/// The crashes that `filter` selects, the oldest first.
pub(super) fn list(root: &Root, filter: &Filter) -> Result<Vec<Listed>, CliError> {
    let Some(mut service) = service(root)? else { return Ok(store::list(root, filter)?) };
    let mut found = Vec::new();
    service.list(filter, true, &mut |crash| found.extend(crash.record.map(|record| *record)))?;
    Ok(found)
}

/// Calls `visit` for each crash that `filter` selects, the oldest first.
pub(super) fn for_each_row(root: &Root, filter: &Filter, visit: &mut dyn FnMut(&CrashRow<'_>)) -> Result<(), CliError> {
    let Some(mut service) = service(root)? else { return Ok(store::for_each_row(root, filter, visit)?) };
    Ok(service.list(filter, false, &mut |crash| visit(&row_of(&crash)))?)
}

/// The crash that `name` refers to: the newest if several match or there is no name.
pub(super) fn find(root: &Root, name: Option<&str>) -> Result<Listed, CliError> {
    match service(root)? {
        Some(mut service) => Ok(service.get(name)?),
        None => Ok(store::find(root, name)?),
    }
}

/// The crash that is named on the command line.
pub(super) fn find_crash(root: &Root, crash: &CrashSelector) -> Result<Listed, CliError> {
    match &crash.container {
        None => find(root, crash.name.as_deref()),
        Some(_) => newest(crash, list(root, &in_container(crash))?),
    }
}

/// The same for whoever opens the core: where the service fails, a core that this user can read is there all the same.
pub(super) fn find_core(root: &Root, crash: &CrashSelector) -> Result<Listed, CliError> {
    match (find_crash(root, crash), &crash.container) {
        (Err(CliError::Service(_)), None) => Ok(store::find(root, crash.name.as_deref())?),
        (Err(CliError::Service(_)), Some(_)) => newest(crash, store::list(root, &in_container(crash))?),
        (found, _) => found,
    }
}

fn in_container(crash: &CrashSelector) -> Filter {
    let CrashSelector { name, container, .. } = crash;
    Filter { matches: name.clone(), container: container.clone(), limit: Some(1), ..Filter::default() }
}

fn newest(crash: &CrashSelector, mut found: Vec<Listed>) -> Result<Listed, CliError> {
    let wanted = [&crash.name, &crash.container].into_iter().flatten().map(String::as_str).collect::<Vec<_>>();
    Ok(found.pop().ok_or_else(|| QueryError::NoMatch(wanted.join(" in container ")))?)
}

/// All signatures with an example each, the most frequent first.
pub(super) fn groups(root: &Root) -> Result<Vec<Group>, CliError> {
    match service(root)? {
        Some(mut service) => Ok(service.groups()?),
        None if !store::may_read_catalog(root) => Err(CliError::NoService),
        None => Ok(store::groups(root)?),
    }
}

/// The crashes of a signature by host, unit, container and hour, the newest first.
pub(super) fn occurrences(root: &Root, signature: &SignatureKey) -> Result<Vec<Occurrence>, CliError> {
    match service(root)? {
        Some(mut service) => Ok(service.occurrences(signature)?),
        None => Ok(store::occurrences(root, signature)?),
    }
}

/// Whether crashes without a core are missing from lists, because this user may not read the catalog and nobody can be asked.
pub(super) fn is_incomplete(root: &Root) -> bool {
    !store::may_read_catalog(root) && matches!(service(root), Ok(None))
}

/// All crashes that `name` refers to, the oldest first, and how it was understood.
pub(super) fn find_all(root: &Root, name: &str) -> Result<(Vec<Listed>, Meaning), CliError> {
    let Some(mut service) = service(root)? else { return Ok(store::find_all(root, name)?) };
    let filter = Filter { matches: Some(name.to_owned()), ..Filter::default() };
    let mut found = Vec::new();
    service.list(&filter, true, &mut |crash| found.extend(crash.record.map(|record| *record)))?;
    let meaning = store::meaning_among(&found, name);
    Ok(store::all_named(name, found, meaning)?)
}

/// The service, for whoever may not read the catalog; `None` if it is not there, or not needed.
fn service(root: &Root) -> Result<Option<Client>, CliError> {
    if store::may_read_catalog(root) { Ok(None) } else { connect(root) }
}

/// The service; `None` if it is not there.
pub(super) fn connect(root: &Root) -> Result<Option<Client>, CliError> {
    let path = root.query_socket();
    match Client::connect(&path) {
        Ok(client) => Ok(Some(client)),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => Ok(None),
            _ => Err(CliError::File { path, error }),
        },
    }
}

fn row_of(crash: &CrashSummary) -> CrashRow<'_> {
    CrashRow {
        id: &crash.id,
        time_us: crash.time_us,
        pid: Pid::from_raw(crash.pid),
        uid: crash.uid.map(Uid::from_raw),
        signal_name: &crash.signal,
        program: &crash.program,
        unit: crash.unit.as_deref().unwrap_or_default(),
        container: crash.container.as_deref().unwrap_or_default(),
        hostname: &crash.hostname,
        signature: &crash.signature,
        core_state: crash.core_state,
        stacks_only: crash.stacks_only,
        no_core: crash.no_core.as_deref().unwrap_or_default(),
        stored: crash.stored_bytes,
    }
}
