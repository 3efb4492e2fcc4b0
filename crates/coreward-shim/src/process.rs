//! Opening the crashed process, which the kernel keeps while it writes the core: a pidfd, its directory in `/proc`, and the files
//! that every offer passes on. Nothing here can block on a dead mount.

use super::proc_dir::{ProcDir, read_text_at};
use super::warning::{ShimWarning, errno_of};
use coreward_sys::openat::read_link_at;
use coreward_sys::pidfd;
use coreward_wire::{FdKind, Namespaces, Offer};
use nix::fcntl::AT_FDCWD;
use nix::unistd::{Pid, Uid, getppid};
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, OwnedFd, RawFd};

/// The files that every offer passes on. Reading them may block, so only the daemon reads them.
const OFFERED: [(FdKind, &str); 3] = [(FdKind::Mem, "mem"), (FdKind::Auxv, "auxv"), (FdKind::Cmdline, "cmdline")];

/// What the shim holds of the process until the crash is recorded.
#[derive(Default)]
pub(super) struct CrashedProcess {
    /// `/proc/PID`. `None` if the process could not be opened.
    pub(super) dir: Option<ProcDir>,
    /// The descriptors of the offer. The core pipe is not among them: an offer that nobody reads must not hold it.
    pub(super) fds: Vec<(FdKind, OwnedFd)>,
}

impl CrashedProcess {
    /// Opens the process that the kernel named, and completes the offer with what `/proc` has about it.
    pub(super) fn open(offer: &mut Offer, inherited: Option<RawFd>, warnings: &mut Vec<ShimWarning>) -> Self {
        offer.boot_id = boot_id();
        let Some(pid) = offer.pid else { return Self::default() };
        match Self::open_pid(pid, offer, inherited) {
            Ok((process, mut found)) => {
                warnings.append(&mut found);
                process
            }
            Err(warning) => {
                warnings.push(warning);
                Self::default()
            }
        }
    }

    /// Leaves the offer as it is if the process is not certainly the one that crashed.
    fn open_pid(
        pid: Pid,
        offer: &mut Offer,
        inherited: Option<RawFd>,
    ) -> Result<(Self, Vec<ShimWarning>), ShimWarning> {
        let open_error = |what| move |error: io::Error| ShimWarning::Open { what, errno: errno_of(&error) };
        let pidfd = open_pidfd(pid, inherited).map_err(open_error("a pidfd of the process"))?;
        let dir = ProcDir::open(pid, offer.tid).map_err(open_error("the process' directory in /proc"))?;
        let (mut completed, mut warnings) = (offer.clone(), Vec::new());
        let mut fds = dir.open_files(&OFFERED, &mut warnings);
        read_identity(&mut completed, &dir, &mut warnings);
        // The directory was opened by number. If the process of the pidfd is still alive, its PID cannot have been reused, and
        // the directory is its own; a directory in /proc never changes its process.
        if !pidfd::is_alive(pidfd.as_fd()) {
            return Err(ShimWarning::ProcessEnded);
        }
        *offer = completed;
        fds.push((FdKind::Pidfd, pidfd));
        Ok((Self { dir: Some(dir), fds }, warnings))
    }

    /// The first bytes of the core, if they were taken out of the pipe, as a file at its start.
    pub(super) fn head(&self) -> Option<File> {
        let (_, head) = self.fds.iter().find(|(kind, _)| *kind == FdKind::Head)?;
        let mut head = File::from(head.try_clone().ok()?);
        head.rewind().ok()?;
        Some(head)
    }
}

/// The kernel's own pidfd (`%F`) if it refers to this process, else a new one.
fn open_pidfd(pid: Pid, inherited: Option<RawFd>) -> io::Result<OwnedFd> {
    let inherited = inherited.and_then(|number| pidfd::adopt_inherited(number, pid.as_raw()).ok());
    inherited.map_or_else(|| pidfd::open(pid.as_raw()), Ok)
}

fn read_identity(offer: &mut Offer, dir: &ProcDir, warnings: &mut Vec<ShimWarning>) {
    offer.cgroup = dir.read_text("cgroup", warnings);
    match parse_stat(&dir.read_text("stat", warnings)) {
        Some((comm, start_time)) => {
            offer.comm = comm.to_vec();
            offer.start_time = start_time;
        }
        None => warnings.push(ShimWarning::MalformedStat),
    }
    offer.login_uid = parse_login_uid(&read_text_at(dir.as_fd(), "loginuid").0);
    offer.exe = dir.read_link("exe", warnings);
    offer.root = dir.read_link("root", warnings);
    offer.namespaces = compare_namespaces(dir);
}

