//! The state of the collection: what `coreward status` shows.

use super::error::CliError;
use super::lookup;
use super::privileges::become_owner;
use super::remedy::Remedy;
use super::shim_check;
use super::state_volume::StateVolume;
use super::test_crash::{self, TestCrash};
use super::units::{self, Unit};
use crate::config;
use crate::registration::{KernelSettings, Sysctl, SysctlKey, words_of};
use crate::store::{self, Filter, Layout, QueryError};
use coreward_wire::paths::{Root, SPOOL, SPOOL_SUFFIX};
use serde::Serialize;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// How long the daemon is watched if systemd has started it again before: one that restarts for ever does so after 100 ms.
const RESTART_WATCH: Duration = Duration::from_secs(1);
/// The suffix of spooled crashes that no daemon could read.
const QUARANTINED: &str = ".bad";

/// The state of the collection, the daemon and its store. The field names are those of `--json`.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct StatusReport {
    /// The kernel starts the shim, the shim can be executed and has a socket to connect to, the daemon does not end again and
    /// again, and no test crash got lost.
    pub(super) collecting: bool,
    /// What to do if something is wrong.
    pub(super) advice: Vec<String>,
    /// The same, by what is wrong.
    #[serde(skip)]
    pub(super) remedies: Remedies,
    pub(super) core_pattern: String,
    pub(super) core_pattern_is_ours: bool,
    pub(super) core_pipe_limit: String,
    pub(super) suid_dumpable: String,
    pub(super) shim: Option<PathBuf>,
    pub(super) shim_exists: bool,
    /// Why the shim cannot be executed.
    pub(super) shim_problem: Option<String>,
    /// The daemon ends again and again.
    pub(super) daemon_restarts: bool,
    /// `passed`, `failed` or `not-tried`: whether a crash that this command caused arrived.
    pub(super) test_crash: &'static str,
    /// Why it failed or was not tried.
    pub(super) test_crash_problem: Option<String>,
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
    /// What the file system of the state directory lacks, and what follows from that.
    pub(super) state_directory_limitations: Vec<String>,
    /// Crashes that wait for the daemon; `None`: only root and group coreward may read the spool.
    pub(super) spooled: Option<u64>,
    /// Crashes that no daemon could read.
    #[serde(rename = "put_aside")]
    pub(super) quarantined: Option<u64>,
    pub(super) configuration_files: Vec<PathBuf>,
    pub(super) configuration_problems: Vec<String>,
}

/// Collects the report for the tree `root`. With `test` and nothing wrong so far, a test crash has the last word.
pub(super) fn inspect(root: &Root, sysctl: &Sysctl, test: bool) -> Result<StatusReport, CliError> {
    // Only root reaches systemd where no message bus runs, and only root's crash can be a test, so this comes before becoming
    // another user.
    let units = units::query_systemd(root);
    let mut status = StatusReport {
        daemon_running: is_daemon_running(&root.state_dir()),
        test_crash: "not-tried",
        ..StatusReport::default()
    };
    let settings = inspect_kernel(root, sysctl, &mut status)?;
    status.daemon_restarts = units.as_deref().is_some_and(|before| keeps_restarting(root, before));
    status.units = units;
    let shim_remedy = inspect_shim(&mut status);
    status.socket = root.intake_socket();
    status.socket_exists = std::fs::metadata(&status.socket).is_ok_and(|metadata| metadata.file_type().is_socket());
    let unit_of_socket = status.unit(units::SOCKET);
    let is_listening = status.socket_exists && unit_of_socket.is_none_or(|unit| unit.active == "active");
    let works = status.core_pattern_is_ours && shim_remedy.is_none() && is_listening && !status.daemon_restarts;
    let tested = match (test, works) {
        (true, true) => test_crash::send(root),
        (true, false) => TestCrash::NotTried("it could not arrive".to_owned()),
        (false, _) => TestCrash::NotTried("--no-test was given".to_owned()),
    };
    status.collecting = works && !matches!(tested, TestCrash::Failed(_));
    (status.test_crash, status.test_crash_problem) = match tested {
        TestCrash::Passed => ("passed", None),
        TestCrash::Failed(why) => ("failed", Some(why)),
        TestCrash::NotTried(why) => ("not-tried", Some(why)),
    };
    become_owner(root)?;
    inspect_catalog(root, &mut status);
    inspect_store(root, &mut status);
    if let Ok(names) = spooled_files(root) {
        let count = |ending: &str| names.iter().filter(|name| name.ends_with(ending)).count() as u64;
        (status.spooled, status.quarantined) = (Some(count(SPOOL_SUFFIX)), Some(count(QUARANTINED)));
    }
    status.remedies = Remedies::find(root, &status, &settings, shim_remedy, is_listening);
    status.advice = status.remedies.advice();
    Ok(status)
}

