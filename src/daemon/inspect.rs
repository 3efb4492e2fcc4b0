//! Stage 2: inspects a crash before anything is decided. Nothing is consumed: the core pipe is looked at with tee(2), and a reader
//! reads memory where it is.
//!
//! A storm pays for every hand-over ten thousand times: a reader is asked once for all of it, and no thread waits for it.

use super::blocking::run_blocking;
use super::connection::ConnectionError;
use super::crash_source::CrashSource;
use super::evidence::{CoreEvidence, CoreInput, Evidence, ProcessFacts};
use super::process_handles::ProcessHandles;
use super::shared::Shared;
use crate::capture::{self, CaptureError, Headers, HeadersGrant, PeekedHeaders};
use crate::crash::text::from_bytes;
use crate::crash::{Warning, cgroup, program_of};
use crate::elf::{self, CoreLayout};
use crate::reader::{
    CrashedStack, FirstPage, RawFacts, Reader, SavedCoreFile, SignatureContext, unwind_crashed_thread,
};
use crate::unwind::ReadMemory;
use coreward_wire::Offer;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A process is inspected in a millisecond or two, and the work is bounded by frames and pages. This limit is for memory that
/// does not answer; a shorter one would change signatures on a loaded machine.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The same for what a process tells of itself without its stack.
const FACTS_TIMEOUT: Duration = Duration::from_secs(1);
/// From this attempt on the bytes of the core are not parsed: something in them may have ended the daemons before.
const UNPARSED_FROM: u32 = 3;
/// Size of the headers in bytes, at least and mostly.
const USUAL_HEADERS: u64 = 64 << 10;
/// The headers of a crash that waits are taken out of the pipe up to this length, which must fit into the memory for all headers. Of
/// longer ones the beginning is enough for the stack of the crashed thread, and the core is drained from the pipe.
const MAX_LIVE_HEADERS: u64 = 40 << 20;
/// Bytes of the notes that tell about the process and the thread that crashed: mostly the mapped files (core_file_note_size_limit).
const FIRST_NOTES: u64 = 6 << 20;
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
    shared: &Arc<Shared>,
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
    // Without a place nothing is looked at.
    let may_look = may_parse(offer) && (handles.place.is_some() || !source.holds_process());
    let pipe = core.as_ref().filter(|_| source.holds_process() && prefix.is_none() && may_look);
    let ProcessReading { headers, auxv, facts, stack, is_complete } = read_process(shared, offer, handles, pipe).await;
    let mut warnings = Vec::new();
    if facts.is_none() {
        warnings.push(Warning::MemoryTimedOut);
    }
    let facts = ProcessFacts::new(facts.unwrap_or_default(), auxv);
    let core = match core {
        None => CoreEvidence::Gone,
        Some(core) if source.holds_process() && !may_look => {
            CoreEvidence::Ready(CoreInput { source: core, prefix, headers: None, beginning: None })
        }
        Some(core) if source.holds_process() => open_pipe(shared, source, offer, core, prefix, headers).await?,
        Some(core) => CoreEvidence::Ready(open_saved(shared, offer, handles, core).await),
    };
    if let CoreEvidence::Ready(CoreInput { headers, beginning, .. }) = &core
        && let Some(machine) = headers.as_ref().or(beginning.as_ref()).and_then(|headers| elf::unknown_machine(headers))
    {
        warnings.push(Warning::UnknownMachine(machine));
    }
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

/// As far as it could be read.
#[derive(Default)]
struct ProcessReading {
    /// What stands in front of the core; `None`: the pipe was not looked at.
    headers: Option<Result<PeekedHeaders, CaptureError>>,
    auxv: Vec<u8>,
    facts: Option<RawFacts>,
    stack: Option<CrashedStack>,
    /// Nothing blocked.
    is_complete: bool,
}

/// Reads a process through its handles, and the headers of its core in `pipe`.
async fn read_process(
    shared: &Arc<Shared>,
    offer: &Offer,
    handles: &mut ProcessHandles,
    pipe: Option<&OwnedFd>,
) -> ProcessReading {
    // First what never blocks: the kernel writes the headers out of its own memory.
    let headers = match pipe {
        Some(pipe) => Some(peek(shared, pipe).await),
        None => None,
    };
    let auxv = handles.memory.auxv().to_vec();
    let mut reading = ProcessReading { headers, auxv, is_complete: true, ..ProcessReading::default() };
    let headers = match &reading.headers {
        Some(Ok(PeekedHeaders::Complete(headers))) => Some(headers.clone()),
        _ => None,
    };
    let context = signature_context(offer, None);
    let memory = &mut handles.memory;
    if !memory.has_files() {
        // The registers are all that there is.
        let unwind = move || unwind_registers(&headers?, &context);
        reading.stack = run_blocking(unwind).await.ok().flatten();
        reading.facts = Some(RawFacts::default());
        return reading;
    }
    let mut inspected = memory.inspect(shared, headers.as_ref(), &context, INSPECT_TIMEOUT).await;
    if inspected.is_err() {
        reading.is_complete = false;
        // The facts come with the stack. Another reader may still get them.
        inspected = memory.inspect(shared, None, &context, FACTS_TIMEOUT).await;
    }
    if let Ok((facts, stack)) = inspected {
        (reading.facts, reading.stack) = (Some(facts), stack);
    }
    reading
}

