//! Writing a core file, from its creation to its publication.

use crate::crash::Record;
use crate::store::access_list;
use crate::store::core_dir::core_file_name;
use crate::store::format::{self, FRAME_LEN, FormatError, HEADER_ROOM, field};
use coreward_sys::{sparse_io, tmpfile};
use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::Uid;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// A core file that is being written. It has no name before it is published, or a hidden one.
#[derive(Debug)]
pub struct CoreFile {
    file: File,
    record_room: usize,
    /// The first bytes of the core, written last.
    header: Vec<u8>,
    /// Compressed and uncompressed lengths of the frames after the header.
    frames: Vec<(u32, u32)>,
    /// Length of the frame with the runtime's report in bytes, which is behind these frames; 0 if there is none.
    report: u32,
    /// Length of the file in bytes, without that.
    length: u64,
    /// Uncompressed bytes in the file.
    content: u64,
    /// Writeback has been started up to this offset.
    written_back: u64,
    /// Writeback has ended up to this offset.
    on_disk: u64,
    /// The page cache has been released up to this offset.
    released: u64,
    /// The first error of what was written back: the file lacks something, whatever fsync(2) says later.
    lost: Option<io::Error>,
}

/// Bytes written before their writeback is started. What the disk is given at once is what the reads of others wait for.
const WRITEBACK_WINDOW: u64 = 256 << 10;
/// Bytes that may be under writeback at once.
const MAX_IN_FLIGHT: u64 = 1 << 20;
/// Bytes of a core file that may stay in the page cache.
const MAX_CACHED: u64 = 40 << 20;
/// Bytes that are released from the page cache at a time.
const RELEASE_WINDOW: u64 = 8 << 20;

impl CoreFile {
    /// Creates a file in `dir` that has space reserved for `record`, and for `growth` more bytes of it.
    ///
    /// # Errors
    /// The error of openat(2), or a record that cannot be written as JSON.
    pub fn create(dir: BorrowedFd<'_>, record: &Record, growth: usize) -> Result<Self, FormatError> {
        let record_room = format::record_room(record, growth)?;
        let file = File::from(tmpfile::create(dir, Mode::from_bits_truncate(0o640))?);
        Ok(Self::empty(file, record_room))
    }

    fn empty(file: File, record_room: usize) -> Self {
        let length = (record_room + HEADER_ROOM) as u64;
        Self {
            file,
            record_room,
            header: Vec::new(),
            frames: Vec::new(),
            report: 0,
            length,
            content: 0,
            written_back: length,
            on_disk: length,
            released: length,
            lost: None,
        }
    }

    /// Continues a file that an earlier daemon started. `expected` gives the uncompressed length of each frame by its number;
    /// frames are kept up to the first one that is incomplete or has another length.
    ///
    /// # Errors
    /// The error of pread(2) or ftruncate(2).
    pub fn resume(
        file: File,
        record_room: usize,
        header: Vec<u8>,
        expected: impl Fn(u64) -> Option<u32>,
    ) -> Result<Self, FormatError> {
        let mut resumed = Self::empty(file, record_room);
        let mut buffer = vec![0; zstd::zstd_safe::compress_bound(FRAME_LEN)];
        while let Some(content) = expected(resumed.frames()) {
            let count = read_up_to(&resumed.file, &mut buffer, resumed.length)?;
            let frame = &buffer[..count];
            let Ok(length) = zstd::zstd_safe::find_frame_compressed_size(frame) else { break };
            if zstd::zstd_safe::get_frame_content_size(frame).ok().flatten() != Some(u64::from(content)) {
                break;
            }
            resumed.frames.push((field(length), content));
            resumed.length += length as u64;
            resumed.content += u64::from(content);
        }
        resumed.file.set_len(resumed.length)?;
        resumed.set_header(header);
        Ok(resumed)
    }

