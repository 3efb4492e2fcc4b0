//! What the daemon may ask for: what only root may open, and just that.

use super::{Crash, details};
use coreward_sys::pipe;
use coreward_wire::{FdKind, Reply, Request};
use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, openat, splice};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The executable may lie on a mount whose server is dead, where open(2) never returns.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// Headers and notes are not longer: a million mappings, or some thousand threads with all their registers.
const HEAD_MAX: u64 = 64 << 20;
/// The kernel writes them out of its own memory.
const HEAD_WITHIN: Duration = Duration::from_secs(3);

/// The reply to a request.
pub(super) fn answer(wanted: Request, crash: &mut Crash) -> (Reply, Vec<OwnedFd>) {
    let answered = match (&crash.process.dir, wanted) {
        (_, Request::Core) => copy(crash.core.as_ref()),
        (_, Request::Head(bytes)) => head(crash, bytes),
        (None, _) => Err(Errno::ESRCH),
        (Some(dir), Request::Exe) => open_in_time(dir),
        (Some(dir), Request::Details) => return details::reply(dir.as_fd(), &mut crash.offer),
    };
    match answered {
        Ok(fd) => (Reply::default(), vec![fd]),
        Err(errno) => (Reply { errno: errno as u32, ..Reply::default() }, Vec::new()),
    }
}

/// Takes the first `bytes` of the core out of the pipe, once, into memory that goes along with every later offer.
fn head(crash: &mut Crash, bytes: u64) -> nix::Result<OwnedFd> {
    let core = crash.core.as_ref().ok_or(Errno::EPIPE)?;
    let held = crash.process.fds.iter().find(|(kind, _)| *kind == FdKind::Head);
    if let Some((_, held)) = held {
        return copy(Some(held));
    }
    if bytes > HEAD_MAX {
        return Err(Errno::EFBIG);
    }
    let head = memfd_create("coreward-head", MFdFlags::MFD_CLOEXEC)?;
    let mut left = usize::try_from(bytes).map_err(|_| Errno::EFBIG)?;
    let begun = Instant::now();
    while left > 0 && begun.elapsed() < HEAD_WITHIN {
        // Whoever holds the other end is the kernel, and headers and notes are all its own: no page of a mount is among them.
        if pipe::wait_readable(core.as_fd(), Duration::from_millis(250)).is_err() {
            break;
        }
        match splice(core, None, &head, None, left, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(0) => break,
            Ok(count) => left -= count,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // What came so far is all that there will be.
            Err(_) => break,
        }
    }
    // What was taken out must be kept, however it ended.
    let kept = copy(Some(&head));
    crash.process.fds.push((FdKind::Head, head));
    kept
}

fn copy(core: Option<&OwnedFd>) -> nix::Result<OwnedFd> {
    core.ok_or(Errno::EPIPE)?.try_clone().map_err(|_| Errno::EMFILE)
}

/// Opens the executable in a thread of its own; one that hangs is left behind.
fn open_in_time(dir: &OwnedFd) -> nix::Result<OwnedFd> {
    let dir = dir.try_clone().map_err(|_| Errno::EMFILE)?;
    let (sender, receiver) = mpsc::channel();
    let opener = thread::Builder::new().spawn(move || {
        let _ = sender.send(openat(&dir, "exe", OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty()));
    });
    opener.map_err(|_| Errno::EAGAIN)?;
    receiver.recv_timeout(OPEN_WITHIN).map_err(|_| Errno::ETIMEDOUT)?
}
