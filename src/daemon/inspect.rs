//! Stage 2: inspects a crash before anything is decided. Nothing is consumed: the core pipe is looked at with tee(2), and memory
//! is read where it is.
//!
//! A storm pays for every hand-over to a thread ten thousand times, so all reads of a process are made in one.

use super::blocking::{run_blocking, run_with_timeout};
use super::connection::ConnectionError;
use super::crash_source::CrashSource;
use super::evidence::{CoreEvidence, CoreInput, CrashedStack, Evidence, ProcessFacts};
use super::process_handles::ProcessHandles;
use super::shared::{Shared, lock};
use super::stack::{SignatureContext, unwind_crashed_thread};
use crate::capture::{self, CaptureError, LiveMemory, PeekedHeaders, ProcessMemory, TrustedFileSystems};
use crate::crash::text::from_bytes;
use crate::crash::{ArgumentList, Warning, auxv, cgroup, program_of};
use crate::elf::{self, CoreLayout};
use coreward_wire::{MAX_TEXT, Offer};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A process is inspected in a millisecond or two, and the work is bounded by frames and pages. This limit is for memory that
/// does not answer; a shorter one would change signatures on a loaded machine.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(3);
/// From this attempt on the bytes of the core are not parsed: something in them may have ended the daemons before.
const UNPARSED_FROM: u32 = 3;
/// Size of the headers in bytes, at least and mostly.
const USUAL_HEADERS: u64 = 64 << 10;
/// A saved core with longer headers is not inspected: they would have to fit into memory.
const MAX_SAVED_HEADERS: u64 = 16 << 20;

/// Whether the bytes of this crash may be parsed.
pub(super) fn may_parse(offer: &Offer) -> bool {
    offer.attempt < UNPARSED_FROM
}

/// Learns everything about a crash that can be learnt before its memory is copied. `core` is its stream, where the caller has
/// it already. Returns the evidence and the core, not a byte of it consumed.
///
/// # Errors
/// The connection to the shim broke.
pub(super) async fn inspect(
    shared: &Shared,
    source: &mut CrashSource,
    offer: &Offer,
    handles: &mut ProcessHandles,
    core: Option<OwnedFd>,
) -> Result<(Evidence, CoreEvidence), ConnectionError> {
    let core = match core {
        Some(core) => Some(core),
        None => source.request_core(offer).await?,
    };
    let prefix = handles.prefix.take();
    let pipe = core.as_ref().filter(|_| source.holds_process() && prefix.is_none() && may_parse(offer));
    let ProcessReading { headers, facts, stack, is_complete } = read_process(shared, offer, handles, pipe).await;
    let mut warnings = Vec::new();
    if facts.is_none() {
        warnings.push(Warning::MemoryTimedOut);
    }
    let facts = facts.unwrap_or_default();
    let core = match core {
        None => CoreEvidence::Gone,
        Some(core) if source.holds_process() => open_pipe(shared, source, offer, core, prefix, headers).await?,
        Some(core) => CoreEvidence::Ready(open_saved(offer, core).await),
    };
    let stack = match (&core, stack) {
        (CoreEvidence::Ready(stream), None) if is_complete => {
            unwind_late(shared, offer, handles, facts.exe_build_id.clone(), stream, &mut warnings).await
        }
        (_, stack) => stack,
    };
    if !is_complete {
        warnings.push(Warning::StackTimedOut);
    }
    Ok((Evidence { facts, stack, warnings }, core))
}

/// As far as it could be read: a read that blocks hides nothing that was read before it.
#[derive(Default)]
struct ProcessReading {
    /// What stands in front of the core; `None`: the pipe was not looked at.
    headers: Option<Result<Arc<PeekedHeaders>, CaptureError>>,
    facts: Option<ProcessFacts>,
    stack: Option<CrashedStack>,
    /// Nothing blocked.
    is_complete: bool,
}

