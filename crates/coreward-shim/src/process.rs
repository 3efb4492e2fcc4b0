//! Opening the crashed process, which the kernel keeps while it writes the core: a pidfd, its directory in `/proc`, and the files
//! that every offer passes on. Nothing here can block on a dead mount.

use super::executable;
use super::mounts;
use super::proc_dir::{ProcDir, read_text_at};
use super::status::ThreadStatus;
use super::warning::{ShimWarning, errno_of};
use coreward_sys::exit_trace::ExitTrace;
use coreward_sys::openat::read_link_at;
use coreward_sys::pidfd;
use coreward_wire::{FdKind, MAX_TEXT, Namespaces, Offer, PidPin};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::fstat;
use nix::unistd::{Pid, Uid, getppid};
use std::fs::File;
use std::io::{self, Seek};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::time::Duration;

/// The files that every offer passes on. Reading most of them may block, so only the daemon's readers read them. With `maps`, `pagemap`
/// and `mountinfo` they tell which memory answers before they read any.
const OFFERED: [(FdKind, &str); 6] = [
    (FdKind::Mem, "mem"),
    (FdKind::Auxv, "auxv"),
    (FdKind::Cmdline, "cmdline"),
    (FdKind::Maps, "maps"),
    (FdKind::Pagemap, "pagemap"),
    (FdKind::Mountinfo, "mountinfo"),
];
/// Bytes of `/proc/PID/cgroup` that are read: more than a path of the longest length in each hierarchy of version 1, of which the
/// kernel lists the one that matters last.
const MAX_CGROUP: usize = 128 << 10;

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
    pub(super) fn open(
        offer: &mut Offer,
        inherited: Option<RawFd>,
        exit_trace: Option<&ExitTrace>,
        warnings: &mut Vec<ShimWarning>,
    ) -> Self {
        offer.boot_id = boot_id();
        let Some(pid) = offer.pid else { return Self::default() };
        match Self::open_pid(pid, offer, inherited, exit_trace) {
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

    /// Opens a living process, whose threads are stopped, and completes the offer with what `/proc` has about it.
    pub(super) fn open_stopped(
        pid: Pid,
        pidfd: OwnedFd,
        offer: &mut Offer,
        warnings: &mut Vec<ShimWarning>,
    ) -> io::Result<Self> {
        offer.boot_id = boot_id();
        let dir = ProcDir::open(pid, offer.tid)?;
        let mut fds = dir.open_files(&OFFERED, warnings);
        read_identity(offer, &dir, warnings);
        fds.extend(mounts::open_of_host(offer, warnings));
        let threads = read_threads(&dir, offer);
        // As above: its PID cannot have been reused since the pidfd was opened.
        if !pidfd::is_alive(pidfd.as_fd()) {
            return Err(Errno::ESRCH.into());
        }
        if let Some(ThreadStatus { credentials, .. }) = threads.first() {
            (offer.uid, offer.gid) = (Some(credentials.uids[0]), Some(credentials.gids[0]));
        }
        offer.credentials = threads.into_iter().map(|thread| thread.credentials).collect();
        // Files of a process that may not be dumped belong to root (`task_dump_owner`, fs/proc/base.c). A process of root's is root's anyway.
        let mem = fds.iter().find(|(kind, _)| *kind == FdKind::Mem).and_then(|(_, mem)| fstat(mem).ok());
        let is_users = mem.zip(offer.uid).is_some_and(|(stat, uid)| stat.st_uid == uid.as_raw());
        offer.dumpable = is_users.then_some(1);
        offer.pin = Some(PidPin::ByShim);
        fds.push((FdKind::Pidfd, pidfd));
        Ok(Self { dir: Some(dir), fds })
    }

    /// Leaves the offer as it is if the process is not certainly the one that crashed.
    fn open_pid(
        pid: Pid,
        offer: &mut Offer,
        inherited: Option<RawFd>,
        exit_trace: Option<&ExitTrace>,
    ) -> Result<(Self, Vec<ShimWarning>), ShimWarning> {
        let open_error = |what| {
            move |error: io::Error| match errno_of(&error) {
                Errno::ESRCH | Errno::ENOENT => ShimWarning::ProcessEnded,
                errno => ShimWarning::Open { what, errno },
            }
        };
        let pidfd = open_pidfd(pid, inherited).map_err(open_error("a pidfd of the process"))?;
        let dir = ProcDir::open(pid, offer.tid).map_err(open_error("the process' directory in /proc"))?;
        let (mut completed, mut warnings) = (offer.clone(), Vec::new());
        let mut fds = dir.open_files(&OFFERED, &mut warnings);
        read_identity(&mut completed, &dir, &mut warnings);
        fds.extend(mounts::open_of_host(&completed, &mut warnings));
        let threads = read_threads(&dir, offer);
        // Only now: everything was opened below one directory, which never changes its process, but was opened by number.
        if !pidfd::is_alive(pidfd.as_fd()) {
            return Err(ShimWarning::ProcessEnded);
        }
        // As the process of the pidfd is still alive, its PID cannot have been reused since that was opened.
        // The kernel does not dump a process of its own user whose directory is root's (`task_dump_owner`, fs/proc/base.c).
        let may_have_dumped = inherited.is_some() || dir.is_of(offer.uid);
        let has_crashed = threads.first().is_some_and(|thread| {
            has_ids(thread, offer) && (thread.is_dumping || may_have_dumped && is_at_exit(exit_trace, offer))
        });
        let is_older = inherited.is_some() || (1..=own_start_time()).contains(&completed.start_time);
        if !has_crashed || !is_older {
            return Err(ShimWarning::PidReused);
        }
        completed.credentials = threads.into_iter().map(|thread| thread.credentials).collect();
        completed.pin = Some(if inherited.is_some() { PidPin::ByKernel } else { PidPin::ByShim });
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

/// The kernel's own pidfd (`%F`). A new one only where the kernel gave none: its number may belong to another process by now.
fn open_pidfd(pid: Pid, inherited: Option<RawFd>) -> io::Result<OwnedFd> {
    match inherited {
        Some(number) => pidfd::adopt_inherited(number, pid.as_raw()),
        None => pidfd::open(pid.as_raw()),
    }
}

/// The status of the thread that crashed and, if that is another one, of the main thread. Empty if either cannot be read.
///
/// Threads share their memory but not their credentials (credentials(7)).
fn read_threads(dir: &ProcDir, offer: &Offer) -> Vec<ThreadStatus> {
    let crashed = offer.tid.filter(|tid| offer.pid != Some(*tid)).map(|tid| format!("task/{tid}/status"));
    let paths = crashed.into_iter().chain(["status".to_owned()]);
    let threads: Option<_> = paths.map(|path| ThreadStatus::parse(&read_text_at(dir.of_process(), &path).0)).collect();
    threads.unwrap_or_default()
}

/// Whether the IDs of this thread are those that the kernel passed as arguments.
fn has_ids(thread: &ThreadStatus, offer: &Offer) -> bool {
    let ([uid, ..], [gid, ..]) = (thread.credentials.uids, thread.credentials.gids);
    offer.uid == Some(uid) && offer.gid == Some(gid)
}

/// Whether something interrupted the kernel's write of the core, so that the thread has come to the exit to which this crash leads.
fn is_at_exit(exit_trace: Option<&ExitTrace>, offer: &Offer) -> bool {
    /// How long a thread takes at most from the end of its dump to its exit.
    const LIMIT: Duration = Duration::from_millis(100);
    let status = exit_trace.and_then(|trace| trace.at_exit_within(LIMIT));
    status.zip(offer.signal).is_some_and(|(status, signal)| status & 0x7f == i64::from(signal))
}

/// When this process was started, in clock ticks since boot. The kernel started it when the crashed process had its PID already;
/// a program that was executed in between does not change it. 0 if it cannot be read: then no process is older.
fn own_start_time() -> u64 {
    let (stat, _) = read_text_at(AT_FDCWD, "/proc/self/stat");
    parse_stat(&stat).map_or(0, |stat| stat.start_time)
}

fn read_identity(offer: &mut Offer, dir: &ProcDir, warnings: &mut Vec<ShimWarning>) {
    offer.cgroup = cgroups_first(&dir.read_beginning("cgroup", MAX_CGROUP, warnings));
    let text = dir.read_text("stat", warnings);
    let of_process = dir.main_thread_has_ended().then(|| read_text_at(dir.of_process(), "stat").0);
    match (parse_stat(of_process.as_ref().unwrap_or(&text)), parse_stat(&text)) {
        (Some(Stat { comm, start_time, .. }), Some(Stat { arguments, .. })) => {
            offer.comm = comm.to_vec();
            offer.start_time = start_time;
            offer.arguments = arguments;
        }
        _ => warnings.push(ShimWarning::MalformedStat),
    }
    offer.thread_name = read_thread_name(offer, dir, warnings);
    offer.login_uid = parse_login_uid(&read_text_at(dir.as_fd(), "loginuid").0);
    offer.exe = dir.read_link("exe", warnings);
    offer.root = dir.read_link("root", warnings);
    offer.namespaces = compare_namespaces(dir);
    offer.exe_deleted = is_exe_deleted(offer, dir, warnings);
}

/// The name of the thread that crashed. That of the main thread is the process'.
fn read_thread_name(offer: &Offer, dir: &ProcDir, warnings: &mut Vec<ShimWarning>) -> Vec<u8> {
    let Some(tid) = offer.tid.filter(|tid| offer.pid != Some(*tid)) else { return offer.comm.clone() };
    let (name, outcome) = dir.thread_name(tid);
    if let Err(error) = outcome {
        warnings.push(ShimWarning::Read { what: "comm", errno: errno_of(&error) });
    }
    name
}

/// The lines of `/proc/PID/cgroup` (cgroups(7)) in the order of their use, for a field that holds one long path: the unified
/// hierarchy, systemd's, then the others, each path once. A line that has no room is left out, except for the first.
fn cgroups_first(cgroup: &[u8]) -> Vec<u8> {
    let lines = || cgroup.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.ends_with(b":/"));
    let path =
        |line: &[u8]| line.iter().position(|byte| *byte == b'/').map(|at| line.get(at..).unwrap_or(&[]).to_vec());
    let is_systemd = |line: &[u8]| line.split(|byte| *byte == b':').nth(1) == Some(b"name=systemd");
    let unified = lines().filter(|line| line.starts_with(b"0::"));
    let systemd = lines().filter(|line| is_systemd(line));
    let others = lines().filter(|line| !line.starts_with(b"0::") && !is_systemd(line));
    let (mut ordered, mut known) = (Vec::new(), Vec::new());
    for line in unified.chain(systemd).chain(others) {
        let has_room = ordered.is_empty() || ordered.len() + line.len() < MAX_TEXT;
        if has_room && !known.contains(&path(line)) {
            known.push(path(line));
            ordered.extend_from_slice(line);
            ordered.push(b'\n');
        }
    }
    ordered
}

/// Fields of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat<'a> {
    /// Field 2.
    comm: &'a [u8],
    /// Field 22.
    start_time: u64,
    /// Fields 48 to 51: command line and environment.
    arguments: Range<u64>,
}

/// The comm may contain anything, also ") ", so it ends at the last parenthesis.
fn parse_stat(stat: &[u8]) -> Option<Stat<'_>> {
    let begin = stat.iter().position(|byte| *byte == b'(')? + 1;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    // From field 3 on.
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_ascii_whitespace();
    let numbers: Vec<u64> = rest.skip(1).map(|field| field.parse().unwrap_or(0)).collect();
    let field = |number: usize| numbers.get(number - 4).copied();
    let arguments = match (field(48), field(49), field(51)) {
        (Some(begin), Some(end), Some(environment_end)) => begin..end.max(environment_end),
        _ => 0..0,
    };
    Some(Stat { comm: stat.get(begin..end)?, start_time: field(22)?, arguments })
}

