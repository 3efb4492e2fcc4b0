//! A reader, seen from the daemon.

use super::channel::{Channel, MAX_REQUEST_FDS, Outgoing, Received};
use super::facts::RawFacts;
use super::names::{ModuleFrames, Names};
use super::protocol::{Answer, ProcessFile, Request};
use super::saved_core::SavedCoreFile;
use super::stack::{CrashedStack, OtherThreads, SignatureContext};
use crate::capture::{CapturePlan, Headers, StagingFiles};
use crate::crash::InterpreterStack;
use crate::elf::CoreLayout;
use coreward_sys::{pidfd, sparse_io};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

/// How long a new reader may take to say that it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(2);
/// How long planning a capture may take. A million mappings take some hundred milliseconds.
const PLAN_TIMEOUT: Duration = Duration::from_secs(5);

static LOG_MISSING: Once = Once::new();

/// What a reader gets of a crashed process. Files that the shim could not open are missing.
#[derive(Debug, Default)]
pub struct ProcessFiles {
    /// `/proc/PID/mem`.
    pub mem: Option<File>,
    /// `/proc/PID/pagemap`.
    pub pagemap: Option<File>,
    /// `/proc/PID/maps`.
    pub maps: Option<File>,
    /// `/proc/PID/cmdline`.
    pub cmdline: Option<File>,
    /// `/proc/PID/auxv`.
    pub auxv: Option<File>,
    /// Where its arguments are in memory.
    pub arguments: Range<u64>,
    /// `/proc/PID/mountinfo`.
    pub mountinfo: Option<File>,
    /// That of the host, where the process has another root directory.
    pub host_mountinfo: Option<File>,
    /// Whether mounts that the process sees may be those of a user namespace.
    pub in_user_namespace: bool,
}

impl ProcessFiles {
    /// Adds the request that has a reader read this process from now on.
    fn add_to<'a>(&'a self, outgoing: &mut Outgoing<'a>) -> io::Result<()> {
        let Self { mem, pagemap, maps, cmdline, auxv, arguments, mountinfo, host_mountinfo, in_user_namespace } = self;
        let all = [
            (ProcessFile::Mem, mem),
            (ProcessFile::Pagemap, pagemap),
            (ProcessFile::Maps, maps),
            (ProcessFile::Cmdline, cmdline),
            (ProcessFile::Auxv, auxv),
            (ProcessFile::Mountinfo, mountinfo),
            (ProcessFile::HostMountinfo, host_mountinfo),
        ];
        let present = all.iter().filter_map(|(kind, file)| Some((*kind, file.as_ref()?.as_fd())));
        let (files, fds): (Vec<ProcessFile>, Vec<BorrowedFd<'_>>) = present.unzip();
        let (arguments, in_user_namespace) = (arguments.clone(), *in_user_namespace);
        outgoing.add(&Request::Open { files, arguments, in_user_namespace }, &[], &fds)
    }
}

/// A process that reads one crashed process at a time. It is killed when this is dropped.
#[derive(Debug)]
pub struct Reader {
    channel: Channel,
    pidfd: Arc<OwnedFd>,
    /// It has files of a crashed process.
    is_open: bool,
    has_headers: bool,
    /// Crashes that it has read.
    crashes: u32,
}

impl Reader {
    /// The most files that a reader gets at once.
    pub const MAX_FILES: usize = MAX_REQUEST_FDS;

    /// The reader at the other end.
    ///
    /// # Errors
    /// It does not start.
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        let mut channel = Channel::for_daemon(socket)?;
        let Received { message, fds, .. } = channel.receive::<Answer>(Some(Instant::now() + START_TIMEOUT))?;
        match (message, fds.into_iter().next()) {
            (Answer::Ready { missing }, Some(pidfd)) => {
                if !missing.is_empty() {
                    // All readers lack the same.
                    LOG_MISSING.call_once(|| tracing::warn!("readers of crashed memory: {}", missing.join("; ")));
                }
                Ok(Self { channel, pidfd: Arc::new(pidfd), is_open: false, has_headers: false, crashes: 0 })
            }
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }

