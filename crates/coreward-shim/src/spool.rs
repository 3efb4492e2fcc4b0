//! Saving a crash that no daemon took: bounded, whole or not at all, in a directory that user `coreward` may read
//! and empty but through which it can't lead root anywhere.

use super::{Crash, details};
use coreward_sys::{no_space, openat, tmpfile};
use coreward_wire::paths::{Root, SPOOL, SPOOL_SUFFIX};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, SpliceFFlags, splice};
use nix::sys::stat::{Mode, fchmod, fstat, fstatat, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Gid, Pid, Uid, fchown};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The most that one core may take.
const CORE_MAX: u64 = 1 << 30;
/// The most that the spool may take.
const TOTAL_MAX: u64 = 4 << 30;
/// Of the free space a core may take this part, so that the spool alone never fills a disk.
const FREE_PART: u64 = 4;
/// This part of the volume stays free of cores, looked at again with every step: other shims write too.
const FLOOR_PART: u64 = 10;
/// Crashes that are saved without their core take at most this, so that a storm without a daemon fills no inodes and
/// no /run: some thousand crashes, each a few KiB (without the list of open descriptors, which may be long).
const OFFERS_MAX: u64 = 16 << 20;

/// Saves the crash; returns in words what became of it.
pub(super) fn save(crash: &mut Crash, root: &Root) -> io::Result<String> {
    if let Some(dir) = crash.process.dir.as_ref().filter(|_| !crash.offer.released) {
        // Nobody can ask for them later.
        let mut warnings = details::read(dir.as_fd(), &mut crash.offer);
        crash.offer.warnings.append(&mut warnings);
    }
    let state = root.state_dir();
    let with_core = Spool::open(&state).and_then(|spool| spool.write(crash, Content::Core));
    let Err(error) = with_core else { return Ok(saved_as(&state, crash)) };
    // Without room for the core there may still be room for the few hundred bytes that say it happened; and where
    // the disk takes nothing at all, /run is memory.
    crash.release();
    crash.offer.details.open_fds.clear();
    for (dir, spool_max) in [(state, TOTAL_MAX + OFFERS_MAX), (root.run_dir(), OFFERS_MAX)] {
        if Spool::open(&dir).and_then(|spool| spool.write(crash, Content::Offer { spool_max })).is_ok() {
            return Ok(format!("{}, without its core: {error}", saved_as(&dir, crash)));
        }
    }
    Err(error)
}

fn saved_as(dir: &Path, crash: &Crash) -> String {
    let cut = if crash.offer.cut { " (cut)" } else { "" };
    format!("saved{cut} as {}", dir.join(SPOOL).join(name_of(crash)).display())
}

fn name_of(crash: &Crash) -> String {
    let offer = &crash.offer;
    // Where the start of the process is not known, only the moment tells two crashes apart.
    let start = if offer.start_time > 0 { u128::from(offer.start_time) } else { offer.started.as_nanos() };
    format!("{:.8}-{}-{start}{SPOOL_SUFFIX}", offer.boot_id, offer.pid.map_or(0, Pid::as_raw))
}

/// What of a crash is saved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// The offer and as much of the core as there is room for.
    Core,
    /// The offer alone, unless the spool takes more than `spool_max` bytes.
    Offer { spool_max: u64 },
}

struct Spool {
    dir: OwnedFd,
    group: Gid,
}

impl Spool {
    /// Opens `parent/spool`, making it where it is missing. The way to `parent` is root's; `parent` is not.
    fn open(parent: &Path) -> io::Result<Self> {
        let parent = OwnedFd::from(File::open(parent)?);
        let group = Gid::from_raw(fstat(&parent)?.st_gid);
        let made = mkdirat(&parent, SPOOL, Mode::from_bits_truncate(0o770));
        let dir = openat::open_dir_below(parent.as_fd(), Path::new(SPOOL))?;
        if made.is_ok() {
            fchown(&dir, None, Some(group))?;
            fchmod(&dir, Mode::from_bits_truncate(0o770))?;
        }
        let stat = fstat(&dir)?;
        if stat.st_uid != Uid::effective().as_raw() || stat.st_mode & 0o002 != 0 {
            return Err(io::Error::other("the spool directory is not root's own: not written to"));
        }
        Ok(Self { dir, group: Gid::from_raw(stat.st_gid) })
    }

    fn write(&self, crash: &mut Crash, content: Content) -> io::Result<()> {
        let used = self.used()?;
        let limit = match content {
            Content::Core => self.room(used)?,
            Content::Offer { spool_max } if used > spool_max => {
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the spool is full"));
            }
            Content::Offer { .. } => 0,
        };
        let mut file = File::from(tmpfile::create(self.dir.as_fd(), Mode::from_bits_truncate(0o640))?);
        fchown(&file, None, Some(self.group))?;
        file.write_all(&crash.offer.encode(&[]))?;
        crash.offer.cut = match &crash.core {
            Some(core) if content == Content::Core => {
                if let Some(head) = crash.process.head() {
                    io::copy(&mut head.take(limit), &mut file)?;
                }
                drain(core.as_fd(), &file, limit)?
            }
            _ => true,
        };
        // The process may go now: what is left to do takes nothing from it.
        crash.release();
        // The same fields with the same lengths: only now is it known whether the core was cut.
        file.write_all_at(&crash.offer.encode(&[]), 0)?;
        match tmpfile::publish(file.as_fd(), self.dir.as_fd(), Path::new(&name_of(crash))) {
            // An earlier shim of the same crash was here.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            published => published,
        }
    }

    /// Bytes that the spool takes.
    fn used(&self) -> io::Result<u64> {
        let mut used = 0;
        for entry in Dir::from_fd(self.dir.try_clone()?)?.iter() {
            let entry = entry?;
            if let Ok(stat) = fstatat(&self.dir, entry.file_name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                used += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            }
        }
        Ok(used)
    }

    /// How many bytes of core may be written where the spool takes `used`.
    fn room(&self, used: u64) -> io::Result<u64> {
        let volume = fstatvfs(&self.dir)?;
        let free = volume.blocks_available() * volume.fragment_size();
        Ok(CORE_MAX.min(TOTAL_MAX.saturating_sub(used)).min(free / FREE_PART))
    }
}

/// Whether the volume of `file` has less free than its floor.
fn at_floor(file: &File) -> io::Result<bool> {
    let volume = fstatvfs(file)?;
    Ok(volume.blocks_available() < volume.blocks() / FLOOR_PART)
}

/// Moves the pipe into the file; returns whether something had to be left behind.
fn drain(core: BorrowedFd<'_>, file: &File, limit: u64) -> io::Result<bool> {
    let mut left = limit;
    while left > 0 {
        if at_floor(file)? {
            return Ok(true);
        }
        let step = usize::try_from(left.min(1 << 20)).unwrap_or(1 << 20);
        match splice(core, None, file, None, step, SpliceFFlags::empty()) {
            Ok(0) => return Ok(false),
            Ok(count) => left -= count as u64,
            Err(Errno::EINTR) => {}
            // What is in the file is still the beginning of the core.
            Err(error) if no_space::is_full(error) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}
