//! The processes that `coreward selftest` lets crash. Unlike the test crash of `status` their crashes are recorded and counted as all
//! others are; their name marks them.

use crate::crash::signal;
use nix::sys::prctl::set_name;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::unistd::{Gid, Uid, User, setgroups, setresgid, setresuid};
use std::ffi::CString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// The argument that makes the command a process that crashes. It is not for users.
pub(super) const ARGUMENT: &str = "--selftest-canary";
/// The name (comm) of these processes.
pub(super) const COMM: &str = "cw-selftest";
/// The shell is the first process of the namespace, to which the kernel sends no such signal, and does not repeat the signal of its child
/// as unshare(1) would. It succeeds if its child was ended by a signal.
const SHELL: &str = r#""$0" "$@"; [ $? -gt 128 ]"#;

/// Where a canary crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Root,
    User,
    Privileged,
    Namespaces,
    Unit,
}

impl Place {
    pub(super) const ALL: [Self; 5] = [Self::Root, Self::User, Self::Privileged, Self::Namespaces, Self::Unit];

    /// The name in `--json`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::User => "user",
            Self::Privileged => "privileged",
            Self::Namespaces => "namespaces",
            Self::Unit => "unit",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Root => "a process of root",
            Self::User => "a process of an ordinary user",
            Self::Privileged => "a process that changed its user, as set-uid programs do",
            Self::Namespaces => "a process in namespaces of its own, as in a container",
            Self::Unit => "a process in a unit of systemd",
        }
    }
}

/// A canary that is to be started.
pub(super) struct Canary<'a> {
    pub(super) place: Place,
    /// Tells it from those of other runs; it is an argument of the process.
    pub(super) token: &'a str,
    /// The user of those that are not root's.
    pub(super) user: &'a User,
    pub(super) signal: &'a str,
    /// This program.
    pub(super) program: &'a Path,
}

impl Canary<'_> {
    /// The transient unit, which is the canary's own.
    pub(super) fn unit(&self) -> String {
        format!("coreward-selftest-{}.service", self.token)
    }

    /// The command that starts it and ends with it.
    pub(super) fn command(&self) -> Command {
        let mut command = match self.place {
            Place::Root | Place::User | Place::Privileged => Command::new("/proc/self/exe"),
            Place::Namespaces => {
                let mut command = Command::new("unshare");
                command.args(["--pid", "--fork", "--mount", "--uts", "--ipc", "sh", "-c", SHELL]).arg(self.program);
                command
            }
            Place::Unit => {
                let mut command = Command::new("systemd-run");
                command.args(["--quiet", "--wait", "--collect", "--unit", &self.unit()]).arg(self.program);
                command
            }
        };
        command.args([ARGUMENT, self.token, self.signal]);
        match self.place {
            Place::User => {
                command.uid(self.user.uid.as_raw()).gid(self.user.gid.as_raw());
            }
            Place::Privileged => {
                command.args([self.user.uid.to_string(), self.user.gid.to_string()]);
            }
            Place::Root | Place::Namespaces | Place::Unit => {}
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Whether its exit status is that of the command: the others hide it.
    pub(super) fn is_child(&self) -> bool {
        matches!(self.place, Place::Root | Place::User | Place::Privileged)
    }
}

/// The process: `TOKEN SIGNAL [UID GID]`. Returns only if it cannot crash.
pub(super) fn main(arguments: &[String]) -> ExitCode {
    let named = CString::new(COMM).map(|name| set_name(&name));
    let number = arguments.get(1).and_then(|name| signal::parse(name)).and_then(|number| i32::try_from(number).ok());
    let Some(signal) = number.and_then(|number| Signal::try_from(number).ok()) else { return ExitCode::FAILURE };
    // Without its name nobody would know what it is.
    if !matches!(named, Ok(Ok(()))) {
        return ExitCode::FAILURE;
    }
    // The kernel starts no handler for a process whose limit is 1 (core(5)).
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_CORE) {
        let _ = setrlimit(Resource::RLIMIT_CORE, hard, hard);
    }
    if let [_, _, uid, gid] = arguments {
        let (Ok(uid), Ok(gid)) = (uid.parse().map(Uid::from_raw), gid.parse().map(Gid::from_raw)) else {
            return ExitCode::FAILURE;
        };
        let changed = setgroups(&[]).and_then(|()| setresgid(gid, gid, gid)).and_then(|()| setresuid(uid, uid, uid));
        if changed.is_err() {
            return ExitCode::FAILURE;
        }
    }
    let _ = SigSet::from(signal).thread_unblock();
    let _ = raise(signal);
    ExitCode::FAILURE
}
