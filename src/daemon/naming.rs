//! Names of the functions that frames are in. Memory has some of them, and is asked while the process waits; the others are in mapped files, which
//! the shim opens meanwhile, and which are read when the process has gone. A duplicate in a storm has no frames to name.

use super::blocking::run_blocking;
use super::connection::ConnectionError;
use super::crash_source::CrashSource;
use super::inspect::ask_reader;
use super::process_handles::ProcessHandles;
use super::record_builder::RecordBuilder;
use super::shared::Shared;
use crate::capture::Headers;
use crate::crash::Warning;
use crate::reader::{ModuleFrames, Names, Place, Reader, ReaderScope};
use coreward_wire::Offer;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long looking names up in memory may take.
const MEMORY_TIMEOUT: Duration = Duration::from_millis(500);
/// How long looking them up in files may take, which nobody waits for but the crash's place in the catalog.
const FILES_TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes that a record may get longer by the name of a frame, on average. Those of C++ and Rust have about a hundred.
const ROOM_OF_NAME: usize = 256;
/// Bytes that it may get longer by all of them.
const MAX_ROOM: usize = 16 << 10;

/// Frames whose functions memory does not name, and the mapped files that may.
#[derive(Default)]
pub(super) struct UnnamedFrames {
    /// Each with its file, unless a saved core is read.
    frames: Vec<ModuleFrames>,
    files: Vec<OwnedFd>,
    /// How many there are: a function that calls itself has many at one place.
    count: usize,
    /// Addresses in code that was compiled at run time, and the map of that.
    compiled: Option<(Vec<u64>, OwnedFd)>,
}

impl UnnamedFrames {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.compiled.is_none()
    }

    /// Bytes that the record may get longer.
    pub(super) fn room(&self) -> usize {
        (self.count * ROOM_OF_NAME).min(MAX_ROOM)
    }
}

/// Names the frames as far as memory can. `headers` are those of a saved core.
pub(super) async fn name_from_memory(
    shared: &Arc<Shared>,
    builder: &mut RecordBuilder,
    handles: &mut ProcessHandles,
    headers: Option<Headers>,
) {
    let unnamed = builder.unnamed_frames();
    if unnamed.is_empty() || !handles.memory.has_stacks() {
        return;
    }
    let modules = unnamed.clone();
    let ask =
        move |reader: &mut Reader| reader.memory_names(headers.as_ref(), modules, Instant::now() + MEMORY_TIMEOUT);
    match ask_reader(shared, handles, ask).await {
        Some(names) => builder.set_names(&unnamed, names, usize::MAX),
        None => builder.warn(Warning::NamesTimedOut),
    }
}

/// Adds who compiled the code of frames that are in no file. Where there is any, opens the map of it that the process may have written.
///
/// # Errors
/// The connection to the shim broke.
pub(super) async fn add_compilers(
    shared: &Arc<Shared>,
    source: &mut CrashSource,
    offer: &Offer,
    builder: &mut RecordBuilder,
    handles: &mut ProcessHandles,
) -> Result<(), ConnectionError> {
    let addresses = builder.addresses_without_module();
    if addresses.is_empty() || !handles.memory.has_memory() {
        return Ok(());
    }
    let asked = addresses.clone();
    let ask = move |reader: &mut Reader| reader.mappings(asked, Instant::now() + MEMORY_TIMEOUT);
    let Some(lines) = ask_reader(shared, handles, ask).await else {
        builder.warn(Warning::NamesTimedOut);
        return Ok(());
    };
    if !builder.set_compilers(&addresses, &lines) || builder.record().privileged {
        return Ok(());
    }
    let record = builder.record();
    let map = format!("/tmp/perf-{}.map", record.pid_inside().unwrap_or(record.key.pid));
    handles.perf_map = source.request_written_file(offer, vec![map.into_bytes()]).await?.map(|(_, file)| file);
    Ok(())
}

/// The mapped files of frames that have no name yet, by the first addresses of their modules.
pub(super) fn files_without_names(builder: &RecordBuilder) -> Vec<u64> {
    // The kernel's vDSO is no file.
    let has_file = |module: &&ModuleFrames| module.path.starts_with('/');
    builder.unnamed_frames().iter().filter(has_file).map(|module| module.start).collect()
}

/// The frames that files may name, with these files: `opened` are some, each with the first address of its module, and `perf_map` is the map of
/// the code that was compiled at run time.
pub(super) fn unnamed_frames(
    builder: &RecordBuilder,
    opened: &[(u64, OwnedFd)],
    perf_map: Option<OwnedFd>,
) -> UnnamedFrames {
    let files: HashMap<u64, &OwnedFd> = opened.iter().map(|(start, file)| (*start, file)).collect();
    let with_file = |module: ModuleFrames| {
        let file = files.get(&module.start)?.try_clone().ok()?;
        Some((module, file))
    };
    let (frames, files) = builder.unnamed_frames().into_iter().filter_map(with_file).unzip();
    let compiled = perf_map.map(|map| (builder.addresses_without_module(), map));
    UnnamedFrames { frames, files, count: builder.unnamed_count(), compiled }
}

