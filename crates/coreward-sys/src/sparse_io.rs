//! Files that are written past the page cache, and files with holes: O_DIRECT, sync_file_range(2), SEEK_DATA.

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, fcntl, posix_fadvise};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// A file that is memory.
///
/// # Errors
/// What memfd_create(2) says.
pub fn in_memory(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?))
}

/// From now on transfers of `file` go past the page cache, where the file system can do that; buffers, offsets and lengths
/// then are multiples of 4096.
pub fn past_the_cache(file: &File) {
    let _ = fcntl(file, nix::fcntl::FcntlArg::F_GETFL)
        .map(OFlag::from_bits_retain)
        .and_then(|flags| fcntl(file, nix::fcntl::FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)));
}

/// A second descriptor of `file` whose transfers go through the page cache.
///
/// # Errors
/// What open(2) says.
pub fn through_the_cache(file: &File) -> io::Result<File> {
    File::options().read(true).write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The next run of data in `file` within `range`; `None`: the rest is a hole. A file system without holes has data everywhere.
///
/// # Errors
/// What lseek(2) says.
pub fn next_data(file: &File, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
    let at = |offset: u64| i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let begin = match lseek(file, at(range.start)?, Whence::SeekData) {
        // Behind the last data.
        Err(Errno::ENXIO) => return Ok(None),
        begin => begin? as u64,
    };
    if begin >= range.end {
        return Ok(None);
    }
    let end = lseek(file, at(begin)?, Whence::SeekHole)? as u64;
    Ok(Some(begin..end.min(range.end)))
}

/// Makes blocks for `range` ready without writing to them: transfers past the page cache then need not wait for each other while
/// the file system finds room.
pub fn prepare(file: &File, range: Range<u64>) {
    // Without it they only are slower.
    let _ = fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, range.start as i64, (range.end - range.start) as i64);
}

/// Gives the blocks of `range` back to the volume; what is there reads as zeros then.
pub fn punch(file: &File, range: Range<u64>) {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    // A file system that can't do it gives them back when the file is closed.
    let _ = fallocate(file, flags, range.start as i64, (range.end - range.start) as i64);
}

/// Begins to write `range` to the disk, and does not wait for it.
pub fn begin_writing(file: &File, range: Range<u64>) {
    sync(file, &range, libc::SYNC_FILE_RANGE_WRITE);
}

/// Waits until `range` is on the disk and takes it out of the page cache: a core of many GiB must not throw out what other
/// programs have there.
pub fn end_writing(file: &File, range: Range<u64>) {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    sync(file, &range, flags);
    let length = (range.end - range.start) as i64;
    let _ = posix_fadvise(file, range.start as i64, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

fn sync(file: &File, range: &Range<u64>, flags: libc::c_uint) {
    // SAFETY: sync_file_range takes a descriptor that is open and three integers. An error comes back with fsync(2).
    let _ =
        unsafe { libc::sync_file_range(file.as_raw_fd(), range.start as i64, (range.end - range.start) as i64, flags) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_are_told_from_data() {
        let file = in_memory("test").unwrap();
        file.write_all_at(&[1; 4096], 5 * 4096).unwrap();
        file.write_all_at(&[1; 8192], 100 * 4096).unwrap();
        assert_eq!(next_data(&file, 0..1 << 20).unwrap(), Some(5 * 4096..6 * 4096));
        assert_eq!(next_data(&file, 6 * 4096..1 << 20).unwrap(), Some(100 * 4096..102 * 4096));
        assert_eq!(next_data(&file, 6 * 4096..101 * 4096).unwrap(), Some(100 * 4096..101 * 4096));
        assert_eq!(next_data(&file, 102 * 4096..1 << 20).unwrap(), None);
        punch(&file, 5 * 4096..6 * 4096);
        assert_eq!(next_data(&file, 0..50 * 4096).unwrap(), None);
    }
}
