//! Mapped pages that have never held anything, which the page table does not tell: holes of shared memory (memfd, tmpfs, System V,
//! huge pages), and private mappings of `/dev/zero`.
//!
//! To read one through `/proc/PID/mem` is to allocate it, at the expense of the crashed process' cgroup or of the machine's pool of huge
//! pages. Who may not read it can still ask the file for it: lseek(2) with SEEK_DATA, and for huge pages read(2), which hugetlbfs answers
//! with zeros where there is no page. That needs the mapped files, which only root can open (`/proc/PID/map_files`, proc_pid_map_files(5)).
//! The daemon gets a list of addresses and no file: whoever has a memfd open for reading may open it again for writing.

use super::mappings::{self, FileMappings};
use super::proc_dir::ProcDir;
use coreward_sys::procmap::Mapping;
use coreward_sys::sparse_io;
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{SFlag, fstat, makedev};
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// How long the search may take, while the process waits. A writer to shared memory whose own buffer is a page that nobody answers for
/// keeps lseek(2) waiting.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Holes that are listed at most. What is left out is read.
const MAX_HOLES: usize = 1 << 18;

/// The holes of the process as a file: pairs of addresses, first and last but one, as little-endian 64-bit numbers in order.
/// `local` is as from [`super::mounts::local_minors`].
pub(super) fn find(dir: &ProcDir, local: &[u32]) -> nix::Result<OwnedFd> {
    let local = local.iter().map(|minor| (0, *minor));
    let trusted: BTreeSet<(u32, u32)> = local.chain(sparse_io::memfd_devices()).collect();
    let thread = dir.thread_with_memory();
    let holes = dir.in_thread(TIMEOUT, move |dir| {
        let of_thread = mappings::open_thread_dir(dir, thread)?;
        Search::new(of_thread.as_ref().unwrap_or(dir), &trusted)?.run()
    })?;
    let mut file = File::from(memfd_create("coreward-holes", MFdFlags::MFD_CLOEXEC)?);
    let bytes: Vec<u8> =
        holes.iter().flat_map(|hole| [hole.start.to_le_bytes(), hole.end.to_le_bytes()].concat()).collect();
    file.write_all(&bytes).map_err(|_| Errno::ENOSPC)?;
    Ok(file.into())
}

/// A search for the holes of one process.
struct Search<'a> {
    dir: &'a OwnedFd,
    /// Devices of file systems that answer.
    trusted: &'a BTreeSet<(u32, u32)>,
    mappings: FileMappings,
    /// Files without holes of this kind. Others are opened for each of their mappings: a memfd and a segment of System V memory may have
    /// the same device and number.
    without: BTreeSet<(u32, u32, u64)>,
    deadline: Instant,
    holes: Vec<Range<u64>>,
}

impl<'a> Search<'a> {
    fn new(dir: &'a OwnedFd, trusted: &'a BTreeSet<(u32, u32)>) -> nix::Result<Self> {
        let mappings = FileMappings::open(dir)?;
        let deadline = Instant::now() + TIMEOUT;
        Ok(Self { dir, trusted, mappings, without: BTreeSet::new(), deadline, holes: Vec::new() })
    }

    fn run(mut self) -> nix::Result<Vec<Range<u64>>> {
        let mut next = self.mappings.next_after(0)?;
        while let Some(mapping) = next.filter(|_| self.goes_on()) {
            // What cannot be opened is read as if it had no holes.
            let _ = self.add_holes_of(&mapping);
            next = self.mappings.next_after(mapping.range.end)?;
        }
        Ok(self.holes)
    }

    fn goes_on(&self) -> bool {
        self.holes.len() < MAX_HOLES && Instant::now() < self.deadline
    }

    fn add_holes_of(&mut self, mapping: &Mapping) -> nix::Result<()> {
        let file = (mapping.major, mapping.minor, mapping.inode);
        let answers = mapping.major != 0 || self.trusted.contains(&(mapping.major, mapping.minor));
        if mapping.has_no_file() || !answers || self.without.contains(&file) {
            return Ok(());
        }
        let path = mappings::open_path(self.dir, mapping)?;
        let stat = fstat(&path)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFCHR && stat.st_rdev == makedev(1, 5) {
            self.holes.push(mapping.range.clone());
            return Ok(());
        }
        let file_system = fstatfs(&path)?.filesystem_type();
        if kind != SFlag::S_IFREG || ![TMPFS_MAGIC, HUGETLBFS_MAGIC].contains(&file_system) {
            self.without.insert(file);
            return Ok(());
        }
        let opened = File::from(mappings::open_to_read(&path)?);
        if file_system == TMPFS_MAGIC {
            self.add_holes_of_tmpfs(mapping, &opened)
        } else {
            let present = u64::try_from(stat.st_blocks).unwrap_or(u64::MAX).saturating_mul(sparse_io::BLOCK);
            self.add_holes_of_hugetlbfs(mapping, &opened, present);
            Ok(())
        }
    }

    fn add_holes_of_tmpfs(&mut self, mapping: &Mapping, file: &File) -> nix::Result<()> {
        let end = mapping.offset + (mapping.range.end - mapping.range.start);
        let mut at = mapping.offset;
        while at < end && self.goes_on() {
            let data = sparse_io::next_data(file, at..end).map_err(|_| Errno::EIO)?;
            let data = data.unwrap_or(end..end);
            self.add(mapping, at..data.start);
            at = data.end;
        }
        Ok(())
    }

    /// hugetlbfs does not know SEEK_DATA, but how many pages a file has: `present` bytes.
    fn add_holes_of_hugetlbfs(&mut self, mapping: &Mapping, file: &File, present: u64) {
        let Ok(page) = fstatfs(file).map(|stat| u64::try_from(stat.block_size()).unwrap_or(0)) else { return };
        if page == 0 {
            return;
        }
        let end = mapping.offset + (mapping.range.end - mapping.range.start);
        let (mut at, mut found) = (mapping.offset, 0);
        while at < end && self.goes_on() {
            // Once all pages are found the rest has none.
            let hole = if found >= present { at..end } else { at..(at + page).min(end) };
            at = hole.end;
            if found < present && has_data(file, hole.clone(), self.deadline) {
                found += page;
            } else {
                self.add(mapping, hole);
            }
        }
    }

    /// Adds a hole in the file, which ends where it is mapped to.
    fn add(&mut self, mapping: &Mapping, hole: Range<u64>) {
        let to_address = |offset: u64| mapping.range.start + (offset - mapping.offset);
        let (start, end) = (to_address(hole.start), to_address(hole.end));
        match self.holes.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ if start < end => self.holes.push(start..end),
            _ => {}
        }
    }
}

/// Whether there is anything but zeros in `range` of the file, or that cannot be found out in time.
fn has_data(file: &File, range: Range<u64>, deadline: Instant) -> bool {
    let mut buffer = [0; 64 << 10];
    let mut at = range.start;
    while at < range.end {
        if Instant::now() >= deadline {
            return true;
        }
        // Most pages with data have some in front.
        let length = if at == range.start { 4096 } else { buffer.len() };
        let Some(part) = buffer.get_mut(..length) else { return true };
        match file.read_at(part, at) {
            // Past the end of the file.
            Ok(0) => return false,
            Ok(count) if part.iter().take(count).any(|byte| *byte != 0) => return true,
            Ok(count) => at += count as u64,
            Err(_) => return true,
        }
    }
    false
}
