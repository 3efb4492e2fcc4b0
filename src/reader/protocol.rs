//! The messages between the daemon and a reader. Both run the same program, so the format may change at any time.

use super::module_file::{ModuleError, ModuleFile};
use super::names::{self, ModuleFrames, Names};
use super::saved_core::FirstPage;
use super::stack::{CrashedStack, OtherThreads, SignatureContext};
use crate::capture::{MissingPages, PlanSummary, SourceError, StoredChunk};
use crate::crash::{ArgumentList, InterpreterStack};
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Range;

/// A file of a crashed process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ProcessFile {
    Mem,
    Pagemap,
    Maps,
    Cmdline,
    Auxv,
    Mountinfo,
    HostMountinfo,
}

/// What a reader reads. The byte with which it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Processes, one after the other.
    Processes = 0,
    /// One core that a shim saved, and files of this machine.
    SavedCore = 1,
    /// The mapped files of one process, and files of this machine.
    Modules = 2,
}

impl Purpose {
    /// The purpose that this byte stands for.
    pub(super) fn from_byte(byte: u8) -> Self {
        let all = [Self::Processes, Self::SavedCore, Self::Modules];
        all.into_iter().find(|purpose| *purpose as u8 == byte).unwrap_or(Self::Processes)
    }
}

/// What the daemon asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// The process to read from now on, with its files. No answer.
    Open { files: Vec<ProcessFile>, arguments: Range<u64>, in_user_namespace: bool },
    /// The first request to a reader of a saved core, with its file. The core begins at byte `at`. No answer.
    OpenSaved { at: u64, first_pages: Vec<FirstPage> },
    /// The first request to a reader of modules: the paths of files of this machine that modules are compared with, each at the number
    /// of its module. No answer.
    OpenHostFiles(Vec<Option<String>>),
    /// Answered with [`Answer::ModuleFile`] of the mapped file, compared with the host's file with this number.
    ModuleFile { host: usize },
    /// Answered with [`Answer::CopiedModule`]: the last file, compressed into this one, at most this many bytes.
    CopyModule { limit: u64 },
    /// Answered with [`Answer::SameModule`]: whether this stored module has the bytes of the last file.
    CompareModule,
    /// Answered with [`Answer::Facts`].
    Facts,
    /// The message's bytes are the headers of the core. No answer.
    Headers,
    /// Answered with [`Answer::Stack`].
    Stack(SignatureContext),
    /// Answered with [`Answer::OtherThreads`]; the thread with this id failed, and the record has modules with these first addresses.
    OtherThreads { failed: Option<u32>, recorded: Vec<u64> },
    /// Answered with [`Answer::Names`], as far as memory has them.
    MemoryNames(Vec<ModuleFrames>),
    /// Answered with [`Answer::Names`], as far as the modules' files have them, which come with it; a reader of a saved core has them.
    FileNames(Vec<ModuleFrames>),
    /// Answered with [`Answer::Mappings`]: those that have these addresses.
    Mappings(Vec<u64>),
    /// Answered with [`Answer::Names`]: one list, of the functions at these addresses, as the perf map has them that comes with it.
    PerfMap(Vec<u64>),
    /// Answered with [`Answer::Copied`]: the first bytes of the first file that comes with it, at most so many, are written to the second.
    CopyBeginning { limit: u64 },
    /// Answered with [`Answer::Interpreter`]; the thread with this id failed, and these are addresses in the functions of its native frames.
    Interpreter { failed: Option<u32>, code: Vec<u64> },
    /// Answered with [`Answer::Plan`]; with it comes the list of holes, if there is one.
    Plan,
    /// Answered with [`Answer::Answers`].
    Answers,
    /// Answered with [`Answer::BuildId`] of the executable's file.
    BuildId,
    /// Answered with [`Answer::Environment`]: the variables with these names.
    Environment(Vec<String>),
    /// The core is read as planned: the staging area's files, and how much may be copied to memory. No answer.
    Image { memory_limit: u64 },
    /// A connection of its own for requests about the image, and a file in memory for their data. No answer.
    Connect,
    /// Forget the process. No answer.
    Close,
}