/// Reads a process through its handles, and the headers of its core in `pipe`.
async fn read_process(
    shared: &Shared,
    offer: &Offer,
    handles: &mut ProcessHandles,
    pipe: Option<&OwnedFd>,
) -> ProcessReading {
    let memory = handles.share_memory(trusted_file_systems(offer)).map(LiveMemory::new);
    let (cmdline, auxv) = (handles.cmdline.take(), handles.auxv.take());
    let arguments = offer.arguments.clone();
    let pipe = pipe.map(OwnedFd::try_clone);
    let context = signature_context(offer, None);
    let cancelled = shared.shutdown.abort_token();
    let so_far = Arc::new(Mutex::new(ProcessReading::default()));
    let reading = Arc::clone(&so_far);
    let read = move || {
        // First what never blocks: the kernel writes the headers out of its own memory.
        let headers =
            pipe.map(|pipe| capture::peek_headers(pipe.map_err(CaptureError::Read)?.as_fd(), &cancelled).map(Arc::new));
        let peeked = headers.as_ref().and_then(|headers| headers.as_ref().ok()).map(Arc::clone);
        lock(&reading).headers = headers;
        let facts = read_facts(cmdline, &arguments, auxv, memory.as_ref());
        let context = SignatureContext { build_id: facts.exe_build_id.clone(), ..context };
        lock(&reading).facts = Some(facts);
        let stack = match peeked.as_deref() {
            Some(PeekedHeaders::Complete(headers)) => {
                CoreLayout::read(headers).ok().map(|layout| unwind_crashed_thread(&layout, &memory, &context))
            }
            _ => None,
        };
        // Unless this ends too late, only one owner is left, and the headers need not be copied.
        drop(peeked);
        let mut reading = lock(&reading);
        reading.stack = stack;
        reading.is_complete = true;
    };
    // After a timeout, what was read so far is used.
    let _ = run_with_timeout(shared, INSPECT_TIMEOUT, read).await;
    std::mem::take(&mut lock(&so_far))
}

/// Unwinds a crash whose headers came later than the rest, or out of a file.
async fn unwind_late(
    shared: &Shared,
    offer: &Offer,
    handles: &ProcessHandles,
    exe_build_id: Option<String>,
    stream: &CoreInput,
    warnings: &mut Vec<Warning>,
) -> Option<CrashedStack> {
    let headers = stream.headers.clone()?;
    let open_memory = memory_of(offer, handles, stream);
    let context = signature_context(offer, exe_build_id);
    let unwind = move || {
        let layout = Arc::new(CoreLayout::read(&headers).ok()?);
        Some(unwind_crashed_thread(&layout, &open_memory(&layout), &context))
    };
    let unwound = run_with_timeout(shared, INSPECT_TIMEOUT, unwind).await;
    if unwound.is_none() {
        warnings.push(Warning::StackTimedOut);
    }
    unwound.flatten()
}

fn signature_context(offer: &Offer, build_id: Option<String>) -> SignatureContext {
    let program = program_of(&from_bytes(&offer.exe), offer.exe_deleted, &from_bytes(&offer.comm));
    SignatureContext { signal: offer.signal, build_id, program }
}

/// Where the memory of a crash is, opened when its layout is known: the parked process, or the saved core. `None`: it cannot be
/// read, and the registers are all that there is.
pub(super) fn memory_of(
    offer: &Offer,
    handles: &ProcessHandles,
    stream: &CoreInput,
) -> impl FnOnce(&Arc<CoreLayout>) -> Option<ProcessMemory> + Send + 'static {
    let live = handles.share_memory(trusted_file_systems(offer));
    let saved = stream.saved_at.and_then(|at| Some((File::from(stream.source.try_clone().ok()?), at)));
    let is_saved = stream.saved_at.is_some();
    let on_host = saw_files_of_host(offer);
    move |layout| match saved {
        Some((core, at)) => Some(ProcessMemory::core_file(core, at, on_host, Arc::clone(layout))),
        None if is_saved => None,
        None => live.map(ProcessMemory::live),
    }
}

/// The file systems of the process that the shim vouches for.
pub(super) fn trusted_file_systems(offer: &Offer) -> TrustedFileSystems {
    let mut trusted = TrustedFileSystems::default();
    for file_system in offer.file_systems.iter().flatten() {
        let list = if file_system.is_remote { &mut trusted.remote } else { &mut trusted.local };
        list.push(file_system.minor);
    }
    trusted
}

/// Whether the paths in the process' mappings are paths of this host.
fn saw_files_of_host(offer: &Offer) -> bool {
    let namespaces = offer.namespaces;
    let in_container = cgroup::parse(&from_bytes(&offer.cgroup)).container.is_some();
    !namespaces.pid && !namespaces.user && !in_container && offer.root == b"/"
}

