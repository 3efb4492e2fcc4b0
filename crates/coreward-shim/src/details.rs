//! Texts about the process that are needed only if the daemon requests them, or if the crash goes to the spool
//! ([`coreward_wire::Details`]).

use super::holes;
use super::mounts;
use super::proc_dir::{ProcDir, read_text_at};
use super::warning::ShimWarning;
use coreward_sys::openat::{self, read_link_at};
use coreward_wire::{Details, FdKind, MAX_OPEN_FDS, MAX_TEXT, Offer, Reply};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::getpid;
use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Most descriptors in a list.
const MAX_LISTED: usize = 256;
/// Longest target of a descriptor in a list, in bytes before escaping.
const MAX_TARGET: usize = MAX_TEXT / 8;

/// The reply to [`coreward_wire::Request::Details`]. The texts are put into the offer too, for the next daemon and the spool.
pub(super) fn reply(dir: &ProcDir, offer: &mut Offer, with_holes: bool, thread: u32) -> (Reply, Vec<OwnedFd>) {
    let mut warnings = read_into(offer, dir);
    if thread > 0 {
        offer.details.failed_thread = read_thread_name(dir, offer, thread);
    }
    let mut found = Vec::new();
    if with_holes {
        let local = mounts::local_minors(dir, offer, &mut warnings);
        match holes::find(dir, &local) {
            Ok(holes) => found.push(holes),
            Err(errno) => warnings.push(ShimWarning::Read { what: "map_files", errno }),
        }
    }
    let warnings: Vec<String> = warnings.iter().map(ShimWarning::to_string).collect();
    let fds = found.iter().map(|_| FdKind::Holes).collect();
    (Reply { errno: 0, data: offer.details.encode(&warnings), fds }, found)
}

/// Reads the texts into the offer. Returns what could not be read.
pub(super) fn read_into(offer: &mut Offer, dir: &ProcDir) -> Vec<ShimWarning> {
    let mut warnings = Vec::new();
    offer.details.update(Details {
        cwd: dir.read_link("cwd", &mut warnings),
        status: without_own_trace(dir.read_text("status", &mut warnings)),
        limits: dir.read_text("limits", &mut warnings),
        open_fds: list_open_fds(dir, &mut warnings),
        parent: read_parent(dir),
        maps: dir.read_table("maps", &mut warnings),
        mountinfo: dir.read_table("mountinfo", &mut warnings),
        failed_thread: Vec::new(),
    });
    warnings
}

/// The text of `status` without the shim as the tracer of the process: it is none for whoever debugs the crash.
fn without_own_trace(status: Vec<u8>) -> Vec<u8> {
    let own = format!("\nTracerPid:\t{}\n", getpid());
    match status.windows(own.len()).position(|window| window == own.as_bytes()) {
        Some(at) => {
            let (before, after) = (status.get(..at), status.get(at + own.len()..));
            [before.unwrap_or_default(), b"\nTracerPid:\t0\n", after.unwrap_or_default()].concat()
        }
        None => status,
    }
}

/// The name of the thread that has this id in the PID namespace of the process. Empty if there is none, or it is not found among the first
/// threads.
fn read_thread_name(dir: &ProcDir, offer: &Offer, thread: u32) -> Vec<u8> {
    let id = if offer.namespaces.pid { find_thread(dir, thread) } else { Some(thread) };
    id.map(|id| dir.thread_name(id).0).unwrap_or_default()
}

/// The id in the shim's namespace of the thread with this id in its own.
fn find_thread(dir: &ProcDir, thread: u32) -> Option<u32> {
    /// The most threads that are asked. Each takes some microseconds, and the process is held.
    const MAX_THREADS: usize = 1024;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut tasks = Dir::openat(dir.of_process(), "task", flags, Mode::empty()).ok()?;
    let ids = tasks.iter().filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse::<u32>().ok());
    let mut ids = ids.take(MAX_THREADS);
    ids.find(|id| id_inside(&read_text_at(dir.of_process(), &format!("task/{id}/status")).0) == Some(thread))
}

