//! The record of a crash, as stored in the catalog and at the beginning of its core file.

use super::cgroup::CgroupInfo;
use super::ids;
use super::principal::{AccountFacts, Party, Principal};
use super::text::status_field;
use super::{
    ArgumentList, CrashId, CrashKey, Decision, Failure, Fault, Frame, InterpreterStack, Module, RuntimeReport, SigInfo,
    Signature, SignatureKey, ThreadStacks,
};
use nix::unistd::{Gid, Pid, Uid};
use serde::{Deserialize, Serialize};

/// One crash. Its text comes from the crashed process and is untrusted: escape it wherever it is shown
/// ([`super::text::printable`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the record's layout. Readers ignore fields that they do not know.
    pub format: u32,
    /// Name of the crash.
    pub id: CrashId,
    /// Identity of the crash.
    #[serde(flatten)]
    pub key: CrashKey,
    /// Time at which the kernel began the dump, in microseconds since the epoch.
    pub time_us: u64,
    /// The thread that crashed, in the initial PID namespace.
    #[serde(with = "ids::optional")]
    pub tid: Option<Pid>,
    /// Real uid, in the initial user namespace.
    #[serde(with = "ids::optional")]
    pub uid: Option<Uid>,
    /// Real gid, in the initial user namespace.
    #[serde(with = "ids::optional")]
    pub gid: Option<Gid>,
    /// The uid that logged in (`/proc/PID/loginuid`), which `su` and `sudo` do not change; `None` outside of logins.
    #[serde(default, with = "ids::optional", skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<Uid>,
    /// The user whom `/etc/subuid` gives `uid` to; `None` if it is in nobody's range.
    #[serde(default, with = "ids::optional", skip_serializing_if = "Option::is_none")]
    pub subuid_owner: Option<Uid>,
    /// Signal number.
    pub signal: Option<u32>,
    /// Signal name without `SIG`.
    pub signal_name: String,
    /// Name of the process (`comm`, proc_pid_comm(5)).
    pub comm: String,
    /// Name of the thread that crashed. Empty in records of earlier versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub thread_name: String,
    /// How it was made sure that the PID stayed that of the process that crashed. `None`: it was not, or in a record of an earlier
    /// version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pidfd: Option<PidPin>,
    /// The kernel's dump mode of the process: 1 only if it never changed its privileges (PR_GET_DUMPABLE, prctl(2)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dumpable: Option<u32>,
    /// Path of the executable in the mount namespace of the process.
    pub exe: String,
    /// Whether the executable had been deleted or replaced, so that `exe` ends with " (deleted)". `None` in records of earlier
    /// versions, and where it is unknown: then the text decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_deleted: Option<bool>,
    /// Build-id of the executable (`NT_GNU_BUILD_ID`), hexadecimal.
    pub exe_build_id: Option<String>,
    /// Command line, quoted so that a shell reads the arguments back ([`ArgumentList::quoted`]). In records of earlier versions the
    /// arguments are separated by spaces, and nothing is quoted.
    pub cmdline: String,
    /// The arguments one by one. Empty in records of earlier versions.
    #[serde(flatten)]
    pub arguments: ArgumentList,
    /// Working directory.
    pub cwd: String,
    /// Root directory; `/` outside of containers and chroots.
    pub root: String,
    /// Host name of the process' UTS namespace.
    pub hostname: String,
    /// Place in the cgroup tree: unit, slice, container.
    #[serde(flatten)]
    pub cgroup: CgroupInfo,
    /// The namespaces of the process that are not the host's: `pid`, `user`, `mnt`, and `unknown` if not all could be compared. Empty in
    /// records of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Command line of the process that started this one, quoted as `cmdline`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent_cmdline: String,
    /// It ran in a PID or user namespace other than the host's. Mount namespaces do not count: many services have one of their
    /// own.
    pub in_namespace: bool,
    /// It had more privilege than its user, or may have had: only root and the administrators may read its core.
    pub privileged: bool,
    /// RLIMIT_CORE in bytes.
    pub core_limit: u64,
    /// `/proc/PID/status`.
    pub status: String,
    /// `/proc/PID/limits`.
    pub limits: String,
    /// Open descriptors, one per line; only if a core is kept.
    pub open_fds: String,
    /// The auxiliary vector (getauxval(3)), hexadecimal; only if a core is kept, as the next three.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub auxv: String,
    /// The beginning of `/proc/PID/maps`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub maps: String,
    /// The beginning of `/proc/PID/mountinfo`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mountinfo: String,
    /// The variables of the environment that `Environment=` names, one per line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub environ: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Architecture, as uname(2) names it.
    pub machine: String,
    /// The machine's id (machine-id(5)), hashed for Coreward alone (sd_id128_get_machine_app_specific(3)): it tells hosts apart
    /// and does not reveal the id. `None` on a machine without one, and in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// How the crash reached the daemon.
    pub origin: Origin,
    /// It is no crash but the core of a process that went on, which root asked for. Then there is no signal and no signature, `signal_name` is
    /// [`Dump::SIGNAL_NAME`], and `tid` is the main thread. `None` for crashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<Dump>,
    /// Number of the offer that was recorded, counted from 1.
    pub attempt: u32,
    /// Time from the start of the shim to the release of the process, in microseconds.
    pub held_us: u64,
    /// Identifies the bug; `None` in records of format 1.
    #[serde(default)]
    pub signature: Option<Signature>,
    /// Frames of the thread that failed ([`Failure`]), mostly the one that was dumped, the innermost first; empty in records of duplicates.
    #[serde(default)]
    pub stack: Vec<Frame>,
    /// Stacks of the other threads, the most frequent first; only if a core is kept.
    #[serde(default)]
    pub other_threads: Vec<ThreadStacks>,
    /// The stack of the interpreted program, of the same thread as `stack`. `None` if no interpreter was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<InterpreterStack>,
    /// The report that the runtime wrote itself. `None` if none was found, and if no core was to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_report: Option<RuntimeReport>,
    /// The mapped ELF files; empty in records of duplicates.
    #[serde(default)]
    pub modules: Vec<Module>,
    /// Why the crashed thread got its signal.
    #[serde(default)]
    pub siginfo: Option<SigInfo>,
    /// The fault of which the process' own handler ended it, if that is how it ended: then signature and stack are of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The instruction that failed, and what its address is. `None` in records of duplicates and of earlier versions, and where the processor or a
    /// filter did not raise the signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// How much was to be kept, and why.
    #[serde(default)]
    pub decision: Decision,
    /// The outcome for the core.
    pub core: CoreReport,
    /// Soft errors, as text.
    #[serde(rename = "trouble")]
    pub warnings: Vec<String>,
}

