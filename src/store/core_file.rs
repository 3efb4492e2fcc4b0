//! A core file from its first byte to its name.

use super::acl;
use super::format::{self, FRAME_LEN, FormatError, HEADER_ROOM};
use crate::crash::{CrashId, Record};
use coreward_sys::{sparse_io, tmpfile};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A core that is being written. It has no name: dropped, it never was.
#[derive(Debug)]
pub struct CoreFile {
    file: File,
    record_room: usize,
    /// The core's first bytes, which are written last.
    header: Vec<u8>,
    /// Compressed and uncompressed lengths behind the header.
    frames: Vec<(u32, u32)>,
    length: u64,
    content: u64,
    /// Up to here the disk was told to write.
    begun: u64,
    /// Up to here the page cache was told to let go of the file.
    behind: u64,
}

/// So much is written before the disk is told to begin.
const WINDOW: u64 = 8 << 20;
/// So much of a core may be in the page cache.
const LAG: u64 = 40 << 20;

/// The name of a stored core. It tells nothing about who crashed: the directory may be listed by everybody.
pub fn file_name(id: &CrashId) -> PathBuf {
    PathBuf::from(format!("{id}.core.zst"))
}

impl CoreFile {
    /// Begins a file in `dir` with room for `record`.
    ///
    /// # Errors
    /// What openat(2) says.
    pub fn create(dir: BorrowedFd<'_>, record: &Record) -> Result<Self, FormatError> {
        let record_room = format::record_room(record)?;
        let file = File::from(tmpfile::create(dir, Mode::from_bits_truncate(0o640))?);
        Ok(Self::begun(file, record_room))
    }

    fn begun(file: File, record_room: usize) -> Self {
        let length = (record_room + HEADER_ROOM) as u64;
        Self {
            file,
            record_room,
            header: Vec::new(),
            frames: Vec::new(),
            length,
            content: 0,
            begun: length,
            behind: length,
        }
    }

    /// Goes on with a file that an earlier daemon began. Frames are kept as long as they are whole and have as much content as
    /// `expected` says of the frame of that number.
    ///
    /// # Errors
    /// What pread(2) or ftruncate(2) say.
    pub fn resume(
        file: File,
        record_room: usize,
        header: Vec<u8>,
        expected: impl Fn(u64) -> Option<u32>,
    ) -> Result<Self, FormatError> {
        let mut resumed = Self::begun(file, record_room);
        let mut buffer = vec![0; zstd::zstd_safe::compress_bound(FRAME_LEN)];
        while let Some(content) = expected(resumed.frames()) {
            let count = read_up_to(&resumed.file, &mut buffer, resumed.length)?;
            let frame = &buffer[..count];
            let Ok(length) = zstd::zstd_safe::find_frame_compressed_size(frame) else { break };
            if zstd::zstd_safe::get_frame_content_size(frame).ok().flatten() != Some(u64::from(content)) {
                break;
            }
            resumed.frames.push((length as u32, content));
            resumed.length += length as u64;
            resumed.content += u64::from(content);
        }
        resumed.file.set_len(resumed.length)?;
        resumed.set_header(header);
        Ok(resumed)
    }

    /// A second descriptor of the file.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// What the core begins with, at most [`format::HEADER_LEN`] bytes. May be set again.
    pub fn set_header(&mut self, header: Vec<u8>) {
        self.content = self.content - self.header.len() as u64 + header.len() as u64;
        self.header = header;
    }

    /// How many data frames there are behind the header's.
    pub fn frames(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Bytes kept for the record.
    pub fn record_room(&self) -> usize {
        self.record_room
    }

    /// What the header's frame has.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Bytes in the file so far, the record's room included.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of core in the file so far, uncompressed.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// What the seek table will add.
    pub fn overhead(&self) -> u64 {
        (self.frames.len() as u64 + 4) * 8 + 17
    }

    /// Appends a whole frame of `content` uncompressed bytes.
    ///
    /// # Errors
    /// What pwrite(2) says; the file then is what it was before.
    pub fn append(&mut self, frame: &[u8], content: u32) -> io::Result<()> {
        if let Err(error) = self.file.write_all_at(frame, self.length) {
            // Half a frame is nothing that a reader could use, and its blocks may be what the end of the file needs.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.frames.push((frame.len() as u32, content));
        self.length += frame.len() as u64;
        self.content += u64::from(content);
        if self.length - self.begun >= WINDOW {
            sparse_io::begin_writing(&self.file, self.begun..self.length);
            self.begun = self.length;
            // By now the disk is through with what was begun long ago.
            if self.begun - self.behind > LAG {
                sparse_io::end_writing(&self.file, self.behind..self.behind + WINDOW);
                self.behind += WINDOW;
            }
        }
        Ok(())
    }

    /// Takes the last frame away again; `false`: there is none.
    ///
    /// # Errors
    /// What ftruncate(2) says.
    pub fn pop(&mut self) -> io::Result<bool> {
        let Some((length, content)) = self.frames.pop() else { return Ok(false) };
        self.length -= u64::from(length);
        self.content -= u64::from(content);
        self.behind = self.behind.min(self.length);
        self.begun = self.begun.min(self.length);
        self.file.set_len(self.length)?;
        Ok(true)
    }

    /// Bytes of the file when it is published.
    pub fn final_length(&self) -> u64 {
        self.length + format::seek_table_length(self.frames.len() + 3) as u64
    }

    /// Lets user `uid` read the file.
    ///
    /// # Errors
    /// What fsetxattr(2) says.
    pub fn let_read(&self, uid: u32) -> io::Result<()> {
        acl::let_read(self.file.as_fd(), uid)
    }

    /// Writes the header, the seek table and the record, makes it all durable and gives the file its name. A file that is there
    /// already has the same crash in it and is left alone.
    ///
    /// # Errors
    /// A full disk in the last step, a record that grew beyond its room.
    pub fn publish(self, record: &Record, dir: BorrowedFd<'_>) -> Result<(), FormatError> {
        let (header, header_length) = format::header_frame(&self.header)?;
        self.file.write_all_at(&header, self.record_room as u64)?;
        let mut frames = vec![
            (self.record_room as u32, 0),
            (header_length as u32, self.header.len() as u32),
            ((HEADER_ROOM - header_length) as u32, 0),
        ];
        frames.extend_from_slice(&self.frames);
        self.file.write_all_at(&format::seek_table(&frames), self.length)?;
        self.file.write_all_at(&format::record_frame(record, self.record_room)?, 0)?;
        match tmpfile::publish(self.file.as_fd(), dir, &file_name(&record.id)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            published => Ok(published?),
        }
    }
}

/// Reads until `buffer` is full or the file ends.
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
