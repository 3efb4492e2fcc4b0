//! Why a verb fails. A message names the path or the value, and what to do where something can be done.

use super::atomic_file::AtomicFileError;
use super::io_advice::WithAdvice;
use super::remedy::{Remedy, shell_word};
use super::similar::did_you_mean;
use crate::crash::CrashId;
use crate::dump::DumpError;
use crate::query::ClientError;
use crate::registration::SysctlError;
use crate::store::{BundleError, QueryError};
use coreward_wire::paths::PatternTooLong;
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Why a verb fails.
#[derive(Debug, Error)]
pub(super) enum CliError {
    #[error("standard output: {}", WithAdvice(.0))]
    Output(#[from] io::Error),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("no crash matches \"{name}\": {}`coreward list` shows what there is", did_you_mean(.similar))]
    NoMatch { name: String, similar: Vec<String> },
    #[error(
        "no crash in container \"{container}\"{}: `coreward list -o id,unit,container` shows what there is",
        .name.as_ref().map(|name| format!(" matches \"{name}\"")).unwrap_or_default()
    )]
    NoMatchInContainer { container: String, name: Option<String> },
    #[error("{path}: {}", WithAdvice(.error))]
    File { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    AtomicFile(#[from] AtomicFileError),
    #[error(transparent)]
    Debug(#[from] DebugError),
    #[error(transparent)]
    Debuginfod(#[from] DebuginfodError),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Import(#[from] ImportFileError),
    #[error("{0}{advice}", advice = service_advice(.0))]
    Service(ClientError),
    #[error(
        "only root and group adm may read the catalog, and coreward-query.socket, which shows users their own crashes, is not active: run this as root, or have it started (systemctl start coreward-query.socket)"
    )]
    NoService,
    #[error(transparent)]
    Selftest(#[from] SelftestError),
    #[error(transparent)]
    Dump(#[from] DumpError),
    #[error("interrupted")]
    Interrupted(Signal),
}

fn service_advice(error: &ClientError) -> &'static str {
    match error {
        ClientError::Io(_) => ": see systemctl status coreward-query.socket coreward-query.service",
        ClientError::Reply(_) => ": are coreward and the service of the same version?",
        _ => "",
    }
}

fn other_core(id: Option<&String>) -> String {
    id.map(|id| format!("; crash {id}, of the same bug, has one")).unwrap_or_default()
}

/// Why no canary is let crash.
#[derive(Debug, Error)]
pub(super) enum SelftestError {
    #[error("only root can let processes of other users crash (sudo coreward selftest)")]
    NotRoot,
    #[error("{0}: no such user on this machine, or root: name an ordinary user with --user")]
    User(String),
}

/// Why a program in event.d was not told about a crash.
#[derive(Debug, Error)]
pub(super) enum HookError {
    #[error("the event cannot be read: {0}; it is the record of a crash, as `coreward info --json` shows it")]
    Event(io::Error),
    #[error("{0}: {advice}", advice = WithAdvice(.1))]
    Copy(PathBuf, io::Error),
    #[error("systemctl: {0}")]
    Systemctl(io::Error),
    #[error("{0} failed: journalctl -u {0} tells more")]
    Unit(String),
    #[error("it cannot be run: {0}: it must be executable, and begin with #! if it is a script")]
    Start(io::Error),
    #[error("it did not end within {} s and was killed", .0.as_secs())]
    Hangs(Duration),
    #[error("it failed, with exit status {0}")]
    Exit(i32),
    #[error("it was killed by signal {0}")]
    Signal(i32),
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Query(error) => Self::Query(error),
            error => Self::Service(error),
        }
    }
}

/// Why a core is not exported.
#[derive(Debug, Error)]
pub(super) enum ExportError {
    #[error("a core is not written to a terminal: name a file (-o FILE) or redirect standard output")]
    Terminal,
    #[error("a page is not written to a terminal: name a file (-o report.html) or redirect standard output")]
    TerminalPage,
    #[error("no report of a runtime is kept with this core: see `coreward info`")]
    NoRuntimeReport,
    #[error("signals cannot be blocked: {0}")]
    Interrupts(io::Error),
}

