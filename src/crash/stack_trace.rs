//! The stacks of a crash, in the order in which operators read them.

use super::{Frame, InterpreterStack, Record, ThreadStacks};
use std::fmt::{self, Display, Formatter};

/// Whose stack it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StackOwner<'a> {
    /// The thread that crashed.
    Crashed(u32),
    /// The main thread of a process that was dumped and did not crash.
    Dumped(u32),
    /// The thread that failed, whose handler ended the process.
    Failed(u32),
    /// The handler of the signal, in the thread that failed.
    Handler(u32),
    /// Other threads, which share the stack, and which of them was dumped ([`super::Failure::dumped_among`]).
    Others(&'a ThreadStacks, String),
}

/// A stack of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackTrace<'a> {
    /// Whose it is.
    pub owner: StackOwner<'a>,
    /// Its frames, the innermost first.
    pub frames: &'a [Frame],
    /// The interpreter that its frames belong to.
    pub interpreter: Option<&'a InterpreterStack>,
}

impl Record {
    /// The stacks: that of the thread that failed first, then its handler of the signal, then those of the other threads.
    /// The first is there even without frames if an interpreter's are known.
    pub fn stack_traces(&self) -> impl Iterator<Item = StackTrace<'_>> {
        let tid = self.tid.unwrap_or(self.key.pid).as_raw().unsigned_abs();
        let failure = self.failure.as_ref();
        let dumped = if self.dump.is_some() { StackOwner::Dumped(tid) } else { StackOwner::Crashed(tid) };
        let owner = failure.map_or(dumped, |failure| StackOwner::Failed(failure.tid));
        let interpreter = self.interpreter.as_ref().filter(|stack| !stack.frames.is_empty());
        let own = StackTrace { owner, frames: &self.stack, interpreter };
        let own = (!self.stack.is_empty() || interpreter.is_some()).then_some(own);
        let handler = failure.filter(|failure| !failure.handler.is_empty()).map(|failure| StackTrace {
            owner: StackOwner::Handler(failure.tid),
            frames: &failure.handler,
            interpreter: None,
        });
        let others = self.other_threads.iter().map(move |threads| StackTrace {
            owner: StackOwner::Others(
                threads,
                failure.map(|failure| failure.dumped_among(threads)).unwrap_or_default(),
            ),
            frames: &threads.frames,
            interpreter: None,
        });
        own.into_iter().chain(handler).chain(others)
    }
}

/// The heading of the stack, without a colon.
impl Display for StackOwner<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crashed(tid) => write!(out, "Stack trace of thread {tid}, which crashed"),
            Self::Dumped(tid) => write!(out, "Stack trace of thread {tid}"),
            Self::Failed(tid) => write!(out, "Stack trace of thread {tid}, which failed"),
            Self::Handler(tid) => write!(out, "The handler of the signal, in thread {tid}"),
            Self::Others(threads, dumped) => write!(out, "Stack trace of {}{dumped}", thread_names(threads)),
        }
    }
}

/// The threads that share a stack.
fn thread_names(threads: &ThreadStacks) -> String {
    /// The most thread ids that are shown.
    const SHOWN: usize = 8;
    let mut tids: Vec<String> = threads.tids.iter().take(SHOWN).map(u32::to_string).collect();
    if threads.count == 1 {
        return format!("thread {}", tids.concat());
    }
    if threads.count as usize > tids.len() {
        tids.push("...".to_owned());
    }
    format!("{} threads ({})", threads.count, tids.join(", "))
}
