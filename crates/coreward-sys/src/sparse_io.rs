//! Files with holes (SEEK_DATA, lseek(2)), and I/O that leaves the page cache alone (O_DIRECT, sync_file_range(2)).

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, PosixFadviseAdvice, fallocate, fcntl, posix_fadvise};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{fstat, major, minor};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// The size of a block in `st_blocks`, in bytes (stat(3type)).
pub const BLOCK: u64 = 512;

/// Creates a file in memory. `name` is shown in `/proc/PID/fd`.
///
/// # Errors
/// The error of memfd_create(2).
pub fn create_memfd(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?))
}

/// The devices (major and minor number) of the file systems that the kernel mounts for itself: that of shared memory and memfds, and
/// those of huge pages, one for each size.
#[must_use]
pub fn memfd_devices() -> Vec<(u32, u32)> {
    let huge = MFdFlags::MFD_HUGETLB;
    let kinds = [
        MFdFlags::empty(),
        huge,
        // MFD_HUGE_64KB (include/uapi/asm-generic/hugetlb_encode.h): the logarithm of the size from bit 26 on.
        huge | MFdFlags::from_bits_retain(16 << 26),
        huge | MFdFlags::MFD_HUGE_2MB,
        huge | MFdFlags::MFD_HUGE_32MB,
        huge | MFdFlags::MFD_HUGE_512MB,
        huge | MFdFlags::MFD_HUGE_1GB,
        huge | MFdFlags::MFD_HUGE_16GB,
    ];
    let device = |flags| {
        // Creating one takes no huge page. A size that this processor does not have is an error.
        let file = memfd_create("device", MFdFlags::MFD_CLOEXEC | flags).ok()?;
        let device = fstat(&file).ok()?.st_dev;
        Some((u32::try_from(major(device)).ok()?, u32::try_from(minor(device)).ok()?))
    };
    kinds.into_iter().filter_map(device).collect()
}

/// Makes I/O on `file` bypass the page cache (O_DIRECT), if the file system supports that. Addresses of buffers, offsets and
/// lengths must then be multiples of 4096.
pub fn enable_direct_io(file: &File) {
    let _ = fcntl(file, FcntlArg::F_GETFL)
        .map(OFlag::from_bits_retain)
        .and_then(|flags| fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)));
}

/// Opens a second descriptor of `file`, whose I/O goes through the page cache.
///
/// # Errors
/// The error of open(2).
pub fn reopen_buffered(file: &File) -> io::Result<File> {
    File::options().read(true).write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The next run of data in `file` within `range`, `None` if the rest is a hole. On a file system without holes everything is
/// data (lseek(2)).
///
/// # Errors
/// The error of lseek(2).
pub fn next_data(file: &File, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
    let begin = match lseek(file, to_offset(range.start)?, Whence::SeekData) {
        // Nothing but holes follows.
        Err(Errno::ENXIO) => return Ok(None),
        begin => from_offset(begin?)?,
    };
    if begin >= range.end {
        return Ok(None);
    }
    let end = from_offset(lseek(file, to_offset(begin)?, Whence::SeekHole)?)?;
    Ok(Some(begin..end.min(range.end)))
}

/// Allocates blocks for `range` without writing to them. Parallel direct writes then do not serialize on block allocation.
pub fn preallocate(file: &File, range: Range<u64>) {
    // If it fails, writes are only slower.
    let _ = allocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, &range);
}

/// Returns the blocks of `range` to the file system; the range then reads as zeros.
pub fn punch_hole(file: &File, range: Range<u64>) {
    // A file system that cannot do this frees the blocks when the file is deleted.
    let _ = allocate(file, FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, &range);
}

/// Starts writing `range` to disk without waiting for it.
pub fn start_writeback(file: &File, range: Range<u64>) {
    let _ = sync_range(file, &range, libc::SYNC_FILE_RANGE_WRITE);
}

/// Waits until what has been started of the writing of `range` is done.
///
/// # Errors
/// It failed, which is reported once: fsync(2) of this open file does not repeat it.
pub fn wait_for_writeback(file: &File, range: Range<u64>) -> io::Result<()> {
    sync_range(file, &range, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
}

/// Waits until `range` is on disk, and drops it from the page cache: a core of many GiB must not evict what other programs have
/// there.
///
/// # Errors
/// As [`wait_for_writeback`].
pub fn finish_writeback(file: &File, range: Range<u64>) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let written = sync_range(file, &range, flags);
    if let (Ok(start), Ok(length)) = (to_offset(range.start), to_offset(range.end - range.start)) {
        let _ = posix_fadvise(file, start, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
    written
}

fn allocate(file: &File, flags: FallocateFlags, range: &Range<u64>) -> io::Result<()> {
    Ok(fallocate(file, flags, to_offset(range.start)?, to_offset(range.end - range.start)?)?)
}

fn sync_range(file: &File, range: &Range<u64>, flags: libc::c_uint) -> io::Result<()> {
    let (start, length) = (to_offset(range.start)?, to_offset(range.end - range.start)?);
    // SAFETY: sync_file_range takes an open descriptor and three integers.
    Errno::result(unsafe { libc::sync_file_range(file.as_raw_fd(), start, length, flags) })?;
    Ok(())
}

fn to_offset(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn from_offset(offset: i64) -> io::Result<u64> {
    u64::try_from(offset).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_are_told_from_data() {
        let file = create_memfd("test").unwrap();
        file.write_all_at(&[1; 4096], 5 * 4096).unwrap();
        file.write_all_at(&[1; 8192], 100 * 4096).unwrap();
        assert_eq!(next_data(&file, 0..1 << 20).unwrap(), Some(5 * 4096..6 * 4096));
        assert_eq!(next_data(&file, 6 * 4096..1 << 20).unwrap(), Some(100 * 4096..102 * 4096));
        assert_eq!(next_data(&file, 6 * 4096..101 * 4096).unwrap(), Some(100 * 4096..101 * 4096));
        assert_eq!(next_data(&file, 102 * 4096..1 << 20).unwrap(), None);
        punch_hole(&file, 5 * 4096..6 * 4096);
        assert_eq!(next_data(&file, 0..50 * 4096).unwrap(), None);
    }
}