/// Whether the kernel appended " (deleted)" to the path of the executable (proc_pid_exe(5)): a file may also have such a name. `None`
/// if that cannot be told.
fn is_exe_deleted(offer: &Offer, dir: &ProcDir, warnings: &mut Vec<ShimWarning>) -> Option<bool> {
    if !offer.exe.ends_with(b" (deleted)") {
        return (!offer.exe.is_empty()).then_some(false);
    }
    match executable::has_no_name(dir, offer.namespaces.may_be_of_user()) {
        Ok(deleted) => Some(deleted),
        Err(warning) => {
            warnings.push(warning);
            None
        }
    }
}

/// `/proc/PID/loginuid` (proc_pid_loginuid(5)). A kernel without audit has no such file.
fn parse_login_uid(text: &[u8]) -> Option<Uid> {
    const NEVER_SET: u32 = u32::MAX;
    let uid = std::str::from_utf8(text).ok()?.trim_end().parse().ok()?;
    (uid != NEVER_SET).then_some(Uid::from_raw(uid))
}

/// Whether the kernel itself started this process: the parent of its helpers is kthreadd (kernel/umh.c).
pub(super) fn is_started_by_kernel() -> bool {
    const KTHREADD: i32 = 2;
    getppid().as_raw() == KTHREADD
}

