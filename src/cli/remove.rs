//! `coreward rm`, `coreward pin` and `coreward unpin`.

use super::crash_selector::text_parser;
use super::error::{ChangeError, CliError};
use super::message::print_message;
use super::{explanations, human, lookup};
use crate::crash::CrashId;
use crate::store::{self, Layout, Listed, Meaning, QueryError};
use clap::Args;
use coreward_wire::paths::Root;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

/// Options of `rm`.
#[derive(Args, Debug)]
pub(super) struct RemoveOptions {
    /// Crashes whose cores are deleted: id, PID, executable path, unit, process name, signature, or prefix of an id; of several, the newest with a core
    #[arg(value_name = "MATCH", required = true, value_parser = text_parser())]
    names: Vec<String>,
    /// Delete pinned cores as well
    #[arg(long, short)]
    force: bool,
    /// Show what would be deleted, but delete nothing
    #[arg(long)]
    dry_run: bool,
}

/// Options of `pin` and `unpin`.
#[derive(Args, Debug)]
pub(super) struct PinOptions {
    /// Crashes: id, PID, executable path, unit, process name, signature, or prefix of an id; of several, the newest with a core
    #[arg(value_name = "MATCH", required = true, value_parser = text_parser())]
    names: Vec<String>,
}

pub(super) fn run(root: &Root, options: &RemoveOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let (layout, dir) = open_cores(root)?;
    for name in &options.names {
        let listed = find_with_core(root, name)?;
        let id = listed.id();
        if store::is_pinned(&dir, id) && !options.force {
            return Err(ChangeError::Pinned { id: id.clone() }.into());
        }
        let freed = human::size(listed.record.core.stored);
        if options.dry_run {
            writeln!(out, "Would delete the core of crash {id}, {freed}.")?;
            continue;
        }
        delete(root, &layout, &dir, id, options.force)?;
        writeln!(out, "Deleted the core of crash {id}, {freed}; its record stays.")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Deletes the core of a crash. Whoever may not do that has it deleted, if it is theirs.
fn delete(root: &Root, layout: &Layout, dir: &OwnedFd, id: &CrashId, force: bool) -> Result<(), CliError> {
    let error = match store::delete_core(dir, id) {
        Ok(()) => {
            write_down_removal(root, std::slice::from_ref(id));
            return Ok(());
        }
        Err(error) => error,
    };
    let path = layout.cores.join(store::core_file_name(id));
    if error.kind() != ErrorKind::PermissionDenied {
        return Err(ChangeError::new(path, error).into());
    }
    let mut service = lookup::connect(root)?.ok_or(ChangeError::NoService { path, error })?;
    service.delete(id, force)?;
    Ok(())
}

pub(super) fn pin(root: &Root, options: &PinOptions, pinned: bool, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let (layout, dir) = open_cores(root)?;
    for name in &options.names {
        let listed = find_with_core(root, name)?;
        let id = listed.id();
        let path = layout.cores.join(store::core_file_name(id));
        store::set_pinned(&dir, id, pinned).map_err(|error| ChangeError::new(path, error))?;
        let done = if pinned { "is pinned: it is not deleted to make room" } else { "is no longer pinned" };
        writeln!(out, "The core of crash {id} {done}.")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes down that these cores were deleted. They are gone, whether or not this works.
pub(super) fn write_down_removal(root: &Root, ids: &[CrashId]) {
    if let Err(error) = store::mark_removed(root, ids) {
        print_message(&format!("coreward: warning: {error}: the deleted cores may be listed as missing"));
    }
}

/// Opens the directory of the core files.
pub(super) fn open_cores(root: &Root) -> Result<(Layout, OwnedFd), CliError> {
    let layout = Layout::new(root);
    let dir = layout.open_cores().map_err(|error| ChangeError::new(layout.cores.clone(), error))?;
    Ok((layout, dir))
}

/// The newest crash that `name` refers to and whose core is present.
fn find_with_core(root: &Root, name: &str) -> Result<Listed, CliError> {
    let (found, meaning) = lookup::find_all(root, name)?;
    let mut newest_first = found.into_iter().rev();
    let newest = newest_first.next().ok_or_else(|| QueryError::NoMatch(name.to_owned()))?;
    if meaning == Meaning::Prefix && may_be_pid(name) {
        return Err(ChangeError::NumberAsPrefix { number: name.to_owned(), id: newest.record.id }.into());
    }
    let Some(why) = explanations::why_no_core(&newest) else { return Ok(newest) };
    // If the name refers to several crashes, one with a core is meant.
    let with_core = newest_first.find(|listed| listed.core_state.is_present());
    with_core.ok_or_else(|| ChangeError::NoCore { id: newest.record.id, why }.into())
}

/// Whether a name that is the beginning of an id could be meant as a PID, perhaps one whose crash is no longer listed: nothing is
/// changed on the strength of it.
fn may_be_pid(name: &str) -> bool {
    /// The kernel assigns smaller ones (`/proc/sys/kernel/pid_max`, proc_sys_kernel(5)).
    const PID_MAX_LIMIT: u32 = 1 << 22;
    name.parse().is_ok_and(|number: u32| number < PID_MAX_LIMIT)
}
