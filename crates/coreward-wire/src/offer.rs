//! The offer of a crash: what the kernel told the shim, and what the shim read in places where a read cannot block.

use super::credentials::{Credentials, MAX_THREADS};
use super::details::Details;
use super::field::{Field, FieldReader, PayloadWriter, truncated};
use super::{Kind, MAX_CHECKPOINT, MAX_FDS, WireError};
use nix::unistd::{Gid, Pid, Uid};
use std::ops::Range;
use std::time::Duration;

/// The kind of a descriptor. A payload lists the kinds in the order of the descriptors in the `SCM_RIGHTS` message (unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FdKind {
    /// One that only a later version knows. Of no use here.
    Unknown = 0,
    /// A pidfd of the crashed process.
    Pidfd = 2,
    /// `/proc/PID/mem`.
    Mem = 3,
    /// `/proc/PID/maps`.
    Maps = 4,
    /// `/proc/PID/pagemap`.
    Pagemap = 5,
    /// `/proc/PID/auxv`.
    Auxv = 6,
    /// `/proc/PID/cmdline`. The kernel reads it from process memory, which may be backed by a dead mount, so reading it may
    /// block; the shim never reads it.
    Cmdline = 7,
    /// The first bytes of the core, taken out of the pipe for an earlier daemon ([`super::Request::Head`]).
    Head = 8,
    /// Part of a checkpoint: the core's file, as far as it was written when the process was released.
    CheckpointFile = 9,
    /// Part of a checkpoint: bytes of the core that are in memory.
    CheckpointMemory = 10,
    /// Part of a checkpoint: bytes of the core that were spilled to disk uncompressed.
    CheckpointSpill = 11,
    /// Addresses of mapped pages that have never held anything, though the page table does not tell: pairs of the first one and the first
    /// one after it, little-endian, in order ([`super::Request::Details`]).
    Holes = 12,
    /// `/proc/PID/mountinfo`: tells which mapped files can be waited for.
    Mountinfo = 13,
    /// The same of the host, where the process has another root directory: its own leaves out what is mounted outside of that, even the file
    /// system that it is on.
    HostMountinfo = 14,
}

impl FdKind {
    fn from_number(number: u8) -> Self {
        use FdKind::{
            Auxv, CheckpointFile, CheckpointMemory, CheckpointSpill, Cmdline, Head, Holes, HostMountinfo, Maps, Mem,
            Mountinfo, Pagemap, Pidfd,
        };
        const ALL: [FdKind; 13] = [
            Pidfd,
            Mem,
            Maps,
            Pagemap,
            Auxv,
            Cmdline,
            Head,
            CheckpointFile,
            CheckpointMemory,
            CheckpointSpill,
            Holes,
            Mountinfo,
            HostMountinfo,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == number).unwrap_or(Self::Unknown)
    }

    /// Encodes these kinds as the value of a field, one byte per kind.
    pub(super) fn to_bytes(kinds: &[Self]) -> Vec<u8> {
        kinds.iter().map(|kind| *kind as u8).collect()
    }

    /// Decodes the kinds in a field.
    pub(super) fn from_field(field: &Field<'_>) -> Result<Vec<Self>, WireError> {
        if field.value.len() > MAX_FDS {
            return Err(field.invalid());
        }
        Ok(field.value.iter().map(|number| Self::from_number(*number)).collect())
    }
}

/// Which namespaces of the process differ from the host's (namespaces(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Another PID namespace.
    pub pid: bool,
    /// Another user namespace.
    pub user: bool,
    /// Another mount namespace.
    pub mount: bool,
    /// At least one namespace could not be read, so the other fields may be wrong.
    pub unknown: bool,
}

impl Namespaces {
    /// Whether mounts that the process sees may be those of a user namespace.
    #[must_use]
    pub fn may_be_of_user(self) -> bool {
        self.user || self.unknown
    }

