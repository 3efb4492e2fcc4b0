//! A reader of mapped files, seen from the daemon.

use super::module_file::{ModuleError, ModuleFile};
use super::process::Reader;
use super::protocol::{Answer, Request};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long looking at a file may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long all files of a crash may take: others wait meanwhile. The next crash of the same program completes what is missing then.
const JOB_TIMEOUT: Duration = Duration::from_secs(60);

/// A process that reads the mapped files of one crash. It is killed when this is dropped.
#[derive(Debug)]
pub struct ModuleReader {
    reader: Reader,
    /// When it has to be done.
    deadline: Instant,
}

impl ModuleReader {
    /// Has the reader, which must be new, open the host's files with these paths.
    ///
    /// # Errors
    /// The reader has ended.
    pub(super) fn new(mut reader: Reader, host_paths: Vec<Option<String>>) -> io::Result<Self> {
        reader.send(&Request::OpenHostFiles(host_paths))?;
        Ok(Self { reader, deadline: Instant::now() + JOB_TIMEOUT })
    }

    /// The process, to see whether it has ended.
    #[must_use]
    pub fn pidfd(&self) -> Arc<OwnedFd> {
        self.reader.pidfd()
    }

    /// Looks at a mapped file, and compares it with the host's file with this number. `None`: it cannot be read.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn look_at(&mut self, module: &OwnedFd, host: usize) -> io::Result<Option<ModuleFile>> {
        let deadline = self.deadline.min(Instant::now() + LOOK_TIMEOUT);
        self.reader.ask(&Request::ModuleFile { host }, &[module.as_fd()], deadline, |answer| match answer {
            Answer::ModuleFile(file) => Ok(file),
            _ => Err(Answer::mismatch()),
        })
    }

    /// Compresses the file that was looked at last into `to`, at most `limit` bytes. Returns how many.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn copy(&mut self, to: &File, limit: u64) -> io::Result<Result<u64, ModuleError>> {
        self.reader.ask(&Request::CopyModule { limit }, &[to.as_fd()], self.deadline, |answer| match answer {
            Answer::CopiedModule(copied) => Ok(copied),
            _ => Err(Answer::mismatch()),
        })
    }

    /// Whether a stored module has the same bytes as the file that was looked at last.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn is_same(&mut self, stored: &File) -> io::Result<bool> {
        self.reader.ask(&Request::CompareModule, &[stored.as_fd()], self.deadline, |answer| match answer {
            Answer::SameModule(same) => Ok(same),
            _ => Err(Answer::mismatch()),
        })
    }
}
