//! What the kernel could not take away.

use nix::errno::Errno;
use thiserror::Error;

/// A part of the confinement that the running kernel lacks. The process works without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Missing {
    /// The kernel refused the filter.
    #[error("system calls are not restricted: {0}")]
    SystemCalls(Errno),
    /// Linux 5.13 without Landlock among its security modules, or older.
    #[error("files are not out of reach: the kernel has no Landlock")]
    Files,
    /// Linux before 6.7.
    #[error("TCP is not out of reach: the kernel's Landlock is too old")]
    Network,
    /// Linux before 6.12.
    #[error("signals and abstract sockets are not out of reach: the kernel's Landlock is too old")]
    Signals,
}
