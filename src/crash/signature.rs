//! What tells crashes of one bug from those of another; docs/signature.md says how it is computed.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The signature of a crash: the same for the same bug in the same build, on every host and in every container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Its name: `s`, the version of the rule, `-` and 20 hexadecimal digits.
    pub id: String,
    /// What it was made from.
    pub level: Level,
}

/// What crashes of one bug share: their signature, or program and signal where there is none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SignatureKey(String);

impl SignatureKey {
    /// The key with this text: a signature's id, or a stand-in for one.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, as catalog, tables and JSON show it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SignatureKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a signature was made from, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The first significant frames of the crashed thread.
    Stack,
    /// Where the program counter was.
    #[serde(rename = "counter")]
    ProgramCounter,
    /// The build-id of the executable.
    Executable,
    /// The name of the program: nothing better was to be had.
    Program,
}

/// How a frame was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameTrust {
    /// The registers of the crashed thread, or those that a signal interrupted.
    #[serde(rename = "registers")]
    Context,
    /// By the unwind sections of its module.
    #[serde(rename = "unwound")]
    CallFrameInfo,
    /// By the frame pointer.
    FramePointer,
    /// A word of the stack that follows a call instruction: a guess.
    #[serde(rename = "scanned")]
    Scan,
}

/// One frame of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Address in the process: the instruction itself in the first frame and in those that a signal interrupted, else
    /// where the call returns to.
    pub address: u64,
    /// The module it lies in, as an index of the record's `modules`.
    pub module: Option<u32>,
    /// Address as the module's own headers count, the same wherever it is loaded; that of the call where a call
    /// returns here (one byte before it returns).
    pub offset: u64,
    /// How it was found.
    #[serde(rename = "found")]
    pub trust: FrameTrust,
}

/// Threads that did not crash, and where they all were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadStacks {
    /// How many threads have these frames.
    pub count: u32,
    /// Their ids in the process' own PID namespace, the first of them where there are many.
    pub tids: Vec<u32>,
    /// The innermost frame first.
    pub frames: Vec<Frame>,
}

/// A mapped ELF file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its path, as the process' own mount namespace names it; `[vdso]` for the kernel's.
    pub path: String,
    /// NT_GNU_BUILD_ID, hexadecimal.
    pub build_id: Option<String>,
    /// `.note.package` (systemd's ELF package metadata), as it stands there.
    pub package: Option<String>,
    /// What its headers' addresses are shifted by in the process.
    pub bias: u64,
    /// Its first address in the process.
    pub start: u64,
    /// The address behind its last one.
    pub end: u64,
}

/// Why the crashed thread got its signal (sigaction(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigInfo {
    /// `si_code`.
    pub code: i32,
    /// `si_addr`: the address that a fault was about.
    pub address: Option<u64>,
    /// `si_pid`, in the receiver's own PID namespace, and `si_uid` of the process that sent the signal.
    pub sender: Option<(u32, u32)>,
}

impl Level {
    /// The level as it stands in records, tables and signatures.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stack => "stack",
            Self::ProgramCounter => "counter",
            Self::Executable => "executable",
            Self::Program => "program",
        }
    }
}

impl FrameTrust {
    /// The way as it stands in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Context => "registers",
            Self::CallFrameInfo => "unwound",
            Self::FramePointer => "frame-pointer",
            Self::Scan => "scanned",
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}
