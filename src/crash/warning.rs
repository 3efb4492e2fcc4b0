//! What could not be learnt of a crash, or not be done for it: soft errors that the record lists.

use nix::unistd::Uid;
use std::fmt;
use std::io;

/// One soft error. It becomes text when the record is finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Reported by the shim, which sends text.
    Shim(String),
    /// The process' memory, or a file of `/proc` that reads it, did not answer in time: a dead mount backs it.
    MemoryTimedOut,
    /// The crashed thread's stack could not be unwound in time.
    StackTimedOut,
    /// The other threads' stacks could not be unwound in time.
    OtherThreadsTimedOut,
    /// Some of the other threads' stacks are missing.
    OtherThreadsOmitted {
        /// How many are missing.
        omitted: usize,
        /// How many other threads there were.
        total: usize,
    },
    /// No core was stored.
    CoreNotStored(Cause),
    /// The crash's user was not given access to the core.
    AccessNotGranted {
        /// The user.
        uid: Uid,
        /// What fsetxattr(2) returned.
        cause: Cause,
    },
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The error in words.
    pub message: String,
    /// The system call's errno, where there was one.
    pub errno: Option<i32>,
}

impl From<&io::Error> for Cause {
    fn from(error: &io::Error) -> Self {
        Self { message: error.to_string(), errno: error.raw_os_error() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shim(text) => f.write_str(text),
            Self::MemoryTimedOut => f.write_str("the process' memory did not answer in time"),
            Self::StackTimedOut => f.write_str("the stack could not be unwound in time"),
            Self::OtherThreadsTimedOut => f.write_str("the stacks of the other threads could not be unwound in time"),
            Self::OtherThreadsOmitted { omitted, total } => {
                write!(f, "the stacks of {omitted} of {total} other threads did not fit into time and room")
            }
            Self::CoreNotStored(cause) => f.write_str(&cause.message),
            Self::AccessNotGranted { uid, cause } => write!(f, "uid {uid} was not given access: {}", cause.message),
        }
    }
}
