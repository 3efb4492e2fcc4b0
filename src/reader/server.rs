//! A reader process, and the process that forks readers.

use super::answer_requests::AnswerRequests;
use super::channel::{Channel, Outgoing, Received};
use super::memory_server::MemoryServer;
use super::module_server::ModuleServer;
use super::protocol::{Answer, Purpose, Request};
use crate::capture::kernel_internal;
use crate::confine::{Missing, ReaderLimits, confine_reader, prepared_filters};
use crate::unwind::prepare_disassembler;
use coreward_sys::{fdpass, fork, pidfd};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getpid, getppid};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The exit status of a reader that lost its daemon, as every reader does in the end.
const ENDED: u8 = 0;
const FAILED: u8 = 1;

/// Headers of 64 MiB and what is made of them, maps of 16 MiB, and a stack and a buffer for each connection. Of each connection a reader
/// has two descriptors. A crash takes some milliseconds of processor time, and a core of 100 GiB a minute.
const LIMITS: ReaderLimits = ReaderLimits { memory: 1 << 30, descriptors: 128, cpu: Duration::from_secs(900) };

/// Forks a reader for every socket that arrives. It has no threads, and never has more memory than at its start.
pub(super) fn fork_readers(requests: &OwnedFd, daemon: Pid) -> u8 {
    if inherit_nothing(daemon).is_err() {
        return FAILED;
    }
    // Each reader tries for itself, and says what is missing.
    let _ = prepared_filters();
    // Readers inherit what they could not find out.
    let _ = kernel_internal();
    prepare_disassembler();
    let maker = getpid();
    loop {
        let mut byte = [0];
        match fdpass::recv_with_fds(requests.as_fd(), &mut byte) {
            // The daemon has ended.
            Ok((0, _)) => return ENDED,
            Ok((_, fds)) => {
                let purpose = Purpose::from_byte(byte[0]);
                for socket in fds {
                    // The daemon sees that the socket was closed, and does without a reader.
                    let _ = fork::spawn_apart(socket, move |socket| read_for_daemon(socket, purpose, maker));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return FAILED,
        }
    }
}

/// The daemon's signals are not for it, nor is its log, and its children need no parent.
fn inherit_nothing(daemon: Pid) -> io::Result<()> {
    end_with(daemon)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    // Where memory runs out, a reader goes before the daemon. Only less than before would need a privilege (proc_pid_oom_score_adj(5)).
    let _ = std::fs::write("/proc/self/oom_score_adj", "900");
    // systemd sends SIGTERM to all processes of a unit. The daemon ends in its own time, and needs readers until then.
    let ignored: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ignored), None)?;
    fork::forget_children()
}

/// Ends this process when its parent ends, or has ended by now.
fn end_with(parent: Pid) -> io::Result<()> {
    set_pdeathsig(Some(Signal::SIGKILL))?;
    if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

/// A reader: answers the daemon until it closes the socket.
fn read_for_daemon(socket: OwnedFd, purpose: Purpose, maker: Pid) -> u8 {
    let read = || {
        end_with(maker)?;
        let mut channel = Channel::new(UnixStream::from(socket));
        // The daemon is no parent of this process, and can only kill it through this.
        let own = pidfd::open(std::process::id().cast_signed())?;
        let be_ready = |channel: &Channel, own: OwnedFd, missing| {
            channel.send_one(&Answer::Ready { missing }, &[], &[own.as_fd()])
        };
        match purpose {
            Purpose::Processes => {
                let missing = confine_reader(&LIMITS)?.iter().map(Missing::to_string).collect();
                be_ready(&channel, own, missing)?;
                serve(channel, MemoryServer::default())
            }
            Purpose::Modules => {
                be_ready(&channel, own, Vec::new())?;
                let modules = ModuleServer::open(channel.receive(None)?)?;
                confine_reader(&LIMITS)?;
                serve(channel, modules)
            }
            Purpose::SavedCore => {
                // First of all, so that it can be killed. What the kernel lacks, the other readers say.
                be_ready(&channel, own, Vec::new())?;
                let memory = MemoryServer::open_saved(channel.receive(None)?)?;
                confine_reader(&LIMITS)?;
                serve(channel, memory)
            }
        }
    };
    match read() {
        Ok(()) => ENDED,
        Err(_) => FAILED,
    }
}

impl AnswerRequests for MemoryServer {
    fn answer_request(&mut self, received: Received<Request>) -> io::Result<Option<Answer>> {
        self.answer(received)
    }
}

/// Answers requests until the other side closes the connection.
///
/// # Errors
/// The connection broke.
pub(super) fn serve(mut channel: Channel, mut server: impl AnswerRequests) -> io::Result<()> {
    let mut answers = Vec::new();
    loop {
        let received = match channel.receive::<Request>(None) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            received => received?,
        };
        answers.extend(server.answer_request(received)?);
        // To requests that came together the answers go together, and wake the daemon once.
        if !channel.has_message() {
            let mut outgoing = Outgoing::default();
            for answer in &answers {
                outgoing.add(answer, &[], &[])?;
            }
            channel.send(&outgoing)?;
            answers.clear();
        }
    }
}
