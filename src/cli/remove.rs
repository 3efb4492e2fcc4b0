//! `coreward rm`, `coreward pin` and `coreward unpin`.

use super::error::{ChangeError, CliError};
use super::{explanations, human};
use crate::store::{self, Filter, Layout, Listed};
use clap::Args;
use coreward_wire::paths::Root;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

/// Options of `rm`.
#[derive(Args, Debug)]
pub(super) struct RemoveOptions {
    /// Crashes whose cores are deleted: id or prefix of an id, PID, executable path, unit, process name, or signature; if several match, the newest
    #[arg(value_name = "MATCH", required = true)]
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
    /// Crashes: id or prefix of an id, PID, executable path, unit, process name, or signature; if several match, the newest
    #[arg(value_name = "MATCH", required = true)]
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
        let path = layout.cores.join(store::core_file_name(id));
        store::delete_core(&dir, id).map_err(|error| ChangeError::new(path, error))?;
        writeln!(out, "Deleted the core of crash {id}, {freed}; its record stays.")?;
    }
    Ok(ExitCode::SUCCESS)
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

/// Opens the directory of the core files.
pub(super) fn open_cores(root: &Root) -> Result<(Layout, OwnedFd), CliError> {
    let layout = Layout::new(root);
    let dir = layout.open_cores().map_err(|error| ChangeError::new(layout.cores.clone(), error))?;
    Ok((layout, dir))
}

/// The newest crash that `name` refers to and whose core is present.
fn find_with_core(root: &Root, name: &str) -> Result<Listed, CliError> {
    let listed = store::find(root, Some(name))?;
    if listed.core_state.is_present() {
        return Ok(listed);
    }
    // If the name refers to several crashes, one with a core is meant.
    let all = store::list(root, &Filter { matches: Some(name.to_owned()), ..Filter::default() })?;
    match all.into_iter().rev().find(|listed| listed.core_state.is_present()) {
        Some(listed) => Ok(listed),
        None => {
            let why = explanations::why_no_core(&listed).unwrap_or("it was deleted a moment ago");
            Err(ChangeError::NoCore { id: listed.record.id, why }.into())
        }
    }
}
