//! The offer of a crash: what the kernel told the shim, and what the shim read where nothing can hang.

use super::details::Details;
use super::field::{Field, Fields, Writer};
use super::{Kind, MAX_CHECKPOINT, WireError};
use nix::unistd::{Gid, Pid, Uid};
use std::time::Duration;

/// What a descriptor of an offer is. The list in the payload has the order of the SCM_RIGHTS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FdKind {
    /// The crashed process.
    Pidfd = 2,
    /// `/proc/PID/mem`.
    Mem = 3,
    /// `/proc/PID/maps`.
    Maps = 4,
    /// `/proc/PID/pagemap`.
    Pagemap = 5,
    /// `/proc/PID/auxv`.
    Auxv = 6,
    /// `/proc/PID/cmdline`: process memory, so reading it may wait for a dead mount. Never read by the shim.
    Cmdline = 7,
    /// The first bytes of the core, taken out of the pipe for an earlier daemon ([`super::Request::Head`]).
    Head = 8,
    /// Kept for an earlier daemon: the core's file, as far as it was written when the process was released.
    CheckpointFile = 9,
    /// Kept for an earlier daemon: what of the core is in memory.
    CheckpointMemory = 10,
    /// Kept for an earlier daemon: what of the core is on disk, uncompressed.
    CheckpointSpill = 11,
}

impl FdKind {
    fn from_number(number: u8) -> Option<Self> {
        use FdKind::{
            Auxv, CheckpointFile, CheckpointMemory, CheckpointSpill, Cmdline, Head, Maps, Mem, Pagemap, Pidfd,
        };
        [Pidfd, Mem, Maps, Pagemap, Auxv, Cmdline, Head, CheckpointFile, CheckpointMemory, CheckpointSpill]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }

    /// The value of a field with these kinds.
    pub(super) fn numbers(kinds: &[Self]) -> Vec<u8> {
        kinds.iter().map(|kind| *kind as u8).collect()
    }

    /// The kinds in a field.
    pub(super) fn list(field: &Field<'_>) -> Result<Vec<Self>, WireError> {
        let kinds = field.value.iter().map(|number| Self::from_number(*number));
        kinds.collect::<Option<_>>().ok_or_else(|| field.invalid())
    }
}

/// Which namespaces of the process are not the shim's own, that is not the host's (namespaces(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Another PID namespace.
    pub pid: bool,
    /// Another user namespace.
    pub user: bool,
    /// Another mount namespace.
    pub mount: bool,
    /// At least one could not be read, so nothing above is sure.
    pub unknown: bool,
}

impl Namespaces {
    fn bits(self) -> u64 {
        u64::from(self.pid) | u64::from(self.user) << 1 | u64::from(self.mount) << 2 | u64::from(self.unknown) << 3
    }

    fn from_bits(bits: u64) -> Self {
        Self { pid: bits & 1 != 0, user: bits & 2 != 0, mount: bits & 4 != 0, unknown: bits & 8 != 0 }
    }
}

/// A crash as the shim offers it. Bytes are as the kernel gave them: hostile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// 1 for the first offer; each broken connection counts one.
    pub attempt: u32,
    /// The pipe is closed already: there is nothing to capture any more.
    pub released: bool,
    /// The core was cut when it was spooled.
    pub cut: bool,
    /// When the shim started, since boot.
    pub started: Duration,
    /// The boot (`/proc/sys/kernel/random/boot_id` without hyphens).
    pub boot_id: String,
    /// `%P`, in the initial PID namespace.
    pub pid: Option<Pid>,
    /// `%I`.
    pub tid: Option<Pid>,
    /// `%u`, the real uid, in the initial user namespace.
    pub uid: Option<Uid>,
    /// `%g`.
    pub gid: Option<Gid>,
    /// `%s`.
    pub signal: Option<u32>,
    /// `%t`, seconds since 1970.
    pub time: u64,
    /// `%c`, RLIMIT_CORE in bytes.
    pub core_limit: u64,
    /// `%d`: 1 only where the process never changed its privilege (PR_GET_DUMPABLE in prctl(2)).
    pub dumpable: Option<u32>,
    /// Start of the process in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
    /// `%h`, of the process' UTS namespace.
    pub hostname: Vec<u8>,
    /// `/proc/PID/comm`.
    pub comm: Vec<u8>,
    /// Target of `/proc/PID/exe`.
    pub exe: Vec<u8>,
    /// Target of `/proc/PID/root`.
    pub root: Vec<u8>,
    /// `/proc/PID/cgroup`.
    pub cgroup: Vec<u8>,
    /// What differs from the host's.
    pub namespaces: Namespaces,
    /// What the shim could not get, in words.
    pub warnings: Vec<String>,
    /// What is only looked up where it is asked for ([`super::Request::Details`]), or where the shim saves the crash alone.
    pub details: Details,
    /// What an earlier daemon knew when it let the process go ([`super::DaemonMessage::Release`]); empty: none got so far.
    pub checkpoint: Vec<u8>,
}

