//! A crash of the command's own, to see whether the kernel starts the shim, the shim reaches the daemon, and the daemon can
//! record. See [`crate::registration::is_test_crash`] for what becomes of it.

use super::privileges::Account;
use crate::crash::text::printable;
use crate::registration::{COMM, PASSED, report_socket};
use coreward_wire::paths::Root;
use nix::sys::prctl::set_name;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, chown, geteuid};
use std::ffi::CString;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The argument that makes the command the process that crashes. It is not for users.
pub(super) const ARGUMENT: &str = "--test-crash";
/// How long the daemon may take. systemd starts it within a second or two; a busy one answers as soon as it accepts.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often the process and the socket are looked at.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long the daemon's report may come after the end of the process.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest report that is read.
const MAX_REPORT: usize = 1024;
/// The link that `/proc/PID/ns/pid` is on the host (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const HOST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// What became of the crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TestCrash {
    /// It arrived, and the daemon could have recorded it.
    Passed,
    /// It did not arrive, or could not have been recorded.
    Failed(String),
    /// There was none, for this reason.
    NotTried(String),
}

/// Causes a crash and waits until the daemon reports it.
pub(super) fn send(root: &Root) -> TestCrash {
    if let Err(why) = check_place(root) {
        return TestCrash::NotTried(why);
    }
    let mut process = match CrashingProcess::start(root) {
        Ok(process) => process,
        Err(error) => return TestCrash::NotTried(error.to_string()),
    };
    match process.crash() {
        Ok(report) if report == PASSED => TestCrash::Passed,
        Ok(report) => TestCrash::Failed(report),
        Err(error) => TestCrash::NotTried(error.to_string()),
    }
}

/// The daemon takes a crash for a test only if it is root's, on the host, with the mounts of the host. Any other would be recorded.
fn check_place(root: &Root) -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("only root can".to_owned());
    }
    let namespace = |process: &str, name: &str| fs::read_link(format!("/proc/{process}/ns/{name}")).ok();
    if namespace("self", "pid").as_deref() != Some(Path::new(HOST_PID_NAMESPACE)) {
        return Err("this is a container".to_owned());
    }
    // kthreadd, whose namespaces are those of the shim.
    if ["mnt", "user"]
        .iter()
        .any(|name| namespace("self", name).is_none() || namespace("self", name) != namespace("2", name))
    {
        return Err("this process does not see the file systems of the host as they are".to_owned());
    }
    if fs::metadata(root.intake_socket()).is_err() {
        return Err(format!("nobody listens on {} yet", root.intake_socket().display()));
    }
    Ok(())
}

/// A process that waits for the order to crash, and the socket on which the daemon reports it.
struct CrashingProcess {
    child: Child,
    socket: UnixDatagram,
    path: PathBuf,
}

impl CrashingProcess {
    fn start(root: &Root) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let path = report_socket(root, Pid::from_raw(i32::try_from(child.id()).unwrap_or_default()));
        match bind(&path, root) {
            Ok(socket) => Ok(Self { child, socket, path }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
            }
        }
    }

    /// Lets the process crash, and waits for the report: [`PASSED`], or what went wrong.
    fn crash(&mut self) -> io::Result<String> {
        if let Some(mut stdin) = self.child.stdin.take() {
            stdin.write_all(b"\n")?;
        }
        let begun = Instant::now();
        let mut ended = None;
        let mut report = [0; MAX_REPORT];
        loop {
            match self.socket.recv(&mut report) {
                Ok(length) => return Ok(printable(&String::from_utf8_lossy(&report[..length]))),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                }
                Err(error) => return Err(error),
            }
            if ended.is_none() {
                ended = self.child.try_wait()?.map(|status| (status, Instant::now()));
            }
            match ended {
                Some((status, at)) if at.elapsed() > REPORT_TIMEOUT => {
                    let why = if status.core_dumped() {
                        "the kernel handed the crash over, but the daemon did not get it: coreward-shim has saved or lost it"
                    } else {
                        "the kernel did not get the crash to the shim"
                    };
                    return Ok(format!("{why} (see dmesg)"));
                }
                _ if begun.elapsed() > TIMEOUT => {
                    return Ok(format!("the daemon did not answer within {} s", TIMEOUT.as_secs()));
                }
                _ => sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for CrashingProcess {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = self.child.kill();
        // A process that is being dumped ends when its shim lets it go, or at the signal.
        let begun = Instant::now();
        while begun.elapsed() < REPORT_TIMEOUT && matches!(self.child.try_wait(), Ok(None)) {
            sleep(INTERVAL);
        }
    }
}

/// A socket that only the daemon can write to.
fn bind(path: &Path, root: &Root) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::bind(path)?;
    let secured = || -> io::Result<()> {
        fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
        let owner = Account::of_owner(root).map_err(|error| io::Error::other(error.to_string()))?;
        chown(path, owner.map(|account| account.uid), None)?;
        socket.set_read_timeout(Some(INTERVAL))
    };
    match secured() {
        Ok(()) => Ok(socket),
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

/// The process: waits for a line on standard input, then crashes.
pub(super) fn main() -> ExitCode {
    let named = CString::new(COMM).map(|name| set_name(&name));
    // The kernel starts no handler for a process whose limit is 1 (core(5)).
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_CORE) {
        let _ = setrlimit(Resource::RLIMIT_CORE, hard, hard);
    }
    let ordered = io::stdin().read_exact(&mut [0]);
    // Without its name it would be recorded as a crash of the command, and without an order nobody waits for it.
    if !matches!(named, Ok(Ok(()))) || ordered.is_err() {
        return ExitCode::FAILURE;
    }
    std::process::abort()
}
