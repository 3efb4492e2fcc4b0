//! The signature, which identifies the bug behind a crash, and the stacks it is made from. docs/signature.md describes how it is
//! computed.

use super::text::file_name;
use super::{demangle, text};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The signature of a crash: the same for the same bug in the same build, on every host and in every container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The id: `s`, the version of the algorithm, `-` and 20 hexadecimal digits.
    pub id: String,
    /// The data it was computed from.
    pub level: Level,
    /// The name by the rules of the version before, 1, for references to it elsewhere: tickets, alerts. `None` in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Where code without a file hides what tells bugs apart: a hash of what may differ from run to run also for one bug, or `unknown`. It is no
    /// part of the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// The key that crashes of one bug share: their signature, or program and signal if there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignatureKey(String);

impl SignatureKey {
    /// The key with this text: the id of a signature, or a substitute for one.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text used in the catalog, tables and JSON.
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

/// The data a signature was computed from, the most specific first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The first significant frames of the crashed thread.
    Stack,
    /// The program counter of the crashed thread.
    #[serde(rename = "counter")]
    ProgramCounter,
    /// The build-id of the executable.
    Executable,
    /// The name of the program, if nothing more specific was available.
    Program,
}

/// How a frame was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameTrust {
    /// The registers of the crashed thread, or those that a signal interrupted.
    #[serde(rename = "registers")]
    Context,
    /// The call frame information of its module.
    #[serde(rename = "unwound")]
    CallFrameInfo,
    /// The frame pointer.
    FramePointer,
    /// A guess: a word on the stack that is an address directly after a call instruction.
    #[serde(rename = "scanned")]
    Scan,
}

/// One frame of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Address in the process: that of the instruction in the first frame and in frames that a signal interrupted, else the
    /// return address.
    pub address: u64,
    /// The module that contains the address, as an index into the record's `modules`.
    pub module: Option<u32>,
    /// Address relative to the module, as in its program headers, independent of where it is loaded. For a return address, that
    /// of the byte before it, which belongs to the call.
    pub offset: u64,
    /// How it was found.
    #[serde(rename = "found")]
    pub trust: FrameTrust,
    /// The function that it is in, as far as symbols in the memory of the process or in its mapped files told. `None` in records of
    /// duplicates and of earlier versions. The signature does not depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbol: Option<Symbol>,
    /// Who compiled the code there at run time: the compiler of a runtime, or the name that the process gave to the memory. `None` if it is in a
    /// module, and where it is not certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiler: Option<String>,
}

impl Frame {
    /// An address in the function of this frame, in the process: a return address may already be in the next one.
    #[must_use]
    pub fn code_address(&self) -> u64 {
        match self.trust {
            FrameTrust::Context => self.address,
            FrameTrust::CallFrameInfo | FrameTrust::FramePointer | FrameTrust::Scan => self.address.wrapping_sub(1),
        }
    }
}

/// A function, and where in it an address is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbol {
    /// Name in the symbol table, as it is there: of C++ and Rust a mangled one.
    pub name: String,
    /// Distance from the beginning of the function, in bytes: of an address that a call returns to, that of the byte before it.
    pub offset: u64,
}

/// Threads that did not crash and have the same stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadStacks {
    /// Number of threads that have these frames.
    pub count: u32,
    /// Their ids in the PID namespace of the process; only the first ones if there are many.
    pub tids: Vec<u32>,
    /// The frames, the innermost first.
    pub frames: Vec<Frame>,
}

/// A version of a package of a distribution.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version; empty if it is not known.
    pub version: String,
}

/// A mapped ELF file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Path in the mount namespace of the process; `[vdso]` for the kernel's vDSO (vdso(7)).
    pub path: String,
    /// Build-id (`NT_GNU_BUILD_ID`), hexadecimal.
    pub build_id: Option<String>,
    /// Content of `.note.package` (systemd's ELF package metadata), unchanged.
    pub package: Option<String>,
    /// The package of this host whose file it was when it crashed, where it does not say that itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Package>,
    /// Load bias: the difference between addresses in the process and addresses in its program headers.
    pub bias: u64,
    /// First address in the process.
    pub start: u64,
    /// End address in the process, exclusive.
    pub end: u64,
}