/// Longest value of one text field; `/proc` texts and paths are cut to it (PATH_MAX).
pub const MAX_TEXT: usize = 4096;

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

impl Offer {
    /// The message, for descriptors of these kinds in this order.
    pub fn encode(&self, fds: &[FdKind]) -> Vec<u8> {
        let mut writer = Writer::new()
            .bytes(FDS, &FdKind::numbers(fds))
            .number(ATTEMPT, u64::from(self.attempt))
            .number(RELEASED, u64::from(self.released))
            .number(CUT, u64::from(self.cut))
            .number(STARTED, u64::try_from(self.started.as_nanos()).unwrap_or(u64::MAX))
            .bytes(BOOT_ID, self.boot_id.as_bytes())
            .maybe(PID, self.pid.map(|pid| pid.as_raw().cast_unsigned()))
            .maybe(TID, self.tid.map(|tid| tid.as_raw().cast_unsigned()))
            .maybe(UID, self.uid.map(Uid::as_raw))
            .maybe(GID, self.gid.map(Gid::as_raw))
            .maybe(SIGNAL, self.signal)
            .number(TIME, self.time)
            .number(CORE_LIMIT, self.core_limit)
            .maybe(DUMPABLE, self.dumpable)
            .number(START_TIME, self.start_time)
            .number(NAMESPACES, self.namespaces.bits());
        let texts = [
            (HOSTNAME, &self.hostname),
            (COMM, &self.comm),
            (EXE, &self.exe),
            (ROOT, &self.root),
            (CGROUP, &self.cgroup),
        ];
        for (tag, text) in texts {
            writer = writer.bytes(tag, &text[..text.len().min(MAX_TEXT)]);
        }
        writer = self.details.write(writer, &self.warnings);
        if !self.checkpoint.is_empty() {
            writer = writer.bytes(CHECKPOINT, &self.checkpoint[..self.checkpoint.len().min(MAX_CHECKPOINT)]);
        }
        writer.message(Kind::Offer, fds.len())
    }

    /// The offer in a payload, and what its descriptors are.
    ///
    /// # Errors
    /// A field that is cut or has an invalid value, a missing boot id, an unknown kind of descriptor.
    pub fn decode(payload: &[u8]) -> Result<(Self, Vec<FdKind>), WireError> {
        let mut offer = Self::default();
        let mut fds = Vec::new();
        for field in Fields::of(payload) {
            let field = field?;
            match field.tag {
                FDS => fds = FdKind::list(&field)?,
                ATTEMPT => offer.attempt = field.number32()?,
                RELEASED => offer.released = field.number()? != 0,
                CUT => offer.cut = field.number()? != 0,
                STARTED => offer.started = Duration::from_nanos(field.number()?),
                BOOT_ID => offer.boot_id = field.text()?,
                PID => offer.pid = Some(field.pid()?),
                TID => offer.tid = Some(field.pid()?),
                UID => offer.uid = Some(Uid::from_raw(field.number32()?)),
                GID => offer.gid = Some(Gid::from_raw(field.number32()?)),
                SIGNAL => offer.signal = Some(field.number32()?),
                TIME => offer.time = field.number()?,
                CORE_LIMIT => offer.core_limit = field.number()?,
                DUMPABLE => offer.dumpable = Some(field.number32()?),
                START_TIME => offer.start_time = field.number()?,
                HOSTNAME => offer.hostname = field.value.to_vec(),
                COMM => offer.comm = field.value.to_vec(),
                EXE => offer.exe = field.value.to_vec(),
                ROOT => offer.root = field.value.to_vec(),
                CGROUP => offer.cgroup = field.value.to_vec(),
                NAMESPACES => offer.namespaces = Namespaces::from_bits(field.number()?),
                CHECKPOINT => offer.checkpoint = field.value.to_vec(),
                _ => offer.details.read(&field, &mut offer.warnings)?,
            }
        }
        let is_id = offer.boot_id.len() == 32 && offer.boot_id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_id {
            return Err(WireError::Missing(BOOT_ID));
        }
        Ok((offer, fds))
    }
}
