//! A fault that a handler of the process' own dealt with, before the process ended.

use super::text::printable;
use super::{Frame, ThreadStacks, signal};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The fault of a thread that was in a handler of it when the process ended. The signal of the record may be another one, and the thread that got it as
/// well: handlers call abort(3), or send the signal again with kill(2), which any thread may get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The thread that failed, in the PID namespace of the process.
    pub tid: u32,
    /// Its name. Empty if it is not known: only the shim reads it, where a core is kept.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub thread_name: String,
    /// The thread that was dumped, in the PID namespace of the process.
    pub dumped: u32,
    /// Signal number of the fault.
    pub signal: u32,
    /// Signal name without `SIG`.
    pub signal_name: String,
    /// `si_code` of the fault. `None` if the handler did not ask for it (SA_SIGINFO).
    pub code: Option<i32>,
    /// The address that caused the fault (`si_addr`).
    pub address: Option<u64>,
    /// How many threads were in a handler of a fault.
    pub threads: u32,
    /// The frames of the handler, the innermost first. The record's stack begins below them. Empty in records of duplicates.
    #[serde(default)]
    pub handler: Vec<Frame>,
}

impl Failure {
    /// The most frames of the handler.
    pub const MAX_HANDLER: usize = 16;

    /// Whether another thread was dumped than the one that failed.
    #[must_use]
    pub fn is_of_another_thread(&self) -> bool {
        self.tid != self.dumped
    }

    /// What happened, as a clause for operators. `dumped` is the id that the dumped thread has for the kernel: if it is another one, those here are
    /// of a PID namespace.
    #[must_use]
    pub fn sentence(&self, dumped: Option<Pid>) -> String {
        let name =
            if self.thread_name.is_empty() { String::new() } else { format!(" ({})", printable(&self.thread_name)) };
        let code = self.code.and_then(|code| signal::code(Some(self.signal), code));
        let code = code.map(|(name, meaning)| format!(" ({name}: {meaning})")).unwrap_or_default();
        let address = self.address.map(|address| format!(" at address {address:#x}")).unwrap_or_default();
        let end = if self.is_of_another_thread() {
            format!("; the kernel dumped thread {}", self.dumped)
        } else {
            String::new()
        };
        let others = match self.threads {
            0 | 1 => String::new(),
            threads => format!("; {threads} threads were in such a handler"),
        };
        let namespace = match dumped {
            Some(dumped) if u32::try_from(dumped.as_raw()) != Ok(self.dumped) => " (ids of its PID namespace)",
            _ => "",
        };
        format!(
            "thread {}{name} was handling SIG{}{code}{address} when the process ended{end}{namespace}{others}",
            self.tid,
            printable(&self.signal_name)
        )
    }

    /// Which of these other threads was dumped, to be put behind their ids. Empty if none of those that are listed was.
    #[must_use]
    pub fn dumped_among(&self, threads: &ThreadStacks) -> String {
        match self.dumped {
            dumped if !threads.tids.contains(&dumped) => String::new(),
            _ if threads.count == 1 => ", which was dumped".to_owned(),
            dumped => format!(", of which {dumped} was dumped"),
        }
    }
}
