//! The record: what is known of one crash, as it stands in the catalog and in front of its core.

use super::cgroup::CgroupInfo;
use super::ids;
use super::{CrashId, CrashKey, Decision, Frame, Module, Principal, SigInfo, Signature, SignatureKey, ThreadStacks};
use nix::unistd::{Gid, Pid, Uid};
use serde::{Deserialize, Serialize};

/// One crash. Text comes from the crashed process and is hostile: escape it wherever it is shown
/// ([`super::text::printable`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Layout of this record; readers take what they know.
    pub format: u32,
    /// The crash's name.
    pub id: CrashId,
    /// The crash's identity.
    #[serde(flatten)]
    pub key: CrashKey,
    /// When the kernel began the dump, microseconds since 1970.
    pub time_us: u64,
    /// The thread that crashed.
    #[serde(with = "ids::optional")]
    pub tid: Option<Pid>,
    /// Real uid, in the initial user namespace.
    #[serde(with = "ids::optional")]
    pub uid: Option<Uid>,
    /// Real gid, in the initial user namespace.
    #[serde(with = "ids::optional")]
    pub gid: Option<Gid>,
    /// Signal number.
    pub signal: Option<u32>,
    /// Signal name without `SIG`.
    pub signal_name: String,
    /// Name of the process.
    pub comm: String,
    /// Path of the executable, as its own mount namespace names it.
    pub exe: String,
    /// Build-id of the executable (`NT_GNU_BUILD_ID`), hexadecimal.
    pub exe_build_id: Option<String>,
    /// Command line, arguments separated by spaces.
    pub cmdline: String,
    /// Working directory.
    pub cwd: String,
    /// Root directory; `/` outside of containers and chroots.
    pub root: String,
    /// Host name of the process' UTS namespace.
    pub hostname: String,
    /// Where in the cgroup tree it ran: unit, slice, container.
    #[serde(flatten)]
    pub cgroup: CgroupInfo,
    /// It ran in another PID or user namespace than the host's. Mount namespaces do not count: systemd gives many services one.
    pub in_namespace: bool,
    /// It changed its privilege (`%d` is not 1, or AT_SECURE): its core is for root and the administrators.
    pub privileged: bool,
    /// RLIMIT_CORE in bytes.
    pub core_limit: u64,
    /// `/proc/PID/status`.
    pub status: String,
    /// `/proc/PID/limits`.
    pub limits: String,
    /// Open descriptors, a line each; only where a core is kept.
    pub open_fds: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Architecture, as uname(2) names it.
    pub machine: String,
    /// The machine's id (machine-id(5)), hashed for Coreward alone (sd_id128_get_machine_app_specific(3)): it tells hosts apart
    /// and does not reveal the id. `None` on a machine without one, and in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// How it reached the daemon.
    pub origin: Origin,
    /// The number of the offer that was recorded.
    pub attempt: u32,
    /// From the shim's start to the release of the process, microseconds.
    pub held_us: u64,
    /// What tells its bug from others; `None` in records of format 1.
    #[serde(default)]
    pub signature: Option<Signature>,
    /// Frames of the crashed thread, the innermost first; not repeated in records of duplicates.
    #[serde(default)]
    pub stack: Vec<Frame>,
    /// Stacks of the threads that did not crash, those of most threads first; only where a core is kept.
    #[serde(default)]
    pub other_threads: Vec<ThreadStacks>,
    /// The mapped ELF files; not repeated in records of duplicates.
    #[serde(default)]
    pub modules: Vec<Module>,
    /// Why the crashed thread got its signal.
    #[serde(default)]
    pub siginfo: Option<SigInfo>,
    /// What was to be kept of it, and why.
    #[serde(default)]
    pub decision: Decision,
    /// What became of the core.
    pub core: CoreReport,
    /// What went wrong on the way, in words.
    #[serde(rename = "trouble")]
    pub warnings: Vec<String>,
}

/// How a crash reached the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Offered by a shim that held the process.
    Live,
    /// Taken in from the spool, where a shim had saved it alone.
    Spool,
}

/// What became of a core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreReport {
    /// Stored, or why not.
    #[serde(flatten)]
    pub outcome: CoreOutcome,
    /// Bytes of core that are in the file, uncompressed.
    pub bytes: u64,
    /// Bytes that the core's own headers announce; 0 where they could not be read.
    pub expected: u64,
    /// Bytes that the file takes.
    pub stored: u64,
    /// Why the core is not whole; `None`: it is.
    pub truncated: Option<Truncation>,
}

/// Whether a core was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "reason", rename_all = "kebab-case")]
pub enum CoreOutcome {
    /// There is a file.
    Stored,
    /// There is none.
    None(NoCore),
}

/// Why no core was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoCore {
    /// Enough of the same were stored in this window (`StormBurst=`).
    Storm,
    /// The unit, the user or the machine has had its share (`UnitBurst=`, `UserBurst=`, `TotalBurst=`).
    Rate,
    /// `Storage=none`.
    Configured,
    /// The process' own RLIMIT_CORE is 0, and `EnforceCoreLimit=` is set.
    Limit,
    /// The stream was empty.
    Empty,
    /// The stream is not an ELF core.
    NotElf,
    /// No room within the quota, and nothing left to evict.
    Quota,
    /// The disk, or a kernel quota, is full.
    DiskFull,
    /// The file could not be written.
    WriteError,
    /// The stream stood still, as it does where the kernel waits for a page from a dead mount; or all workers were
    /// taken by such streams.
    Stalled,
    /// There was nothing to capture: the process was gone, or the shim that saved the crash alone had no room for a core.
    Gone,
}

