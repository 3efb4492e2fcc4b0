//! A file that the crashed process wrote itself, found by its name: the report of its runtime, or the map of the code that it compiled.
//!
//! The user of the process has chosen the directory, the mounts, the names and the file. So the file is opened with the rights of that user and no
//! others, one component of the path at a time; only file systems of this machine are looked into, and no link is followed. What is opened
//! is a regular file of that user under one name only, which was changed while the process ran.

use super::mappings::open_to_read;
use super::mounts::{Backing, LocalMounts};
use super::proc_dir::ProcDir;
use coreward_sys::clock;
use coreward_wire::{Offer, Reply};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant, SystemTime};

/// How long finding and opening the file may take, while the process waits. A path takes some hundred microseconds.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Most entries of a directory that are compared with a pattern.
const MAX_ENTRIES: usize = 1 << 16;
/// Most components of a path.
const MAX_COMPONENTS: usize = 64;
/// Clock ticks in a second, of times in `/proc` (USER_HZ in the kernel's include/asm-generic/param.h).
const TICKS: u64 = 100;
/// Times of files are as exact as the kernel's tick, and those of processes as [`TICKS`].
const TOLERANCE: Duration = Duration::from_millis(50);

/// The reply to [`coreward_wire::Request::WrittenFile`]: the first of these files that there is.
pub(super) fn reply(dir: &ProcDir, offer: &Offer, paths: Vec<Vec<u8>>) -> (Reply, Vec<OwnedFd>) {
    let opened = Writer::of(offer).ok_or(Errno::EPERM).and_then(|writer| {
        let in_user_namespace = offer.namespaces.may_be_of_user();
        dir.in_thread(TIMEOUT, move |dir| {
            let mut search =
                Search { dir, in_user_namespace, writer, local: Vec::new(), deadline: Instant::now() + TIMEOUT / 2 };
            paths.iter().find_map(|path| search.open(path).ok()).ok_or(Errno::ENOENT)
        })
    });
    // A change of rights to files also changes whether this process may be dumped (`commit_creds`, kernel/cred.c).
    let _ = nix::sys::prctl::set_dumpable(false);
    match opened {
        Ok((path, file)) => (Reply::of_written_file(&path), vec![file]),
        Err(errno) => (Reply { errno: (errno as i32).cast_unsigned(), ..Reply::default() }, Vec::new()),
    }
}

/// Who wrote the file, and when at the earliest.
#[derive(Clone, Copy, Debug)]
struct Writer {
    uid: Uid,
    gid: Gid,
    /// When the process was started, in time since 1970.
    started: Duration,
}

impl Writer {
    /// `None` if the process had, or may have had, other rights than its user.
    fn of(offer: &Offer) -> Option<Self> {
        let (uid, gid) = (offer.uid?, offer.gid?);
        let threads = Some(&offer.credentials).filter(|threads| !threads.is_empty())?;
        let is_plain = threads.iter().all(|thread| thread.uids == [uid; 4] && thread.gids == [gid; 4]);
        if offer.dumpable != Some(1) || !is_plain || offer.start_time == 0 {
            return None;
        }
        let now = SystemTime::UNIX_EPOCH.elapsed().ok()?;
        let age = clock::since_boot().checked_sub(Duration::from_millis(offer.start_time * 1000 / TICKS))?;
        Some(Self { uid, gid, started: now.checked_sub(age)? })
    }