    fn bits(self) -> u64 {
        u64::from(self.pid) | u64::from(self.user) << 1 | u64::from(self.mount) << 2 | u64::from(self.unknown) << 3
    }

    fn from_bits(bits: u64) -> Self {
        Self { pid: bits & 1 != 0, user: bits & 2 != 0, mount: bits & 4 != 0, unknown: bits & 8 != 0 }
    }
}

/// How the shim made sure that the PID stays that of the process that crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidPin {
    /// The kernel passed a pidfd (`%F`).
    ByKernel,
    /// The shim opened a pidfd, and found that the process is the one that is dumped.
    ByShim,
}

impl PidPin {
    fn number(self) -> u32 {
        match self {
            Self::ByKernel => 1,
            Self::ByShim => 2,
        }
    }

    /// `None` for a number of a later version.
    fn from_number(number: u32) -> Option<Self> {
        [Self::ByKernel, Self::ByShim].into_iter().find(|pin| pin.number() == number)
    }
}

/// A crash as the shim offers it. Bytes are exactly as the kernel gave them: treat them as hostile.
///
/// Letters with a percent sign are the specifiers of core_pattern (core(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// 1 for the first offer of a crash; the shim increments it after each broken connection.
    pub attempt: u32,
    /// The core pipe is closed: there is nothing left to capture.
    pub released: bool,
    /// The core was truncated when it was saved in the spool.
    pub cut: bool,
    /// When the shim started, in time since boot (CLOCK_BOOTTIME).
    pub started: Duration,
    /// The boot: `/proc/sys/kernel/random/boot_id` without hyphens.
    pub boot_id: String,
    /// `%P`: PID in the initial PID namespace.
    pub pid: Option<Pid>,
    /// `%I`: TID of the crashed thread in the initial PID namespace.
    pub tid: Option<Pid>,
    /// `%u`: real UID in the initial user namespace.
    pub uid: Option<Uid>,
    /// `%g`: real GID in the initial user namespace.
    pub gid: Option<Gid>,
    /// `/proc/PID/loginuid`: the uid that logged in, in the initial user namespace. `None` if it was never set.
    pub login_uid: Option<Uid>,
    /// `%s`: number of the signal.
    pub signal: Option<u32>,
    /// `%t`: time of the crash in seconds since 1970.
    pub time: u64,
    /// `%c`: soft RLIMIT_CORE in bytes.
    pub core_limit: u64,
    /// `%d`: dump mode; 1 only if the process never changed its privileges (PR_GET_DUMPABLE, prctl(2)).
    pub dumpable: Option<u32>,
    /// Start time of the process in clock ticks since boot (field 22 of `/proc/PID/stat`, proc_pid_stat(5)).
    pub start_time: u64,
    /// `%h`: host name, of the process' UTS namespace.
    pub hostname: Vec<u8>,
    /// Name of the thread group leader, from `/proc/PID/stat`.
    pub comm: Vec<u8>,
    /// Name of the thread that crashed (`/proc/PID/task/TID/comm`). Empty if it could not be read.
    pub thread_name: Vec<u8>,
    /// How the PID was pinned. `None`: it was not, or the shim does not tell.
    pub pin: Option<PidPin>,
    /// Target of `/proc/PID/exe`.
    pub exe: Vec<u8>,
    /// Whether the file of the executable has lost its last name, so that the kernel appended " (deleted)" to `exe`. `None` if the
    /// shim does not tell: then the text decides.
    pub exe_deleted: Option<bool>,
    /// Target of `/proc/PID/root`.
    pub root: Vec<u8>,
    /// `/proc/PID/cgroup`.
    pub cgroup: Vec<u8>,
    /// Credentials of the thread that crashed and, if that is another one, of the main thread. Empty: they could not be read.
    pub credentials: Vec<Credentials>,
    /// Which namespaces differ from the host's.
    pub namespaces: Namespaces,
    /// Where the command line and the environment are in memory (fields 48 to 51 of `/proc/PID/stat`): what the kernel reads for
    /// `/proc/PID/cmdline`. Empty if unknown.
    pub arguments: Range<u64>,
    /// The shim answers [`super::Request::WrittenFile`]. Earlier ones do not know it, and end the connection.
    pub opens_written_files: bool,
    /// The shim's warnings: what could not be read or opened, and why.
    pub warnings: Vec<String>,
    /// Texts that the shim reads only on request ([`super::Request::Details`]), or when it saves the crash in the spool.
    pub details: Details,
    /// The checkpoint of an earlier daemon ([`super::DaemonMessage::Release`]). Empty if there is none.
    pub checkpoint: Vec<u8>,
    /// It is no crash: root asked for the core of a process that goes on, for this reason, which may be empty. `started` is when the process
    /// was stopped, and what is said of the thread that crashed is true of the main thread.
    pub dump: Option<Vec<u8>>,
}

