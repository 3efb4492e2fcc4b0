//! What the shim could not do for a crash. Warnings are rendered as text when they are logged or sent; the crash is offered in
//! any case.

use coreward_wire::paths::SPECIFIERS;
use nix::errno::Errno;
use std::fmt;
use std::io;

/// Longest part of an argument that a warning shows, in bytes.
const MAX_SHOWN: usize = 32;

/// What failed, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ShimWarning {
    /// The kernel started the shim with another number of arguments than core_pattern should expand to.
    ArgumentCount { found: usize },
    /// An argument is not a number, or not in the range of its type.
    InvalidArgument { name: &'static str, value: Vec<u8> },
    /// Something of the process could not be opened.
    Open { what: &'static str, errno: Errno },
    /// A file or link in `/proc/PID` could not be read.
    Read { what: &'static str, errno: Errno },
    /// The executable is not on a mount whose files are known to be this machine's.
    ExecutableNotLocal,
    /// `/proc/PID/stat` has no comm or start time.
    MalformedStat,
    /// The process ended before its directory in `/proc` could be verified.
    ProcessEnded,
    /// The process with this PID is not, or no longer, one that is being dumped and has the ids of the one that crashed.
    PidReused,
    /// What could not be learnt of a process that was stopped to be dumped.
    Dumped(String),
}

impl fmt::Display for ShimWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ArgumentCount { found } => write!(
                f,
                "core_pattern is wrong: {found} arguments, expected {} ({SPECIFIERS}); run `coreward register` to correct it",
                SPECIFIERS.split(' ').count()
            ),
            Self::InvalidArgument { name, value } => {
                let shown = value.get(..MAX_SHOWN).unwrap_or(value);
                write!(f, "argument {name} is not a valid number: \"{}\"", shown.escape_ascii())
            }
            Self::Open { what, errno } => write!(f, "cannot open {what}: {errno}"),
            Self::Read { what, errno } => write!(f, "cannot read {what}: {errno}"),
            Self::ExecutableNotLocal => f.write_str(
                "did not open exe: it is on FUSE, a network file system or an unknown mount, which may not answer",
            ),
            Self::Dumped(what) => f.write_str(what),
            Self::MalformedStat => f.write_str("cannot parse stat: it has no comm or no start time"),
            Self::ProcessEnded => f.write_str(
                "the process ended while its core was being written: it was killed, or something interrupted the kernel",
            ),
            Self::PidReused => f.write_str(
                "the process ended while its core was being written; nothing of the process with its PID is used",
            ),
        }
    }
}

/// The errno behind an I/O error.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_names_what_failed_and_why() {
        let warning = ShimWarning::Open { what: "pagemap", errno: Errno::EACCES };
        assert_eq!(warning.to_string(), "cannot open pagemap: EACCES: Permission denied");
        let warning = ShimWarning::InvalidArgument { name: "PID", value: vec![b'\n'; 100] };
        assert_eq!(warning.to_string(), format!("argument PID is not a valid number: \"{}\"", r"\n".repeat(MAX_SHOWN)));
    }
}
