//! Where verbs find crashes. Root and the members of group adm read the catalog. Others ask coreward-query.service, which knows whose
//! crashes they are; where it is not there, they see the crashes whose cores they can read.

use super::crash_selector::CrashSelector;
use super::error::CliError;
use super::similar::closest;
use crate::crash::SignatureKey;
use crate::crash::text::printable;
use crate::query::{Client, UsageReply};
use crate::store::{
    self, CrashRow, CrashSummary, Filter, Group, Listed, Meaning, Occurrence, ProcessOwner, QueryError, Tally, TallyBy,
    TallyCounter, UsageBy,
};
use coreward_wire::paths::Root;
use nix::unistd::{Pid, Uid};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;

/// Said where [`is_incomplete`].
pub(super) const INCOMPLETE: &str = "Only crashes whose cores you can read are shown: coreward-query.socket, which knows the others, is not active \
                                     (root: systemctl start coreward-query.socket).";

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
    let found = match service(root)? {
        Some(mut service) => service.get(name).map_err(CliError::from),
        None => store::find(root, name).map_err(CliError::from),
    };
    found.map_err(|error| with_similar_names(root, error))
}

/// The error with names that may have been meant, if it says that there is no such crash.
pub(super) fn with_similar_names(root: &Root, error: CliError) -> CliError {
    match error {
        CliError::Query(QueryError::NoMatch(name)) => CliError::NoMatch { similar: similar_names(root, &name), name },
        error => error,
    }
}

/// The crash that is named on the command line.
pub(super) fn find_crash(root: &Root, crash: &CrashSelector) -> Result<Listed, CliError> {
    match &crash.container {
        None => find(root, crash.name.as_deref()),
        Some(container) => newest(crash, container, list(root, &in_container(crash))?),
    }
}

/// The same for whoever opens the core: where the service fails, a core that this user can read is there all the same.
pub(super) fn find_core(root: &Root, crash: &CrashSelector) -> Result<Listed, CliError> {
    match (find_crash(root, crash), &crash.container) {
        (Err(CliError::Service(_)), None) => {
            store::find(root, crash.name.as_deref()).map_err(|error| with_similar_names(root, error.into()))
        }
        (Err(CliError::Service(_)), Some(container)) => {
            newest(crash, container, store::list(root, &in_container(crash))?)
        }
        (found, _) => found,
    }
}

fn in_container(crash: &CrashSelector) -> Filter {
    let CrashSelector { name, container, .. } = crash;
    Filter { matches: name.clone(), container: container.clone(), limit: Some(1), ..Filter::default() }
}

fn newest(crash: &CrashSelector, container: &str, mut found: Vec<Listed>) -> Result<Listed, CliError> {
    let no_match =
        || CliError::NoMatchInContainer { container: printable(container), name: crash.name.as_deref().map(printable) };
    found.pop().ok_or_else(no_match)
}

/// All signatures with an example each, the most frequent first.
pub(super) fn groups(root: &Root) -> Result<Vec<Group>, CliError> {
    match service(root)? {
        Some(mut service) => Ok(service.groups()?),
        None if !store::may_read_catalog(root) => Err(CliError::NoService),
        None => Ok(store::groups(root)?),
    }
}

/// Where the best-known crash of a signature is found.
pub(super) enum Examples {
    Catalog(store::Examples),
    /// All that the service has.
    Service(HashMap<SignatureKey, Listed>),
    /// Nobody can be asked.
    None,
}

impl Examples {
    /// What cannot be read is left out.
    pub(super) fn open(root: &Root) -> Self {
        match store::Examples::open(root) {
            Ok(Some(examples)) => Self::Catalog(examples),
            Ok(None) => {
                let service = connect(root).ok().flatten();
                let groups = service.and_then(|mut service| service.groups().ok());
                let with_example = |group: Group| Some((group.signature, group.example?));
                groups.map_or(Self::None, |groups| Self::Service(groups.into_iter().filter_map(with_example).collect()))
            }
            Err(_) => Self::None,
        }
    }

