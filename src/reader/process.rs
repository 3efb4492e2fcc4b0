//! A reader, seen from the daemon.

use super::channel::{Channel, Outgoing, Received};
use super::facts::RawFacts;
use super::protocol::{Answer, ProcessFile, Request};
use super::stack::{CrashedStack, OtherThreads, SignatureContext};
use crate::capture::{CapturePlan, Headers, StagingFiles, TrustedFileSystems};
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

/// Open files of a crashed process. What the shim could not open is missing.
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
}

/// A process that reads one crashed process at a time. It is killed when this is dropped.
#[derive(Debug)]
pub struct Reader {
    channel: Channel,
    pidfd: Arc<OwnedFd>,
    has_headers: bool,
}

impl Reader {
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
                Ok(Self { channel, pidfd: Arc::new(pidfd), has_headers: false })
            }
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }

    /// The process, to see whether it has ended.
    #[must_use]
    pub fn pidfd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.pidfd)
    }

    /// Has it read the process that these files are of. Its arguments are at `arguments`.
    ///
    /// # Errors
    /// The reader has ended.
    pub fn open(&mut self, files: &ProcessFiles, arguments: Range<u64>, trusted: TrustedFileSystems) -> io::Result<()> {
        let ProcessFiles { mem, pagemap, maps, cmdline, auxv } = files;
        let all = [
            (ProcessFile::Mem, mem),
            (ProcessFile::Pagemap, pagemap),
            (ProcessFile::Maps, maps),
            (ProcessFile::Cmdline, cmdline),
            (ProcessFile::Auxv, auxv),
        ];
        let present = all.iter().filter_map(|(kind, file)| Some((*kind, file.as_ref()?.as_fd())));
        let (files, fds): (Vec<ProcessFile>, Vec<BorrowedFd<'_>>) = present.unzip();
        self.has_headers = false;
        self.channel.send_one(&Request::Open { files, arguments, trusted }, &[], &fds)
    }

    /// Reads what only the process itself tells, and, if its core's headers are there, unwinds the crashed thread.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn inspect(
        &mut self,
        headers: Option<&Headers>,
        context: &SignatureContext,
        deadline: Instant,
    ) -> io::Result<(RawFacts, Option<CrashedStack>)> {
        let mut outgoing = Outgoing::default();
        outgoing.add(&Request::Facts, &[], &[])?;
        if let Some(headers) = headers {
            self.has_headers = true;
            outgoing.add(&Request::Headers, headers, &[])?;
            outgoing.add(&Request::Stack(context.clone()), &[], &[])?;
        }
        self.channel.send(&outgoing)?;
        let Received { message, bytes, .. } = self.channel.receive(Some(deadline))?;
        let Answer::Facts { arguments, exe_build_id } = message else { return Err(Answer::mismatch()) };
        let facts = RawFacts { arguments, auxv: bytes, exe_build_id };
        let stack = if headers.is_some() { self.receive(deadline, Answer::into_stack)? } else { None };
        Ok((facts, stack))
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

    /// Unwinds the threads that did not crash. `recorded` are the first addresses of the record's modules.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn other_threads(
        &mut self,
        headers: &Headers,
        recorded: Vec<u64>,
        deadline: Instant,
    ) -> io::Result<Option<OtherThreads>> {
        self.send_headers(headers)?;
        self.ask(&Request::OtherThreads(recorded), &[], deadline, |answer| match answer {
            Answer::OtherThreads(threads) => Ok(threads),
            _ => Err(Answer::mismatch()),
        })
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

    /// Sends a request, and receives what `take` finds in its answer.
    fn ask<T>(
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

    /// Has it forget its crash.
    ///
    /// # Errors
    /// The reader has ended.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.has_headers = false;
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

    /// Plans the capture of the core that has this layout.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub(super) fn plan(&mut self, layout: Arc<CoreLayout>) -> io::Result<Option<CapturePlan>> {
        let summary = self.ask(&Request::Plan, &[], Instant::now() + PLAN_TIMEOUT, |answer| match answer {
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

    #[test]
    fn a_reader_tells_the_facts_of_the_process_that_it_was_given() {
        let (mut reader, mut child) = reader(|channel| serve(channel).unwrap());
        let open = |name: &str| File::open(format!("/proc/self/{name}")).ok();
        let files = ProcessFiles {
            mem: open("mem"),
            pagemap: open("pagemap"),
            maps: open("maps"),
            cmdline: open("cmdline"),
            auxv: open("auxv"),
        };
        reader.open(&files, 0..0, TrustedFileSystems::default()).unwrap();
        let soon = Instant::now() + Duration::from_secs(5);
        let (facts, stack) = reader.inspect(None, &context(), soon).unwrap();
        assert!(stack.is_none());
        assert_eq!(facts.arguments.first, std::env::args().collect::<Vec<_>>());
        assert_eq!(facts.auxv, std::fs::read("/proc/self/auxv").unwrap());
        assert!(facts.exe_build_id.is_some());
        reader.close().unwrap();
        let (facts, _) = reader.inspect(None, &context(), soon).unwrap();
        assert_eq!((facts.arguments.is_empty(), facts.exe_build_id), (true, None), "it has forgotten the process");
        drop(reader);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    }

    #[test]
    fn a_reader_that_is_late_is_an_error_at_the_deadline() {
        let (mut reader, mut child) = reader(|_channel| std::thread::sleep(Duration::from_secs(1)));
        let begun = Instant::now();
        let late = reader.inspect(None, &context(), begun + Duration::from_millis(50));
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_millis(900));
        drop(reader);
        child.wait().unwrap();
    }
}
