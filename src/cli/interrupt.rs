//! Ctrl-C and its kin, without signal handlers: the signals are blocked, and looked for where it suits (signalfd(2)).

use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::process::ExitCode;

const ENDS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// From here on, what would end the program waits to be asked for, so that half a file can be removed first.
#[derive(Debug)]
pub(super) struct Interrupts(SignalFd);

impl Interrupts {
    /// Blocks the signals. Before any thread is started: they would arrive there.
    pub(super) fn watch() -> io::Result<Self> {
        let ends = SigSet::from_iter(ENDS);
        ends.thread_block()?;
        Ok(Self(SignalFd::with_flags(&ends, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// The signal that has arrived, if any.
    pub(super) fn arrived(&self) -> Option<Signal> {
        let info = self.0.read_signal().ok()??;
        Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
    }
}

/// Ends the program as the signal would have ended it: the shell that started it then stops its loop.
pub(super) fn die_of(signal: Signal) -> ExitCode {
    let _ = SigSet::from(signal).thread_unblock();
    let _ = raise(signal);
    ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(1))
}