fn inspect_kernel(root: &Root, sysctl: &Sysctl, status: &mut StatusReport) -> Result<KernelSettings, CliError> {
    let settings = KernelSettings::read(sysctl)?;
    status.core_pattern.clone_from(&settings.core_pattern);
    status.core_pipe_limit.clone_from(&settings.core_pipe_limit);
    status.suid_dumpable.clone_from(&settings.suid_dumpable);
    status.core_pattern_is_ours = settings.is_ours(SysctlKey::CorePattern, root);
    Ok(settings)
}

/// Executes the shim that the kernel starts. Returns the remedy if that does not work.
fn inspect_shim(status: &mut StatusReport) -> Option<Remedy> {
    let shim = words_of(&status.core_pattern).next().filter(|_| status.core_pattern_is_ours).map(PathBuf::from)?;
    status.shim_exists = shim.is_file();
    let executed = shim_check::execute(&shim);
    status.shim = Some(shim);
    let error = executed.err()?;
    status.shim_problem = Some(error.to_string());
    Some(error.remedy())
}

/// Whether systemd starts the daemon again while this command looks. Units that were never started again are not waited for.
fn keeps_restarting(root: &Root, before: &[Unit]) -> bool {
    let daemon = |units: &[Unit]| units.iter().find(|unit| unit.name == units::DAEMON).cloned();
    let Some(daemon_before) = daemon(before).filter(|unit| unit.restarts > 0 || unit.active == "activating") else {
        return false;
    };
    sleep(RESTART_WATCH);
    let now = units::query_systemd(root).and_then(|units| daemon(&units));
    now.is_some_and(|now| now.restarts > daemon_before.restarts || (now.active == "failed"))
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
    let newest = Filter { crashes_only: true, limit: Some(1), ..Filter::default() };
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
            status.catalog_problem = Some(match (denied, lookup::is_incomplete(root)) {
                (true, true) => {
                    "only root and group adm may count them, and coreward-query.socket, which shows users their \
                    own, is not active"
                        .to_owned()
                }
                (true, false) => "only root and group adm may count them; `coreward list` shows yours".to_owned(),
                (false, _) => error.to_string(),
            });
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
    let StateVolume { limits, free, limitations } =
        StateVolume::inspect(&Layout::new(root).cores, &loaded.config.quotas);
    status.free_bytes = free;
    status.max_use = limits.max_use;
    status.keep_free = limits.keep_free;
    status.state_directory_limitations = limitations;
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

impl StatusReport {
    pub(super) fn unit(&self, name: &str) -> Option<&Unit> {
        self.units.iter().flatten().find(|unit| unit.name == name)
    }
}

/// The commands that help, in the order in which to run them.
#[derive(Clone, Debug, Default)]
pub(super) struct Remedies {
    /// The shim cannot be executed.
    pub(super) shim: Option<Remedy>,
    /// Nobody listens on the intake.
    pub(super) socket: Option<Remedy>,
    /// A setting of the kernel is not ours, or not for long.
    pub(super) register: Option<Remedy>,
    /// Crashes will not be collected after the next boot.
    pub(super) next_boot: Option<Remedy>,
    /// The daemon fails.
    pub(super) daemon: Option<Remedy>,
    /// Another unit has failed.
    pub(super) other_unit: Option<Remedy>,
    /// The test crash got lost.
    pub(super) test_crash: Option<Remedy>,
}

impl Remedies {
    fn find(
        root: &Root,
        status: &StatusReport,
        settings: &KernelSettings,
        shim: Option<Remedy>,
        is_listening: bool,
    ) -> Self {
        // systemctl is no way out where systemd is not the init system.
        let by_systemd = status.units.is_some() || (root.is_system() && libsystemd::daemon::booted());
        let start = |name: &str| match status.unit(name) {
            Some(unit) => unit.start(),
            None => Remedy::new(format!("systemctl enable --now {name}")),
        };
        let socket = || if by_systemd { start(units::SOCKET) } else { Remedy::new("start corewardd on its socket") };
        let registration = status.unit(units::REGISTER);
        let register = || match registration {
            // Starting an active unit does nothing.
            Some(unit) if unit.active == "active" => Remedy::new(format!("systemctl reload {}", units::REGISTER)),
            _ if by_systemd => start(units::REGISTER),
            _ => Remedy::new("coreward register"),
        };
        // Without its unit the registration lasts until the next boot.
        let lasts = registration.is_none_or(|unit| unit.active == "active");
        let is_off_at_boot = |unit: &Unit| unit.active == "active" && unit.enabled == "disabled";
        let daemon_fails =
            status.daemon_restarts || status.unit(units::DAEMON).is_some_and(|unit| unit.active == "failed");
        let other_failed =
            status.units.iter().flatten().any(|unit| unit.active == "failed" && unit.name != units::DAEMON);
        let test_crash = || {
            if by_systemd {
                let purpose = "see what the daemon does (journalctl -e -u coreward.service), or restart it";
                Remedy::to(purpose, "systemctl restart coreward.service")
            } else {
                Remedy::new("see the log of corewardd")
            }
        };
        Self {
            shim,
            socket: (!is_listening).then(socket),
            register: (!lasts || SysctlKey::ALL.iter().any(|key| !settings.is_ours(*key, root))).then(register),
            // It starts the socket and the daemon as well.
            next_boot: registration.is_some_and(is_off_at_boot).then(|| {
                let purpose = "crashes will not be collected after the next boot otherwise";
                Remedy::to(purpose, format!("systemctl enable {}", units::REGISTER))
            }),
            daemon: daemon_fails.then(|| Remedy::to("see why the daemon ends", "journalctl -e -u coreward.service")),
            other_unit: other_failed.then(|| Remedy::to("see why the unit failed", "systemctl status 'coreward*'")),
            test_crash: (status.test_crash == "failed").then(test_crash),
        }
    }

    fn advice(&self) -> Vec<String> {
        let Self { shim, socket, register, next_boot, daemon, other_unit, test_crash } = self;
        let all = [shim, socket, register, next_boot, daemon, other_unit, test_crash];
        all.into_iter().flatten().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn collecting_means_pattern_shim_and_socket() {
        let dir = tempfile::Builder::new().prefix("s").rand_bytes(4).tempdir_in("/tmp").unwrap();
        let root = Root::new(dir.path());
        let sysctl = Sysctl::fixture(dir.path().to_owned(), ["core", "0", "0"]);
        let shim = dir.path().join("coreward-shim");
        std::fs::create_dir_all(root.run_dir().join(SPOOL)).unwrap();
        let inspect = || inspect(&root, &sysctl, false).unwrap();
        let status = inspect();
        assert!(!status.collecting && status.daemon_running == Some(false) && status.crashes == Some(0));
        assert_eq!(status.advice, ["start corewardd on its socket", "coreward register"]);
        assert!(status.max_use > 0 && status.free_bytes > 0);

        sysctl.set(SysctlKey::CorePattern, &root.core_pattern(&shim).unwrap()).unwrap();
        let _socket = UnixListener::bind(root.intake_socket()).unwrap();
        let status = inspect();
        assert!(!status.collecting, "the shim is missing");
        assert_eq!(status.advice, ["apt install --reinstall coreward", "coreward register"]);
        std::fs::copy("/bin/true", &shim).unwrap();
        std::fs::create_dir_all(root.state_dir()).unwrap();
        for name in ["a.spool", "b.1.spool", "c.bad", "d"] {
            std::fs::write(root.run_dir().join(SPOOL).join(name), "").unwrap();
        }
        let lock = File::open(root.state_dir()).unwrap();
        lock.lock().unwrap();
        let status = inspect();
        assert!(status.collecting && status.shim_problem.is_none(), "{status:?}");
        assert_eq!(status.advice, ["coreward register"], "the limit and suid_dumpable");
        for (key, value) in [(SysctlKey::CorePipeLimit, "2147483647"), (SysctlKey::SuidDumpable, "2")] {
            sysctl.set(key, value).unwrap();
        }
        let status = inspect();
        assert!(status.collecting && status.advice.is_empty(), "{status:?}");
        assert_eq!((status.daemon_running, status.spooled, status.quarantined), (Some(true), Some(2), Some(1)));
    }

    #[test]
    fn the_advice_is_no_command_that_does_nothing() {
        let unit = |name: &str, load: &str, active: &str| Unit {
            name: name.to_owned(),
            load: load.to_owned(),
            active: active.to_owned(),
            sub: String::new(),
            enabled: "enabled".to_owned(),
            text: String::new(),
            restarts: 0,
        };
        let root = Root::default();
        let lost = KernelSettings::kernel_defaults();
        for (load, active, expected) in [
            ("loaded", "active", "systemctl reload coreward-register.service"),
            ("loaded", "inactive", "systemctl enable --now coreward-register.service"),
            (
                "masked",
                "inactive",
                "systemctl unmask coreward-register.service && systemctl enable --now coreward-register.service",
            ),
        ] {
            let status =
                StatusReport { units: Some(vec![unit(units::REGISTER, load, active)]), ..StatusReport::default() };
            assert_eq!(Remedies::find(&root, &status, &lost, None, true).advice(), [expected]);
            let ours = KernelSettings::ours(root.core_pattern(&root.shim_exe()).unwrap());
            let said = Remedies::find(&root, &status, &ours, None, true).advice();
            assert_eq!(said, if active == "active" { Vec::new() } else { vec![expected] }, "only until the next boot");
        }
        let disabled = Unit { enabled: "disabled".to_owned(), ..unit(units::REGISTER, "loaded", "active") };
        let status = StatusReport { units: Some(vec![disabled]), ..StatusReport::default() };
        let ours = KernelSettings::ours(root.core_pattern(&root.shim_exe()).unwrap());
        let said = Remedies::find(&root, &status, &ours, None, true).advice();
        assert_eq!(
            said,
            ["crashes will not be collected after the next boot otherwise: systemctl enable coreward-register.service"]
        );
    }
}
