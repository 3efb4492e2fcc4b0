//! Where shim and daemon meet, and the `core_pattern` that starts the shim.

use std::fmt;
use std::path::{Path, PathBuf};

/// What the shim wants to hear from the kernel, in the order of its arguments (core(5)). `%F` comes last: kernels before
/// 6.16 expand it to nothing.
pub const SPECIFIERS: &str = "%P %I %u %g %s %t %c %d %h %F";
/// The kernel cuts longer patterns without a word (CORENAME_MAX_SIZE less the NUL, fs/coredump.c).
pub const MAX_PATTERN: usize = 127;

/// The directory below which every path lies: `/`, or the tree of a test (`--root`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

/// A pattern that the kernel would cut.
#[derive(Debug)]
pub struct PatternTooLong {
    length: usize,
    shim: String,
}

impl fmt::Display for PatternTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { length, shim } = self;
        write!(
            f,
            "core_pattern would have {length} bytes, the kernel takes {MAX_PATTERN}: choose a shorter path than {shim}"
        )
    }
}

impl std::error::Error for PatternTooLong {}

impl Default for Root {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl Root {
    /// The tree below `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// Whether this is the machine itself and no test tree.
    pub fn is_system(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `path` (written from `/`) in this tree.
    pub fn join(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// The intake stream.
    pub fn intake_socket(&self) -> PathBuf {
        self.join("/run/coreward/intake.sock")
    }

    /// Runtime directory: the socket, what `coreward register` remembers.
    pub fn run_dir(&self) -> PathBuf {
        self.join("/run/coreward")
    }

    /// State directory.
    pub fn state_dir(&self) -> PathBuf {
        self.join("/var/lib/coreward")
    }

    /// The journal's native socket.
    pub fn journal_socket(&self) -> PathBuf {
        self.join("/run/systemd/journal/socket")
    }

    /// The daemon's program: a crash of it is never offered to it.
    pub fn daemon_exe(&self) -> PathBuf {
        self.join("/usr/libexec/coreward/corewardd")
    }

    /// The shim's program.
    pub fn shim_exe(&self) -> PathBuf {
        self.join("/usr/libexec/coreward/coreward-shim")
    }

    /// The `core_pattern` that makes the kernel start `shim`.
    ///
    /// # Errors
    /// A pattern longer than the kernel takes.
    pub fn core_pattern(&self, shim: &Path) -> Result<String, PatternTooLong> {
        let root = if self.is_system() { String::new() } else { format!(" --root {}", self.0.display()) };
        let pattern = format!("|{}{root} {SPECIFIERS}", shim.display());
        if pattern.len() > MAX_PATTERN {
            return Err(PatternTooLong { length: pattern.len(), shim: shim.display().to_string() });
        }
        Ok(pattern)
    }
}

/// Name of the directory, in the state directory and in the runtime directory, where the shim saves what no daemon took.
pub const SPOOL: &str = "spool";
/// Ending of a spooled crash: the offer as it is sent over the stream, then the bytes of the core.
pub const SPOOL_SUFFIX: &str = ".spool";