/// Compares the namespaces of the process with the shim's own.
fn compare_namespaces(dir: &ProcDir) -> Namespaces {
    // The kernel's helpers inherit the namespaces of kthreadd. Its directory in /proc is in the kernel's cache; each process has
    // to build its own, which is expensive.
    let own = if is_started_by_kernel() { "/proc/2" } else { "/proc/self" };
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
    use coreward_wire::Credentials;
    use nix::unistd::{Gid, Uid};
    use std::os::fd::IntoRawFd;

    #[test]
    fn the_start_time_stands_behind_any_comm() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        for comm in ["sh", "a) R 1 2", "(sd-pam)", "two\nlines", ""] {
            let stat = format!("42 ({comm}) {}\n", fields.join(" "));
            let expected = Stat { comm: comm.as_bytes(), start_time: 22, arguments: 48..51 };
            assert_eq!(parse_stat(stat.as_bytes()), Some(expected), "{comm}");
        }
        assert_eq!(parse_stat(b"42 (sh"), None);
        assert_eq!(parse_stat(b"42 )sh( R 1"), None);
        assert_eq!(parse_stat(b"42 (sh) R 1"), None);
    }

    #[test]
    fn the_cgroup_that_matters_comes_first_however_long_the_others_are() {
        let long = "x".repeat(4000);
        let others: String = (2..=13).map(|number| format!("{number}:c{number}:/{long}{number}\n")).collect();
        let text = format!("{others}1:name=systemd:/system.slice/a.service\n0::/\n");
        let ordered = String::from_utf8(cgroups_first(text.as_bytes())).unwrap();
        assert!(ordered.starts_with("1:name=systemd:/system.slice/a.service\n2:c2:/xxx"), "{ordered}");
        assert!(ordered.ends_with("x2\n") && ordered.len() <= MAX_TEXT);
        let same = "3:cpu:/docker/A\n2:pids:/docker/A\n1:name=systemd:/docker/A\n0::/system.slice/docker.service\n";
        let ordered = cgroups_first(same.as_bytes());
        assert_eq!(ordered, b"0::/system.slice/docker.service\n1:name=systemd:/docker/A\n");
        let whole = cgroups_first(format!("0::/{}\n", "y".repeat(5000)).as_bytes());
        assert_eq!(whole.len(), 5005);
        assert!(cgroups_first(b"0::/\n").is_empty() && cgroups_first(b"").is_empty());
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
        let process = CrashedProcess::open(&mut offer, None, None, &mut warnings);
        assert_eq!(warnings, [ShimWarning::ProcessEnded]);
        assert!(process.dir.is_none() && process.fds.is_empty() && offer.comm.is_empty());
        assert_eq!(offer.boot_id.len(), 32);
    }

    #[test]
    fn a_process_that_is_not_dumped_is_not_the_crashed_one_whether_or_not_the_kernel_gave_a_pidfd() {
        let me = nix::unistd::getpid();
        for inherited in [None, Some(pidfd::open(me.as_raw()).unwrap().into_raw_fd())] {
            let mut offer = Offer {
                pid: Some(me),
                tid: Some(me),
                uid: Some(nix::unistd::getuid()),
                gid: Some(nix::unistd::getgid()),
                ..Offer::default()
            };
            let mut warnings = Vec::new();
            let process = CrashedProcess::open(&mut offer, inherited, None, &mut warnings);
            assert_eq!(warnings, [ShimWarning::PidReused]);
            assert!(process.dir.is_none() && process.fds.is_empty());
            assert_eq!((offer.start_time, offer.exe.len(), offer.credentials.len()), (0, 0, 0));
        }
    }

    #[test]
    fn the_ids_of_the_crashed_thread_are_those_of_the_arguments() {
        let (uid, gid) = (Uid::from_raw(1000), Gid::from_raw(1001));
        let offer = Offer { uid: Some(uid), gid: Some(gid), ..Offer::default() };
        let thread = |uid, gid| ThreadStatus {
            is_dumping: true,
            credentials: Credentials { uids: [uid; 4], gids: [gid; 4], capabilities: 0 },
        };
        assert!(has_ids(&thread(uid, gid), &offer));
        for other in [thread(Uid::from_raw(0), gid), thread(uid, Gid::from_raw(0))] {
            assert!(!has_ids(&other, &offer), "{other:?}");
        }
        assert!(!has_ids(&thread(uid, gid), &Offer::default()));
    }
}
