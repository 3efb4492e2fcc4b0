//! Stopping a process and reading what its core's headers need, in a thread of its own.

use super::error::DumpError;
use super::mappings::{self, DEFAULT_FILTER};
use super::status::Status;
use super::target;
use crate::crash::text::from_bytes;
use crate::elf::{CoreAbi, CoreFrame, NT_PRSTATUS, ProcessState, RegisterNote, StoppedImage, ThreadState};
use coreward_sys::ptrace::{self, Stop};
use coreward_sys::{clock, pidfd};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Pid, gethostname};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// How long the threads may take to stop. One that runs stops within microseconds.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// How long one look for new threads waits for those that were found.
const PASS: Duration = Duration::from_millis(20);
/// How often it is looked whether they have.
const STOP_PAUSE: Duration = Duration::from_micros(200);
/// How long all of it may take. Two thousand threads with all their registers, and page tables of some hundred GiB, take a second.
const LIMIT: Duration = Duration::from_secs(10);
/// How long reading the arguments may take: they are memory of the process, which may not answer.
const ARGUMENTS_LIMIT: Duration = Duration::from_millis(200);
/// The longest text about the mappings that is read, in bytes: more than 65,530 of them (`vm.max_map_count`) have, if their names are not made
/// to be long.
const MAX_SMAPS: u64 = 96 << 20;
/// The most threads whose missing registers are reported one by one.
const MAX_NAMED: usize = 8;

/// Further register sets as the kernel's cores have them (elf.h), with the owner of the note: floating point; then the extended state of x86,
/// the old form of SSE and the segments of thread-local storage of i386; the thread pointer, system call, SVE and pointer masks of arm64. What
/// a processor or a kind of program does not have is left out.
const SETS: [(&str, u32); 8] = [
    ("CORE", 2),
    ("LINUX", 0x46e6_2b7f),
    ("LINUX", 0x202),
    ("LINUX", 0x200),
    ("LINUX", 0x401),
    ("LINUX", 0x404),
    ("LINUX", 0x405),
    ("LINUX", 0x406),
];

/// A process whose threads are stopped.
pub(super) struct Stopped {
    /// When the first of them was told to, in time since boot.
    pub(super) since: Duration,
    /// The main thread, or another one where that has ended or does not stop.
    pub(super) tid: Pid,
    /// What its core says of it, and the core but for the memory.
    pub(super) image: (CoreFrame, StoppedImage),
    /// The host name that it sees.
    pub(super) hostname: Vec<u8>,
    /// A thread was not stopped: it may execute another program meanwhile.
    pub(super) is_partial: bool,
    /// What could not be learnt.
    pub(super) warnings: Vec<String>,
}

/// Keeps the threads stopped until it is dropped. Then they go on, and have gone on when the drop returns.
pub(super) struct Hold {
    keep: Option<Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        drop(self.keep.take());
        // A tracer that is blocked is given up; the process goes on when this one ends.
        if let Some(tracer) = self.tracer.take() {
            let begun = Instant::now();
            while !tracer.is_finished() && begun.elapsed() < STOP_LIMIT {
                sleep(STOP_PAUSE);
            }
        }
    }
}

/// Stops all threads of a process.
pub(super) fn stop(pid: Pid, pidfd: &OwnedFd) -> Result<(Stopped, Hold), DumpError> {
    let failed = |what| move |error| DumpError::Read { pid, what, error };
    let pidfd = pidfd.try_clone().map_err(failed("a pidfd"))?;
    let (keep, kept) = channel();
    let (report, reported) = channel();
    let tracer = thread::Builder::new()
        .name("tracer".to_owned())
        .spawn(move || trace(pid, &pidfd, &report, &kept))
        .map_err(failed("a thread that traces the threads"))?;
    let hold = Hold { keep: Some(keep), tracer: Some(tracer) };
    let stopped = reported.recv_timeout(LIMIT).map_err(|_| DumpError::Blocked { pid, limit: LIMIT })??;
    Ok((stopped, hold))
}

/// The whole tracer: it stops, reads, reports, and lets go when nobody keeps the process any more.
fn trace(pid: Pid, pidfd: &OwnedFd, report: &Sender<Result<Stopped, DumpError>>, kept: &Receiver<()>) {
    let mut threads = Threads { pid, traced: Vec::new() };
    let since = clock::since_boot();
    let stopped = threads.stop_all().and_then(|()| read(&threads, pidfd, since));
    let is_kept = stopped.is_ok();
    if report.send(stopped).is_ok() && is_kept {
        // It fails when the other end is dropped.
        let _ = kept.recv();
    }
    threads.release();
    // Those that have not stopped yet go on when this thread has ended.
}

/// A thread that is traced.
struct Traced {
    tid: Pid,
    stop: Stop,
    /// It is none of the process: the number belonged to another one when it was seized.
    is_foreign: bool,
}

struct Threads {
    pid: Pid,
    traced: Vec<Traced>,
}

