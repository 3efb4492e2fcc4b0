//! The memory of a crashed process, which a reader reads for the daemon.

use super::blocking::run_blocking;
use super::shared::Shared;
use crate::capture::Headers;
use crate::crash::auxv;
use crate::reader::{
    CrashedStack, Place, ProcessFiles, RawFacts, Reader, ReaderPool, ReaderScope, RemoteProcess, SavedCoreFile,
    SignatureContext, read_auxv,
};
use coreward_wire::Offer;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long looking at all mappings may take. A million take some hundred milliseconds.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(3);

/// The files through which the memory is read, and whoever reads it.
#[derive(Debug, Default)]
pub(super) struct ProcessMemory {
    files: ProcessFiles,
    /// The auxiliary vector as the kernel has it; no reader has a say in it.
    auxv: Vec<u8>,
    /// What the shim found out about absent pages.
    holes: Option<OwnedFd>,
    /// The core in which the memory is, in the place of these files.
    saved: Option<SavedCoreFile>,
    /// Which readers may read it.
    scope: Option<ReaderScope>,
    /// Nothing is read without a place.
    place: Option<Arc<Place>>,
    reader: Option<Reader>,
}

impl ProcessMemory {
    /// The memory of the process that is offered; its files are added.
    pub(super) fn new(offer: &Offer) -> Self {
        let (arguments, in_user_namespace) = (offer.arguments.clone(), offer.namespaces.may_be_of_user());
        let files = ProcessFiles { arguments, in_user_namespace, ..ProcessFiles::default() };
        Self { files, scope: Some(ReaderScope::of(offer)), ..Self::default() }
    }

    /// Adds a file, or replaces it.
    pub(super) fn add(&mut self, place: impl FnOnce(&mut ProcessFiles) -> &mut Option<File>, fd: OwnedFd) {
        *place(&mut self.files) = Some(fd.into());
        // It does not know this file.
        self.reader = None;
    }

    /// Adds the auxiliary vector, and reads it.
    pub(super) fn set_auxv(&mut self, fd: OwnedFd) {
        let file = File::from(fd);
        self.auxv = read_auxv(&file);
        self.scope = self.scope.take().map(|scope| scope.started_with(&auxv::parse(&self.auxv)));
        self.files.auxv = Some(file);
        self.reader = None;
    }

    /// The list of the memory's holes ([`coreward_wire::FdKind::Holes`]).
    pub(super) fn set_holes(&mut self, holes: OwnedFd) {
        self.holes = Some(holes);
    }

    /// From now on a saved core is read.
    pub(super) fn set_saved(&mut self, saved: SavedCoreFile) {
        self.saved = Some(saved);
        self.reader = None;
    }

    /// From now on the process may be read.
    pub(super) fn set_place(&mut self, place: Arc<Place>) {
        self.place = Some(place);
    }

    /// Whether the shim could open anything of the process.
    pub(super) fn has_files(&self) -> bool {
        let ProcessFiles { mem, cmdline, auxv, .. } = &self.files;
        mem.is_some() || cmdline.is_some() || auxv.is_some()
    }

    /// The auxiliary vector as the kernel has it; empty if the shim could not open it.
    pub(super) fn auxv(&self) -> &[u8] {
        &self.auxv
    }

    /// Whether stacks can be unwound.
    pub(super) fn has_stacks(&self) -> bool {
        self.has_memory() || self.saved.is_some()
    }

    /// Whether it is in a core that a shim saved.
    pub(super) fn is_saved(&self) -> bool {
        self.saved.is_some()
    }

    /// Which readers may read what belongs to this process.
    pub(super) fn readers(&self) -> Option<&ReaderScope> {
        self.scope.as_ref()
    }

    /// Whether its core can be copied.
    pub(super) fn has_memory(&self) -> bool {
        self.files.mem.is_some()
    }