/// What is known of a dump of a living process (`coreward dump`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// Why it was made, as whoever asked for it said; may be empty.
    #[serde(default)]
    pub reason: String,
}

impl Dump {
    /// What lists, filters and the catalog have in the place of a signal.
    pub const SIGNAL_NAME: &str = "dump";
}

/// How it was made sure that a PID stays that of the process that crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PidPin {
    /// The kernel passed a pidfd to the shim (`%F` of core_pattern, Linux 6.16).
    Kernel,
    /// The shim opened a pidfd, and found that the process is the one that is dumped.
    Shim,
}

/// How a crash reached the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Offered by a shim that held the process.
    Live,
    /// Imported from the spool, where the shim saved it because no daemon recorded it.
    Spool,
    /// Imported by an administrator, from another machine or from a bundle that was kept. It is not counted.
    Import,
}

/// The outcome for a core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreReport {
    /// Whether it was stored, and the reason if not.
    #[serde(flatten)]
    pub outcome: CoreOutcome,
    /// Bytes of core in the file, before compression.
    pub bytes: u64,
    /// Size of the complete core according to its headers, in bytes; 0 if they could not be read.
    pub expected: u64,
    /// Size of the file in bytes.
    pub stored: u64,
    /// Why the core is incomplete; `None` if it is complete.
    pub truncated: Option<Truncation>,
}

/// Whether a core was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "reason", rename_all = "kebab-case")]
pub enum CoreOutcome {
    /// A core file was stored.
    Stored,
    /// None was stored.
    None(NoCore),
}