impl Threads {
    /// Stops every thread of the process. While one runs it may start others, so it is looked for new ones until there are none and all have
    /// stopped.
    fn stop_all(&mut self) -> Result<(), DumpError> {
        let begun = Instant::now();
        let mut known = BTreeSet::new();
        // Whether all had stopped when the list was read: one that had not may have started another since.
        let mut is_settled = false;
        loop {
            let mut is_new = false;
            for tid in self.list()? {
                if known.contains(&tid) {
                    continue;
                }
                match ptrace::seize(tid) {
                    Ok(()) => {
                        let path = format!("/proc/{}/task/{tid}", self.pid);
                        let is_foreign = !fs::exists(path).unwrap_or(false);
                        let _ = ptrace::interrupt(tid);
                        self.traced.push(Traced { tid, stop: Stop::NotYet, is_foreign });
                        known.insert(tid);
                        is_new = true;
                    }
                    Err(Errno::ESRCH) => {}
                    Err(errno) if !self.has_ended(tid) => return Err(target::not_seized(self.pid, tid, errno)),
                    // A main thread that has ended stays in the list.
                    Err(_) => {}
                }
            }
            let all = self.wait_until((Instant::now() + PASS).min(begun + STOP_LIMIT));
            // Its number may be given to a thread that this process starts later.
            self.traced.retain(|traced| {
                let has_gone = traced.stop == Stop::Gone;
                if has_gone {
                    known.remove(&traced.tid);
                }
                !has_gone
            });
            if !is_new && is_settled || begun.elapsed() >= STOP_LIMIT {
                break;
            }
            is_settled = all;
        }
        let has_stopped = |traced: &Traced| !traced.is_foreign && matches!(traced.stop, Stop::Stopped { .. });
        if self.traced.is_empty() {
            return Err(DumpError::Ended(self.pid));
        }
        if !self.traced.iter().any(has_stopped) {
            return Err(DumpError::NotStopped { pid: self.pid, limit: STOP_LIMIT });
        }
        Ok(())
    }

    /// The ids of the threads; the main thread first, if it is there.
    fn list(&self) -> Result<Vec<Pid>, DumpError> {
        let gone = |_| DumpError::Ended(self.pid);
        let entries = fs::read_dir(format!("/proc/{}/task", self.pid)).map_err(gone)?;
        let tids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid::from_raw));
        Ok(tids.collect())
    }

    /// Whether a thread that could not be seized has ended.
    fn has_ended(&self, tid: Pid) -> bool {
        Status::read(self.pid, Some(tid)).map_or(true, |status| matches!(status.state(), Some('Z' | 'X') | None))
    }

    /// Waits until all have stopped, or until `deadline`. Returns whether they have.
    fn wait_until(&mut self, deadline: Instant) -> bool {
        loop {
            let running = self.traced.iter_mut().filter(|traced| traced.stop == Stop::NotYet);
            let mut all = true;
            for traced in running {
                traced.stop = ptrace::poll(traced.tid);
                all &= traced.stop != Stop::NotYet;
                if traced.is_foreign && traced.let_go() {
                    traced.stop = Stop::Gone;
                }
            }
            if all || Instant::now() >= deadline {
                return all;
            }
            sleep(STOP_PAUSE);
        }
    }

    /// Lets all go on that have stopped, and those that stop now.
    fn release(&mut self) {
        for traced in &mut self.traced {
            if traced.stop == Stop::NotYet {
                traced.stop = ptrace::poll(traced.tid);
            }
            traced.let_go();
        }
    }
}

impl Traced {
    fn let_go(&self) -> bool {
        match self.stop {
            Stop::Stopped { pending } => ptrace::detach(self.tid, pending).is_ok(),
            Stop::NotYet | Stop::Gone => false,
        }
    }
}

/// Reads what the headers need. Nothing of it is memory of the process.
fn read(threads: &Threads, pidfd: &OwnedFd, since: Duration) -> Result<Stopped, DumpError> {
    let pid = threads.pid;
    let failed = |what| move |error| DumpError::Read { pid, what, error };
    let mut warnings = Vec::new();
    let (mut tids, mut states) = (Vec::new(), Vec::new());
    let mut late: Vec<Pid> = Vec::new();
    for Traced { tid, stop, .. } in threads.traced.iter().filter(|traced| !traced.is_foreign) {
        match stop {
            Stop::Stopped { .. } => {
                let Ok(state) = thread_state(pid, *tid) else { continue };
                tids.push(*tid);
                states.push(state);
            }
            Stop::NotYet => late.push(*tid),
            Stop::Gone => {}
        }
    }
    if !late.is_empty() {
        warnings.push(not_stopped(&late));
    }
    let first = tids.iter().position(|tid| *tid == pid).unwrap_or(0);
    let (Some(tid), Some(main)) = (tids.get(first).copied(), states.get(first)) else {
        return Err(DumpError::Ended(pid));
    };
    let abi = CoreAbi::of_registers(main.registers.len()).ok_or(DumpError::Unknown(pid))?;
    if first > 0 {
        let main = states.remove(first);
        states.insert(0, main);
    }
    let before = states.len();
    states.retain(|state| CoreAbi::of_registers(state.registers.len()) == Some(abi));
    if states.len() < before {
        warnings.push(format!(
            "threads of another kind than the main thread: {}: their registers are missing",
            before - states.len()
        ));
    }
    let of_tid = |name: &str| format!("/proc/{pid}/task/{tid}/{name}");
    let smaps = read_bounded(&of_tid("smaps")).map_err(failed("smaps"))?;
    let filter = fs::read_to_string(format!("/proc/{pid}/coredump_filter")).ok();
    let filter = filter.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(DEFAULT_FILTER);
    let mappings = mappings::parse(&from_bytes(&smaps), filter);
    let image = StoppedImage {
        abi,
        threads: states,
        process: process_state(pid, tid).map_err(failed("status"))?,
        siginfo: ptrace::siginfo(tid).ok(),
        auxv: fs::read(of_tid("auxv")).map_err(failed("auxv"))?,
        files: mappings.files,
        segments: mappings.segments,
    };
    let frame = image.frame().ok_or(DumpError::Unknown(pid))?;
    // Last of all: from here on this thread is in the process' own UTS namespace, and only its host name is asked for there.
    let hostname = hostname_of(pid);
    // Everything was opened by number, which cannot have been reused if the process still lives.
    if !pidfd::is_alive(pidfd.as_fd()) {
        return Err(DumpError::Ended(pid));
    }
    Ok(Stopped { since, tid, image: (frame, image), hostname, is_partial: !late.is_empty(), warnings })
}

