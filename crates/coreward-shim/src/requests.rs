//! Answers to the daemon's requests. They open files of the crashed process that only root may open, and nothing else.

use super::crash::Crash;
use super::details;
use super::executable;
use super::modules;
use super::warning::ShimWarning;
use super::written_file;
use coreward_sys::pipe;
use coreward_wire::{FdKind, Reply, Request};
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Longest head of a core, in bytes: enough for a million mappings, or some thousand threads with all their registers.
const MAX_HEAD: u64 = 64 << 20;
/// How long taking the head out of the pipe may take. The kernel writes it from its own memory.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest single wait for the pipe.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The reply to a request, and its descriptors.
pub(super) fn reply_to(request: Request, crash: &mut Crash) -> (Reply, Vec<OwnedFd>) {
    let opened = match (&crash.process.dir, request) {
        (_, Request::Core) => duplicate(crash.core.as_ref()),
        (_, Request::Head(bytes)) => take_head(crash, bytes),
        (_, Request::Exe) => open_exe(crash),
        (None, _) => Err(Errno::ESRCH),
        (Some(dir), Request::Details { holes, thread }) => return details::reply(dir, &mut crash.offer, holes, thread),
        (Some(dir), Request::Modules(addresses)) => return modules::reply(dir, &crash.offer, addresses),
        (Some(dir), Request::WrittenFile(paths)) => return written_file::reply(dir, &crash.offer, paths),
    };
    match opened {
        Ok(fd) => (Reply::default(), vec![fd]),
        Err(errno) => (Reply { errno: (errno as i32).cast_unsigned(), ..Reply::default() }, Vec::new()),
    }
}

/// Moves the first `bytes` of the core from the pipe into a memory file that every later offer passes on. A second request gets
/// the same file.
fn take_head(crash: &mut Crash, bytes: u64) -> nix::Result<OwnedFd> {
    let core = crash.core.as_ref().ok_or(Errno::EPIPE)?;
    let taken = crash.process.fds.iter().find(|(kind, _)| *kind == FdKind::Head);
    if let Some((_, head)) = taken {
        return duplicate(Some(head));
    }
    if bytes > MAX_HEAD {
        return Err(Errno::EFBIG);
    }
    let head = memfd_create("coreward-head", MFdFlags::MFD_CLOEXEC)?;
    let mut remaining = usize::try_from(bytes).map_err(|_| Errno::EFBIG)?;
    let begun = Instant::now();
    while remaining > 0 && begun.elapsed() < HEAD_TIMEOUT {
        // The kernel writes headers and notes from its own memory, so no dead mount can delay them for long.
        if pipe::wait_readable(core.as_fd(), POLL_INTERVAL).is_err() {
            break;
        }
        match splice(core, None, &head, None, remaining, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(0) => break,
            Ok(count) => remaining = remaining.saturating_sub(count),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // The head ends here; the daemon sees that it is too short.
            Err(_) => break,
        }
    }
    // The file now holds bytes that the pipe no longer has, so it is kept whether or not it can be passed on.
    let copy = duplicate(Some(&head));
    crash.process.fds.push((FdKind::Head, head));
    copy
}

fn duplicate(fd: Option<&OwnedFd>) -> nix::Result<OwnedFd> {
    fd.ok_or(Errno::EPIPE)?.try_clone().map_err(|_| Errno::EMFILE)
}

/// Opens the executable. If the daemon cannot have it, the next offer and the spool say why.
fn open_exe(crash: &mut Crash) -> nix::Result<OwnedFd> {
    let dir = crash.process.dir.as_ref().ok_or(Errno::ESRCH)?;
    executable::open_to_read(dir, crash.offer.namespaces.may_be_of_user()).map_err(|warning| {
        let errno = if let ShimWarning::Open { errno, .. } = warning { errno } else { Errno::EREMOTE };
        if !crash.warnings.contains(&warning) {
            crash.warnings.push(warning);
        }
        errno
    })
}
