//! What of a process is looked up only where it is asked for. Its directory in `/proc` was verified when the crash was offered,
//! and belongs to that process for ever.

use super::process::{link, of_thread, open_files, text};
use coreward_sys::openat::read_link_at;
use coreward_wire::{Details, FdKind, MAX_OPEN_FDS, MAX_TEXT, Offer, Reply};
use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::fmt::Write;
use std::os::fd::{BorrowedFd, OwnedFd};

/// How many descriptors of a process are listed.
const MAX_LISTED: usize = 256;
/// What a capture needs, and nobody else.
const FOR_CAPTURE: [(FdKind, &str); 2] = [(FdKind::Maps, "maps"), (FdKind::Pagemap, "pagemap")];

/// The reply to who asks for them. The texts stay in the offer, for the next daemon and for the spool.
pub(super) fn reply(dir: BorrowedFd<'_>, offer: &mut Offer) -> (Reply, Vec<OwnedFd>) {
    let mut warnings = read(dir, offer);
    let (kinds, fds) = open_files(dir, offer.tid, &FOR_CAPTURE, &mut warnings).into_iter().unzip();
    (Reply { errno: 0, data: offer.details.encode(&warnings), fds: kinds }, fds)
}

/// Reads the texts into the offer; returns what could not be read of them.
pub(super) fn read(dir: BorrowedFd<'_>, offer: &mut Offer) -> Vec<String> {
    let (tid, mut warnings) = (offer.tid, Vec::new());
    offer.details.update(Details {
        cwd: link(dir, tid, "cwd", &mut warnings),
        status: text(dir, "status", &mut warnings),
        limits: text(dir, "limits", &mut warnings),
        open_fds: open_fds(dir, tid, &mut warnings),
    });
    warnings
}

/// A main thread that has ended has no descriptors any more; the one that crashed has.
fn open_fds(dir: BorrowedFd<'_>, tid: Option<Pid>, warnings: &mut Vec<String>) -> Vec<u8> {
    let listed = list_fds(dir, "fd").or_else(|error| list_fds(dir, &of_thread(tid, "fd").ok_or(error)?));
    listed.unwrap_or_else(|error| {
        warnings.push(format!("fd can't be read: {error}"));
        Vec::new()
    })
}

/// A line a descriptor: `3 -> socket:[1234]`. Links are read, never followed.
fn list_fds(dir: BorrowedFd<'_>, name: &str) -> nix::Result<Vec<u8>> {
    let mut list = Dir::openat(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut numbers: Vec<u32> =
        list.iter().filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok()).take(MAX_LISTED).collect();
    numbers.sort_unstable();
    let mut text = String::new();
    for number in numbers {
        let Ok(target) = read_link_at(dir, &format!("{name}/{number}")) else { continue };
        let _ = writeln!(text, "{number} -> {}", target[..target.len().min(MAX_TEXT / 8)].escape_ascii());
    }
    text.truncate(MAX_OPEN_FDS);
    Ok(text.into_bytes())
}