/// Reads a file of `/proc` whose length the process determines.
fn read_bounded(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_SMAPS + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SMAPS { Err(io::Error::other("it has too many mappings")) } else { Ok(bytes) }
}

fn not_stopped(late: &[Pid]) -> String {
    let named: Vec<String> = late.iter().take(MAX_NAMED).map(Pid::to_string).collect();
    let more = if late.len() > MAX_NAMED { ", ..." } else { "" };
    format!(
        "threads that did not stop within {} s: {}{more} (they wait in the kernel and cannot be interrupted): their registers are missing",
        STOP_LIMIT.as_secs(),
        named.join(", ")
    )
}

fn thread_state(pid: Pid, tid: Pid) -> io::Result<ThreadState> {
    let status = Status::read(pid, Some(tid))?;
    let registers = ptrace::register_set(tid, NT_PRSTATUS)?;
    let sets = SETS.iter().filter_map(|(owner, kind)| {
        let bytes = ptrace::register_set(tid, *kind).ok().filter(|bytes| !bytes.is_empty())?;
        Some(RegisterNote { owner, kind: *kind, bytes })
    });
    Ok(ThreadState {
        tid: status.id_inside("NSpid").unwrap_or(tid.as_raw().cast_unsigned()),
        pending: status.signals("SigPnd") | status.signals("ShdPnd"),
        blocked: status.signals("SigBlk"),
        registers,
        others: sets.collect(),
    })
}

fn process_state(pid: Pid, tid: Pid) -> io::Result<ProcessState> {
    let status = Status::read(pid, Some(tid))?;
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    let first = |name: &str| status.field(name).and_then(|ids| ids.split_ascii_whitespace().next()?.parse().ok());
    let [process, group, session] = ["NStgid", "NSpgid", "NSsid"].map(|name| status.id_inside(name).unwrap_or(0));
    let parent = status.pid("PPid").map_or(0, |pid| pid.as_raw().cast_unsigned());
    // The name may contain anything, so it ends at the last parenthesis (proc_pid_stat(5)); fields are counted from 3 on.
    let text = String::from_utf8_lossy(&stat);
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
    let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    Ok(ProcessState {
        state: fields.first().and_then(|state| state.bytes().next()).unwrap_or(b'R'),
        nice: fields.get(16).and_then(|nice| nice.parse().ok()).unwrap_or(0),
        flags: fields.get(6).and_then(|flags| flags.parse().ok()).unwrap_or(0),
        ids: [first("Uid").unwrap_or(0), first("Gid").unwrap_or(0)],
        pids: [process, parent, group, session],
        comm: comm.strip_suffix(b"\n").unwrap_or(&comm).to_vec(),
        arguments: arguments_of(pid),
    })
}

/// The arguments. Empty if they do not come in time.
fn arguments_of(pid: Pid) -> Vec<u8> {
    let (sender, receiver) = channel();
    let read = move || drop(sender.send(fs::read(format!("/proc/{pid}/cmdline"))));
    let started = thread::Builder::new().name("arguments".to_owned()).spawn(read);
    let read = started.ok().and_then(|_| receiver.recv_timeout(ARGUMENTS_LIMIT).ok());
    read.and_then(Result::ok).unwrap_or_default()
}

/// The host name of the process' UTS namespace, which this thread is in afterwards.
fn hostname_of(pid: Pid) -> Vec<u8> {
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/uts")).ok();
    if of(&pid.to_string()) != of("self") {
        let entered = File::open(format!("/proc/{pid}/ns/uts"))
            .and_then(|namespace| Ok(setns(namespace, CloneFlags::CLONE_NEWUTS)?));
        if entered.is_err() {
            return Vec::new();
        }
    }
    gethostname().map(OsStringExt::into_vec).unwrap_or_default()
}