/// What a reader answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The first message, with a pidfd of the reader, and what of its confinement the kernel lacks.
    Ready {
        missing: Vec<String>,
    },
    /// What only the process itself tells.
    Facts {
        arguments: ArgumentList,
        exe_build_id: Option<String>,
    },
    /// `None`: the headers are not understood.
    Stack(Option<Box<CrashedStack>>),
    OtherThreads(Option<OtherThreads>),
    Names(Names),
    /// Lines of `/proc/PID/maps`, in the order of the addresses.
    Mappings(Vec<Option<String>>),
    /// Bytes that were copied; `None`: the file cannot be read.
    Copied(Option<u64>),
    /// `None`: there is no interpreter, or the thread is none of its.
    Interpreter(Option<InterpreterStack>),
    /// `None`: it cannot be read.
    ModuleFile(Option<ModuleFile>),
    /// The bytes that were written.
    CopiedModule(Result<u64, ModuleError>),
    SameModule(bool),
    BuildId(Option<String>),
    /// A line for each variable that there is.
    Environment(String),
    /// Whether all memory answers.
    Answers(bool),
    /// `None`: the headers or the memory cannot be read.
    Plan(Option<PlanSummary>),
}

impl Answer {
    /// The error for an answer to another request.
    pub(super) fn mismatch() -> io::Error {
        io::ErrorKind::InvalidData.into()
    }

    /// The stack.
    ///
    /// # Errors
    /// This is no answer to [`Request::Stack`], or not one that this program gives.
    pub(super) fn into_stack(self) -> io::Result<Option<CrashedStack>> {
        match self {
            Self::Stack(stack) if stack.as_ref().is_none_or(|stack| stack.is_well_formed()) => {
                Ok(stack.map(|stack| *stack))
            }
            _ => Err(Self::mismatch()),
        }
    }

    /// Names of functions.
    ///
    /// # Errors
    /// This is no answer to a request for them, or not one that this program gives.
    pub(super) fn into_names(self) -> io::Result<Names> {
        match self {
            Self::Names(names) if names::are_well_formed(&names) => Ok(names),
            _ => Err(Self::mismatch()),
        }
    }

    /// The stacks of the other threads.
    ///
    /// # Errors
    /// This is no answer to [`Request::OtherThreads`], or not one that this program gives.
    pub(super) fn into_other_threads(self) -> io::Result<Option<OtherThreads>> {
        match self {
            Self::OtherThreads(threads) if threads.as_ref().is_none_or(OtherThreads::is_well_formed) => Ok(threads),
            _ => Err(Self::mismatch()),
        }
    }

    /// The stack of the interpreted program.
    ///
    /// # Errors
    /// This is no answer to [`Request::Interpreter`], or not one that this program gives.
    pub(super) fn into_interpreter(self) -> io::Result<Option<InterpreterStack>> {
        match self {
            Self::Interpreter(stack) if stack.as_ref().is_none_or(InterpreterStack::is_well_formed) => Ok(stack),
            _ => Err(Self::mismatch()),
        }
    }
}

/// What the daemon asks about an image.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ImageRequest {
    /// Reads a range into the file in memory.
    Read(Range<u64>),
    /// Copies a range to the staging area.
    Store(Range<u64>),
    /// Copies all priority ranges to the staging area's memory.
    StorePriority,
}

/// What a reader answers about an image.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ImageAnswer {
    pub(super) result: Result<ImageData, ImageError>,
    /// Pages were left out by now.
    pub(super) missing_pages: MissingPages,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum ImageData {
    /// The range has nothing but zeros.
    Zeros,
    /// The file in memory has the range at its beginning.
    Bytes,
    Stored {
        on_disk: u64,
        refused: bool,
    },
}

/// A [`SourceError`] as a message: errors of the system by their number (errno(3)).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum ImageError {
    ProcessGone,
    Read(i32),
    Write(i32),
}

impl From<StoredChunk> for ImageData {
    fn from(stored: StoredChunk) -> Self {
        Self::Stored { on_disk: stored.on_disk, refused: stored.refused }
    }
}

impl From<SourceError> for ImageError {
    fn from(error: SourceError) -> Self {
        let number = |error: &io::Error| match error.kind() {
            io::ErrorKind::OutOfMemory => nix::libc::ENOMEM,
            _ => error.raw_os_error().unwrap_or(nix::libc::EIO),
        };
        match error {
            SourceError::ProcessGone => Self::ProcessGone,
            SourceError::Read(error) => Self::Read(number(&error)),
            SourceError::Write(error) => Self::Write(number(&error)),
        }
    }
}

impl From<ImageError> for SourceError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::ProcessGone => Self::ProcessGone,
            ImageError::Read(number) => Self::Read(io::Error::from_raw_os_error(number)),
            ImageError::Write(number) => Self::Write(io::Error::from_raw_os_error(number)),
        }
    }
}
