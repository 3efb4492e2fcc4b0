//! Data in files with holes, which read as zeros.

use super::chunk::{SourceError, buffer_len};
use coreward_sys::sparse_io;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Length of a page, in bytes. Holes consist of whole pages, and so do transfers with O_DIRECT.
pub(super) const PAGE_LEN: usize = 4096;

/// Bytes that are read at once: the disk serves others between two parts. A multiple of a page.
const READ_AT_ONCE: usize = 256 << 10;

/// Writes `bytes` to `file` at `offset`, except for pages that are zero.
///
/// # Errors
/// Errors of pwrite(2).
pub(super) fn write_nonzero_pages(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let is_zero = |page: &[u8]| *page == [0; PAGE_LEN][..page.len()];
    let mut from = 0;
    while from < bytes.len() {
        let zero = is_zero(&bytes[from..bytes.len().min(from + PAGE_LEN)]);
        let is_same = |page: &&[u8]| is_zero(page) == zero;
        let length: usize = bytes[from..].chunks(PAGE_LEN).take_while(is_same).map(<[u8]>::len).sum();
        if !zero {
            file.write_all_at(&bytes[from..from + length], offset + from as u64)?;
        }
        from += length;
    }
    Ok(())
}

/// Copies the data that `file` has in `range` to the beginning of `buffer`, and leaves the buffer alone where the file has
/// holes. `is_filled` says that the buffer already holds the range; if not, it is filled with zeros before the first copy.
/// Returns whether the buffer holds the range now.
///
/// # Errors
/// The file cannot be read.
pub(super) fn overlay_data(
    file: &File,
    range: Range<u64>,
    buffer: &mut [u8],
    is_filled: bool,
) -> Result<bool, SourceError> {
    let mut is_filled = is_filled;
    let mut from = range.start;
    while let Some(data) = sparse_io::next_data(file, from..range.end).map_err(SourceError::Read)? {
        if !is_filled {
            buffer[..buffer_len(&range)].fill(0);
            is_filled = true;
        }
        let begin = buffer_len(&(range.start..data.start));
        let mut offset = data.start;
        for part in buffer[begin..begin + buffer_len(&data)].chunks_mut(READ_AT_ONCE) {
            read_or_zero(file, offset, part)?;
            offset += part.len() as u64;
        }
        from = data.end;
    }
    Ok(is_filled)
}

/// Fills `buffer` from the file at `offset`, with zeros beyond the file's end.
fn read_or_zero(file: &File, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => {
                buffer[filled..].fill(0);
                break;
            }
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SourceError::Read(error)),
        }
    }
    Ok(())
}
