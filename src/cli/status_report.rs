//! The state of the collection: what `coreward status` shows.

use super::error::CliError;
use super::privileges::become_owner;
use super::register::is_ours;
use super::sysctl::{Sysctl, SysctlKey};
use super::units::{self, Unit};
use crate::config;
use crate::store::{self, Filter, Layout, QueryError};
use coreward_wire::paths::{Root, SPOOL, SPOOL_SUFFIX};
use nix::sys::statvfs::statvfs;
use serde::Serialize;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The suffix of spooled crashes that no daemon could read.
const QUARANTINED: &str = ".bad";

/// The state of the collection, the daemon and its store. The field names are those of `--json`.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct StatusReport {
    /// The kernel starts a shim that exists, and the socket that the shim connects to exists.
    pub(super) collecting: bool,
    /// What to do if something is wrong.
    pub(super) advice: Vec<String>,
    pub(super) core_pattern: String,
    pub(super) core_pattern_is_ours: bool,
    pub(super) core_pipe_limit: String,
    pub(super) shim: Option<PathBuf>,
    pub(super) shim_exists: bool,
    pub(super) socket: PathBuf,
    pub(super) socket_exists: bool,
    /// `None`: systemd does not run the daemon.
    pub(super) units: Option<Vec<Unit>>,
    /// Whether a daemon uses the state directory; `None`: unknown.
    #[serde(rename = "daemon_at_work")]
    pub(super) daemon_running: Option<bool>,
    /// The number of recorded crashes; `None`: the catalog cannot be read, see `catalog_problem`.
    pub(super) crashes: Option<u64>,
    pub(super) newest_id: Option<String>,
    pub(super) newest_time_us: Option<u64>,
    pub(super) newest_program: Option<String>,
    pub(super) catalog_problem: Option<String>,
    pub(super) stored_cores: u64,
    pub(super) stored_bytes: u64,
    pub(super) free_bytes: u64,
    /// `MaxUse=` and `KeepFree=` in bytes, as configured or by default.
    pub(super) max_use: u64,
    pub(super) keep_free: u64,
    /// Crashes that wait for the daemon; `None`: only root and group coreward may read the spool.
    pub(super) spooled: Option<u64>,
    /// Crashes that no daemon could read.
    #[serde(rename = "put_aside")]
    pub(super) quarantined: Option<u64>,
    pub(super) configuration_files: Vec<PathBuf>,
    pub(super) configuration_problems: Vec<String>,
}

/// Collects the report for the tree `root`.
pub(super) fn inspect(root: &Root, sysctl: &Sysctl) -> Result<StatusReport, CliError> {
    // Only root reaches systemd where no message bus runs, so this comes before becoming another user.
    let units = units::query_systemd(root);
    become_owner(root)?;
    let mut status =
        StatusReport { units, daemon_running: is_daemon_running(&root.state_dir()), ..StatusReport::default() };
    inspect_kernel(root, sysctl, &mut status)?;
    status.socket = root.intake_socket();
    status.socket_exists = std::fs::metadata(&status.socket).is_ok_and(|metadata| metadata.file_type().is_socket());
    inspect_catalog(root, &mut status);
    inspect_store(root, &mut status);
    if let Ok(names) = spooled_files(root) {
        let count = |ending: &str| names.iter().filter(|name| name.ends_with(ending)).count() as u64;
        (status.spooled, status.quarantined) = (Some(count(SPOOL_SUFFIX)), Some(count(QUARANTINED)));
    }
    status.collecting = status.core_pattern_is_ours && status.shim_exists && status.socket_exists;
    status.advice = advice(root, &status);
    Ok(status)
}

fn inspect_kernel(root: &Root, sysctl: &Sysctl, status: &mut StatusReport) -> Result<(), CliError> {
    status.core_pattern = sysctl.get(SysctlKey::CorePattern)?;
    status.core_pipe_limit = sysctl.get(SysctlKey::CorePipeLimit)?;
    status.core_pattern_is_ours = is_ours(&status.core_pattern, root);
    let program = status.core_pattern.strip_prefix('|').and_then(|command| command.split(' ').next());
    status.shim = program.filter(|_| status.core_pattern_is_ours).map(PathBuf::from);
    status.shim_exists = status.shim.as_ref().is_some_and(|shim| shim.is_file());
    Ok(())
}