impl Module {
    /// What the module says of its package. `None` where it says nothing, or not as a JSON object.
    #[must_use]
    pub fn package_metadata(&self) -> Option<serde_json::Map<String, serde_json::Value>> {
        match serde_json::from_str(self.package.as_deref()?) {
            Ok(serde_json::Value::Object(package)) => Some(package),
            _ => None,
        }
    }

    /// The package that the module names.
    #[must_use]
    pub fn named_package(&self) -> Option<Package> {
        let package = self.package_metadata()?;
        let text = |key: &str| package.get(key).and_then(serde_json::Value::as_str).map(str::to_owned);
        Some(Package { name: text("name")?, version: text("version").unwrap_or_default() })
    }

    /// The package that it was of when it crashed.
    #[must_use]
    pub fn package_at_crash(&self) -> Option<Package> {
        self.named_package().or_else(|| self.owner.clone())
    }
}

/// Why the crashed thread got its signal (sigaction(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigInfo {
    /// `si_code`.
    pub code: i32,
    /// `si_addr`: the address that caused a fault.
    pub address: Option<u64>,
    /// `si_pid`, in the PID namespace of the receiver, and `si_uid` of the process that sent the signal.
    pub sender: Option<(u32, u32)>,
}

impl Module {
    /// The path that stands for the vDSO, which is not a file.
    pub const VDSO: &str = "[vdso]";

    /// The name of the file, without its directory.
    #[must_use]
    pub fn file_name(&self) -> &str {
        file_name(&self.path)
    }

    /// Whether it is the vDSO.
    #[must_use]
    pub fn is_vdso(&self) -> bool {
        self.path == Self::VDSO
    }

    /// Whether the file is one of the C and C++ runtime libraries. Their frames are left out of titles and of the signature: the same
    /// program uses different ones in different containers, they select functions by processor, and what they do when a program
    /// aborts is not part of its bug.
    #[must_use]
    pub fn is_runtime(&self) -> bool {
        const NAMES: [&str; 14] = [
            "libc.so",
            "libc-2.",
            "libc.musl-",
            "ld-musl-",
            "ld-linux",
            "ld-2.",
            "ld64.so",
            "libpthread",
            "libstdc++.so",
            "libgcc_s",
            "libc++.so",
            "libc++abi",
            "libunwind.so",
            "librt.so",
        ];
        let name = self.file_name();
        NAMES.iter().any(|runtime| name.starts_with(runtime))
    }
}

impl Level {
    /// The name used in records, tables and signatures.
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
    /// The name used in records.
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

impl Symbol {
    /// The most bytes of a name. Those of C++ templates have some hundred, and what is left of a mangled one says little.
    pub const MAX_NAME: usize = 1024;

    /// The function with this name. What is longer than [`Self::MAX_NAME`] is cut, and ends with an ellipsis.
    #[must_use]
    pub fn new(name: &[u8], offset: u64) -> Self {
        let name = match name.get(..Self::MAX_NAME) {
            Some(beginning) if name.len() > Self::MAX_NAME => text::from_bytes(beginning) + "…",
            _ => text::from_bytes(name),
        };
        Self { name, offset }
    }

    /// The name as it is shown: demangled, escaped, and cut if it is long.
    #[must_use]
    pub fn shown(&self) -> String {
        const MAX_SHOWN: usize = 200;
        text::printable(&demangle(&self.name, MAX_SHOWN))
    }
}

impl Signature {
    /// The variant of a crash of which nothing tells whether it is another bug than others with its signature.
    pub const UNKNOWN_VARIANT: &str = "unknown";

    /// Whether the id has the form of one. Somebody who read hostile bytes may send any text.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        const DIGITS: usize = 20;
        const VARIANT_DIGITS: usize = 16;
        let is_id = |id: &str| {
            let parts = id.strip_prefix('s').and_then(|rest| rest.split_once('-'));
            parts.is_some_and(|(version, digits)| {
                (1..=3).contains(&version.len())
                    && version.bytes().all(|byte| byte.is_ascii_digit())
                    && has_digits(digits, DIGITS)
            })
        };
        let is_variant = |variant: &String| variant == Self::UNKNOWN_VARIANT || has_digits(variant, VARIANT_DIGITS);
        self.variant.as_ref().is_none_or(is_variant) && is_id(&self.id) && self.previous.as_deref().is_none_or(is_id)
    }
}

/// Whether a text has this many lower-case hexadecimal digits and nothing else.
fn has_digits(text: &str, count: usize) -> bool {
    text.len() == count && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}
