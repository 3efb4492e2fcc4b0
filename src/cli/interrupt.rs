//! Ctrl-C and its kin, without signal handlers: the signals are blocked, and looked for where it suits (signalfd(2)).

use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::io;
use std::process::{Child, ExitCode, ExitStatus};

const ENDS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// While this lives, what would end the program waits to be asked for, so that temporary files are removed first.
#[derive(Debug)]
pub(super) struct Interrupts {
    ends: SignalFd,
}

impl Interrupts {
    /// Blocks the signals. Before any thread is started: they would arrive there.
    pub(super) fn watch() -> io::Result<Self> {
        let ends = SigSet::from_iter(ENDS);
        ends.thread_block()?;
        // Blocked, even a signal that is ignored by default is kept (sig_ignored in the kernel), for `wait_for`.
        SigSet::from(Signal::SIGCHLD).thread_block()?;
        Ok(Self { ends: SignalFd::with_flags(&ends, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// The signal that has arrived, if any.
    pub(super) fn arrived(&self) -> Option<Signal> {
        let info = self.ends.read_signal().ok()??;
        Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
    }

    /// Waits for a child that owns the terminal: Ctrl-C is for it, and it has got it already. Who ends this program means
    /// the child as well. The child itself starts with no signal blocked (std's Command sees to it).
    pub(super) fn wait_for(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let mut set = SigSet::from_iter(ENDS);
        set.add(Signal::SIGCHLD);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            match set.wait()? {
                signal @ (Signal::SIGTERM | Signal::SIGHUP) => {
                    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
                    // It may have ended by itself in this moment.
                    let _ = kill(pid, signal);
                }
                _ => {}
            }
        }
    }
}

/// Ends the program as the signal would have ended it: the shell that started it then stops its loop.
pub(super) fn die_of(signal: Signal) -> ExitCode {
    let _ = SigSet::from(signal).thread_unblock();
    let _ = raise(signal);
    ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(1))
}