/// Why a core cannot be decompressed.
#[derive(Debug, Error)]
pub(super) enum UnpackError {
    #[error("crash {id} has no core: {why}{}", other_core(.other.as_ref()))]
    NoCore {
        id: String,
        why: &'static str,
        /// The newest crash of the same bug that has one.
        other: Option<String>,
    },
    #[error("{path}: {}", WithAdvice(.error))]
    Open { path: PathBuf, error: io::Error },
    #[error(
        "{path}: permission denied: only root, group adm and the owner of the process may read this core, and not the owner if the process had more privileges; try sudo"
    )]
    Denied { path: PathBuf },
    #[error("{path}: damaged: {error}; `zstd -t` tells more")]
    Damaged { path: PathBuf, error: io::Error },
    #[error(
        "{path}: damaged: it contains {found} bytes of core, its record says {expected}; `coreward groups` shows whether the bug has other cores"
    )]
    Length { path: PathBuf, found: u64, expected: u64 },
    #[error("{to}: {}", WithAdvice(.error))]
    Write { to: PathBuf, error: io::Error },
}

/// Why no debugger runs.
#[derive(Debug, Error)]
pub(super) enum DebugError {
    #[error("{0}: no such program: install it (apt install gdb), or name another debugger with --debugger")]
    NoDebugger(PathBuf),
    #[error("{path}: {}", WithAdvice(.error))]
    Start { path: PathBuf, error: io::Error },
    #[error("{dir}: {error}: set TMPDIR to a directory in which the core can be unpacked")]
    Temporary { dir: PathBuf, error: io::Error },
    #[error("{dir}: {error}: the core has {bytes} bytes; set TMPDIR to a directory with room for it")]
    NoRoom { dir: PathBuf, bytes: u64, error: io::Error },
    #[error("{path}: {error}; `coreward export --bundle` makes a file that can be opened")]
    Bundle { path: PathBuf, error: BundleError },
    #[error("--sysroot works with gdb only: give {0} its own option for this, after --")]
    Sysroot(PathBuf),
}

/// Why debug symbols are not fetched.
#[derive(Debug, Error)]
pub(super) enum DebuginfodError {
    #[error(
        "--debuginfod: DEBUGINFOD_URLS names no server: set it to the URLs of your distribution's servers; Debian's is https://debuginfod.debian.net"
    )]
    NoServers,
    #[error("--debuginfod: there is no place for the cache: set DEBUGINFOD_CACHE_PATH, or HOME")]
    NoCache,
    #[error(
        "{path}: {error}: debug symbols cannot be kept there; set DEBUGINFOD_CACHE_PATH to a directory that may be written to"
    )]
    Cache { path: PathBuf, error: io::Error },
    #[error(
        "{url}: {error}: no debug symbols of {path}; check DEBUGINFOD_URLS and the network, or do without --debuginfod"
    )]
    Server { url: String, path: String, error: io::Error },
    #[error("{url}: the file is larger than {limit}: set DEBUGINFOD_MAXSIZE, in bytes, to fetch it")]
    TooLarge { url: String, limit: String },
}

/// Why a crash is not imported.
#[derive(Debug, Error)]
pub(super) enum ImportFileError {
    #[error("{path}: {error}; only bundles (coreward export --bundle) and stored cores are imported")]
    File { path: PathBuf, error: io::Error },
    #[error("{0}: permission denied: crashes are imported by root (sudo coreward import ...)")]
    NotAllowed(PathBuf),
    #[error("{0} does not exist: Coreward has not run on this machine; coreward debug FILE opens a bundle without it")]
    NoState(PathBuf),
    #[error("no daemon has taken crash {id} yet: {path} waits for it (systemctl start coreward.service)")]
    NoDaemon { id: CrashId, path: PathBuf },
    #[error("the daemon refused crash {0}: journalctl -u coreward.service says why")]
    Refused(CrashId),
}

impl ImportFileError {
    /// The error for a file.
    pub(super) fn new(path: &std::path::Path, error: io::Error) -> Self {
        Self::File { path: path.to_owned(), error }
    }
}