    /// Whether a file with these properties may be one that the process wrote.
    fn may_have_written(&self, file: &FileStat) -> bool {
        let is_regular = SFlag::from_bits_truncate(file.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG;
        let is_own = file.st_uid == self.uid.as_raw() && file.st_nlink == 1;
        is_regular && is_own && file.st_size > 0 && changed(file).is_some_and(|time| time + TOLERANCE >= self.started)
    }

    /// Calls `access` with the user's rights to files, and without root's.
    fn with_rights<T>(&self, access: impl FnOnce() -> nix::Result<T>) -> nix::Result<T> {
        let _restored = FileRights::take(self.uid, self.gid)?;
        access()
    }
}

/// When a file was written to last, since 1970.
fn changed(file: &FileStat) -> Option<Duration> {
    let (seconds, nanoseconds) = (u64::try_from(file.st_mtime).ok()?, u32::try_from(file.st_mtime_nsec).ok()?);
    Some(Duration::new(seconds, nanoseconds))
}

/// This thread has the rights of a user to files, until it is dropped (setfsuid(2)): the kernel takes the capabilities that overrule
/// permissions away meanwhile (capabilities(7)). The kernel starts the shim without supplementary groups.
struct FileRights {
    before: (Uid, Gid),
}

impl FileRights {
    fn take(uid: Uid, gid: Gid) -> nix::Result<Self> {
        // Neither call says whether it succeeded.
        let restored = Self { before: (setfsuid(NOBODY.0), setfsgid(gid)) };
        setfsuid(uid);
        if (setfsuid(NOBODY.0), setfsgid(NOBODY.1)) == (uid, gid) { Ok(restored) } else { Err(Errno::EPERM) }
    }
}

impl Drop for FileRights {
    fn drop(&mut self) {
        setfsuid(self.before.0);
        setfsgid(self.before.1);
    }
}

/// IDs that nobody can have: a change to them fails, and tells those that there are.
const NOBODY: (Uid, Gid) = (Uid::from_raw(u32::MAX), Gid::from_raw(u32::MAX));

/// Looks for the files of one process.
struct Search<'a> {
    dir: &'a OwnedFd,
    in_user_namespace: bool,
    writer: Writer,
    /// Mounts whose files are this machine's, each with a file on it: no other mount gets its number as long as that is open.
    local: Vec<OwnedFd>,
    deadline: Instant,
}

impl Search<'_> {
    /// The file that `path` means, and its path.
    fn open(&mut self, path: &[u8]) -> nix::Result<(Vec<u8>, OwnedFd)> {
        let start = if path.starts_with(b"/") { "root" } else { "cwd" };
        let mut at = openat(self.dir, start, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let components = || path.split(|byte| *byte == b'/').filter(|name| ![&b""[..], b"."].contains(name));
        if components().count() > MAX_COMPONENTS || components().any(|name| name == b"..") || path.ends_with(b"/") {
            return Err(Errno::EINVAL);
        }
        let mut components = components().peekable();
        while let Some(name) = components.next() {
            if components.peek().is_some() {
                at = self.look_up(&at, name)?;
                continue;
            }
            if !name.contains(&b'*') {
                return Ok((path.to_vec(), self.open_file(&at, name)?.0));
            }
            let (found, file) = self.open_newest(&at, name)?;
            let parent = path.len() - path.rsplit(|byte| *byte == b'/').next().map_or(0, <[u8]>::len);
            return Ok(([path.get(..parent).unwrap_or_default(), &found].concat(), file));
        }
        Err(Errno::EINVAL)
    }

    /// The file `name` in a directory, of which its file system does not learn that it is opened.
    fn look_up(&mut self, dir: &OwnedFd, name: &[u8]) -> nix::Result<OwnedFd> {
        if Instant::now() >= self.deadline {
            return Err(Errno::ETIMEDOUT);
        }
        self.require_local(dir)?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        self.writer.with_rights(|| openat(dir, OsStr::from_bytes(name), flags, Mode::empty()))
    }

    /// The file `name` in a directory, and when it was changed, if the process may have written it.
    fn open_file(&mut self, dir: &OwnedFd, name: &[u8]) -> nix::Result<(OwnedFd, Option<Duration>)> {
        let file = self.look_up(dir, name)?;
        self.require_local(&file)?;
        let stat = fstat(&file)?;
        if !self.writer.may_have_written(&stat) {
            return Err(Errno::EPERM);
        }
        Ok((self.writer.with_rights(|| open_to_read(&file))?, changed(&stat)))
    }

    /// The newest file in a directory whose name matches `pattern` and that the process may have written, and its name.
    fn open_newest(&mut self, dir: &OwnedFd, pattern: &[u8]) -> nix::Result<(Vec<u8>, OwnedFd)> {
        self.require_local(dir)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mut listed = Dir::from_fd(self.writer.with_rights(|| openat(dir, ".", flags, Mode::empty()))?)?;
        let mut newest: Option<(Option<Duration>, Vec<u8>, OwnedFd)> = None;
        for entry in listed.iter().take(MAX_ENTRIES) {
            let entry = entry?;
            if Instant::now() >= self.deadline {
                break;
            }
            let name = entry.file_name().to_bytes();
            if !matches(name, pattern) {
                continue;
            }
            let Ok((file, time)) = self.open_file(dir, name) else { continue };
            if newest.as_ref().is_none_or(|(newest, ..)| *newest < time) {
                newest = Some((time, name.to_vec(), file));
            }
        }
        newest.map(|(_, name, file)| (name, file)).ok_or(Errno::ENOENT)
    }

    /// Fails unless `file` is on a file system of this machine: another may not answer, and that cannot be waited for.
    fn require_local(&mut self, file: &OwnedFd) -> nix::Result<()> {
        let mount = super::mounts::mount_id(file)?;
        if self.local.iter().any(|known| super::mounts::mount_id(known) == Ok(mount)) {
            return Ok(());
        }
        // The lists are read only now: while the file is open, its mount keeps its number.
        if LocalMounts::new(self.dir, self.in_user_namespace).backing(file)? != Some(Backing::FileSystem) {
            return Err(Errno::EREMOTE);
        }
        self.local.push(file.try_clone().map_err(|_| Errno::EMFILE)?);
        Ok(())
    }
}

