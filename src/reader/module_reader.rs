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
/// How long reading a file may take. A slow disk reads 20 MiB in a second, and the largest module has 2 GiB.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// A process that reads the mapped files of one crash. It is killed when this is dropped.
#[derive(Debug)]
pub struct ModuleReader(Reader);

impl ModuleReader {
    /// Has the reader, which must be new, open the host's files with these paths.
    ///
    /// # Errors
    /// The reader has ended.
    pub(super) fn new(mut reader: Reader, host_paths: Vec<Option<String>>) -> io::Result<Self> {
        reader.send(&Request::OpenHostFiles(host_paths))?;
        Ok(Self(reader))
    }

    /// The process, to see whether it has ended.
    #[must_use]
    pub fn pidfd(&self) -> Arc<OwnedFd> {
        self.0.pidfd()
    }

    /// Looks at a mapped file, and compares it with the host's file with this number. `None`: it cannot be read.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn look_at(&mut self, module: &OwnedFd, host: usize) -> io::Result<Option<ModuleFile>> {
        let deadline = Instant::now() + LOOK_TIMEOUT;
        self.0.ask(&Request::ModuleFile { host }, &[module.as_fd()], deadline, |answer| match answer {
            Answer::ModuleFile(file) => Ok(file),
            _ => Err(Answer::mismatch()),
        })
    }

    /// Compresses the file that was looked at last into `to`, at most `limit` bytes. Returns how many.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn copy(&mut self, to: &File, limit: u64) -> io::Result<Result<u64, ModuleError>> {
        let deadline = Instant::now() + READ_TIMEOUT;
        self.0.ask(&Request::CopyModule { limit }, &[to.as_fd()], deadline, |answer| match answer {
            Answer::CopiedModule(copied) => Ok(copied),
            _ => Err(Answer::mismatch()),
        })
    }

    /// Whether a stored module has the same bytes as the file that was looked at last.
    ///
    /// # Errors
    /// The reader has ended, or is late.
    pub fn is_same(&mut self, stored: &File) -> io::Result<bool> {
        let deadline = Instant::now() + READ_TIMEOUT;
        self.0.ask(&Request::CompareModule, &[stored.as_fd()], deadline, |answer| match answer {
            Answer::SameModule(same) => Ok(same),
            _ => Err(Answer::mismatch()),
        })
    }
}