    /// A duplicate of the file's descriptor.
    ///
    /// # Errors
    /// The process has too many open files.
    pub fn duplicate_fd(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Sets or replaces the first bytes of the core, at most [`format::HEADER_LEN`].
    pub fn set_header(&mut self, header: Vec<u8>) {
        self.content = self.content - self.header.len() as u64 + header.len() as u64;
        self.header = header;
    }

    /// The number of data frames after the header's.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Bytes reserved for the record.
    #[must_use]
    pub fn record_room(&self) -> usize {
        self.record_room
    }

    /// The bytes set by [`Self::set_header`].
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Length of the file in bytes, including the space reserved for the record.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Uncompressed bytes of core in the file.
    #[must_use]
    pub fn content(&self) -> u64 {
        self.content
    }

    /// Bytes that publishing will add: the seek table.
    #[must_use]
    pub fn overhead(&self) -> u64 {
        (self.frames.len() as u64 + 5) * 8 + 17 + u64::from(self.report)
    }

    /// Adds a frame with the runtime's report ([`format::report_frame`]). No frame can be appended or removed after that.
    ///
    /// # Errors
    /// The error of pwrite(2); the file is then as it was before.
    pub fn add_report(&mut self, frame: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all_at(frame, self.length) {
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.report = field(frame.len());
        Ok(())
    }

    /// Appends a compressed frame that holds `content` uncompressed bytes.
    ///
    /// # Errors
    /// The error of pwrite(2); the file is then as it was before.
    pub fn append(&mut self, frame: &[u8], content: u32) -> io::Result<()> {
        if let Err(error) = self.file.write_all_at(frame, self.length) {
            // No reader can use a partial frame, and publishing may need its blocks.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.frames.push((field(frame.len()), content));
        self.length += frame.len() as u64;
        self.content += u64::from(content);
        while self.length - self.written_back >= WRITEBACK_WINDOW {
            let end = self.written_back + WRITEBACK_WINDOW;
            if end - self.on_disk > MAX_IN_FLIGHT {
                let written = sparse_io::wait_for_writeback(&self.file, self.on_disk..end - MAX_IN_FLIGHT);
                self.note(written);
                self.on_disk = end - MAX_IN_FLIGHT;
            }
            sparse_io::start_writeback(&self.file, self.written_back..end);
            self.written_back = end;
        }
        if self.on_disk.saturating_sub(self.released) > MAX_CACHED {
            let written = sparse_io::finish_writeback(&self.file, self.released..self.released + RELEASE_WINDOW);
            self.note(written);
            self.released += RELEASE_WINDOW;
        }
        Ok(())
    }

    /// Remembers an error of the disk. A file system that cannot say what is written reports another one.
    fn note(&mut self, written: io::Result<()>) {
        let is_lost = |error: &io::Error| {
            [Errno::EIO, Errno::ENOSPC, Errno::EDQUOT].map(|errno| Some(errno as i32)).contains(&error.raw_os_error())
        };
        let lost = written.err().filter(is_lost);
        if self.lost.is_none() {
            self.lost = lost;
        }
    }

    /// Removes the last frame; `false` if there is none.
    ///
    /// # Errors
    /// The error of ftruncate(2).
    pub fn pop(&mut self) -> io::Result<bool> {
        let Some((length, content)) = self.frames.pop() else { return Ok(false) };
        self.length -= u64::from(length);
        self.content -= u64::from(content);
        self.released = self.released.min(self.length);
        self.written_back = self.written_back.min(self.length);
        self.on_disk = self.on_disk.min(self.length);
        self.file.set_len(self.length)?;
        Ok(true)
    }

    /// Length of the file when it is published, in bytes.
    #[must_use]
    pub fn final_length(&self) -> u64 {
        let frames = self.frames.len() + 3 + usize::from(self.report > 0);
        self.length + u64::from(self.report) + format::seek_table_length(frames) as u64
    }

    /// Lets user `uid` read the file.
    ///
    /// # Errors
    /// The error of fsetxattr(2).
    pub fn grant_read(&self, uid: Uid) -> io::Result<()> {
        access_list::grant_read(self.file.as_fd(), uid)
    }

    /// Completes the file with header, seek table and record, syncs it to disk and links it into `dir`. If `dir` already has the
    /// core of this crash, that one is left in place.
    ///
    /// # Errors
    /// The disk is full, or the record has outgrown its space.
    pub fn publish(self, record: &Record, dir: BorrowedFd<'_>) -> Result<(), FormatError> {
        if let Some(error) = self.lost {
            return Err(error.into());
        }
        let (header, header_length) = format::header_frame(&self.header)?;
        self.file.write_all_at(&header, self.record_room as u64)?;
        let mut frames = vec![
            (field(self.record_room), 0),
            (field(header_length), field(self.header.len())),
            (field(HEADER_ROOM - header_length), 0),
        ];
        frames.extend_from_slice(&self.frames);
        frames.extend((self.report > 0).then_some((self.report, 0)));
        self.file.write_all_at(&format::seek_table(&frames), self.length + u64::from(self.report))?;
        self.file.write_all_at(&format::record_frame(record, self.record_room)?, 0)?;
        match tmpfile::publish(self.file.as_fd(), dir, &core_file_name(&record.id)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            published => Ok(published?),
        }
    }
}

/// Reads from offset `from` until `buffer` is full or the file ends; returns the number of bytes read.
fn read_up_to(file: &File, buffer: &mut [u8], from: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], from + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}