    /// The process, to see whether it has ended.
    #[must_use]
    pub fn pidfd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.pidfd)
    }

    /// Has it read the process that these files are of.
    ///
    /// # Errors
    /// The reader has ended.
    pub fn open(&mut self, files: &ProcessFiles) -> io::Result<()> {
        let mut outgoing = Outgoing::default();
        self.add_open(&mut outgoing, files)?;
        self.channel.send(&outgoing)
    }

    /// Adds the request to read another process.
    fn add_open<'a>(&mut self, outgoing: &mut Outgoing<'a>, files: &'a ProcessFiles) -> io::Result<()> {
        (self.is_open, self.has_headers) = (true, false);
        self.crashes += 1;
        files.add_to(outgoing)
    }

    /// Has it read a saved core. It must have been made for that, and confines itself then.
    ///
    /// # Errors
    /// The reader has ended.
    pub(super) fn open_saved(&self, saved: &SavedCoreFile) -> io::Result<()> {
        let SavedCoreFile { file, at, first_pages } = saved;
        let request = Request::OpenSaved { at: *at, first_pages: first_pages.clone() };
        self.channel.send_one(&request, &[], &[file.as_fd()])
    }

    /// Reads what only the process itself tells, and, if its core's headers are there, unwinds the crashed thread. `files` are those
    /// of a process that it has not opened. All is asked at once, and the answers come at once: in a storm it counts how often each
    /// side wakes up.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub async fn inspect(
        &mut self,
        files: Option<&ProcessFiles>,
        headers: Option<&Headers>,
        context: &SignatureContext,
        deadline: Instant,
    ) -> io::Result<(RawFacts, Option<CrashedStack>)> {
        let mut outgoing = Outgoing::default();
        if let Some(files) = files {
            self.add_open(&mut outgoing, files)?;
        }
        outgoing.add(&Request::Facts, &[], &[])?;
        if let Some(headers) = headers {
            outgoing.add(&Request::Headers, headers, &[])?;
            outgoing.add(&Request::Stack(context.clone()), &[], &[])?;
        }
        self.has_headers = headers.is_some();
        let answers = if headers.is_some() { 2 } else { 1 };
        let mut answers = self.channel.exchange(&outgoing, answers, deadline).await?.into_iter();
        let Some(Received { message: Answer::Facts { arguments, exe_build_id }, .. }) = answers.next() else {
            return Err(Answer::mismatch());
        };
        let stack = answers.next().map_or(Ok(None), |answer| answer.message.into_stack())?;
        Ok((RawFacts { arguments, exe_build_id }, stack))
    }

    /// Unwinds the crashed thread.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn stack(
        &mut self,
        headers: &Headers,
        context: &SignatureContext,
        deadline: Instant,
    ) -> io::Result<Option<CrashedStack>> {
        self.send_headers(headers)?;
        self.ask(&Request::Stack(context.clone()), &[], deadline, Answer::into_stack)
    }

    /// Unwinds the threads other than the one with the id `failed`, which is the one that was dumped unless it is said. `recorded` are the first addresses of the record's modules.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn other_threads(
        &mut self,
        headers: &Headers,
        failed: Option<u32>,
        recorded: Vec<u64>,
        deadline: Instant,
    ) -> io::Result<Option<OtherThreads>> {
        self.send_headers(headers)?;
        self.ask(&Request::OtherThreads { failed, recorded }, &[], deadline, Answer::into_other_threads)
    }

    /// Looks up the names of functions that memory has. That of a saved core needs its headers.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn memory_names(
        &mut self,
        headers: Option<&Headers>,
        modules: Vec<ModuleFrames>,
        deadline: Instant,
    ) -> io::Result<Names> {
        if let Some(headers) = headers {
            self.send_headers(headers)?;
        }
        self.ask(&Request::MemoryNames(modules), &[], deadline, Answer::into_names)
    }

    /// Looks up the names of functions that the files of the modules have: at most [`Self::MAX_FILES`], in their order. A reader of a saved core
    /// has them already.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn file_names(
        &mut self,
        modules: Vec<ModuleFrames>,
        files: &[OwnedFd],
        deadline: Instant,
    ) -> io::Result<Names> {
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        self.ask(&Request::FileNames(modules), &fds, deadline, Answer::into_names)
    }

    /// The lines of `/proc/PID/maps` of the mappings that have these addresses, in their order. `None` where there is none.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn mappings(&mut self, addresses: Vec<u64>, deadline: Instant) -> io::Result<Vec<Option<String>>> {
        /// A path has at most a page.
        const MAX_LINE: usize = 8192;
        let expected = addresses.len();
        self.ask(&Request::Mappings(addresses), &[], deadline, |answer| match answer {
            Answer::Mappings(lines)
                if lines.len() == expected && lines.iter().flatten().all(|line| line.len() <= MAX_LINE) =>
            {
                Ok(lines)
            }
            _ => Err(Answer::mismatch()),
        })
    }

    /// Looks up the names of functions that were compiled at run time, in the perf map that the process wrote: those at these addresses, in
    /// their order.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn perf_map_names(&mut self, addresses: Vec<u64>, map: &OwnedFd, deadline: Instant) -> io::Result<Names> {
        self.ask(&Request::PerfMap(addresses), &[map.as_fd()], deadline, Answer::into_names)
    }

    /// Copies the first bytes of a file that the process wrote, at most `limit`, to a file in memory. `None`: it cannot be read.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn copy_beginning(&mut self, from: &OwnedFd, limit: u64, deadline: Instant) -> io::Result<Option<File>> {
        let to = sparse_io::create_memfd("coreward-file")?;
        let fds = [from.as_fd(), to.as_fd()];
        let copied = self.ask(&Request::CopyBeginning { limit }, &fds, deadline, |answer| match answer {
            Answer::Copied(copied) => Ok(copied),
            _ => Err(Answer::mismatch()),
        })?;
        Ok(copied.map(|_| to))
    }

    /// Reads the stack of an interpreted program, of the thread with the id `failed`, which is the one that was dumped unless it is said. `code` are
    /// addresses in the functions of that thread's native frames.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn interpreter(
        &mut self,
        headers: &Headers,
        failed: Option<u32>,
        code: Vec<u64>,
        deadline: Instant,
    ) -> io::Result<Option<InterpreterStack>> {
        self.send_headers(headers)?;
        self.ask(&Request::Interpreter { failed, code }, &[], deadline, Answer::into_interpreter)
    }

    /// Reads the build-id in the file of the executable.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn build_id(&mut self, executable: &OwnedFd, deadline: Instant) -> io::Result<Option<String>> {
        self.ask(&Request::BuildId, &[executable.as_fd()], deadline, |answer| match answer {
            Answer::BuildId(build_id) => Ok(build_id),
            _ => Err(Answer::mismatch()),
        })
    }

    /// Reads the variables of these names from the environment: a line for each.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn environment(&mut self, names: Vec<String>, deadline: Instant) -> io::Result<String> {
        self.ask(&Request::Environment(names), &[], deadline, |answer| match answer {
            Answer::Environment(variables) => Ok(variables),
            _ => Err(Answer::mismatch()),
        })
    }

    /// Whether the kernel can dump the process without waiting for anybody who may never answer.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn answers(&mut self, deadline: Instant) -> io::Result<bool> {
        self.ask(&Request::Answers, &[], deadline, |answer| match answer {
            Answer::Answers(answers) => Ok(answers),
            _ => Err(Answer::mismatch()),
        })
    }

    /// Sends a request that has no answer.
    pub(super) fn send(&mut self, request: &Request) -> io::Result<()> {
        self.channel.send_one(request, &[], &[])
    }

    /// Sends a request, and receives what `take` finds in its answer.
    pub(super) fn ask<T>(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        deadline: Instant,
        take: impl FnOnce(Answer) -> io::Result<T>,
    ) -> io::Result<T> {
        self.channel.send_one(request, &[], fds)?;
        self.receive(deadline, take)
    }

    /// Receives what `take` finds in the next answer.
    fn receive<T>(&mut self, deadline: Instant, take: impl FnOnce(Answer) -> io::Result<T>) -> io::Result<T> {
        take(self.channel.receive(Some(deadline))?.message)
    }

    /// Whether it has read so many crashes that the kernel may soon end it for the processor time.
    pub(super) fn is_worn_out(&self) -> bool {
        const MAX_CRASHES: u32 = 10_000;
        self.crashes >= MAX_CRASHES
    }

    /// Has it forget its crash, if it has one.
    ///
    /// # Errors
    /// The reader has ended.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.has_headers = false;
        if !std::mem::take(&mut self.is_open) {
            return Ok(());
        }
        self.channel.send_one(&Request::Close, &[], &[])
    }

    /// Sends the headers, unless it has them.
    pub(super) fn send_headers(&mut self, headers: &Headers) -> io::Result<()> {
        if self.has_headers {
            return Ok(());
        }
        self.has_headers = true;
        self.channel.send_one(&Request::Headers, headers, &[])
    }

    /// Plans the capture of the core that has this layout; `holes` is the shim's list of holes.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub(super) fn plan(&mut self, layout: Arc<CoreLayout>, holes: Option<&OwnedFd>) -> io::Result<Option<CapturePlan>> {
        let holes: Vec<BorrowedFd<'_>> = holes.into_iter().map(AsFd::as_fd).collect();
        let summary = self.ask(&Request::Plan, &holes, Instant::now() + PLAN_TIMEOUT, |answer| match answer {
            Answer::Plan(summary) => Ok(summary),
            _ => Err(Answer::mismatch()),
        })?;
        Ok(summary.and_then(|summary| CapturePlan::from_summary(layout, summary)))
    }

    /// Has it read the core as planned, into these files.
    ///
    /// # Errors
    /// The reader has ended.
    pub(super) fn open_image(&self, files: &StagingFiles) -> io::Result<()> {
        let mut fds = vec![files.memory.as_fd()];
        fds.extend(files.spill.iter().flatten().map(AsFd::as_fd));
        self.channel.send_one(&Request::Image { memory_limit: files.memory_limit }, &[], &fds)
    }

    /// Another connection with the reader, for one request about its image at a time, and the file in which data arrives.
    pub(super) fn connect(&self) -> io::Result<(Channel, File)> {
        let (ours, theirs) = UnixStream::pair()?;
        let window = sparse_io::create_memfd("coreward-window")?;
        self.channel.send_one(&Request::Connect, &[], &[theirs.as_fd(), window.as_fd()])?;
        Ok((Channel::for_daemon(ours)?, window))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It may have ended, or hang and stay for as long as the memory that it reads does not answer.
        let _ = pidfd::kill(self.pidfd.as_fd());
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory_server::MemoryServer;
    use super::super::server::serve;
    use super::*;
    use std::process::{Child, Command};

    /// A reader that is a thread, and a process that is killed in its place.
    fn reader(serve: impl FnOnce(Channel) + Send + 'static) -> (Reader, Child) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = pidfd::open(child.id().cast_signed()).unwrap();
        let channel = Channel::new(theirs);
        channel.send_one(&Answer::Ready { missing: Vec::new() }, &[], &[pidfd.as_fd()]).unwrap();
        std::thread::spawn(move || serve(channel));
        (Reader::new(ours).unwrap(), child)
    }

    fn context() -> SignatureContext {
        SignatureContext { signal: Some(11), build_id: None, program: "test".to_owned() }
    }

    #[tokio::test]
    async fn a_reader_tells_the_facts_of_the_process_that_it_was_given() {
        let (mut reader, mut child) = reader(|channel| serve(channel, MemoryServer::default()).unwrap());
        let open = |name: &str| File::open(format!("/proc/self/{name}")).ok();
        let files = ProcessFiles {
            mem: open("mem"),
            pagemap: open("pagemap"),
            maps: open("maps"),
            cmdline: open("cmdline"),
            auxv: open("auxv"),
            ..ProcessFiles::default()
        };
        let soon = Instant::now() + Duration::from_secs(5);
        let (facts, stack) = reader.inspect(Some(&files), None, &context(), soon).await.unwrap();
        assert!(stack.is_none());
        assert_eq!(facts.arguments.first, std::env::args().collect::<Vec<_>>());
        assert!(facts.exe_build_id.is_some());
        reader.close().unwrap();
        let (facts, _) = reader.inspect(None, None, &context(), soon).await.unwrap();
        assert_eq!((facts.arguments.is_empty(), facts.exe_build_id), (true, None), "it has forgotten the process");
        drop(reader);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    }

    #[tokio::test]
    async fn a_reader_that_is_late_is_an_error_at_the_deadline() {
        let (mut reader, mut child) = reader(|_channel| std::thread::sleep(Duration::from_secs(1)));
        let begun = Instant::now();
        let late = reader.inspect(None, None, &context(), begun + Duration::from_millis(50)).await;
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_millis(900));
        drop(reader);
        child.wait().unwrap();
    }
}