/// Why no core was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoCore {
    /// Enough cores of this signature were stored in this window (`StormBurst=`, `StormStacks=`).
    Storm,
    /// The unit, the user or the machine reached its rate limit (`UnitBurst=`, `UserBurst=`, `TotalBurst=`).
    Rate,
    /// `Storage=none`.
    Configured,
    /// RLIMIT_CORE of the process is 0, and `EnforceCoreLimit=` is set.
    Limit,
    /// The stream was empty.
    Empty,
    /// The stream is not an ELF core.
    NotElf,
    /// The quota was used up, and no core could be evicted.
    Quota,
    /// The disk or a file system quota was full.
    DiskFull,
    /// The file could not be written.
    WriteError,
    /// The stream blocked, as it does while the kernel waits for a page from a dead mount, or all workers were blocked by such
    /// streams.
    Stalled,
    /// There was nothing to capture: the process was gone, or the shim had no room in the spool for a core.
    Gone,
}

/// Why a stored core is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// The stream ended before the core did: the process was killed while it was dumped, or something interrupted the kernel.
    EndedEarly,
    /// The stream blocked for too long.
    Stalled,
    /// `ProcessSizeMax=` was reached.
    ProcessSizeMax,
    /// `ExternalSizeMax=` was reached.
    ExternalSizeMax,
    /// RLIMIT_CORE of the process was reached, and `EnforceCoreLimit=` is set.
    CoreLimit,
    /// The quota was reached.
    Quota,
    /// The disk or a file system quota filled up.
    DiskFull,
    /// `MaxHold=`: the process could not be held any longer.
    MaxHold,
    /// Intended: only notes, stacks and the data that a debugger needs to read them were to be kept (`Storage=stacks`,
    /// `StormStacks=`).
    Stacks,
    /// A part of the core was lost with an earlier daemon, which had read it.
    Resumed,
    /// The shim truncated the core when it saved it in the spool.
    Spool,
}

impl NoCore {
    /// The name used in records, tables and metrics.
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
    /// Whether this is a limit on the size of the core, which is known before any of it is read.
    #[must_use]
    pub fn is_a_size(self) -> bool {
        matches!(self, Self::ProcessSizeMax | Self::CoreLimit)
    }

    /// The name used in records, tables and metrics.
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
    /// The report of a crash without a core.
    #[must_use]
    pub fn none(reason: NoCore) -> Self {
        Self { outcome: CoreOutcome::None(reason), bytes: 0, expected: 0, stored: 0, truncated: None }
    }

    /// Whether a core file was stored.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.outcome == CoreOutcome::Stored
    }
}

impl Record {
    /// The version of the layout that this program writes.
    pub const FORMAT: u32 = 2;

    /// Fills in values that the kernel's arguments did not contain from the notes of the core.
    pub fn complete_from_notes(
        &mut self,
        signal: Option<u32>,
        uid: Option<Uid>,
        gid: Option<Gid>,
        comm: Option<Vec<u8>>,
    ) {
        if self.dump.is_none() {
            self.signal = self.signal.or(signal);
            self.signal_name = super::signal::name(self.signal);
        }
        self.uid = self.uid.or(uid);
        self.gid = self.gid.or(gid);
        if self.comm.is_empty() {
            self.comm = super::text::from_bytes(&comm.unwrap_or_default());
        }
    }