/// Longest text field in bytes (PATH_MAX). Longer texts are truncated.
pub const MAX_TEXT: usize = 4096;
/// Length of a boot id without hyphens.
const BOOT_ID_LEN: usize = 32;

const FDS: u16 = 1;
const ATTEMPT: u16 = 2;
const RELEASED: u16 = 3;
const CUT: u16 = 4;
const STARTED: u16 = 5;
const BOOT_ID: u16 = 6;
const PID: u16 = 7;
const TID: u16 = 8;
const UID: u16 = 9;
const GID: u16 = 10;
const SIGNAL: u16 = 11;
const TIME: u16 = 12;
const CORE_LIMIT: u16 = 13;
const DUMPABLE: u16 = 14;
const START_TIME: u16 = 15;
const HOSTNAME: u16 = 16;
const COMM: u16 = 17;
const EXE: u16 = 18;
const ROOT: u16 = 20;
const CGROUP: u16 = 21;
const NAMESPACES: u16 = 24;
const CHECKPOINT: u16 = 26;
const ARGUMENTS_BEGIN: u16 = 50;
const ARGUMENTS_END: u16 = 51;
const CREDENTIALS: u16 = 30;
const LOGIN_UID: u16 = 40;
const EXE_DELETED: u16 = 60;
const THREAD_NAME: u16 = 70;
const PIN: u16 = 71;
const OPENS_WRITTEN_FILES: u16 = 75;
const DUMP: u16 = 76;

impl Offer {
    /// Encodes the message with its header, for descriptors of these kinds in this order.
    pub fn encode(&self, fds: &[FdKind]) -> Vec<u8> {
        let mut writer = PayloadWriter::new()
            .bytes(FDS, &FdKind::to_bytes(fds))
            .number(ATTEMPT, u64::from(self.attempt))
            .number(RELEASED, u64::from(self.released))
            .number(CUT, u64::from(self.cut))
            .number(STARTED, u64::try_from(self.started.as_nanos()).unwrap_or(u64::MAX))
            .bytes(BOOT_ID, self.boot_id.as_bytes())
            .optional_pid(PID, self.pid)
            .optional_pid(TID, self.tid)
            .optional_number(UID, self.uid.map(Uid::as_raw))
            .optional_number(GID, self.gid.map(Gid::as_raw))
            .optional_number(LOGIN_UID, self.login_uid.map(Uid::as_raw))
            .optional_number(SIGNAL, self.signal)
            .number(TIME, self.time)
            .number(CORE_LIMIT, self.core_limit)
            .optional_number(DUMPABLE, self.dumpable)
            .optional_number(EXE_DELETED, self.exe_deleted.map(u32::from))
            .optional_number(PIN, self.pin.map(PidPin::number))
            .number(START_TIME, self.start_time)
            .number(NAMESPACES, self.namespaces.bits())
            .number(OPENS_WRITTEN_FILES, u64::from(self.opens_written_files))
            .number(ARGUMENTS_BEGIN, self.arguments.start)
            .number(ARGUMENTS_END, self.arguments.end);
        let texts = [
            (HOSTNAME, &self.hostname),
            (COMM, &self.comm),
            (THREAD_NAME, &self.thread_name),
            (EXE, &self.exe),
            (ROOT, &self.root),
            (CGROUP, &self.cgroup),
        ];
        for (tag, text) in texts {
            writer = writer.bytes(tag, truncated(text, MAX_TEXT));
        }
        for credentials in self.credentials.iter().take(MAX_THREADS) {
            writer = writer.bytes(CREDENTIALS, &credentials.to_bytes());
        }
        writer = self.details.write_to(writer, &self.warnings);
        if let Some(reason) = &self.dump {
            writer = writer.bytes(DUMP, truncated(reason, MAX_TEXT));
        }
        if !self.checkpoint.is_empty() {
            writer = writer.bytes(CHECKPOINT, truncated(&self.checkpoint, MAX_CHECKPOINT));
        }
        writer.into_message(Kind::Offer, fds.len())
    }