/// The last number of NSpid in a status file: the id in the innermost namespace (proc_pid_status(5)).
fn id_inside(status: &[u8]) -> Option<u32> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"NSpid:"))?;
    str::from_utf8(line).ok()?.split_ascii_whitespace().next_back()?.parse().ok()
}

/// The command line of the parent, or its name in brackets. Empty if it cannot be read, or not in time: the kernel reads it from
/// memory, of which a dead mount may have a page.
fn read_parent(dir: &ProcDir) -> Vec<u8> {
    const TIMEOUT: Duration = Duration::from_millis(100);
    let read = dir.in_thread(TIMEOUT, |dir| {
        let parent_of = || parent_pid(&read_text_at(dir.as_fd(), "status").0);
        let Some(pid) = parent_of() else { return Ok(Vec::new()) };
        let parent = openat::open_dir(Path::new(&format!("/proc/{pid}"))).map_err(|_| Errno::ESRCH)?;
        let text = |name| read_text_at(parent.as_fd(), name).0;
        let mut line = text("cmdline");
        if line.is_empty() {
            line = [b"[", text("comm").trim_ascii_end(), b"]"].concat();
        }
        // The number may have been another process' by then.
        if parent_of() == Some(pid) { Ok(line) } else { Ok(Vec::new()) }
    });
    read.unwrap_or_default()
}

/// PPid in `/proc/PID/status` (proc_pid_status(5)); `None` for a process whose parent is in none of the shim's namespaces.
fn parent_pid(status: &[u8]) -> Option<u32> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"PPid:"))?;
    str::from_utf8(line.trim_ascii()).ok()?.parse().ok().filter(|pid| *pid > 0)
}

fn list_open_fds(dir: &ProcDir, warnings: &mut Vec<ShimWarning>) -> Vec<u8> {
    list_links(dir, "fd").unwrap_or_else(|errno| {
        warnings.push(ShimWarning::Read { what: "fd", errno });
        Vec::new()
    })
}

/// One line per descriptor: `3 -> socket:[1234]`. Links are read, never followed.
fn list_links(dir: &ProcDir, name: &str) -> nix::Result<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut links = Dir::openat(dir.as_fd(), name, flags, Mode::empty())?;
    let mut numbers: Vec<u32> =
        links.iter().filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok()).take(MAX_LISTED).collect();
    numbers.sort_unstable();
    let mut text = String::new();
    for number in numbers {
        let Ok(target) = read_link_at(dir.as_fd(), &format!("{name}/{number}")) else { continue };
        let _ = writeln!(text, "{number} -> {}", target.get(..MAX_TARGET).unwrap_or(&target).escape_ascii());
    }
    text.truncate(MAX_OPEN_FDS);
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_id_of_a_thread_is_the_last() {
        assert_eq!(id_inside(b"Name:\tNSpid:\\t9\nNStgid:\t70\t1\nNSpid:\t77\t12\t3\nNSpgid:\t70\t1\n"), Some(3));
        assert_eq!(id_inside(b"NSpid:\t77\n"), Some(77));
        assert_eq!(id_inside(b"Name:\ta\n"), None);
    }

    #[test]
    fn a_thread_is_named_by_its_id() {
        let own = getpid();
        let find = || {
            let dir = ProcDir::open(own, None).unwrap();
            let (offer, tid) = (Offer::default(), nix::unistd::gettid().as_raw().cast_unsigned());
            let of_namespace =
                Offer { namespaces: coreward_wire::Namespaces { pid: true, ..offer.namespaces }, ..offer.clone() };
            [read_thread_name(&dir, &offer, tid), read_thread_name(&dir, &of_namespace, tid)]
        };
        let found = std::thread::scope(|scope| {
            std::thread::Builder::new().name("worker <7>".to_owned()).spawn_scoped(scope, find).unwrap().join().unwrap()
        });
        assert_eq!(found, [b"worker <7>".to_vec(), b"worker <7>".to_vec()]);
        assert!(read_thread_name(&ProcDir::open(own, None).unwrap(), &Offer::default(), u32::MAX).is_empty());
    }
}
