//! Opening the parked process: everything that only root may open, and nothing that can wait for a dead mount.

use coreward_sys::openat::{self, read_link_at};
use coreward_sys::pidfd;
use coreward_wire::{FdKind, MAX_TEXT, Namespaces, Offer};
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getppid};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What the shim holds of the process until the daemon says "done".
#[derive(Default)]
pub(super) struct Process {
    /// `/proc/PID`.
    pub(super) dir: Option<OwnedFd>,
    /// What goes along with the offer, the core pipe apart.
    pub(super) fds: Vec<(FdKind, OwnedFd)>,
}

impl Process {
    /// The beginning of the core where it was taken out of the pipe, from its first byte.
    pub(super) fn head(&self) -> Option<File> {
        let (_, head) = self.fds.iter().find(|(kind, _)| *kind == FdKind::Head)?;
        let mut head = File::from(head.try_clone().ok()?);
        head.rewind().ok()?;
        Some(head)
    }
}

/// Pins the process, opens its files, and completes the offer. Whatever is missing is said in the offer's warnings.
pub(super) fn open(offer: &mut Offer, inherited: Option<i32>) -> Process {
    offer.boot_id = boot_id();
    let Some(pid) = offer.pid.map(Pid::as_raw) else { return Process::default() };
    let opened = pin(pid, inherited).and_then(|pin| Ok((pin, openat::open_dir(Path::new(&format!("/proc/{pid}")))?)));
    let (pin, dir) = match opened {
        Ok(both) => both,
        Err(error) => {
            offer.warnings.push(format!("the process can't be opened: {error}"));
            return Process::default();
        }
    };
    let mut read = offer.clone();
    let fds = open_files(dir.as_fd(), read.tid, &OFFERED, &mut read.warnings);
    read_texts(&mut read, dir.as_fd());
    // A directory of /proc belongs to one process for ever. If the process that the kernel named still lives after the
    // directory was opened by number, the number was its own all the time; if not, it may have been somebody else's.
    if !pidfd::is_alive(pin.as_fd()) {
        offer.warnings.push("the process was killed while its core was written".to_owned());
        return Process::default();
    }
    *offer = read;
    let mut fds = fds;
    fds.push((FdKind::Pidfd, pin));
    Process { dir: Some(dir), fds }
}

/// The kernel's own pidfd where it is one of that process, else a new one.
fn pin(pid: i32, inherited: Option<i32>) -> io::Result<OwnedFd> {
    match inherited.and_then(|number| pidfd::inherited(number, pid).ok()) {
        Some(pin) => Ok(pin),
        None => pidfd::open(pid),
    }
}

/// What every offer brings along.
const OFFERED: [(FdKind, &str); 3] = [(FdKind::Mem, "mem"), (FdKind::Auxv, "auxv"), (FdKind::Cmdline, "cmdline")];

/// Opens these files of the process; what can't be opened is said in `warnings`.
pub(super) fn open_files(
    dir: BorrowedFd<'_>,
    tid: Option<Pid>,
    wanted: &[(FdKind, &str)],
    warnings: &mut Vec<String>,
) -> Vec<(FdKind, OwnedFd)> {
    // Room for the pidfd as well.
    let mut fds = Vec::with_capacity(wanted.len() + 1);
    for (kind, name) in wanted {
        // A main thread that has ended has no memory any more; the one that crashed has.
        let opened = open_in(dir, name).or_else(|error| open_in(dir, &of_thread(tid, name).ok_or(error)?));
        match opened {
            Ok(fd) => fds.push((*kind, fd)),
            Err(error) => warnings.push(format!("{name} can't be opened: {error}")),
        }
    }
    fds
}