/// Names frames as far as their files can. `scope` says which readers may read these files, and `place` whether one may.
pub(super) async fn name_from_files(
    shared: &Arc<Shared>,
    scope: Option<ReaderScope>,
    place: Option<Arc<Place>>,
    unnamed: UnnamedFrames,
) -> FileNames {
    let room = unnamed.room();
    let Some((scope, place)) = scope.zip(place).filter(|_| !unnamed.is_empty()) else {
        return FileNames::default();
    };
    let shared = Arc::clone(shared);
    let read = move || {
        let mut names = Names::new();
        let mut compiled = Names::new();
        let read = read_files(&shared, scope, &place, &unnamed, &mut names, &mut compiled);
        let addresses = unnamed.compiled.map(|(addresses, _)| addresses).unwrap_or_default();
        FileNames { frames: unnamed.frames, names, addresses, compiled, room, is_late: read.is_err() }
    };
    run_blocking(read).await.unwrap_or_default()
}

/// Names that files have.
#[derive(Default)]
pub(super) struct FileNames {
    frames: Vec<ModuleFrames>,
    names: Names,
    /// Addresses in code that was compiled at run time.
    addresses: Vec<u64>,
    /// Their names, in one list.
    compiled: Names,
    room: usize,
    is_late: bool,
}

impl FileNames {
    /// Adds them to the record.
    pub(super) fn add_to(self, builder: &mut RecordBuilder) {
        let Self { frames, names, addresses, compiled, room, is_late } = self;
        // The record has room for both: each frame is in one of them.
        builder.set_compiled_names(&addresses, compiled, room / 2);
        let room = if addresses.is_empty() { room } else { room / 2 };
        builder.set_names(&frames, names, room);
        if is_late {
            builder.warn(Warning::NamesTimedOut);
        }
    }
}

/// # Errors
/// There is no reader, or it is late: what it answered before is in `names`.
fn read_files(
    shared: &Shared,
    scope: ReaderScope,
    place: &Place,
    unnamed: &UnnamedFrames,
    names: &mut Names,
    compiled: &mut Names,
) -> io::Result<()> {
    let deadline = Instant::now() + FILES_TIMEOUT;
    with_reader(shared, scope, place, |reader| {
        let chunks = unnamed.frames.chunks(Reader::MAX_FILES).zip(unnamed.files.chunks(Reader::MAX_FILES));
        for (number, (frames, files)) in chunks.enumerate() {
            let more = reader.file_names(frames.to_vec(), files, deadline)?;
            names.resize(number * Reader::MAX_FILES, Vec::new());
            names.extend(more);
        }
        if let Some((addresses, map)) = &unnamed.compiled {
            *compiled = reader.perf_map_names(addresses.clone(), map, deadline)?;
        }
        Ok(())
    })
}

/// Lets a reader read files of a crash whose process has gone. One that fails or is late has been killed, and keeps its place until it has ended.
/// Blocks.
///
/// # Errors
/// No reader may read for this crash now, there is none, or the error of `ask`.
pub(super) fn with_reader<T>(
    shared: &Shared,
    scope: ReaderScope,
    place: &Place,
    ask: impl FnOnce(&mut Reader) -> io::Result<T>,
) -> io::Result<T> {
    place.may_read().map_err(|_| io::ErrorKind::WouldBlock)?;
    let mut reader = shared.readers.take(&scope)?;
    match ask(&mut reader) {
        Ok(answer) => {
            shared.readers.give_back(scope, reader);
            Ok(answer)
        }
        Err(error) => {
            place.add_killed(reader.pidfd());
            Err(error)
        }
    }
}

/// Names the frames of a crash from the spool as far as the files of this machine can that its process had mapped. Nobody waits.
pub(super) async fn name_from_hosts_files(
    shared: &Arc<Shared>,
    builder: &mut RecordBuilder,
    handles: &mut ProcessHandles,
) {
    let unnamed = builder.unnamed_frames();
    if unnamed.is_empty() || !handles.memory.is_saved() {
        return;
    }
    let modules = unnamed.clone();
    let ask = move |reader: &mut Reader| reader.file_names(modules, &[], Instant::now() + FILES_TIMEOUT);
    match ask_reader(shared, handles, ask).await {
        Some(names) => builder.set_names(&unnamed, names, usize::MAX),
        None => builder.warn(Warning::NamesTimedOut),
    }
}
