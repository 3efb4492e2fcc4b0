//! Opening the parked process: everything that only root may open, and nothing that can wait for a dead mount.

use crate::sys::{pidfd, tree};
use crate::wire::{FdKind, MAX_TEXT, Namespaces, Offer};
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
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

/// Pins the process, opens its files, and completes the offer. Whatever is missing is said in the offer's trouble.
pub(super) fn open(offer: &mut Offer, inherited: Option<i32>) -> Process {
    offer.boot_id = boot_id();
    let Some(pid) = offer.pid.and_then(|pid| i32::try_from(pid).ok()) else { return Process::default() };
    let opened = pin(pid, inherited).and_then(|pin| Ok((pin, tree::open_dir(Path::new(&format!("/proc/{pid}")))?)));
    let (pin, dir) = match opened {
        Ok(both) => both,
        Err(error) => {
            offer.trouble.push(format!("the process can't be opened: {error}"));
            return Process::default();
        }
    };
    let mut read = offer.clone();
    let fds = open_files(&mut read, dir.as_fd());
    read_texts(&mut read, dir.as_fd());
    // A directory of /proc belongs to one process for ever. If the process that the kernel named still lives after the
    // directory was opened by number, the number was its own all the time; if not, it may have been somebody else's.
    if !pidfd::is_alive(pin.as_fd()) {
        offer.trouble.push("the process was killed while its core was written".to_owned());
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

fn open_files(offer: &mut Offer, dir: BorrowedFd<'_>) -> Vec<(FdKind, OwnedFd)> {
    let wanted = [
        (FdKind::Mem, "mem"),
        (FdKind::Maps, "maps"),
        (FdKind::Pagemap, "pagemap"),
        (FdKind::Auxv, "auxv"),
        (FdKind::Cmdline, "cmdline"),
    ];
    let mut fds = Vec::with_capacity(wanted.len() + 1);
    for (kind, name) in wanted {
        // A main thread that has ended has no memory any more; the one that crashed has.
        let opened = open_in(dir, name).or_else(|error| open_in(dir, &of_thread(offer.tid, name).ok_or(error)?));
        match opened {
            Ok(fd) => fds.push((kind, fd)),
            Err(error) => offer.trouble.push(format!("{name} can't be opened: {error}")),
        }
    }
    fds
}

fn open_in(dir: BorrowedFd<'_>, name: &str) -> nix::Result<OwnedFd> {
    openat(dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

/// The same file of the thread that crashed.
fn of_thread(tid: Option<u32>, name: &str) -> Option<String> {
    Some(format!("task/{}/{name}", tid?))
}

fn read_texts(offer: &mut Offer, dir: BorrowedFd<'_>) {
    let mut trouble = Vec::new();
    let mut text = |name: &str| {
        let (bytes, read) = text_of(dir, name);
        if let Err(error) = read {
            trouble.push(format!("{name} can't be read: {error}"));
        }
        bytes
    };
    offer.comm = text("comm");
    offer.comm.truncate(offer.comm.trim_ascii_end().len());
    offer.cgroup = text("cgroup");
    offer.status = text("status");
    offer.limits = text("limits");
    offer.start_time = start_time(&text("stat")).unwrap_or_else(|| {
        trouble.push("stat has no start time".to_owned());
        0
    });
    let tid = offer.tid;
    let mut link = |name: &str| match readlinkat(dir, name)
        .or_else(|error| readlinkat(dir, of_thread(tid, name).ok_or(error)?.as_str()))
    {
        Ok(target) => target.into_vec(),
        Err(error) => {
            trouble.push(format!("{name} can't be read: {error}"));
            Vec::new()
        }
    };
    offer.exe = link("exe");
    offer.cwd = link("cwd");
    offer.root = link("root");
    offer.namespaces = namespaces(dir);
    offer.trouble.append(&mut trouble);
}

/// What a file of `/proc` says, up to [`MAX_TEXT`] bytes; what came before an error is kept.
fn text_of(dir: BorrowedFd<'_>, name: &str) -> (Vec<u8>, io::Result<()>) {
    // The whole room at once: read_to_end would feel its way, 32 bytes at first, and the kernel writes the file anew for some
    // of these calls.
    let mut bytes = Vec::with_capacity(MAX_TEXT);
    let read = open_in(dir, name).map_err(io::Error::from);
    let read = read.and_then(|fd| File::from(fd).take(MAX_TEXT as u64).read_to_end(&mut bytes));
    (bytes, read.map(|_| ()))
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)). The comm in field 2 may hold anything, ") " included, so the fields
/// are counted from the last parenthesis.
fn start_time(stat: &[u8]) -> Option<u64> {
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[after + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn namespaces(dir: BorrowedFd<'_>) -> Namespaces {
    let mut unknown = false;
    let mut differs = |name: &str| {
        let theirs = readlinkat(dir, name);
        let ours = std::fs::read_link(Path::new("/proc/self").join(name));
        match (theirs, ours) {
            (Ok(theirs), Ok(ours)) => theirs.as_os_str() != ours.as_os_str(),
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
    use super::start_time;

    #[test]
    fn the_start_time_stands_behind_any_comm() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        for comm in ["sh", "a) R 1 2", "(sd-pam)", ""] {
            let stat = format!("42 ({comm}) {}\n", fields.join(" "));
            assert_eq!(start_time(stat.as_bytes()), Some(22), "{comm}");
        }
        assert_eq!(start_time(b"42 (sh"), None);
        assert_eq!(start_time(b"42 (sh) R 1"), None);
    }
}
