//! Soft errors: information about a crash that could not be obtained, or steps that failed. The record lists them.

use super::Cuts;
use nix::errno::Errno;
use nix::unistd::Uid;
use std::fmt;

/// A soft error. It is formatted when the record is finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Reported by the shim, or by an earlier daemon, as text.
    Reported(String),
    /// Reading the memory of the process, or a file of `/proc` that depends on it, timed out, as it does if a dead mount backs a
    /// mapping.
    MemoryTimedOut,
    /// The crashed thread's stack could not be unwound in time.
    StackTimedOut,
    /// The other threads' stacks could not be unwound in time.
    OtherThreadsTimedOut,
    /// The names of functions could not be looked up in time.
    NamesTimedOut,
    /// The stack of the interpreted program could not be read in time.
    InterpreterTimedOut,
    /// The variables of `Environment=` could not be read in time.
    EnvironmentTimedOut,
    /// Some of the other threads' stacks are missing.
    OtherThreadsOmitted {
        /// Number of missing stacks.
        omitted: usize,
        /// Number of other threads.
        total: usize,
    },
    /// The shim did not open the executable, whose build ID memory does not have.
    ExecutableNotOpened(Errno),
    /// The process sent the signal to itself, and this many of its threads were not searched for the one that failed.
    ThreadsNotSearched(usize),
    /// The core's headers are too long to be read, so its other threads are not known.
    HeadersTooLong,
    /// The registers of this kind of processor (`e_machine`, elf(5)) are not known, so there is no stack.
    UnknownMachine(u16),
    /// Pages of the core are zeros, because the kernel refused to read them though they are there.
    PagesRefused,
    /// Pages of mapped files are zeros in the core: they are on a file system that may never answer.
    PagesNotRead,
    /// Bytes in the middle of a long command line are left out.
    ArgumentsOmitted(u64),
    /// The record was too long.
    RecordCut(Cuts),
    /// No core was stored, for this reason.
    CoreNotStored(String),
    /// The crash's user was not given access to the core.
    AccessNotGranted {
        /// The user.
        uid: Uid,
        /// The error of fsetxattr(2).
        cause: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reported(text) => f.write_str(text),
            Self::MemoryTimedOut => f.write_str("reading the memory of the process timed out"),
            Self::StackTimedOut => f.write_str("unwinding the stack timed out"),
            Self::OtherThreadsTimedOut => f.write_str("unwinding the stacks of the other threads timed out"),
            Self::NamesTimedOut => f.write_str("looking up the names of functions timed out"),
            Self::InterpreterTimedOut => f.write_str("reading the stack of the interpreted program timed out"),
            Self::EnvironmentTimedOut => f.write_str("reading the environment of the process timed out"),
            Self::OtherThreadsOmitted { omitted, total } => {
                write!(
                    f,
                    "the stacks of {omitted} of {total} other threads are missing: the limits on time or size were reached"
                )
            }
            Self::ExecutableNotOpened(Errno::EREMOTE) => f.write_str(
                "the build ID is unknown: the executable is on FUSE, a network file system or an unknown mount, which may not answer",
            ),
            Self::ExecutableNotOpened(errno) => write!(f, "the build ID is unknown: cannot open the executable: {errno}"),
            Self::ThreadsNotSearched(threads) => write!(
                f,
                "{threads} threads were not searched for the one that failed: the limit on time was reached"
            ),
            Self::HeadersTooLong => f.write_str(
                "the process has so many threads or mappings that only the stack of the crashed thread is in the record",
            ),
            Self::UnknownMachine(machine) => {
                write!(f, "there is no stack: Coreward does not unwind programs of this machine (ELF machine {machine})")
            }
            Self::PagesRefused => f.write_str(
                "some pages are zeros in the core: the kernel refused to read them (proc_mem.force_override=, or damaged memory)",
            ),
            Self::PagesNotRead => f.write_str(
                "some pages of mapped files are zeros in the core: their file system may never answer (FUSE, network)",
            ),
            Self::ArgumentsOmitted(bytes) => {
                write!(f, "the command line is long: {bytes} bytes in the middle of it are left out of the record")
            }
            Self::RecordCut(cuts) => cuts.fmt(f),
            Self::CoreNotStored(cause) => f.write_str(cause),
            Self::AccessNotGranted { uid, cause } => write!(f, "uid {uid} was not given access: {cause}"),
        }
    }
}
