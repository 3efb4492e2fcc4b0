//! The memory of a crashed process, which a reader reads for the daemon.

use crate::capture::{Headers, TrustedFileSystems};
use crate::reader::{Place, ProcessFiles, Reader, ReaderPool, RemoteProcess};
use coreward_wire::Offer;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long looking at all mappings may take. A million take some hundred milliseconds.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(3);

/// The files through which the memory is read, and whoever reads it.
#[derive(Debug, Default)]
pub(super) struct ProcessMemory {
    files: ProcessFiles,
    arguments: Range<u64>,
    trusted: TrustedFileSystems,
    /// What the shim found out about absent pages.
    holes: Option<OwnedFd>,
    /// Nothing is read without a place.
    place: Option<Arc<Place>>,
    reader: Option<Reader>,
}

impl ProcessMemory {
    /// The memory of the process that is offered; its files are added.
    pub(super) fn new(offer: &Offer) -> Self {
        Self { arguments: offer.arguments.clone(), trusted: trusted_file_systems(offer), ..Self::default() }
    }

    /// Adds a file, or replaces it.
    pub(super) fn add(&mut self, place: impl FnOnce(&mut ProcessFiles) -> &mut Option<File>, fd: OwnedFd) {
        *place(&mut self.files) = Some(fd.into());
        // It does not know this file.
        self.reader = None;
    }

    /// The list of the memory's holes ([`coreward_wire::FdKind::Holes`]).
    pub(super) fn set_holes(&mut self, holes: OwnedFd) {
        self.holes = Some(holes);
    }

    /// From now on the process may be read.
    pub(super) fn set_place(&mut self, place: Arc<Place>) {
        self.place = Some(place);
    }

    /// Whether the shim could open anything of the process.
    pub(super) fn has_files(&self) -> bool {
        let ProcessFiles { mem, pagemap: _, maps: _, cmdline, auxv } = &self.files;
        mem.is_some() || cmdline.is_some() || auxv.is_some()
    }

    /// Whether its core can be copied.
    pub(super) fn has_memory(&self) -> bool {
        self.files.mem.is_some()
    }

    /// Asks a reader that has the process open. One that is late or has ended is given up. Blocks.
    ///
    /// # Errors
    /// There is no reader for this process, or it did not answer.
    pub(super) fn ask<T>(
        &mut self,
        pool: &ReaderPool,
        ask: impl FnOnce(&mut Reader) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut reader = self.take_reader(pool)?;
        let answer = ask(&mut reader);
        if answer.is_ok() {
            self.reader = Some(reader);
        } else {
            self.give_up(&reader);
        }
        answer
    }

    /// A reader for the whole core, whose headers these are. Blocks.
    ///
    /// # Errors
    /// There is no reader for this process.
    pub(super) fn park(&mut self, pool: &ReaderPool, headers: &Headers) -> io::Result<RemoteProcess> {
        let reader = self.take_reader(pool)?;
        // It is killed when the core is copied.
        self.give_up(&reader);
        RemoteProcess::new(reader, headers, self.holes.take())
    }

    /// Whether the kernel can dump the process without waiting for anybody who may never answer. What cannot be found out may not.
    /// Blocks.
    pub(super) fn answers(&mut self, pool: &ReaderPool) -> bool {
        !self.has_memory() || self.ask(pool, |reader| reader.answers(Instant::now() + ANSWERS_TIMEOUT)).unwrap_or(false)
    }

    /// Closes everything. A reader that answered so far is used again.
    pub(super) fn close(self, pool: &ReaderPool) {
        if let Some((reader, place)) = self.reader.zip(self.place) {
            pool.give_back(place.principal(), reader);
        }
    }

    /// The reader that has the process open, or another one.
    fn take_reader(&mut self, pool: &ReaderPool) -> io::Result<Reader> {
        if let Some(reader) = self.reader.take() {
            return Ok(reader);
        }
        let place = self.place.as_ref().ok_or(ErrorKind::WouldBlock)?;
        place.may_read().map_err(|_| ErrorKind::WouldBlock)?;
        let mut reader = pool.take(place.principal())?;
        reader.open(&self.files, self.arguments.clone(), self.trusted.clone())?;
        Ok(reader)
    }

    fn give_up(&self, reader: &Reader) {
        if let Some(place) = &self.place {
            place.add_killed(reader.pidfd());
        }
    }
}

/// The file systems of the process that the shim vouches for.
fn trusted_file_systems(offer: &Offer) -> TrustedFileSystems {
    let mut trusted = TrustedFileSystems::default();
    for file_system in offer.file_systems.iter().flatten() {
        let list = if file_system.is_remote { &mut trusted.remote } else { &mut trusted.local };
        list.push(file_system.minor);
    }
    trusted
}