/// Why the kernel settings are left as they are.
#[derive(Debug, Error)]
pub(super) enum RegisterError {
    #[error("only root may change what the kernel does with crashes (sudo coreward ...)")]
    NotRoot,
    #[error(transparent)]
    TooLong(#[from] PatternTooLong),
    #[error("the kernel would start this program for every crash, but {0}: {remedy}", remedy = .0.remedy())]
    Shim(#[from] ShimError),
    #[error("{0}: {advice}", advice = WithAdvice(.1))]
    Path(PathBuf, io::Error),
    #[error(
        "{0}: the previous handler can no longer be started: {1}: install its package again, or set another one (sysctl kernel.core_pattern=core)"
    )]
    Helper(PathBuf, io::Error),
    #[error("\"{0}\": a path in core_pattern must contain neither spaces nor %: choose another path")]
    Unspeakable(String),
    #[error("{0}: the kernel settings cannot be saved there: {advice}", advice = WithAdvice(.1))]
    Save(PathBuf, io::Error),
    #[error("a crash that this command caused was not collected: {0} (`coreward doctor` looks for the cause)")]
    TestCrash(String),
}

/// Why the kernel cannot start the shim.
#[derive(Debug, Error)]
pub(super) enum ShimError {
    #[error("{0} does not exist")]
    Missing(PathBuf),
    #[error("{0} is not a file")]
    NotAFile(PathBuf),
    #[error("{0} is not executable")]
    Mode(PathBuf),
    #[error("{path} is on a file system that is mounted noexec ({mount})")]
    NoExec { path: PathBuf, mount: PathBuf },
    #[error("{0} may not be executed, perhaps because of a security module: {1}")]
    Forbidden(PathBuf, io::Error),
    #[error("{0} is not a program for this machine: damaged, or for another architecture")]
    Format(PathBuf),
    #[error("{0} needs a loader or an interpreter that does not exist")]
    NoLoader(PathBuf),
    #[error("{0} cannot be executed while somebody has it open for writing")]
    Busy(PathBuf),
    #[error("{0} does not end")]
    Hangs(PathBuf),
    #[error("{0} cannot be executed: {1}")]
    Other(PathBuf, io::Error),
}

impl ShimError {
    /// The command that helps, or what to look at.
    pub(super) fn remedy(&self) -> Remedy {
        match self {
            Self::Mode(path) => Remedy::new(format!("chmod 755 {}", shell_word(path))),
            Self::NoExec { mount, .. } => Remedy::new(format!("mount -o remount,exec {}", shell_word(mount))),
            Self::Forbidden(..) => Remedy::to("see what refused it", "journalctl -k -g denied"),
            Self::Busy(path) => Remedy::to("end what is writing to it", format!("fuser -v {}", shell_word(path))),
            Self::Missing(_)
            | Self::NotAFile(_)
            | Self::Format(_)
            | Self::NoLoader(_)
            | Self::Hangs(_)
            | Self::Other(..) => Remedy::new("apt install --reinstall coreward"),
        }
    }
}

/// Why a core cannot be deleted, pinned or unpinned.
#[derive(Debug, Error)]
pub(super) enum ChangeError {
    #[error("{path}: {error}; all cores belong to user coreward, also those that you may read: run this as root")]
    Denied { path: PathBuf, error: io::Error },
    #[error(
        "{path}: {error}; owners delete their cores through coreward-query.socket, which is not active: start it, or run this as root"
    )]
    NoService { path: PathBuf, error: io::Error },
    #[error("{path}: {}", WithAdvice(.error))]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "{path}: this file system has no extended attributes for users, which pins need: keep a copy of the core (coreward export)"
    )]
    NoAttributes { path: PathBuf },
    #[error("crash {id} has no core: {why}")]
    NoCore { id: CrashId, why: &'static str },
    #[error("no recorded crash has PID {number}; if you mean crash {id}, type its whole id")]
    NumberAsPrefix { number: String, id: CrashId },
    #[error("the core of crash {id} is pinned: coreward unpin {id}, or --force")]
    Pinned { id: CrashId },
}

impl ChangeError {
    /// The error for a failed system call on `path`.
    pub(super) fn new(path: PathBuf, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied { path, error },
            io::ErrorKind::Unsupported => Self::NoAttributes { path },
            _ => Self::Io { path, error },
        }
    }
}

/// Why root's command does not work as the owner of the state directory.
#[derive(Debug, Error)]
pub(super) enum PrivilegeError {
    #[error(
        "cannot become user {0}, who owns the state directory: {1}: in a container, CAP_SETUID and CAP_SETGID are needed"
    )]
    Assume(Uid, io::Error),
    #[error("the process that runs as the owner of the state directory failed: {0}")]
    Copy(io::Error),
    /// The message of that part.
    #[error("{0}")]
    Reported(String),
}
