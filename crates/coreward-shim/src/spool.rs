//! Saving a crash that no daemon recorded. The spool has a size limit, and a file in it is complete or does not exist. User
//! `coreward` owns the parent directory and may read and empty the spool, so no path below it is trusted.

use super::crash::Crash;
use super::details;
use coreward_sys::file_system::{Space, is_in_memory};
use coreward_sys::{no_space, openat, tmpfile, xattr};
use coreward_wire::paths::{Root, SPOOL, SPOOL_SUFFIX};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, SpliceFFlags, splice};
use nix::sys::stat::{Mode, fchmod, fstat, fstatat, mkdirat, stat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::sysinfo::sysinfo;
use nix::unistd::{Gid, Pid, Uid, fchown};
use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Largest core in the spool, in bytes.
const MAX_CORE: u64 = 1 << 30;
/// Largest size of the spool in bytes, where cores are concerned.
const MAX_TOTAL: u64 = 4 << 30;
/// A core may take at most this fraction of the free space, so that the spool alone never fills a disk.
const FREE_FRACTION: u64 = 4;
/// Cores leave this fraction of the volume free. It is checked for every step, because other shims write at the same time.
const RESERVED_FRACTION: u64 = 10;
/// Space in bytes for crashes that are saved without their core, beyond [`MAX_TOTAL`]. It bounds a storm without a daemon to some
/// thousand crashes of a few KiB each (they are saved without the list of open descriptors), and so its use of inodes and /run.
const MAX_OFFERS: u64 = 16 << 20;
/// Bytes that are moved from the pipe into the file in one step.
const STEP: u64 = 1 << 20;
/// Mode of the spool: root writes to it, and the daemon's group reads and empties it.
const MODE: Mode = Mode::from_bits_truncate(0o770);
/// Access lists that a directory inherits (acl(5)).
const ACCESS_LISTS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];
/// A spool in memory takes at most this fraction of it.
const MEMORY_FRACTION: u64 = 16;
/// Size of the units of `st_blocks` (stat(3type)).
const BLOCK: u64 = 512;

/// A crash that is in the spool now.
pub(super) struct SavedCrash {
    path: PathBuf,
    truncated: bool,
    /// Why the crash was saved without its core.
    core_error: Option<io::Error>,
}

impl fmt::Display for SavedCrash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let truncated = if self.truncated { " (truncated)" } else { "" };
        write!(f, "saved{truncated} as {}", self.path.display())?;
        match &self.core_error {
            Some(error) => write!(f, ", without its core: {error}"),
            None => Ok(()),
        }
    }
}

/// Saves the crash: with its core if there is room for it, else without.
pub(super) fn save(crash: &mut Crash, root: &Root) -> io::Result<SavedCrash> {
    if let Some(dir) = crash.process.dir.as_ref().filter(|_| !crash.offer.released) {
        // The daemon that imports the crash cannot request them any more.
        let mut warnings = details::read_into(&mut crash.offer, dir);
        crash.warnings.append(&mut warnings);
    }
    let state = root.state_dir();
    let group = daemon_group(root);
    let core_error =
        match SpoolDir::open(&state, group).and_then(|spool| spool.write(crash, SpoolContent::OfferAndCore)) {
            Ok(()) => return Ok(saved_crash(&state, crash, None)),
            Err(error) => error,
        };
    // There may still be room for the offer alone. If the disk takes nothing at all, /run is in memory.
    crash.release();
    crash.offer.details.open_fds.clear();
    for (dir, max_used) in [(state, MAX_TOTAL + MAX_OFFERS), (root.run_dir(), MAX_OFFERS)] {
        if SpoolDir::open(&dir, group)
            .and_then(|spool| spool.write(crash, SpoolContent::OfferOnly { max_used }))
            .is_ok()
        {
            return Ok(saved_crash(&dir, crash, Some(core_error)));
        }
    }
    Err(core_error)
}

fn saved_crash(dir: &Path, crash: &Crash, core_error: Option<io::Error>) -> SavedCrash {
    SavedCrash { path: dir.join(SPOOL).join(file_name(crash)), truncated: crash.offer.cut, core_error }
}

fn file_name(crash: &Crash) -> String {
    let offer = &crash.offer;
    // Without the start time of the process, the start of the shim tells two crashes apart.
    let start = if offer.start_time > 0 { u128::from(offer.start_time) } else { offer.started.as_nanos() };
    format!("{:.8}-{}-{start}{SPOOL_SUFFIX}", offer.boot_id, offer.pid.map_or(0, Pid::as_raw))
}

/// What is saved of a crash.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SpoolContent {
    /// The offer, and as much of the core as there is room for.
    OfferAndCore,
    /// The offer alone, unless the spool already uses more than `max_used` bytes.
    OfferOnly { max_used: u64 },
}

/// The group of the daemon, which owns the state directory. `None` if that is missing, as it is before its volume is mounted.
fn daemon_group(root: &Root) -> Option<Gid> {
    stat(&root.state_dir()).ok().map(|stat| Gid::from_raw(stat.st_gid))
}

struct SpoolDir {
    dir: OwnedFd,
    group: Gid,
}