/// Why a stored core is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// The stream ended before the core did: the process was killed while it was dumped.
    EndedEarly,
    /// The stream stood still for too long.
    Stalled,
    /// `ProcessSizeMax=` was reached.
    ProcessSizeMax,
    /// `ExternalSizeMax=` was reached.
    ExternalSizeMax,
    /// The process' own RLIMIT_CORE was reached, and `EnforceCoreLimit=` is set.
    CoreLimit,
    /// The quota was reached.
    Quota,
    /// The disk, or a kernel quota, filled up.
    DiskFull,
    /// `MaxHold=`: the process could not be held any longer.
    MaxHold,
    /// `Storage=stacks`: notes, stacks and what a debugger needs to read them, on purpose.
    Stacks,
    /// An earlier daemon had taken a part of the core with it.
    Resumed,
    /// The shim had to cut it when it saved it alone.
    Spool,
}

impl NoCore {
    /// The reason as it stands in records, labels and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Storm => "storm",
            Self::Rate => "rate",
            Self::Configured => "configured",
            Self::Limit => "limit",
            Self::Empty => "empty",
            Self::NotElf => "not-elf",
            Self::Quota => "quota",
            Self::DiskFull => "disk-full",
            Self::WriteError => "write-error",
            Self::Stalled => "stalled",
            Self::Gone => "gone",
        }
    }
}

impl Truncation {
    /// A limit on the bytes of core: known before anything is read.
    #[must_use]
    pub fn is_a_size(self) -> bool {
        matches!(self, Self::ProcessSizeMax | Self::CoreLimit)
    }

    /// The reason as it stands in records, labels and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EndedEarly => "ended-early",
            Self::Stalled => "stalled",
            Self::ProcessSizeMax => "process-size-max",
            Self::ExternalSizeMax => "external-size-max",
            Self::CoreLimit => "core-limit",
            Self::Quota => "quota",
            Self::DiskFull => "disk-full",
            Self::MaxHold => "max-hold",
            Self::Stacks => "stacks",
            Self::Resumed => "resumed",
            Self::Spool => "spool",
        }
    }
}

impl CoreReport {
    /// The report of a crash that left no core.
    #[must_use]
    pub fn none(reason: NoCore) -> Self {
        Self { outcome: CoreOutcome::None(reason), bytes: 0, expected: 0, stored: 0, truncated: None }
    }

    /// Whether there is a file.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.outcome == CoreOutcome::Stored
    }
}

impl Record {
    /// The layout that this program writes.
    pub const FORMAT: u32 = 2;

    /// Fills in what the kernel's arguments did not tell from what the core's notes do.
    pub fn complete_from_notes(
        &mut self,
        signal: Option<u32>,
        uid: Option<Uid>,
        gid: Option<Gid>,
        comm: Option<Vec<u8>>,
    ) {
        self.signal = self.signal.or(signal);
        self.signal_name = super::signal::name(self.signal);
        self.uid = self.uid.or(uid);
        self.gid = self.gid.or(gid);
        if self.comm.is_empty() {
            self.comm = super::text::from_bytes(&comm.unwrap_or_default());
        }
    }

    /// Leaves out what the first records of the same signature say as well.
    pub fn shorten(&mut self) {
        for text in [&mut self.cwd, &mut self.status, &mut self.limits, &mut self.open_fds] {
            text.clear();
        }
        self.stack.clear();
        self.other_threads.clear();
        self.modules.clear();
    }

    /// What crashes of one bug share: the signature, or program and signal where there is none.
    #[must_use]
    pub fn signature_key(&self) -> SignatureKey {
        match &self.signature {
            Some(signature) => SignatureKey::new(&signature.id),
            None => SignatureKey::new(format!("{}:{}", self.signal_name, self.program())),
        }
    }

    /// Who is accountable for the disk space that the crash takes: the system service; the program, for a container; the user,
    /// for everything in a session or under the user's own manager.
    #[must_use]
    pub fn principal(&self) -> Principal {
        let unit = self.cgroup.unit.as_deref();
        let is_users = unit.is_some_and(|unit| unit.starts_with("user@"));
        match (unit.filter(|unit| unit.ends_with(".service") && !is_users), &self.cgroup.container) {
            (_, Some(_)) if !is_users => Principal::Container(self.program()),
            (Some(unit), _) => Principal::Unit(unit.to_owned()),
            _ => Principal::user(self.uid),
        }
    }

    /// What the crash is counted under: the executable's path, else the process' name in brackets, as ps(1) shows it.
    #[must_use]
    pub fn program(&self) -> String {
        program_of(&self.exe, &self.comm)
    }
}

/// [`Record::program`], of a crash that has no record yet.
#[must_use]
pub fn program_of(exe: &str, comm: &str) -> String {
    match (exe.is_empty(), comm.is_empty()) {
        (false, _) => exe.strip_suffix(" (deleted)").unwrap_or(exe).to_owned(),
        (true, false) => format!("[{comm}]"),
        (true, true) => "unknown".to_owned(),
    }
}