/// Unwinds a crash whose headers came later than the rest, or out of a file.
async fn unwind_late(
    shared: &Arc<Shared>,
    offer: &Offer,
    handles: &mut ProcessHandles,
    exe_build_id: Option<String>,
    stream: &CoreInput,
    warnings: &mut Vec<Warning>,
) -> Option<CrashedStack> {
    let headers = stream.headers.clone().or_else(|| {
        let beginning = stream.beginning.clone()?;
        warnings.push(Warning::HeadersTooLong);
        Some(beginning)
    })?;
    let context = signature_context(offer, exe_build_id);
    let ask = move |reader: &mut Reader| reader.stack(&headers, &context, Instant::now() + INSPECT_TIMEOUT);
    let unwound = ask_reader(shared, handles, ask).await;
    if unwound.is_none() {
        warnings.push(Warning::StackTimedOut);
    }
    unwound.flatten()
}

/// Asks a reader of the process, in a thread of its own; `None`: there is none, or it did not answer.
pub(super) async fn ask_reader<T: Send + 'static>(
    shared: &Arc<Shared>,
    handles: &mut ProcessHandles,
    ask: impl FnOnce(&mut Reader) -> io::Result<T> + Send + 'static,
) -> Option<T> {
    let (mut memory, shared) = (std::mem::take(&mut handles.memory), Arc::clone(shared));
    let ask = move || (memory.ask(&shared.readers, ask).ok(), memory);
    let (answer, memory) = run_blocking(ask).await.ok()?;
    handles.memory = memory;
    answer
}

/// Unwinds the crashed thread from its registers alone.
fn unwind_registers(headers: &Headers, context: &SignatureContext) -> Option<CrashedStack> {
    Some(unwind_crashed_thread(&CoreLayout::read(headers).ok()?, &None::<&dyn ReadMemory>, context))
}

fn signature_context(offer: &Offer, build_id: Option<String>) -> SignatureContext {
    SignatureContext { signal: offer.signal, build_id, program: program(offer) }
}

/// What the crash is counted under.
pub(super) fn program(offer: &Offer) -> String {
    program_of(&from_bytes(&offer.exe), offer.exe_deleted, &from_bytes(&offer.comm))
}

/// Whether the paths in the process' mappings are paths of this host.
fn saw_files_of_host(offer: &Offer) -> bool {
    let namespaces = offer.namespaces;
    let in_container = cgroup::parse(&from_bytes(&offer.cgroup)).container.is_some();
    !namespaces.pid && !namespaces.user && !in_container && offer.root == b"/"
}

/// Brings the pipe of a core and its headers together. `peeked` is the headers as they were seen in the pipe, if it was looked at.
async fn open_pipe(
    shared: &Arc<Shared>,
    source: &mut CrashSource,
    offer: &Offer,
    core: OwnedFd,
    mut prefix: Option<OwnedFd>,
    peeked: Option<Result<PeekedHeaders, CaptureError>>,
) -> Result<CoreEvidence, ConnectionError> {
    let (mut headers, mut beginning) = (None, None);
    if may_parse(offer) {
        if prefix.is_none() {
            let peeked = match peeked {
                Some(peeked) => peeked,
                None => peek(shared, &core).await,
            };
            match peeked {
                Ok(PeekedHeaders::Complete(complete)) => headers = Some(complete),
                Ok(PeekedHeaders::TooLong(notes)) => {
                    let enough = if notes.end <= MAX_LIVE_HEADERS { notes.end } else { notes.start + FIRST_NOTES };
                    prefix = source.request_prefix(enough.min(notes.end)).await?;
                }
                // Then the core is stored without being parsed.
                Ok(PeekedHeaders::NoMemory | PeekedHeaders::Unsupported(_) | PeekedHeaders::Empty) => {}
                Err(failure) => return Ok(CoreEvidence::Unreadable(failure)),
            }
        }
        if let Some(prefix) = prefix.as_ref().and_then(|prefix| prefix.try_clone().ok()) {
            let shared = Arc::clone(shared);
            let prefix = File::from(prefix);
            let read = move || match read_whole(&shared, &prefix) {
                None => (None, read_beginning(&shared, &prefix)),
                headers => (headers, None),
            };
            (headers, beginning) = run_blocking(read).await.unwrap_or_default();
        }
    }
    Ok(CoreEvidence::Ready(CoreInput { source: core, prefix, headers, beginning }))
}