impl SpoolDir {
    /// Opens `parent/spool`, and creates it if it is missing. The path of `parent` belongs to root; `parent` itself does not, so
    /// a symbolic link in place of the spool is not followed, and a directory that is not root's is not used.
    ///
    /// Whoever created it, it is one that the daemon's group may empty afterwards: a directory below a default access list
    /// inherits entries that do not let it, whatever its mode is.
    fn open(parent: &Path, group: Option<Gid>) -> io::Result<Self> {
        let parent = OwnedFd::from(File::open(parent)?);
        let _ = mkdirat(&parent, SPOOL, MODE);
        let dir = openat::open_dir_below(parent.as_fd(), Path::new(SPOOL))?;
        let stat = fstat(&dir)?;
        if stat.st_uid != Uid::effective().as_raw() || stat.st_mode & 0o002 != 0 {
            return Err(io::Error::other("the spool directory is not owned by root, or anybody may write to it"));
        }
        for name in ACCESS_LISTS {
            match xattr::remove(dir.as_fd(), name) {
                Err(error) if error.raw_os_error() != Some(Errno::EOPNOTSUPP as i32) => return Err(error),
                _ => {}
            }
        }
        let group = group.unwrap_or(Gid::from_raw(stat.st_gid));
        change_group(&dir, group)?;
        fchmod(&dir, MODE)?;
        Ok(Self { dir, group })
    }

    fn write(&self, crash: &mut Crash, content: SpoolContent) -> io::Result<()> {
        let used = self.bytes_used()?;
        let max_core = match content {
            SpoolContent::OfferAndCore => self.room_for_core(used)?,
            SpoolContent::OfferOnly { max_used } if used > max_used => {
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the spool is full"));
            }
            SpoolContent::OfferOnly { .. } => 0,
        };
        let mut file = File::from(tmpfile::create(self.dir.as_fd(), Mode::from_bits_truncate(0o640))?);
        change_group(&file, self.group)?;
        file.write_all(&crash.encode_offer(&[]))?;
        crash.offer.cut = match &crash.core {
            Some(core) if content == SpoolContent::OfferAndCore => {
                if let Some(head) = crash.process.head() {
                    io::copy(&mut head.take(max_core), &mut file)?;
                }
                move_core(core.as_fd(), &file, max_core)?
            }
            _ => true,
        };
        // Nothing more is read from the process.
        crash.release();
        // `cut` and `released` are known only now. Their fields have fixed lengths, so the offer has the same length as before.
        file.write_all_at(&crash.encode_offer(&[]), 0)?;
        match tmpfile::publish(file.as_fd(), self.dir.as_fd(), Path::new(&file_name(crash))) {
            // An earlier shim saved the same crash.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            published => published,
        }
    }

    /// Disk space that the files in the spool use, in bytes.
    fn bytes_used(&self) -> io::Result<u64> {
        let mut used = 0;
        for entry in Dir::from_fd(self.dir.try_clone()?)?.iter() {
            let entry = entry?;
            if let Ok(stat) = fstatat(&self.dir, entry.file_name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                used += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK;
            }
        }
        Ok(used)
    }

    /// Most bytes of a core that may be written if the spool already uses `used`.
    fn room_for_core(&self, used: u64) -> io::Result<u64> {
        let free = Space::of(self.dir.as_fd())?.free;
        Ok(MAX_CORE.min(self.max_total().saturating_sub(used)).min(free / FREE_FRACTION))
    }

    /// Largest size of the spool, where cores are concerned. Files in memory leave that to other programs.
    fn max_total(&self) -> u64 {
        let memory =
            if is_in_memory(self.dir.as_fd()) { sysinfo().map_or(0, |machine| machine.ram_total()) } else { u64::MAX };
        MAX_TOTAL.min(memory / MEMORY_FRACTION)
    }
}

/// Gives `file` to the daemon's group. Where the file system has no owners, it may be that group's already.
fn change_group(file: impl AsFd, group: Gid) -> io::Result<()> {
    if fstat(&file)?.st_gid != group.as_raw() {
        fchown(&file, None, Some(group))?;
    }
    Ok(())
}

/// Moves the core from the pipe into the file, up to `max` bytes. Returns whether it was truncated.
fn move_core(core: BorrowedFd<'_>, file: &File, max: u64) -> io::Result<bool> {
    let mut remaining = max;
    while remaining > 0 {
        if is_reserve_reached(file)? {
            return Ok(true);
        }
        let step = usize::try_from(remaining.min(STEP)).unwrap_or(usize::MAX);
        match splice(core, None, file, None, step, SpliceFFlags::empty()) {
            Ok(0) => return Ok(false),
            Ok(count) => remaining = remaining.saturating_sub(count as u64),
            Err(Errno::EINTR) => {}
            // The file holds the beginning of the core, which is still useful.
            Err(error) if no_space::is_out_of_space(error) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Whether no more than the reserved fraction of the file's volume is free.
fn is_reserve_reached(file: &File) -> io::Result<bool> {
    let volume = fstatvfs(file)?;
    Ok(volume.blocks_available() < volume.blocks() / RESERVED_FRACTION)
}
