//! Ctrl-C and other signals that end the program, without signal handlers: they are blocked and polled (signalfd(2)).

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

const TERMINATING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Blocked signals. A program that polls them can remove an incomplete file before it ends.
#[derive(Debug)]
pub(super) struct Interrupts(SignalFd);

impl Interrupts {
    /// Blocks the signals. No other thread may run yet, because it would still receive them.
    pub(super) fn block() -> io::Result<Self> {
        let signals = SigSet::from_iter(TERMINATING);
        signals.thread_block()?;
        Ok(Self(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// Whether a signal has arrived. It stays for [`Self::pending`].
    pub(super) fn is_pending(&self) -> bool {
        let ready = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO);
        ready.is_ok_and(|count| count > 0)
    }

    /// The signal that has arrived, if any.
    pub(super) fn pending(&self) -> Option<Signal> {
        let info = self.0.read_signal().ok()??;
        Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
    }
}

/// Ends the program by the signal itself, so that a shell that started it in a loop stops the loop.
pub(super) fn end_by(signal: Signal) -> ExitCode {
    let _ = SigSet::from(signal).thread_unblock();
    let _ = raise(signal);
    ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(1))
}
