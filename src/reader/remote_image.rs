//! The core of a parked process, as the reader of the process provides it.

use super::channel::Channel;
use super::death_watch::DeathWatch;
use super::process::Reader;
use super::protocol::{ImageAnswer, ImageData, ImageRequest};
use crate::capture::{CoreSource, MissingPages, ParkedImage, RangeData, SourceError, StoredChunk};
use coreward_sys::pidfd;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the reader may take for one chunk. A page from a disk arrives within milliseconds, so it waits for memory that may never
/// answer.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(20);
/// How long copying the priority ranges may take.
const PRIORITY_TIMEOUT: Duration = Duration::from_secs(5);

/// An image behind connections with a reader. Several threads use it, each with a connection of its own.
#[derive(Debug)]
pub(super) struct RemoteImage {
    reader: Mutex<Reader>,
    pidfd: Arc<OwnedFd>,
    /// A pidfd of the process whose core it is.
    process: Option<OwnedFd>,
    _watch: Option<DeathWatch>,
    idle: Mutex<Vec<(Channel, File)>>,
    missing_pages: Mutex<MissingPages>,
}

impl RemoteImage {
    /// The image that `reader` provides of the process behind the pidfd.
    pub(super) fn new(reader: Reader, process: Option<OwnedFd>, watch: Option<DeathWatch>) -> Self {
        let pidfd = reader.pidfd();
        Self {
            reader: Mutex::new(reader),
            pidfd,
            process,
            _watch: watch,
            idle: Mutex::default(),
            missing_pages: Mutex::default(),
        }
    }

    /// Asks the reader, and takes what it read.
    fn ask<T>(
        &self,
        request: &ImageRequest,
        limit: Duration,
        take: impl FnOnce(ImageData, &File) -> io::Result<T>,
    ) -> Result<T, SourceError> {
        let deadline = Instant::now() + limit;
        let ask = || {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let (mut channel, window) = match idle {
                Some(connection) => connection,
                None => self.reader.lock().unwrap_or_else(PoisonError::into_inner).connect()?,
            };
            channel.send_one(request, &[], &[])?;
            let answer: ImageAnswer = channel.receive(Some(deadline))?.message;
            let taken = match answer.result {
                Ok(data) => Ok(take(data, &window)?),
                Err(error) => Err(SourceError::from(error)),
            };
            if answer.missing_pages != MissingPages::default() {
                // The reader counts for all threads, and answers this one later than another perhaps.
                let mut missing = self.missing_pages.lock().unwrap_or_else(PoisonError::into_inner);
                missing.unanswered |= answer.missing_pages.unanswered;
                missing.refused |= answer.missing_pages.refused;
            }
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((channel, window));
            io::Result::Ok(taken)
        };
        let asked = ask();
        if self.process.as_ref().is_some_and(|process| !pidfd::is_alive(process.as_fd())) {
            // The kernel may have taken its pages before the reader came to them: they read as zeros.
            self.stop();
            return Err(SourceError::ProcessGone);
        }
        asked.unwrap_or_else(|error| {
            // It hangs or has ended: for all threads.
            self.stop();
            Err(SourceError::Read(error))
        })
    }
}

impl CoreSource for RemoteImage {
    fn read_range(&self, range: Range<u64>, buffer: &mut [u8]) -> Result<RangeData, SourceError> {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(buffer.len());
        self.ask(&ImageRequest::Read(range), CHUNK_TIMEOUT, |data, window| match data {
            ImageData::Zeros => Ok(RangeData::Zeros),
            ImageData::Bytes => window.read_exact_at(&mut buffer[..length], 0).map(|()| RangeData::Bytes),
            ImageData::Stored { .. } => Err(ErrorKind::InvalidData.into()),
        })
    }
}

impl ParkedImage for RemoteImage {
    fn store_priority(&self) -> Result<(), SourceError> {
        self.ask(&ImageRequest::StorePriority, PRIORITY_TIMEOUT, |_, _| Ok(()))
    }

    fn store(&self, range: Range<u64>) -> Result<StoredChunk, SourceError> {
        self.ask(&ImageRequest::Store(range), CHUNK_TIMEOUT, |data, _| match data {
            ImageData::Stored { on_disk, refused } => Ok(StoredChunk { on_disk, refused }),
            ImageData::Zeros | ImageData::Bytes => Err(ErrorKind::InvalidData.into()),
        })
    }

    fn missing_pages(&self) -> MissingPages {
        *self.missing_pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        let _ = pidfd::kill(self.pidfd.as_fd());
    }
}
