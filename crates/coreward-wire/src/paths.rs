//! The paths that the shim, the daemon and the command share, and the `core_pattern` that makes the kernel start the shim.

use std::fmt;
use std::path::{Path, PathBuf};

/// The shim's arguments as specifiers of core_pattern (core(5)), in their order. `%F` comes last because kernels before 6.16
/// expand it to nothing.
pub const SPECIFIERS: &str = "%P %I %u %g %s %t %c %d %h %F";
/// Longest pattern in bytes. The kernel silently truncates a longer one (CORENAME_MAX_SIZE less the NUL, fs/coredump.c).
pub const MAX_PATTERN: usize = 127;

/// The directory that every path is relative to: `/`, or a directory of a test (`--root`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

/// A `core_pattern` that the kernel would truncate.
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
            "core_pattern would have {length} bytes, the kernel takes at most {MAX_PATTERN}: choose a shorter path than {shim}"
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
    /// Paths relative to `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// Whether this is `/`, and not the directory of a test.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The absolute `path` below this root.
    #[must_use]
    pub fn join(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// The intake socket: a Unix stream socket on which the daemon accepts offers.
    #[must_use]
    pub fn intake_socket(&self) -> PathBuf {
        self.join("/run/coreward/intake.sock")
    }

    /// The socket on which users and programs ask for crashes (Varlink, interface `io.coreward.Crashes`).
    #[must_use]
    pub fn query_socket(&self) -> PathBuf {
        self.join("/run/coreward/io.coreward.Crashes")
    }

    /// The socket on which the daemon is told who asks for the deletion of a core.
    #[must_use]
    pub fn deletion_socket(&self) -> PathBuf {
        self.join("/run/coreward/delete.sock")
    }

    /// The runtime directory: the intake socket, and the kernel settings that `coreward register` saved.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.join("/run/coreward")
    }

    /// The state directory: stored cores, the catalog, the spool.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.join("/var/lib/coreward")
    }

    /// The directory of the operator's programs that are told about each new signature.
    #[must_use]
    pub fn hooks_dir(&self) -> PathBuf {
        self.join("/etc/coreward/event.d")
    }

    /// The cache of debug symbols that a command of root's fetches.
    #[must_use]
    pub fn cache_dir(&self) -> PathBuf {
        self.join("/var/cache/coreward")
    }

    /// The journal's native socket.
    #[must_use]
    pub fn journal_socket(&self) -> PathBuf {
        self.join("/run/systemd/journal/socket")
    }

    /// The daemon's executable.
    #[must_use]
    pub fn daemon_exe(&self) -> PathBuf {
        self.join("/usr/libexec/coreward/corewardd")
    }

    /// The shim's executable.
    #[must_use]
    pub fn shim_exe(&self) -> PathBuf {
        self.join("/usr/libexec/coreward/coreward-shim")
    }

    /// The `core_pattern` with which the kernel starts `shim` for each crash.
    ///
    /// # Errors
    /// A pattern of more than [`MAX_PATTERN`] bytes.
    pub fn core_pattern(&self, shim: &Path) -> Result<String, PatternTooLong> {
        let root = if self.is_system() { String::new() } else { format!(" --root {}", self.0.display()) };
        let pattern = format!("|{}{root} {SPECIFIERS}", shim.display());
        if pattern.len() > MAX_PATTERN {
            return Err(PatternTooLong { length: pattern.len(), shim: shim.display().to_string() });
        }
        Ok(pattern)
    }
}

/// Name of the directory in the state directory with a file for each crash that the programs in [`Root::hooks_dir`] are to be told about.
pub const EVENTS: &str = "events";
/// Suffix of such a file. The rest of its name is the id of the crash, and it holds the record as JSON.
pub const EVENT_SUFFIX: &str = ".json";
/// Name of the spool directory, in the state directory and in the runtime directory: the shim saves crashes there that no
/// daemon took.
pub const SPOOL: &str = "spool";
/// Suffix of a spooled crash. The file holds the offer exactly as it is sent to the daemon, then the bytes of the core.
pub const SPOOL_SUFFIX: &str = ".spool";
