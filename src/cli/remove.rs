//! `coreward rm`, `coreward pin` and `coreward unpin`.

use super::{CliError, human};
use crate::crash::CrashId;
use crate::store::{self, Layout, Listed};
use clap::Args;
use coreward_wire::paths::Root;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use thiserror::Error;

/// Options of `rm`.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// Crashes whose cores are deleted: id or its beginning, PID, path of the executable, unit, or name of the process; of several that match, the newest
    #[arg(value_name = "MATCH", required = true)]
    names: Vec<String>,
    /// Delete pinned cores as well
    #[arg(long, short)]
    force: bool,
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
}

/// Options of `pin` and `unpin`.
#[derive(Args, Debug)]
pub(super) struct Pin {
    /// Crashes: id or its beginning, PID, path of the executable, unit, or name of the process; of several that match, the newest
    #[arg(value_name = "MATCH", required = true)]
    names: Vec<String>,
}

/// Why a core can't be changed.
#[derive(Debug, Error)]
pub(super) enum ChangeError {
    #[error("{path}: {error}; the cores belong to user coreward: run this as root")]
    Denied { path: PathBuf, error: io::Error },
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: this file system has no extended attributes of users, where a pin is kept")]
    NoAttributes { path: PathBuf },
    #[error("crash {id} has no core: {why}")]
    NoCore { id: CrashId, why: &'static str },
    #[error("the core of crash {id} is pinned: coreward unpin {id}, or --force")]
    Pinned { id: CrashId },
}

impl ChangeError {
    pub(super) fn of(path: PathBuf, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied { path, error },
            io::ErrorKind::Unsupported => Self::NoAttributes { path },
            _ => Self::Io { path, error },
        }
    }
}

pub(super) fn run(root: &Root, options: &Options, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let (layout, dir) = cores(root)?;
    for name in &options.names {
        let listed = with_core(root, name)?;
        let id = listed.id();
        if store::is_pinned(&dir, id) && !options.force {
            return Err(ChangeError::Pinned { id: id.clone() }.into());
        }
        let freed = human::size(listed.record.core.stored);
        if options.dry_run {
            writeln!(out, "Would delete the core of crash {id}, {freed}.")?;
            continue;
        }
        store::remove(&dir, id).map_err(|error| ChangeError::of(layout.cores.join(store::file_name(id)), error))?;
        writeln!(out, "Deleted the core of crash {id}, {freed}; its record stays.")?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn pin(root: &Root, options: &Pin, pinned: bool, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let (layout, dir) = cores(root)?;
    for name in &options.names {
        let listed = with_core(root, name)?;
        let id = listed.id();
        let path = layout.cores.join(store::file_name(id));
        store::set_pinned(&dir, id, pinned).map_err(|error| ChangeError::of(path, error))?;
        let done = if pinned { "is pinned: it is not deleted to make room" } else { "is not pinned any more" };
        writeln!(out, "The core of crash {id} {done}.")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The directory of the cores.
pub(super) fn cores(root: &Root) -> Result<(Layout, OwnedFd), CliError> {
    let layout = Layout::of(root);
    let dir = layout.open_cores().map_err(|error| ChangeError::of(layout.cores.clone(), error))?;
    Ok((layout, dir))
}

/// The newest crash of that name whose core is there.
fn with_core(root: &Root, name: &str) -> Result<Listed, CliError> {
    let listed = store::find(root, Some(name))?;
    if listed.core_state.is_there() {
        return Ok(listed);
    }
    // A name may mean several: what is meant is one that has something to delete or to keep.
    let all = store::list(root, &store::Filter { matches: Some(name.to_owned()), ..store::Filter::default() })?;
    let there = |listed: &Listed| listed.core_state.is_there();
    match all.into_iter().rev().find(there) {
        Some(listed) => Ok(listed),
        None => {
            let why = super::words::why_no_core(&listed).unwrap_or("it was deleted a moment ago");
            Err(ChangeError::NoCore { id: listed.record.id, why }.into())
        }
    }
}