fn open_in(dir: BorrowedFd<'_>, name: &str) -> nix::Result<OwnedFd> {
    openat(dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

/// The same file of the thread that crashed.
pub(super) fn of_thread(tid: Option<Pid>, name: &str) -> Option<String> {
    Some(format!("task/{}/{name}", tid?))
}

fn read_texts(offer: &mut Offer, dir: BorrowedFd<'_>) {
    let (tid, warnings) = (offer.tid, &mut offer.warnings);
    offer.cgroup = text(dir, "cgroup", warnings);
    let stat = text(dir, "stat", warnings);
    match read_stat(&stat) {
        Some((comm, start_time)) => {
            offer.comm = comm.to_vec();
            offer.start_time = start_time;
        }
        None => warnings.push("stat has no comm and no start time".to_owned()),
    }
    offer.exe = link(dir, tid, "exe", warnings);
    offer.root = link(dir, tid, "root", warnings);
    offer.namespaces = namespaces(dir);
}

pub(super) fn text(dir: BorrowedFd<'_>, name: &str, warnings: &mut Vec<String>) -> Vec<u8> {
    let (bytes, read) = text_of(dir, name);
    if let Err(error) = read {
        warnings.push(format!("{name} can't be read: {error}"));
    }
    bytes
}

pub(super) fn link(dir: BorrowedFd<'_>, tid: Option<Pid>, name: &str, warnings: &mut Vec<String>) -> Vec<u8> {
    let target = read_link_at(dir, name).or_else(|error| read_link_at(dir, &of_thread(tid, name).ok_or(error)?));
    target.unwrap_or_else(|error| {
        warnings.push(format!("{name} can't be read: {error}"));
        Vec::new()
    })
}

/// What a file of `/proc` says, up to [`MAX_TEXT`] bytes; what came before an error is kept.
fn text_of(dir: BorrowedFd<'_>, name: &str) -> (Vec<u8>, io::Result<()>) {
    // The whole room at once: read_to_end would feel its way. What is not used of it is given back.
    let mut bytes = Vec::with_capacity(MAX_TEXT);
    let file = open_in(dir, name).map_err(io::Error::from);
    let read = file.and_then(|fd| File::from(fd).take(MAX_TEXT as u64).read_to_end(&mut bytes));
    bytes.shrink_to_fit();
    (bytes, read.map(drop))
}

/// Fields 2 and 22 of `/proc/PID/stat` (proc_pid_stat(5)): comm and start time. The comm may hold anything, ") " included, so
/// it ends at the last parenthesis.
fn read_stat(stat: &[u8]) -> Option<(&[u8], u64)> {
    let begin = stat.iter().position(|byte| *byte == b'(')? + 1;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    Some((stat.get(begin..end)?, rest.split_ascii_whitespace().nth(19)?.parse().ok()?))
}

fn namespaces(dir: BorrowedFd<'_>) -> Namespaces {
    /// kthreadd, whose namespaces a helper of the kernel is born with (kernel/umh.c). A path below its own /proc is new for
    /// every process, and dear for that.
    const KTHREADD: i32 = 2;
    let ours = if getppid().as_raw() == KTHREADD { "/proc/2" } else { "/proc/self" };
    let mut unknown = false;
    let mut differs = |name: &str| {
        let theirs = read_link_at(dir, name);
        let ours = read_link_at(AT_FDCWD, &format!("{ours}/{name}"));
        match (theirs, ours) {
            (Ok(theirs), Ok(ours)) => theirs != ours,
            _ => {
                unknown = true;
                false
            }
        }
    };
    let (pid, user, mount) = (differs("ns/pid"), differs("ns/user"), differs("ns/mnt"));
    Namespaces { pid, user, mount, unknown }
}

fn boot_id() -> String {
    let (text, _) = text_of(AT_FDCWD, "/proc/sys/kernel/random/boot_id");
    text.into_iter().filter(u8::is_ascii_hexdigit).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::read_stat;

    #[test]
    fn the_start_time_stands_behind_any_comm() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        for comm in ["sh", "a) R 1 2", "(sd-pam)", "two\nlines", ""] {
            let stat = format!("42 ({comm}) {}\n", fields.join(" "));
            assert_eq!(read_stat(stat.as_bytes()), Some((comm.as_bytes(), 22)), "{comm}");
        }
        assert_eq!(read_stat(b"42 (sh"), None);
        assert_eq!(read_stat(b"42 )sh( R 1"), None);
        assert_eq!(read_stat(b"42 (sh) R 1"), None);
    }
}
