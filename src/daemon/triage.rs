//! From an offer to a record: who crashed, where, and who may see it.

use super::context::Context;
use super::details;
use super::probe::probe;
use crate::crash::text::from_bytes;
use crate::crash::{CoreReport, CrashKey, Decision, NoCore, Origin, Record, auxv, cgroup, signal};
use crate::elf;
use crate::policy::access::{self, AccessFacts};
use coreward_sys::clock;
use coreward_wire::{MAX_TEXT, Offer};
use nix::sys::utsname::uname;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

/// A record without its end, and what goes beside it.
pub(super) struct Triaged {
    pub(super) record: Record,
    /// The user who may read the core.
    pub(super) reader: Option<u32>,
}

/// What only the process' own memory tells.
#[derive(Default)]
pub(super) struct FromMemory {
    cmdline: Vec<u8>,
    auxv: auxv::Auxv,
    pub(super) exe_build_id: Option<String>,
}

/// The key of the crash that is offered. Where the start of the process is not known, that of the shim tells it from others.
pub(super) fn key(offer: &Offer) -> CrashKey {
    let nameless = u64::try_from(offer.started.as_nanos()).unwrap_or(u64::MAX);
    CrashKey {
        boot_id: offer.boot_id.clone(),
        pid: offer.pid.map_or(0, |pid| pid.as_raw().cast_unsigned()),
        start_time: if offer.start_time > 0 { offer.start_time } else { nameless },
    }
}

/// The record as far as it can be written before the core is read. `from_memory`: `None` where it did not answer.
pub(super) fn triage(offer: &Offer, from_memory: Option<FromMemory>, origin: Origin) -> Triaged {
    let mut warnings = offer.warnings.clone();
    let from_memory = from_memory.unwrap_or_else(|| {
        warnings.push("the process' memory did not answer in time".to_owned());
        FromMemory::default()
    });
    let facts = AccessFacts {
        uid: offer.uid.map(nix::unistd::Uid::as_raw),
        dumpable: offer.dumpable,
        secure: from_memory.auxv.secure,
        same_ids: from_memory.auxv.same_ids,
        on_host: !offer.namespaces.pid && !offer.namespaces.user && !offer.namespaces.unknown,
    };
    let key = key(offer);
    let host = uname();
    let host = |of: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        host.as_ref().map(|host| of(host).to_string_lossy().into_owned()).unwrap_or_default()
    };
    let mut record = Record {
        format: Record::FORMAT,
        id: key.id(),
        key,
        time_us: time_us(offer, origin),
        tid: offer.tid.map(|tid| tid.as_raw().cast_unsigned()),
        uid: offer.uid.map(nix::unistd::Uid::as_raw),
        gid: offer.gid.map(nix::unistd::Gid::as_raw),
        signal: offer.signal,
        signal_name: signal::name(offer.signal),
        comm: from_bytes(&offer.comm),
        exe: from_bytes(&offer.exe),
        exe_build_id: from_memory.exe_build_id,
        cmdline: from_bytes(&from_memory.cmdline),
        cwd: String::new(),
        root: from_bytes(&offer.root),
        hostname: from_bytes(&offer.hostname),
        cgroup: cgroup::parse(&from_bytes(&offer.cgroup)),
        in_namespace: offer.namespaces.pid || offer.namespaces.user,
        privileged: access::is_privileged(&facts),
        core_limit: offer.core_limit,
        status: String::new(),
        limits: String::new(),
        open_fds: String::new(),
        kernel: host(nix::sys::utsname::UtsName::release),
        machine: host(nix::sys::utsname::UtsName::machine),
        origin,
        attempt: offer.attempt,
        held_us: 0,
        signature: None,
        stack: Vec::new(),
        other_threads: Vec::new(),
        modules: Vec::new(),
        siginfo: None,
        decision: Decision::default(),
        core: CoreReport::none(NoCore::Gone),
        warnings,
    };
    details::put(&mut record, &offer.details);
    Triaged { record, reader: access::reader(&facts) }
}

/// When the dump began. `%t` has whole seconds; a live offer is better placed by how long ago its shim started.
fn time_us(offer: &Offer, origin: Origin) -> u64 {
    let wall = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let began = match origin {
        Origin::Live => wall.saturating_sub(clock::since_boot().saturating_sub(offer.started)),
        Origin::Spool if offer.time > 0 => Duration::from_secs(offer.time),
        Origin::Spool => wall,
    };
    u64::try_from(began.as_micros()).unwrap_or(u64::MAX)
}

/// The build-id of an executable's file.
pub(super) async fn build_id_of(context: &Context, exe: OwnedFd) -> Option<String> {
    /// Linkers put the notes into the first page.
    const HEAD: u64 = 64 * 1024;
    let read = move || {
        let mut head = Vec::new();
        File::from(exe).take(HEAD).read_to_end(&mut head).ok()?;
        elf::build_id_of_file(&head)
    };
    probe(context, read).await.flatten()
}

/// Reads it; it may hang on a dead mount.
pub(super) fn read_memory(cmdline: Option<File>, auxv: Option<File>, memory: Option<&File>) -> FromMemory {
    let read = |file: Option<File>| {
        let mut bytes = Vec::with_capacity(MAX_TEXT);
        // What can't be read is missing from the record; the crash counts all the same.
        let _ = file.map(|file| file.take(MAX_TEXT as u64).read_to_end(&mut bytes));
        bytes
    };
    let mut cmdline = read(cmdline);
    cmdline.truncate(cmdline.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    cmdline.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    let auxv = auxv::parse(&read(auxv));
    let exe_build_id = memory.and_then(|memory| exe_build_id(memory, auxv));
    FromMemory { cmdline, auxv, exe_build_id }
}

/// The build-id of the executable as it is mapped: true also when the file was deleted or replaced since.
fn exe_build_id(memory: &File, auxv: auxv::Auxv) -> Option<String> {
    /// No linker makes more program headers than a page holds.
    const MAX_TABLE: u64 = 4096;
    let read = |address: u64, length: u64| {
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        memory.read_exact_at(&mut bytes, address).ok()?;
        Some(bytes)
    };
    let size = if auxv.is_64bit { 56 } else { 32 };
    let table = read(auxv.phdr?, (auxv.phnum? * size).min(MAX_TABLE))?;
    let ranges = elf::note_ranges(&table, auxv.phdr?, auxv.is_64bit);
    ranges.into_iter().take(8).find_map(|range| elf::build_id(&read(range.address, range.length)?))
}
