//! Giving up root. What the command reads was written by the daemon's user or named by a process that crashed, so a command
//! that root runs becomes the owner of the state directory first. Only the kernel's settings need root.

use super::error::{CliError, PrivilegeError};
use super::interrupt::Interrupts;
use crate::crash::text::printable;
use coreward_sys::fork;
use coreward_wire::paths::Root;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Uid, User, pipe2, setgroups, setresgid, setresuid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// The most that a copy of the command may answer, in bytes. A record is far smaller.
const MAX_ANSWER: usize = 16 << 20;
/// The user and group "nobody" of every Linux system (systemd.exec(5)).
const NOBODY: u32 = 65534;
/// How often a command that waits for its copy looks for signals, in milliseconds.
const INTERVAL_MS: u16 = 100;

/// A user and group that is not root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
}

impl Account {
    /// The owner of the state directory, if the command is run by root and the owner is somebody else.
    pub(super) fn of_owner(root: &Root) -> Result<Option<Self>, CliError> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let path = root.state_dir();
        let metadata = match std::fs::metadata(&path) {
            // There is nothing to read.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            found => found.map_err(|error| CliError::File { path, error })?,
        };
        let uid = Uid::from_raw(metadata.uid());
        // Not the group of the directory, which may be root's.
        let user = User::from_uid(uid).ok().flatten();
        let gid = user.map_or_else(|| Gid::from_raw(metadata.gid()), |user| user.gid);
        Ok((!uid.is_root()).then_some(Self { uid, gid }))
    }

    /// Nobody, for what root opens on a machine where Coreward has no user; `None` if the command is not run by root.
    pub(super) fn nobody_for_root() -> Option<Self> {
        Uid::effective().is_root().then_some(Self { uid: Uid::from_raw(NOBODY), gid: Gid::from_raw(NOBODY) })
    }

    /// Becomes this user, for good.
    pub(super) fn assume(self) -> Result<(), PrivilegeError> {
        let Self { uid, gid } = self;
        setgroups(&[])
            .and_then(|()| setresgid(gid, gid, gid))
            .and_then(|()| setresuid(uid, uid, uid))
            .map_err(|error| PrivilegeError::Assume(uid, error.into()))
    }
}

/// Becomes the owner of the state directory, for good. Nothing changes if root owns it, or if the caller is not root.
pub(super) fn become_owner(root: &Root) -> Result<(), CliError> {
    Ok(Account::of_owner(root)?.map_or(Ok(()), Account::assume)?)
}

/// Does `work` as the owner of the state directory, and stays who it is: for verbs that use the result with the rights of root. A
/// copy of the process does it where the owner is somebody else.
pub(super) fn run_as_owner<T: Serialize + DeserializeOwned>(
    root: &Root,
    interrupts: Option<&Interrupts>,
    work: impl FnOnce() -> Result<T, CliError>,
) -> Result<T, CliError> {
    let Some(owner) = Account::of_owner(root)? else { return work() };
    let failed = |error: io::Error| CliError::from(PrivilegeError::Copy(error));
    let (from, to) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
    let copy = fork::spawn(|| {
        // Killing the command must not leave its copy at work.
        let _ = set_pdeathsig(Signal::SIGKILL);
        let ended = owner.assume().map_err(CliError::from).and_then(|()| {
            // Becoming another user cleared it (prctl(2)).
            let _ = set_pdeathsig(Signal::SIGKILL);
            work()
        });
        let answer = serde_json::to_vec(&ended.map_err(|error| error.to_string())).unwrap_or_default();
        u8::from(File::from(to).write_all(&answer).is_err())
    });
    let copy = copy.map_err(failed)?;
    let answer = read_answer(&mut File::from(from), interrupts);
    if answer.is_err() {
        let _ = kill(copy, Signal::SIGKILL);
    }
    let _ = waitpid(copy, None);
    match serde_json::from_slice::<Result<T, String>>(&answer?) {
        Ok(ended) => ended.map_err(|error| PrivilegeError::Reported(printable(&error)).into()),
        Err(error) => Err(failed(error.into())),
    }
}

/// Reads up to the end of `from`, or until a signal arrives.
fn read_answer(from: &mut File, interrupts: Option<&Interrupts>) -> Result<Vec<u8>, CliError> {
    let failed = |error: io::Error| CliError::from(PrivilegeError::Copy(error));
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(signal) = interrupts.and_then(Interrupts::pending) {
            return Err(CliError::Interrupted(signal));
        }
        match poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], PollTimeout::from(INTERVAL_MS)) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(failed(error.into())),
        }
        match from.read(&mut chunk).map_err(failed)? {
            0 => return Ok(answer),
            count => answer.extend(&chunk[..count]),
        }
        if answer.len() > MAX_ANSWER {
            return Err(failed(io::Error::other("its answer is too long")));
        }
    }
}