/// A daemon holds an exclusive lock on the state directory. A shared lock is tried, so that two of these commands do not take
/// each other for a daemon.
fn is_daemon_running(state: &Path) -> Option<bool> {
    match File::open(state) {
        Ok(dir) => match dir.try_lock_shared() {
            Ok(()) => Some(false),
            Err(TryLockError::WouldBlock) => Some(true),
            Err(TryLockError::Error(_)) => None,
        },
        Err(error) => (error.kind() == io::ErrorKind::NotFound).then_some(false),
    }
}

fn inspect_catalog(root: &Root, status: &mut StatusReport) {
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
        // A daemon that never started has not created a catalog.
        Err(QueryError::NoCatalog(_)) => status.crashes = Some(0),
        Err(error) => {
            let denied = File::open(Layout::new(root).catalog)
                .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
            let problem = if denied { "only root and group adm may count them".to_owned() } else { error.to_string() };
            status.catalog_problem = Some(problem);
        }
    }
}

/// The configuration, the cores and the free space.
fn inspect_store(root: &Root, status: &mut StatusReport) {
    let loaded = config::load(root);
    status.configuration_problems = loaded.problems.iter().map(ToString::to_string).collect();
    status.configuration_files = loaded.files;
    for entry in std::fs::read_dir(Layout::new(root).cores).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(".core.zst") {
            status.stored_cores += 1;
            status.stored_bytes += entry.metadata().map_or(0, |metadata| metadata.len());
        }
    }
    // Before the first start the directory does not exist; its parent is on the same volume.
    let cores = Layout::new(root).cores;
    if let Some(volume) = cores.ancestors().find_map(|dir| statvfs(dir).ok()) {
        let size = volume.blocks() * volume.fragment_size();
        status.free_bytes = volume.blocks_available() * volume.fragment_size();
        let limits = loaded.config.quotas.on_volume(size);
        status.max_use = limits.max_use;
        status.keep_free = limits.keep_free;
    }
}

/// The names of the files in both spools. Shims create the directories when they need them.
fn spooled_files(root: &Root) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for dir in [root.state_dir(), root.run_dir()] {
        match std::fs::read_dir(dir.join(SPOOL)) {
            Ok(entries) => {
                names.extend(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}

/// The commands that help, in the order in which to run them.
fn advice(root: &Root, status: &StatusReport) -> Vec<String> {
    let mut advice = Vec::new();
    let mut advise = |when: bool, command: &str| advice.extend(when.then(|| command.to_owned()));
    // systemctl is no way out where systemd is not the init system.
    let by_systemd = status.units.is_some() || (root.is_system() && libsystemd::daemon::booted());
    advise(!status.socket_exists && by_systemd, "systemctl enable --now coreward.socket");
    advise(!status.socket_exists && !by_systemd, "start corewardd on its socket");
    let register = if by_systemd { "systemctl enable --now coreward-register.service" } else { "coreward register" };
    advise(!status.core_pattern_is_ours, register);
    advise(status.core_pattern_is_ours && !status.shim_exists, "install Coreward's shim again (package coreward)");
    let failed = status.units.iter().flatten().any(|unit| unit.active == "failed");
    advise(failed, "see why the unit failed: systemctl status coreward.service, journalctl -u coreward.service");
    advice
}

#[cfg(test)]
mod tests {
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
        let status = inspect(&root, &sysctl).unwrap();
        assert!(!status.collecting && status.daemon_running == Some(false) && status.crashes == Some(0));
        assert_eq!(status.advice, ["start corewardd on its socket", "coreward register"]);
        assert!(status.max_use > 0 && status.free_bytes > 0);

        std::fs::write(dir.path().join("core_pattern"), root.core_pattern(&shim).unwrap()).unwrap();
        let _socket = UnixListener::bind(root.intake_socket()).unwrap();
        let status = inspect(&root, &sysctl).unwrap();
        assert!(!status.collecting, "the shim is missing");
        std::fs::write(&shim, "").unwrap();
        std::fs::create_dir_all(root.state_dir()).unwrap();
        for name in ["a.spool", "b.1.spool", "c.bad", "d"] {
            std::fs::write(root.run_dir().join(SPOOL).join(name), "").unwrap();
        }
        let lock = File::open(root.state_dir()).unwrap();
        lock.lock().unwrap();
        let status = inspect(&root, &sysctl).unwrap();
        assert!(status.collecting && status.advice.is_empty(), "{status:?}");
        assert_eq!((status.daemon_running, status.spooled, status.quarantined), (Some(true), Some(2), Some(1)));
    }
}