    /// Has a reader inspect the process, which it need not have open: see [`Reader::inspect`]. One that is late or has ended is given
    /// up.
    ///
    /// # Errors
    /// There is no reader for this process, or it did not answer.
    pub(super) async fn inspect(
        &mut self,
        shared: &Arc<Shared>,
        headers: Option<&Headers>,
        context: &SignatureContext,
        limit: Duration,
    ) -> io::Result<(RawFacts, Option<CrashedStack>)> {
        let (mut reader, files) = match self.reader.take() {
            Some(reader) => (reader, None),
            None => (self.new_reader(shared).await?, Some(&self.files)),
        };
        let inspected = reader.inspect(files, headers, context, Instant::now() + limit).await;
        self.keep_if_ok(reader, inspected)
    }

    /// A reader that does not have the process open yet.
    async fn new_reader(&self, shared: &Arc<Shared>) -> io::Result<Reader> {
        self.may_read()?;
        let scope = self.scope()?;
        if let Some(reader) = shared.readers.take_idle(scope) {
            return Ok(reader);
        }
        let (shared, scope) = (Arc::clone(shared), scope.clone());
        run_blocking(move || shared.readers.take(&scope)).await?
    }

    fn scope(&self) -> io::Result<&ReaderScope> {
        self.scope.as_ref().ok_or_else(|| ErrorKind::InvalidInput.into())
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
        self.keep_if_ok(reader, answer)
    }

    /// Keeps a reader that answered, and gives one up that is late or has ended.
    fn keep_if_ok<T>(&mut self, reader: Reader, answer: io::Result<T>) -> io::Result<T> {
        if answer.is_ok() {
            self.reader = Some(reader);
        } else {
            self.give_up(&reader);
        }
        answer
    }

    /// A reader for the whole core, whose headers these are. It ends with the process, whose pidfd `process` is. Blocks.
    ///
    /// # Errors
    /// There is no reader for this process.
    pub(super) fn park(
        &mut self,
        pool: &ReaderPool,
        headers: &Headers,
        process: Option<BorrowedFd<'_>>,
    ) -> io::Result<RemoteProcess> {
        let reader = self.take_reader(pool)?;
        // It is killed when the core is copied.
        self.give_up(&reader);
        RemoteProcess::new(reader, headers, self.holes.take(), process)
    }

    /// Whether the kernel can dump the process without waiting for anybody who may never answer. What cannot be found out may not.
    /// Blocks.
    pub(super) fn answers(&mut self, pool: &ReaderPool) -> bool {
        !self.has_memory() || self.ask(pool, |reader| reader.answers(Instant::now() + ANSWERS_TIMEOUT)).unwrap_or(false)
    }

    /// Closes everything. A reader that answered so far is used again.
    pub(super) fn close(self, pool: &ReaderPool) {
        if let Some((reader, scope)) = self.reader.zip(self.scope).filter(|_| self.saved.is_none()) {
            pool.give_back(scope, reader);
        }
    }

    /// The reader that has the process open, or another one.
    fn take_reader(&mut self, pool: &ReaderPool) -> io::Result<Reader> {
        if let Some(reader) = self.reader.take() {
            return Ok(reader);
        }
        self.may_read()?;
        if let Some(saved) = &self.saved {
            return pool.open_saved(saved);
        }
        let mut reader = pool.take(self.scope()?)?;
        reader.open(&self.files)?;
        Ok(reader)
    }

    /// The place with which a reader may be started now.
    fn may_read(&self) -> io::Result<&Place> {
        let place = self.place.as_deref().ok_or(ErrorKind::WouldBlock)?;
        place.may_read().map_err(|_| ErrorKind::WouldBlock)?;
        Ok(place)
    }

    fn give_up(&self, reader: &Reader) {
        if let Some(place) = &self.place {
            place.add_killed(reader.pidfd());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_auxiliary_vector_is_the_kernels_whatever_a_reader_did_with_the_file() {
        use std::io::Read;
        let mut file = File::open("/proc/self/auxv").unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let mut memory = ProcessMemory::default();
        memory.set_auxv(file.into());
        let auxv = memory.auxv();
        assert_eq!(auxv, bytes);
        assert_eq!(auxv::parse(auxv).secure, Some(false));
        assert!(ProcessMemory::default().auxv().is_empty());
    }
}