/// Looks at the headers in the pipe. Mostly they have arrived whole by now; otherwise it takes seconds at most.
async fn peek(shared: &Arc<Shared>, core: &OwnedFd) -> Result<PeekedHeaders, CaptureError> {
    if let Some(headers) = capture::peek_arrived_headers(core.as_fd(), &shared.resources.memory_budget) {
        return Ok(PeekedHeaders::Complete(headers));
    }
    let (shared, core) = (Arc::clone(shared), core.try_clone());
    let peek = move || {
        let core = core.map_err(CaptureError::Read)?;
        capture::peek_headers(core.as_fd(), &shared.resources.memory_budget, &shared.shutdown.abort_token())
    };
    run_blocking(peek).await.map_err(CaptureError::Read)?
}

/// The stream of a core that a shim saved, with its headers. Its memory is read from the file.
async fn open_saved(shared: &Arc<Shared>, offer: &Offer, handles: &mut ProcessHandles, core: OwnedFd) -> CoreInput {
    let file = if may_parse(offer) { core.try_clone().ok().map(File::from) } else { None };
    let (shared, on_host) = (Arc::clone(shared), saw_files_of_host(offer));
    let read = move || {
        let mut file = file?;
        let at = file.stream_position().ok()?;
        let headers = read_saved_headers(&shared, &mut file, at).ok()??;
        // Code and unwind tables, which coredump_filter leaves out, are in files of this machine.
        let layout = CoreLayout::read(&headers).ok().filter(|_| on_host);
        let first_pages = layout.as_ref().map(FirstPage::of_core).unwrap_or_default();
        Some((headers, SavedCoreFile { file, at, first_pages }))
    };
    let found = run_blocking(read).await.ok().flatten();
    let headers = found.map(|(headers, saved)| {
        handles.memory.set_saved(saved);
        headers
    });
    CoreInput { source: core, prefix: None, headers, beginning: None }
}

/// The headers of a core that begins at byte `at` of a file, which is its position and stays so.
fn read_saved_headers(shared: &Shared, file: &mut File, at: u64) -> io::Result<Option<Headers>> {
    let mut bytes = Vec::new();
    file.take(USUAL_HEADERS).read_to_end(&mut bytes)?;
    let length = elf::headers_len(&bytes).ok().filter(|length| *length <= MAX_SAVED_HEADERS);
    let mut headers = None;
    if let Some((length, grant)) = length.and_then(|length| Some((length, grant_for(shared, length)?))) {
        file.take(length.saturating_sub(bytes.len() as u64)).read_to_end(&mut bytes)?;
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        headers = (bytes.len() as u64 == length).then(|| Headers::new(bytes, grant));
    }
    file.seek(SeekFrom::Start(at))?;
    Ok(headers)
}

/// Headers that are the contents of a file, whatever its position is; `None` if it has only some of them, or they are too long.
fn read_whole(shared: &Shared, file: &File) -> Option<Headers> {
    let length = file.metadata().ok()?.len();
    let expected = elf::headers_len(&read_first(file)?).ok()?;
    if length != expected || length > MAX_LIVE_HEADERS {
        return None;
    }
    let grant = grant_for(shared, length)?;
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    file.read_exact_at(&mut bytes, 0).ok().map(|()| Headers::new(bytes, grant))
}

/// The first notes in a file with headers that are too long: they tell about the thread that crashed.
fn read_beginning(shared: &Shared, file: &File) -> Option<Headers> {
    let (first, length) = (read_first(file)?, file.metadata().ok()?.len());
    let notes = elf::notes_range(&first).ok()?;
    let end = length.min(notes.end).min(notes.start + FIRST_NOTES);
    let grant = grant_for(shared, end.checked_sub(notes.start)?)?;
    let mut bytes = vec![0; usize::try_from(end - notes.start).ok()?];
    file.read_exact_at(&mut bytes, notes.start).ok()?;
    Some(Headers::new(elf::beginning_of_headers(&first, &bytes).ok()?, grant))
}

/// The ELF header and one program header.
fn read_first(file: &File) -> Option<[u8; 4096]> {
    let mut first = [0; 4096];
    file.read_exact_at(&mut first, 0).ok()?;
    Some(first)
}

/// Memory for long headers, as soon as others return it.
fn grant_for(shared: &Shared, length: u64) -> Option<HeadersGrant> {
    HeadersGrant::wait(&shared.resources.memory_budget, length, Instant::now() + INSPECT_TIMEOUT)
}