/// Brings the pipe of a core and its headers together. `peeked` is the headers as they were seen in the pipe, if it was looked at.
async fn open_pipe(
    shared: &Shared,
    source: &mut CrashSource,
    offer: &Offer,
    core: OwnedFd,
    mut prefix: Option<OwnedFd>,
    peeked: Option<Result<Arc<PeekedHeaders>, CaptureError>>,
) -> Result<CoreEvidence, ConnectionError> {
    let mut headers = None;
    if may_parse(offer) {
        if prefix.is_none() {
            let peeked = match peeked {
                Some(peeked) => peeked.map(Arc::unwrap_or_clone),
                None => peek(shared, &core).await,
            };
            match peeked {
                Ok(PeekedHeaders::Complete(bytes)) => headers = Some(bytes),
                Ok(PeekedHeaders::TooLong(bytes)) => prefix = source.request_prefix(bytes).await?,
                Ok(PeekedHeaders::Unsupported(_) | PeekedHeaders::Empty) => {}
                Err(failure) => return Ok(CoreEvidence::Unreadable(failure)),
            }
        }
        if let Some(prefix) = &prefix {
            let prefix = prefix.try_clone();
            headers = run_blocking(move || read_whole(&File::from(prefix.ok()?))).await.ok().flatten();
        }
    }
    Ok(CoreEvidence::Ready(CoreInput { source: core, prefix, headers, saved_at: None }))
}

/// Looks at the headers in the pipe, in a thread of its own; it returns within seconds.
async fn peek(shared: &Shared, core: &OwnedFd) -> Result<PeekedHeaders, CaptureError> {
    let (pipe, cancelled) = (core.try_clone(), shared.shutdown.abort_token());
    let peek = move || capture::peek_headers(pipe.map_err(CaptureError::Read)?.as_fd(), &cancelled);
    run_blocking(peek).await.map_err(CaptureError::Read)?
}

/// The stream of a core that a shim saved, with its headers.
async fn open_saved(offer: &Offer, core: OwnedFd) -> CoreInput {
    let file = if may_parse(offer) { core.try_clone().ok() } else { None };
    let read = move || read_saved_headers(File::from(file?)).ok();
    let found = run_blocking(read).await.ok().flatten();
    let (headers, saved_at) = found.map_or((None, None), |(headers, at)| (headers, Some(at)));
    CoreInput { source: core, prefix: None, headers, saved_at }
}

/// The headers of a core in a file and the core's offset; the file's position stays.
fn read_saved_headers(mut file: File) -> io::Result<(Option<Vec<u8>>, u64)> {
    let at = file.stream_position()?;
    let mut bytes = Vec::new();
    (&file).take(USUAL_HEADERS).read_to_end(&mut bytes)?;
    let length = elf::headers_len(&bytes).ok().filter(|length| *length <= MAX_SAVED_HEADERS);
    if let Some(length) = length {
        (&file).take(length.saturating_sub(bytes.len() as u64)).read_to_end(&mut bytes)?;
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    }
    file.seek(SeekFrom::Start(at))?;
    Ok((length.filter(|length| bytes.len() as u64 >= *length).map(|_| bytes), at))
}

/// The contents of a file, whatever its position is.
fn read_whole(file: &File) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.metadata().ok()?.len()).ok()?];
    file.read_exact_at(&mut bytes, 0).ok().map(|()| bytes)
}

/// Reads what only the process' memory has. Its command line is where the process says, perhaps in a page that nobody answers for:
/// then it is left out.
fn read_facts(
    cmdline: Option<File>,
    arguments: &Range<u64>,
    auxv: Option<File>,
    memory: Option<&LiveMemory>,
) -> ProcessFacts {
    let read = |file: Option<File>| {
        let mut bytes = Vec::with_capacity(MAX_TEXT);
        // A text that cannot be read is missing from the record; the crash counts all the same.
        let _ = file.map(|file| file.take(MAX_TEXT as u64).read_to_end(&mut bytes));
        bytes
    };
    let answers = memory.is_none_or(|memory| memory.answers_for(arguments));
    let cmdline = cmdline.filter(|_| answers).map(|mut file| ArgumentList::read(&mut file)).unwrap_or_default();
    let auxv = auxv::parse(&read(auxv));
    let exe_build_id = memory.and_then(|memory| exe_build_id(memory, auxv));
    ProcessFacts { cmdline, auxv, exe_build_id }
}

/// The build-id of the executable as it is mapped: right also where the file was deleted or replaced since.
fn exe_build_id(memory: &LiveMemory, auxv: auxv::Auxv) -> Option<String> {
    /// No linker makes more program headers than a page holds, or longer notes.
    const MAX_READ: u64 = 4096;
    let read = |address: u64, length: u64| memory.read_vec(address, usize::try_from(length.min(MAX_READ)).ok()?);
    let size = if auxv.is_64bit { 56 } else { 32 };
    let table = read(auxv.phdr?, auxv.phnum?.checked_mul(size)?)?;
    let ranges = elf::note_ranges(&table, auxv.phdr?, auxv.is_64bit);
    ranges.into_iter().take(8).find_map(|range| elf::build_id(&read(range.address, range.length)?))
}