    /// A crash of a signature that has a stack, for long lists: the first one, which is found fast. It is one of the same user, in containers or
    /// outside: others may have called their functions what they like.
    pub(super) fn any_of(&self, signature: &SignatureKey, owner: ProcessOwner) -> Option<Cow<'_, Listed>> {
        match self {
            Self::Catalog(examples) => examples.first_of(signature, owner).ok().flatten().map(Cow::Owned),
            _ => self.of(signature, owner),
        }
    }

    /// The best-known crash of a signature, of the same user, in containers or outside.
    pub(super) fn of(&self, signature: &SignatureKey, owner: ProcessOwner) -> Option<Cow<'_, Listed>> {
        match self {
            Self::Catalog(examples) => examples.of(signature, owner).ok().flatten().map(Cow::Owned),
            Self::Service(examples) => {
                let example = examples.get(signature).filter(|example| ProcessOwner::of(&example.record) == owner);
                example.map(Cow::Borrowed)
            }
            Self::None => None,
        }
    }
}

/// The crashes of a time by each of `kinds`, the most frequent first. Without the catalog, those that were rolled up are not known.
pub(super) fn tally(root: &Root, kinds: &[TallyBy], since_us: u64, until_us: u64) -> Result<Vec<Vec<Tally>>, CliError> {
    if store::may_read_catalog(root) {
        let of_kind = |by: &TallyBy| store::tally(root, *by, since_us, until_us);
        return Ok(kinds.iter().map(of_kind).collect::<Result<_, _>>()?);
    }
    let filter = Filter { since_us: Some(since_us), until_us: Some(until_us), ..Filter::default() };
    let mut counts: Vec<TallyCounter> = kinds.iter().map(|by| TallyCounter::new(*by)).collect();
    for_each_row(root, &filter, &mut |row| counts.iter_mut().for_each(|counter| counter.count(row)))?;
    Ok(counts.into_iter().map(TallyCounter::finish).collect())
}

/// What stored cores take on disk, as the service says it; `None` for whoever may read the catalog, and if the service is not there.
pub(super) fn usage(root: &Root, by: UsageBy) -> Result<Option<UsageReply>, CliError> {
    Ok(service(root)?.map(|mut service| service.usage(by)).transpose()?)
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

/// Ids, units, programs and signatures of the newest crashes that are spelt much like `name`, escaped.
fn similar_names(root: &Root, name: &str) -> Vec<String> {
    const MAX_ROWS: usize = 2000;
    let mut names = BTreeSet::new();
    let mut add = |row: &CrashRow<'_>| {
        let file = row.program.rsplit('/').next().unwrap_or_default();
        let program = if name.contains('/') { row.program } else { file };
        names.extend([row.id, row.unit, program, row.signature].map(str::to_owned));
    };
    // Without names there is nothing to suggest.
    let _ = for_each_row(root, &Filter { limit: Some(MAX_ROWS), ..Filter::default() }, &mut add);
    closest(name, names.iter().map(String::as_str))
}

/// Whether the catalog can be read, and has neither a crash nor a dump.
pub(super) fn is_nothing_recorded(root: &Root) -> bool {
    let any = Filter { limit: Some(1), ..Filter::default() };
    store::may_read_catalog(root) && store::list(root, &any).is_ok_and(|found| found.is_empty())
}

/// What to do before the first crash.
pub(super) fn nothing_recorded(root: &Root) -> &'static str {
    if store::may_read_catalog(root) {
        "No crash has been recorded yet; `coreward doctor` checks that crashes arrive."
    } else {
        "No crash of yours has been recorded; root and group adm see the crashes of all users."
    }
}

/// All crashes that `name` refers to, the oldest first, and how it was understood.
pub(super) fn find_all(root: &Root, name: &str) -> Result<(Vec<Listed>, Meaning), CliError> {
    let no_match = |error: QueryError| with_similar_names(root, error.into());
    let Some(mut service) = service(root)? else { return store::find_all(root, name).map_err(no_match) };
    let filter = Filter { matches: Some(name.to_owned()), ..Filter::default() };
    let mut found = Vec::new();
    service.list(&filter, true, &mut |crash| found.extend(crash.record.map(|record| *record)))?;
    let meaning = store::meaning_among(&found, name);
    store::all_named(name, found, meaning).map_err(no_match)
}

/// The service, for whoever may not read the catalog; `None` if it is not there, or not needed.
pub(super) fn service(root: &Root) -> Result<Option<Client>, CliError> {
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