/// Fields 2 and 22 of `/proc/PID/stat` (proc_pid_stat(5)): comm and start time. The comm may contain anything, also ") ", so it
/// ends at the last parenthesis.
fn parse_stat(stat: &[u8]) -> Option<(&[u8], u64)> {
    let begin = stat.iter().position(|byte| *byte == b'(')? + 1;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    Some((stat.get(begin..end)?, rest.split_ascii_whitespace().nth(19)?.parse().ok()?))
}

/// `/proc/PID/loginuid` (proc_pid_loginuid(5)). A kernel without audit has no such file.
fn parse_login_uid(text: &[u8]) -> Option<Uid> {
    const NEVER_SET: u32 = u32::MAX;
    let uid = std::str::from_utf8(text).ok()?.trim_end().parse().ok()?;
    (uid != NEVER_SET).then_some(Uid::from_raw(uid))
}

/// Compares the namespaces of the process with the shim's own.
fn compare_namespaces(dir: &ProcDir) -> Namespaces {
    /// kthreadd, whose namespaces the kernel's helpers inherit (kernel/umh.c). Its directory in /proc is in the kernel's cache;
    /// each process has to build its own, which is expensive.
    const KTHREADD: i32 = 2;
    let own = if getppid().as_raw() == KTHREADD { "/proc/2" } else { "/proc/self" };
    let mut unknown = false;
    let mut differs = |name: &str| {
        let theirs = read_link_at(dir.as_fd(), name);
        let ours = read_link_at(AT_FDCWD, &format!("{own}/{name}"));
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
    let (text, _) = read_text_at(AT_FDCWD, "/proc/sys/kernel/random/boot_id");
    text.into_iter().filter(u8::is_ascii_hexdigit).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_stands_behind_any_comm() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        for comm in ["sh", "a) R 1 2", "(sd-pam)", "two\nlines", ""] {
            let stat = format!("42 ({comm}) {}\n", fields.join(" "));
            assert_eq!(parse_stat(stat.as_bytes()), Some((comm.as_bytes(), 22)), "{comm}");
        }
        assert_eq!(parse_stat(b"42 (sh"), None);
        assert_eq!(parse_stat(b"42 )sh( R 1"), None);
        assert_eq!(parse_stat(b"42 (sh) R 1"), None);
    }

    #[test]
    fn a_login_uid_that_was_never_set_is_none() {
        assert_eq!(parse_login_uid(b"1000"), Some(Uid::from_raw(1000)));
        assert_eq!(parse_login_uid(b"0\n"), Some(Uid::from_raw(0)));
        for text in [&b"4294967295"[..], b"", b"-1", b"1000 0", b"4294967296"] {
            assert_eq!(parse_login_uid(text), None);
        }
    }

    #[test]
    fn a_process_that_is_gone_gives_one_warning_and_an_offer_without_its_texts() {
        const ABOVE_PID_MAX: i32 = 4_194_305;
        let mut offer = Offer { pid: Some(Pid::from_raw(ABOVE_PID_MAX)), ..Offer::default() };
        let mut warnings = Vec::new();
        let process = CrashedProcess::open(&mut offer, None, &mut warnings);
        let errno = nix::errno::Errno::ESRCH;
        assert_eq!(warnings, [ShimWarning::Open { what: "a pidfd of the process", errno }]);
        assert!(process.dir.is_none() && process.fds.is_empty() && offer.comm.is_empty());
        assert_eq!(offer.boot_id.len(), 32);
    }

    #[test]
    fn a_live_process_is_opened_and_identified() {
        let me = nix::unistd::getpid();
        let mut offer = Offer { pid: Some(me), tid: Some(me), ..Offer::default() };
        let mut warnings = Vec::new();
        let process = CrashedProcess::open(&mut offer, None, &mut warnings);
        assert_eq!(warnings, []);
        assert_eq!(
            process.fds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
            [FdKind::Mem, FdKind::Auxv, FdKind::Cmdline, FdKind::Pidfd]
        );
        assert!(offer.start_time > 0 && !offer.exe.is_empty());
        assert_eq!(offer.namespaces, Namespaces::default());
    }
}
