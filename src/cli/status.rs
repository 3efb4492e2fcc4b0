//! `coreward status`: what is found out. [`super::status_text`] shows it.

use super::register::is_ours;
use super::sysctl::{Key, Sysctl};
use super::units::{self, Unit};
use super::{CliError, json, status_text};
use crate::config;
use crate::store::{self, Filter, Layout, QueryError};
use clap::Args;
use coreward_wire::paths::{Root, SPOOL, SPOOL_SUFFIX};
use nix::sys::statvfs::statvfs;
use serde::Serialize;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Options of `status`.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// Show the same as one JSON object
    #[arg(long)]
    json: bool,
}

/// As `systemctl status` says it of a unit that is not active.
const NOT_COLLECTING: u8 = 3;
/// Ending of spooled crashes that no daemon could take in.
const ASIDE: &str = ".bad";

/// All of it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Status {
    /// The kernel hands crashes to a shim that is there, and the shim finds its socket.
    pub(super) collecting: bool,
    /// What to do where that is not so.
    pub(super) advice: Vec<String>,
    pub(super) core_pattern: String,
    pub(super) core_pattern_is_ours: bool,
    pub(super) core_pipe_limit: String,
    pub(super) shim: Option<PathBuf>,
    pub(super) shim_exists: bool,
    pub(super) socket: PathBuf,
    pub(super) socket_exists: bool,
    /// Where systemd runs the daemon.
    pub(super) units: Option<Vec<Unit>>,
    /// Whether a daemon is at work on the state directory; `None`: it can't be told.
    pub(super) daemon_at_work: Option<bool>,
    /// `None`: the catalog can't be read, see `catalog_problem`.
    pub(super) crashes: Option<u64>,
    pub(super) newest_id: Option<String>,
    pub(super) newest_time_us: Option<u64>,
    pub(super) newest_program: Option<String>,
    pub(super) catalog_problem: Option<String>,
    pub(super) stored_cores: u64,
    pub(super) stored_bytes: u64,
    pub(super) free_bytes: u64,
    /// In force: configured, or the default for the volume.
    pub(super) max_use: u64,
    pub(super) keep_free: u64,
    /// Crashes that wait for the daemon; `None`: only root and group coreward may look.
    pub(super) spooled: Option<u64>,
    pub(super) put_aside: Option<u64>,
    pub(super) configuration_files: Vec<PathBuf>,
    pub(super) configuration_problems: Vec<String>,
}

pub(super) fn run(root: &Root, options: &Options, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let status = find_out(root, &Sysctl::kernel())?;
    if options.json {
        json::write(out, &status)?;
    } else {
        status_text::show(&status, out)?;
    }
    Ok(if status.collecting { ExitCode::SUCCESS } else { ExitCode::from(NOT_COLLECTING) })
}

fn find_out(root: &Root, sysctl: &Sysctl) -> Result<Status, CliError> {
    let mut status =
        Status { units: units::ask(root), daemon_at_work: at_work(&root.state_dir()), ..Status::default() };
    kernel(root, sysctl, &mut status)?;
    status.socket = root.intake_socket();
    status.socket_exists = std::fs::metadata(&status.socket).is_ok_and(|about| about.file_type().is_socket());
    catalog(root, &mut status);
    volume(root, &mut status);
    if let Ok(names) = spool(root) {
        let count = |ending: &str| names.iter().filter(|name| name.ends_with(ending)).count() as u64;
        (status.spooled, status.put_aside) = (Some(count(SPOOL_SUFFIX)), Some(count(ASIDE)));
    }
    status.collecting = status.core_pattern_is_ours && status.shim_exists && status.socket_exists;
    status.advice = advice(root, &status);
    Ok(status)
}

fn kernel(root: &Root, sysctl: &Sysctl, status: &mut Status) -> Result<(), CliError> {
    status.core_pattern = sysctl.get(Key::CorePattern)?;
    status.core_pipe_limit = sysctl.get(Key::CorePipeLimit)?;
    status.core_pattern_is_ours = is_ours(&status.core_pattern, root);
    let program = status.core_pattern.strip_prefix('|').and_then(|command| command.split(' ').next());
    status.shim = program.filter(|_| status.core_pattern_is_ours).map(PathBuf::from);
    status.shim_exists = status.shim.as_ref().is_some_and(|shim| shim.is_file());
    Ok(())
}

/// A daemon holds a lock on the state directory. A shared lock is tried: two that ask at once don't see each other as daemons.
fn at_work(state: &Path) -> Option<bool> {
    match File::open(state) {
        Ok(dir) => match dir.try_lock_shared() {
            Ok(()) => Some(false),
            Err(TryLockError::WouldBlock) => Some(true),
            Err(TryLockError::Error(_)) => None,
        },
        Err(error) => (error.kind() == io::ErrorKind::NotFound).then_some(false),
    }
}

