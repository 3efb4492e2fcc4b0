//! Why a process is not dumped. A message says what to do where something can be done.

use coreward_shim::DumpNotRecorded;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Why a process is not dumped.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DumpError {
    #[error(
        "only root may stop and dump a process (sudo coreward dump {0}); `coreward export {0}` writes the core of a crash"
    )]
    NotRoot(Pid),
    #[error(
        "--reason and --json are for a living process: give its PID (coreward dump $(pgrep -o NAME)); `coreward export MATCH` writes the core of a crash"
    )]
    NoPid,
    #[error("no process {0}; `coreward export {0}` writes the core of a crash")]
    NoProcess(Pid),
    #[error("{thread} is a thread of process {process}: coreward dump {process}")]
    Thread { thread: Pid, process: Pid },
    #[error("process {0} has ended, and its parent has not waited for it: it has no memory any more")]
    Zombie(Pid),
    #[error("process {0} is a thread of the kernel: it has no memory of its own")]
    KernelThread(Pid),
    #[error("process {0} is being dumped: it has crashed, and `coreward list` will show it")]
    Crashing(Pid),
    #[error(
        "process 1 is not dumped: while it is stopped no service is started and no watchdog is answered; gcore(1) does it at your own risk"
    )]
    Init,
    #[error("process {0} is this command")]
    Own(Pid),
    #[error(
        "process {0} belongs to Coreward's daemon, which cannot store its own core while it is stopped: use gcore(1)"
    )]
    Daemon(Pid),
    #[error(
        "process {pid} is being traced by process {tracer} ({comm}), and can have one tracer only: end that one, or let it write the core (gdb: generate-core-file)"
    )]
    Traced { pid: Pid, tracer: Pid, comm: String },
    #[error(
        "process {pid} may not be stopped: {errno} (kernel.yama.ptrace_scope=3, a security module, or a lack of CAP_SYS_PTRACE)"
    )]
    NotAllowed { pid: Pid, errno: Errno },
    #[error("process {0} ended or executed another program when it was to be stopped")]
    Ended(Pid),
    #[error("no thread of process {pid} stopped within {} s: all wait in the kernel and cannot be interrupted (state D in ps(1)); /proc/{pid}/stack says where", limit.as_secs())]
    NotStopped { pid: Pid, limit: Duration },
    #[error("process {pid} could not be read within {} s", limit.as_secs())]
    Blocked { pid: Pid, limit: Duration },
    #[error("{what} of process {pid}: {error}")]
    Read { pid: Pid, what: &'static str, error: io::Error },
    #[error(
        "process {0} has registers of a kind that is not known here, or more memory than a core of its kind can have"
    )]
    Unknown(Pid),
    #[error("no daemon at {socket}: {error}; `systemctl status coreward.socket` tells more", socket = socket.display())]
    NoDaemon { socket: PathBuf, error: io::Error },
    #[error("a pipe for the core: {0}")]
    Pipe(io::Error),
    #[error("the dump of process {pid} is recorded without a core: {why} (coreward info {id}); the process goes on")]
    NoCore { pid: Pid, why: String, id: String },
    #[error("process {0} was not dumped, and goes on: {1}; `systemctl status coreward.service` tells more")]
    NotRecorded(Pid, DumpNotRecorded),
}