/// Whether a name is what `pattern` says, in which a `*` between dots stands for any text without a dot.
fn matches(name: &[u8], pattern: &[u8]) -> bool {
    let (mut name, mut pattern) = (name.split(|byte| *byte == b'.'), pattern.split(|byte| *byte == b'.'));
    loop {
        match (name.next(), pattern.next()) {
            (None, None) => return true,
            (Some(part), Some(wanted)) if wanted == b"*" || part == wanted => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreward_wire::Credentials;
    use std::fs::{self, File, Permissions};
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    /// A user that has no account.
    const USER: u32 = 64_321;

    /// A process of [`USER`] in a directory of its own, and its offer.
    struct Process {
        child: Child,
        dir: tempfile::TempDir,
        offer: Offer,
    }

    impl Process {
        fn start() -> Self {
            assert!(Uid::effective().is_root(), "only root can have the rights of another user: run this test as root");
            let dir = tempfile::tempdir().unwrap();
            own(dir.path(), USER);
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &USER.to_string(), "--regid", &USER.to_string(), "--clear-groups", "sleep", "60"]);
            let child = command.current_dir(dir.path()).stdin(Stdio::null()).spawn().unwrap();
            let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            let start_time = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
            let credentials = vec![Credentials { uids: [uid; 4], gids: [gid; 4], capabilities: 0 }];
            let offer = Offer {
                uid: Some(uid),
                gid: Some(gid),
                credentials,
                start_time,
                dumpable: Some(1),
                ..Offer::default()
            };
            Self { child, dir, offer }
        }

        /// A file of this user in the directory of the process.
        fn write(&self, name: &str, content: &str, user: u32) {
            let path = self.dir.path().join(name);
            fs::write(&path, content).unwrap();
            own(&path, user);
        }

        /// Path and content of the file that is opened, or the name of the error.
        fn open(&self, paths: &[&str]) -> String {
            let dir = ProcDir::open(nix::unistd::Pid::from_raw(self.child.id().cast_signed()), None).unwrap();
            let (reply, mut files) =
                reply(&dir, &self.offer, paths.iter().map(|path| path.as_bytes().to_vec()).collect());
            if reply.errno != 0 {
                assert!(files.is_empty());
                return format!("{:?}", Errno::from_raw(reply.errno.cast_signed()));
            }
            let mut content = String::new();
            File::from(files.pop().unwrap()).read_to_string(&mut content).unwrap();
            assert!(files.is_empty());
            found(str::from_utf8(&reply.data).unwrap(), &content)
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn own(path: &Path, user: u32) {
        chown(path, Some(user), Some(user)).unwrap();
    }

    fn found(path: &str, content: &str) -> String {
        format!("{path}: {content}")
    }

    #[test]
    fn the_first_file_of_the_process_is_opened_by_a_path_of_its_directory_or_its_root() {
        let process = Process::start();
        process.write("report", "own", USER);
        let absolute = process.dir.path().join("report").display().to_string();
        assert_eq!(process.open(&["missing", "report", &absolute]), found("report", "own"));
        assert_eq!(process.open(&["./missing", &absolute]), found(&absolute, "own"));
        assert_eq!(process.open(&[]), "ENOENT");
        for wrong in ["", "/", "report/", "./report/x", "x/../report", "\0"] {
            assert_eq!(process.open(&[wrong]), "ENOENT", "{wrong:?}");
        }
        fs::create_dir(process.dir.path().join("sub")).unwrap();
        process.write("sub/report", "below", USER);
        assert_eq!(process.open(&["sub//./report"]), found("sub//./report", "below"));
    }

    #[test]
    fn a_star_means_the_newest_file() {
        let process = Process::start();
        for (name, user) in
            [("report.1.7.0.001.json", USER), ("report.2.7.0.002.json", USER), ("report.9.7.0.001.json", 0)]
        {
            process.write(name, name, user);
            std::thread::sleep(Duration::from_millis(20));
        }
        process.write("report.3.70.0.001.json", "of another process", USER);
        let newest = "report.2.7.0.002.json";
        assert_eq!(process.open(&["report.*.7.*.*.json"]), found(newest, newest));
        let below = process.dir.path().display().to_string();
        assert_eq!(
            process.open(&[&format!("{below}/report.*.7.*.*.json")]),
            found(&format!("{below}/{newest}"), newest)
        );
        assert_eq!(process.open(&["*.*.xml"]), "ENOENT");
        assert!(matches(b"a.X.c", b"a.*.c") && matches(b"a..c", b"a.*.c") && matches(b"x", b"*"));
        assert!(!matches(b"a.X.Y.c", b"a.*.c") && !matches(b"a.c", b"a.*.c") && !matches(b"aX", b"a*"));
    }

    #[test]
    fn links_and_files_of_others_and_older_ones_are_not_opened() {
        let process = Process::start();
        let path = |name: &str| process.dir.path().join(name);
        let refused = |name: &str| assert_eq!(process.open(&[name]), "ENOENT", "{name}");
        process.write("target", "own", USER);
        symlink("target", path("link")).unwrap();
        symlink(".", path("dir")).unwrap();
        symlink("/proc/self/root/etc/shadow", path("magic")).unwrap();
        ["link", "dir/target", "magic"].into_iter().for_each(refused);
        fs::hard_link(path("target"), path("second")).unwrap();
        ["target", "second"].into_iter().for_each(refused);
        process.write("roots", "secret", 0);
        process.write("another's", "secret", USER + 1);
        process.write("empty", "", USER);
        ["roots", "another's", "empty"].into_iter().for_each(refused);
        assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
        own(&path("fifo"), USER);
        refused("fifo");
        process.write("old", "of an earlier process", USER);
        let before = SystemTime::now() - Duration::from_secs(60);
        File::options().write(true).open(path("old")).unwrap().set_modified(before).unwrap();
        refused("old");
    }

    #[test]
    fn the_file_is_opened_with_the_rights_of_the_user() {
        let process = Process::start();
        let path = |name: &str| process.dir.path().join(name);
        process.write("unreadable", "own", USER);
        fs::set_permissions(path("unreadable"), Permissions::from_mode(0o200)).unwrap();
        fs::create_dir(path("roots")).unwrap();
        process.write("roots/kept-from-the-user", "own", USER);
        fs::set_permissions(path("roots"), Permissions::from_mode(0o700)).unwrap();
        for name in ["unreadable", "roots/kept-from-the-user", "roots/*"] {
            assert_eq!(process.open(&[name]), "ENOENT", "{name}");
        }
        fs::set_permissions(path("roots"), Permissions::from_mode(0o711)).unwrap();
        assert_eq!(process.open(&["roots/kept-from-the-user"]), found("roots/kept-from-the-user", "own"));
        assert_eq!(process.open(&["roots/*"]), "ENOENT", "the user cannot list it");
        // The thread that did so has its own rights again.
        let dir = ProcDir::open(nix::unistd::getpid(), None).unwrap();
        assert_eq!(process.open(&["unreadable"]), "ENOENT");
        let ids = dir.in_thread(TIMEOUT, |_| Ok((setfsuid(NOBODY.0), setfsgid(NOBODY.1)))).unwrap();
        assert_eq!(ids, (Uid::effective(), Gid::effective()));
    }

    #[test]
    fn nothing_is_opened_for_a_process_that_changed_its_rights() {
        let mut process = Process::start();
        process.write("report", "own", USER);
        let plain = process.offer.clone();
        let mut with_other_ids = plain.clone();
        for thread in &mut with_other_ids.credentials {
            thread.uids = [Uid::from_raw(USER), Uid::from_raw(0), Uid::from_raw(USER), Uid::from_raw(USER)];
        }
        let offers = [
            Offer { dumpable: Some(2), ..plain.clone() },
            Offer { dumpable: None, ..plain.clone() },
            Offer { credentials: Vec::new(), ..plain.clone() },
            Offer { start_time: 0, ..plain.clone() },
            with_other_ids,
        ];
        for offer in offers {
            process.offer = offer;
            assert_eq!(process.open(&["report"]), "EPERM", "{:?}", process.offer);
        }
        process.offer = plain;
        assert_eq!(process.open(&["report"]), found("report", "own"));
    }
}
