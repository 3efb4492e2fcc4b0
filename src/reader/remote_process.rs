//! A parked process, as a reader provides it to a capture.

use super::death_watch::DeathWatch;
use super::process::Reader;
use super::remote_image::RemoteImage;
use crate::capture::{CapturePlan, Headers, ParkedImage, ParkedProcess, StagingFiles};
use crate::elf::CoreLayout;
use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// A parked process that a reader reads for a capture.
#[derive(Debug)]
pub struct RemoteProcess {
    reader: Mutex<Option<Reader>>,
    holes: Option<OwnedFd>,
    process: Option<OwnedFd>,
    /// Until the image has it.
    watch: Mutex<Option<DeathWatch>>,
}

impl RemoteProcess {
    /// The process that `reader` has open, with the headers of its core and the list of its holes. `process` is its pidfd: nothing of it is
    /// read any more when it has ended.
    ///
    /// # Errors
    /// The reader has ended, or the process cannot be watched.
    pub fn new(
        mut reader: Reader,
        headers: &Headers,
        holes: Option<OwnedFd>,
        process: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        let [watched, process] =
            [process, process].map(|process| process.map(|fd| fd.try_clone_to_owned()).transpose());
        let watch = watched?.map(|process| DeathWatch::start(process, reader.pidfd())).transpose()?;
        reader.send_headers(headers)?;
        Ok(Self { reader: Mutex::new(Some(reader)), holes, process: process?, watch: Mutex::new(watch) })
    }
}

impl ParkedProcess for RemoteProcess {
    fn plan(&self, layout: Arc<CoreLayout>) -> Option<CapturePlan> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let planned = reader.as_mut()?.plan(layout, self.holes.as_ref());
        if planned.is_err() {
            // It hangs, or has ended.
            reader.take();
        }
        planned.ok().flatten()
    }

    fn open_image(&self, files: StagingFiles) -> io::Result<Arc<dyn ParkedImage>> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(ErrorKind::BrokenPipe)?;
        reader.open_image(&files)?;
        let process = self.process.as_ref().map(OwnedFd::try_clone).transpose()?;
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Arc::new(RemoteImage::new(reader, process, watch)))
    }
}