fn catalog(root: &Root, status: &mut Status) {
    let newest = Filter { limit: Some(1), ..Filter::default() };
    let found = store::count_crashes(root).and_then(|count| Ok((count, store::list(root, &newest)?.pop())));
    match found {
        Ok((count, newest)) => {
            status.crashes = Some(count);
            let record = newest.map(|newest| newest.record);
            status.newest_id = record.as_ref().map(|record| record.id.to_string());
            status.newest_time_us = record.as_ref().map(|record| record.time_us);
            status.newest_program = record.map(|record| record.program());
        }
        // A daemon that never had to start has written none.
        Err(QueryError::NoCatalog(_)) => status.crashes = Some(0),
        Err(error) => {
            let denied = File::open(Layout::new(root).catalog)
                .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
            let problem = if denied { "only root and group adm may count them".to_owned() } else { error.to_string() };
            status.catalog_problem = Some(problem);
        }
    }
}

fn volume(root: &Root, status: &mut Status) {
    let loaded = config::load(root);
    status.configuration_problems = loaded.problems.iter().map(ToString::to_string).collect();
    status.configuration_files = loaded.files;
    for entry in std::fs::read_dir(Layout::new(root).cores).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(".core.zst") {
            status.stored_cores += 1;
            status.stored_bytes += entry.metadata().map_or(0, |about| about.len());
        }
    }
    // Before the first start there is no directory yet; the volume is that of the one above.
    let cores = Layout::new(root).cores;
    if let Some(volume) = cores.ancestors().find_map(|dir| statvfs(dir).ok()) {
        let size = volume.blocks() * volume.fragment_size();
        status.free_bytes = volume.blocks_available() * volume.fragment_size();
        let limits = loaded.config.quotas.on_volume(size);
        status.max_use = limits.max_use;
        status.keep_free = limits.keep_free;
    }
}

/// The names in both spools. Shims make the directories when they need them.
fn spool(root: &Root) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for dir in [root.state_dir(), root.run_dir()] {
        match std::fs::read_dir(dir.join(SPOOL)) {
            Ok(entries) => {
                names.extend(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}

/// The commands that help, in the order in which to give them.
fn advice(root: &Root, status: &Status) -> Vec<String> {
    let mut advice = Vec::new();
    let mut say = |when: bool, command: &str| advice.extend(when.then(|| command.to_owned()));
    let by_systemd = status.units.is_some() || root.is_system();
    say(!status.socket_exists && by_systemd, "systemctl enable --now coreward.socket");
    say(!status.socket_exists && !by_systemd, "start corewardd on its socket");
    let register = if by_systemd { "systemctl enable --now coreward-register.service" } else { "coreward register" };
    say(!status.core_pattern_is_ours, register);
    say(status.core_pattern_is_ours && !status.shim_exists, "install Coreward's shim again (package coreward)");
    let failed = status.units.iter().flatten().any(|unit| unit.active == "failed");
    say(failed, "systemctl status coreward.service, and journalctl -u coreward.service, tell why it failed");
    advice
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn collecting_means_pattern_shim_and_socket() {
        let dir = tempfile::Builder::new().prefix("s").rand_bytes(4).tempdir_in("/tmp").unwrap();
        let (root, sysctl) = (Root::new(dir.path()), Sysctl::fixture(dir.path().to_owned()));
        let shim = dir.path().join("coreward-shim");
        std::fs::write(dir.path().join("core_pipe_limit"), "0\n").unwrap();
        std::fs::write(dir.path().join("core_pattern"), "core\n").unwrap();
        std::fs::create_dir_all(root.run_dir().join(SPOOL)).unwrap();
        let status = find_out(&root, &sysctl).unwrap();
        assert!(!status.collecting && status.daemon_at_work == Some(false) && status.crashes == Some(0));
        assert_eq!(status.advice, ["start corewardd on its socket", "coreward register"]);
        assert!(status.max_use > 0 && status.free_bytes > 0);

        std::fs::write(dir.path().join("core_pattern"), root.core_pattern(&shim).unwrap()).unwrap();
        let _socket = UnixListener::bind(root.intake_socket()).unwrap();
        let status = find_out(&root, &sysctl).unwrap();
        assert!(!status.collecting, "the shim is missing");
        std::fs::write(&shim, "").unwrap();
        std::fs::create_dir_all(root.state_dir()).unwrap();
        for name in ["a.spool", "b.1.spool", "c.bad", "d"] {
            std::fs::write(root.run_dir().join(SPOOL).join(name), "").unwrap();
        }
        let lock = File::open(root.state_dir()).unwrap();
        lock.lock().unwrap();
        let status = find_out(&root, &sysctl).unwrap();
        assert!(status.collecting && status.advice.is_empty(), "{status:?}");
        assert_eq!((status.daemon_at_work, status.spooled, status.put_aside), (Some(true), Some(2), Some(1)));
    }
}