    /// Whether it is counted: in metrics, by signature, and as a new bug. Crashes of other machines are not, and neither are dumps.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        self.origin != Origin::Import && self.dump.is_none()
    }

    /// Clears the fields that the first records of the same signature have already.
    pub fn shorten(&mut self) {
        for text in [&mut self.cwd, &mut self.parent_cmdline, &mut self.status, &mut self.limits] {
            text.clear();
        }
        self.omit_tables();
        self.stack.clear();
        self.other_threads.clear();
        self.interpreter = None;
        self.runtime_report = None;
        self.modules.clear();
        self.fault = None;
        if let Some(failure) = &mut self.failure {
            failure.handler.clear();
        }
    }

    /// Clears what only the record of a crash with a core has.
    pub fn omit_tables(&mut self) {
        for text in [&mut self.open_fds, &mut self.auxv, &mut self.maps, &mut self.mountinfo, &mut self.environ] {
            text.clear();
        }
        self.omit_registers();
    }

    /// Clears the values of registers: they are memory of the process, and kept where its core is.
    pub fn omit_registers(&mut self) {
        if let Some(fault) = &mut self.fault {
            fault.omit_registers();
        }
    }

    /// The frames of all threads: those of the failed one, its handler's, those of others.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        let handler = self.failure.iter().flat_map(|failure| &failure.handler);
        let others = self.other_threads.iter().flat_map(|threads| &threads.frames);
        self.stack.iter().chain(handler).chain(others)
    }

    /// As [`Self::frames`].
    pub fn frames_mut(&mut self) -> impl Iterator<Item = &mut Frame> {
        let handler = self.failure.iter_mut().flat_map(|failure| &mut failure.handler);
        let others = self.other_threads.iter_mut().flat_map(|threads| &mut threads.frames);
        self.stack.iter_mut().chain(handler).chain(others)
    }

    /// The key that crashes of one bug share: the signature, or program and signal if there is no signature.
    #[must_use]
    pub fn signature_key(&self) -> SignatureKey {
        match &self.signature {
            Some(signature) => SignatureKey::new(&signature.id),
            None => SignatureKey::new(format!("{}:{}", self.signal_name, self.program())),
        }
    }

    /// The principal that the crash is charged to, and the party whose crashes of the same signature are its duplicates.
    #[must_use]
    pub fn answering(&self) -> (Principal, Party) {
        if self.origin == Origin::Import {
            // Units and users of another machine are none of this one.
            return (Principal::Unknown, Party::Unknown);
        }
        Principal::answering(&AccountFacts {
            cgroup: &self.cgroup.path,
            unit: self.cgroup.unit.as_deref(),
            in_container: self.cgroup.container.is_some(),
            in_namespace: self.in_namespace,
            privileged: self.privileged,
            uid: self.uid,
            login_uid: self.login_uid,
            subuid_owner: self.subuid_owner,
        })
    }

    /// The program that the crash is counted under: the path of the executable, or the name of the process in brackets, as in
    /// ps(1), or `unknown`.
    #[must_use]
    pub fn program(&self) -> String {
        program_of(&self.exe, self.exe_deleted, &self.comm)
    }

    /// The process that started this one, or took it over (PPid in `/proc/PID/status`, proc_pid_status(5)).
    #[must_use]
    pub fn parent_pid(&self) -> Option<Pid> {
        let pid = status_field(&self.status, "PPid")?.parse().ok().filter(|pid| *pid > 0)?;
        Some(Pid::from_raw(pid))
    }

    /// The PID in the process' own PID namespace, if that is not the host's (NSpid, the last number).
    #[must_use]
    pub fn pid_inside(&self) -> Option<Pid> {
        let mut pids = status_field(&self.status, "NSpid")?.split_ascii_whitespace();
        let (_, inside) = (pids.next()?, pids.next_back()?);
        inside.parse().ok().map(Pid::from_raw)
    }

    /// Whether the process sent the signal to itself with kill(2): a handler that repeats the signal, or a wrapper that repeats its
    /// child's.
    #[must_use]
    pub fn sent_by_itself(&self) -> bool {
        const SI_USER: i32 = 0;
        let own = self.pid_inside().unwrap_or(self.key.pid).as_raw();
        let sender = self.siginfo.as_ref().filter(|info| info.code == SI_USER).and_then(|info| info.sender);
        sender.is_some_and(|(pid, _)| i32::try_from(pid) == Ok(own))
    }

    /// The module that the executable is, if it is known.
    #[must_use]
    pub fn exe_module(&self) -> Option<&Module> {
        self.modules.iter().find(|module| module.path == self.exe_path())
    }

    /// The path of the executable, without what the kernel appends if it was deleted.
    #[must_use]
    pub fn exe_path(&self) -> &str {
        path_of(&self.exe, self.exe_deleted)
    }
}

/// Like [`Record::program`], for a crash that has no record yet.
#[must_use]
pub fn program_of(exe: &str, exe_deleted: Option<bool>, comm: &str) -> String {
    match (exe.is_empty(), comm.is_empty()) {
        (false, _) => path_of(exe, exe_deleted).to_owned(),
        (true, false) => format!("[{comm}]"),
        (true, true) => "unknown".to_owned(),
    }
}

fn path_of(exe: &str, exe_deleted: Option<bool>) -> &str {
    exe.strip_suffix(" (deleted)").filter(|_| exe_deleted != Some(false)).unwrap_or(exe)
}
