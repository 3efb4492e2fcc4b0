//! Which processes can be dumped.

use super::error::DumpError;
use super::status::Status;
use crate::crash::text::printable;
use coreward_wire::paths::Root;
use nix::errno::Errno;
use nix::unistd::{Pid, getpid, getppid};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why there is no pidfd.
pub(super) fn not_opened(pid: Pid, error: &io::Error) -> DumpError {
    match error.raw_os_error().map(Errno::from_raw) {
        // Kernels say EINVAL or ENOENT of a thread that is not the leader of its group (pidfd_open(2)).
        Some(Errno::EINVAL | Errno::ENOENT) => thread_of(pid).unwrap_or(DumpError::NoProcess(pid)),
        _ => DumpError::NoProcess(pid),
    }
}

fn thread_of(thread: Pid) -> Option<DumpError> {
    let process = Status::read(thread, None).ok()?.pid("Tgid").filter(|process| *process != thread)?;
    Some(DumpError::Thread { thread, process })
}

/// Refuses what cannot be dumped, or must not be stopped.
pub(super) fn check(root: &Root, pid: Pid) -> Result<(), DumpError> {
    let status = Status::read(pid, None).map_err(|_| DumpError::NoProcess(pid))?;
    if let Some(process) = status.pid("Tgid").filter(|process| *process != pid) {
        return Err(DumpError::Thread { thread: pid, process });
    }
    // The command works in a copy of itself.
    if pid == getpid() || pid == getppid() {
        return Err(DumpError::Own(pid));
    }
    if pid.as_raw() == 1 {
        return Err(DumpError::Init);
    }
    // The main thread may have ended before the others; then the process lives.
    if matches!(status.state(), Some('Z' | 'X')) && !has_other_threads(pid) {
        return Err(DumpError::Zombie(pid));
    }
    let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
    if status.field("Kthread") == Some("1") || !status.has_memory() && exe.is_err() && !has_other_threads(pid) {
        return Err(DumpError::KernelThread(pid));
    }
    if status.field("CoreDumping") == Some("1") {
        return Err(DumpError::Crashing(pid));
    }
    if is_daemon(root, pid, &exe.unwrap_or_default()) {
        return Err(DumpError::Daemon(pid));
    }
    traced(pid, &status).map_or(Ok(()), Err)
}

/// Whether it is the daemon or one of its readers. Any process can have an executable of that path, in mounts of its own; but only root has
/// the daemon's file, and gives it a new one by an upgrade.
fn is_daemon(root: &Root, pid: Pid, exe: &Path) -> bool {
    let path = exe.as_os_str().as_bytes();
    if let Some(path) = path.strip_suffix(b" (deleted)") {
        let is_roots = std::fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.uid() == 0);
        return is_roots && path == root.daemon_exe().as_os_str().as_bytes();
    }
    let file = |path: PathBuf| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    match (file(format!("/proc/{pid}/exe").into()), file(root.daemon_exe())) {
        (Ok(exe), Ok(daemon)) => exe == daemon,
        _ => false,
    }
}

fn has_other_threads(pid: Pid) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}

/// Who traces the process, if somebody does.
fn traced(pid: Pid, status: &Status) -> Option<DumpError> {
    let thread = status.pid("TracerPid").filter(|tracer| tracer.as_raw() != 0)?;
    // One thread of a debugger traces.
    let tracer = Status::read(thread, None).ok().and_then(|status| status.pid("Tgid")).unwrap_or(thread);
    let comm = std::fs::read(format!("/proc/{tracer}/comm")).unwrap_or_default();
    let comm = printable(String::from_utf8_lossy(&comm).trim_end());
    Some(DumpError::Traced { pid, tracer, comm })
}

/// Why the thread of a process may not be traced.
pub(super) fn not_seized(pid: Pid, tid: Pid, errno: Errno) -> DumpError {
    let found = Status::read(pid, Some(tid)).ok().and_then(|status| traced(pid, &status));
    found.unwrap_or(DumpError::NotAllowed { pid, errno })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_dumped_is_told_apart() {
        let root = Root::default();
        let refused = |pid: Pid| check(&root, pid).unwrap_err().to_string();
        assert!(refused(getpid()).ends_with("is this command"));
        assert!(refused(Pid::from_raw(1)).starts_with("process 1 is not dumped"));
        assert!(refused(Pid::from_raw(4_194_305)).starts_with("no process 4194305"));
        // kthreadd.
        assert!(refused(Pid::from_raw(2)).ends_with("it has no memory of its own"));
        let tid = nix::unistd::gettid();
        assert_eq!(refused(tid), format!("{tid} is a thread of process {0}: coreward dump {0}", getpid()));
        let error = coreward_sys::pidfd::open(tid.as_raw()).unwrap_err();
        assert!(matches!(not_opened(tid, &error), DumpError::Thread { .. }), "{error}");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        while Status::read(pid, None).unwrap().state() != Some('Z') {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(refused(pid).contains("its parent has not waited"));
        child.wait().unwrap();
    }
}
