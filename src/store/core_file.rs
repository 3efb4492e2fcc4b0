//! A core file from its first byte to its name.

use super::acl;
use super::format::{self, FormatError};
use crate::crash::{CrashId, Record};
use crate::sys::unnamed;
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A core that is being written. It has no name: dropped, it never was.
#[derive(Debug)]
pub struct CoreFile {
    file: File,
    record_room: usize,
    frames: Vec<(u32, u32)>,
    length: u64,
    content: u64,
}

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
        let file = File::from(unnamed::create(dir, Mode::from_bits_truncate(0o640))?);
        Ok(Self { file, record_room, frames: vec![(record_room as u32, 0)], length: record_room as u64, content: 0 })
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
        (self.frames.len() as u64 + 2) * 8 + 17
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
        Ok(())
    }

    /// Writes the seek table and the record, lets `reader` read, makes it all durable and gives the file its name.
    /// Returns the final length. A file that is there already has the same crash in it and is left alone.
    ///
    /// # Errors
    /// A full disk in the last step, a record that grew beyond its room.
    pub fn publish(self, record: &mut Record, dir: BorrowedFd<'_>, reader: Option<u32>) -> Result<u64, FormatError> {
        let table = format::seek_table(&self.frames);
        self.file.write_all_at(&table, self.length)?;
        let length = self.length + table.len() as u64;
        record.core.stored = length;
        self.file.write_all_at(&format::record_frame(record, self.record_room)?, 0)?;
        if let Some(uid) = reader
            && let Err(error) = acl::let_read(self.file.as_fd(), uid)
        {
            // Root and the administrators can read it all the same.
            record.trouble.push(format!("uid {uid} was not given access: {error}"));
        }
        match unnamed::publish(self.file.as_fd(), dir, &file_name(&record.id)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(length),
            published => published.map(|()| length).map_err(FormatError::Io),
        }
    }
}