    /// Decodes the payload of an offer: the offer, and the kinds of its descriptors.
    ///
    /// # Errors
    /// A field that is cut off or has an invalid value, a missing boot id, an unknown kind of descriptor.
    pub fn decode(payload: &[u8]) -> Result<(Self, Vec<FdKind>), WireError> {
        let mut offer = Self::default();
        let mut fds = Vec::new();
        for field in FieldReader::new(payload) {
            let field = field?;
            match field.tag {
                FDS => fds = FdKind::from_field(&field)?,
                ATTEMPT => offer.attempt = field.number32()?,
                RELEASED => offer.released = field.flag()?,
                CUT => offer.cut = field.flag()?,
                STARTED => offer.started = Duration::from_nanos(field.number()?),
                BOOT_ID => offer.boot_id = field.text(MAX_TEXT)?,
                PID => offer.pid = Some(field.pid()?),
                TID => offer.tid = Some(field.pid()?),
                UID => offer.uid = Some(Uid::from_raw(field.number32()?)),
                GID => offer.gid = Some(Gid::from_raw(field.number32()?)),
                LOGIN_UID => offer.login_uid = Some(Uid::from_raw(field.number32()?)),
                SIGNAL => offer.signal = Some(field.number32()?),
                TIME => offer.time = field.number()?,
                CORE_LIMIT => offer.core_limit = field.number()?,
                DUMPABLE => offer.dumpable = Some(field.number32()?),
                EXE_DELETED => offer.exe_deleted = Some(field.flag()?),
                START_TIME => offer.start_time = field.number()?,
                HOSTNAME => offer.hostname = field.bytes(MAX_TEXT),
                COMM => offer.comm = field.bytes(MAX_TEXT),
                THREAD_NAME => offer.thread_name = field.bytes(MAX_TEXT),
                PIN => offer.pin = PidPin::from_number(field.number32()?),
                EXE => offer.exe = field.bytes(MAX_TEXT),
                ROOT => offer.root = field.bytes(MAX_TEXT),
                CGROUP => offer.cgroup = field.bytes(MAX_TEXT),
                NAMESPACES => offer.namespaces = Namespaces::from_bits(field.number()?),
                OPENS_WRITTEN_FILES => offer.opens_written_files = field.flag()?,
                ARGUMENTS_BEGIN => offer.arguments.start = field.number()?,
                ARGUMENTS_END => offer.arguments.end = field.number()?,
                CREDENTIALS if offer.credentials.len() < MAX_THREADS => {
                    offer.credentials.push(Credentials::from_field(&field)?);
                }
                DUMP => offer.dump = Some(field.bytes(MAX_TEXT)),
                CHECKPOINT => offer.checkpoint = field.bytes(MAX_CHECKPOINT),
                _ => offer.details.read_field(&field, &mut offer.warnings)?,
            }
        }
        let is_boot_id =
            offer.boot_id.len() == BOOT_ID_LEN && offer.boot_id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_boot_id {
            return Err(WireError::Missing(BOOT_ID));
        }
        Ok((offer, fds))
    }
}
