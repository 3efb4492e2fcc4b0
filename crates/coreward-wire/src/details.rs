//! Texts from `/proc` that the shim reads only on request, or when it saves a crash in the spool. The kernel creates an inode
//! for each file of `/proc` that is opened; in a storm of duplicates that would be wasted, since duplicates are stored without
//! these texts.

use super::field::{Field, FieldReader, PayloadWriter, truncated, truncated_text};
use super::{MAX_TEXT, WireError};

/// Texts from `/proc/PID`, exactly as the kernel gave them. They contain text of the crashed process: treat them as hostile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Target of `/proc/PID/cwd`.
    pub cwd: Vec<u8>,
    /// `/proc/PID/status`.
    pub status: Vec<u8>,
    /// `/proc/PID/limits`.
    pub limits: Vec<u8>,
    /// The targets of `/proc/PID/fd/*`, one per line.
    pub open_fds: Vec<u8>,
    /// `/proc/PPID/cmdline` of the parent, or its name in brackets.
    pub parent: Vec<u8>,
    /// The beginning of `/proc/PID/maps`.
    pub maps: Vec<u8>,
    /// The beginning of `/proc/PID/mountinfo`.
    pub mountinfo: Vec<u8>,
    /// `/proc/PID/task/TID/comm` of the thread that was asked for.
    pub failed_thread: Vec<u8>,
}

/// Longest list of open descriptors, in bytes.
pub const MAX_OPEN_FDS: usize = 8 * MAX_TEXT;
/// Longest beginning of a table (`maps`, `mountinfo`), in bytes: what a field of a journal entry holds.
pub const MAX_TABLE: usize = 2 * MAX_TEXT;
/// Most warnings in a message.
const MAX_WARNINGS: usize = 16;
/// Longest warning, in bytes.
const MAX_WARNING: usize = 256;
/// Longest name of a thread, in bytes. The kernel's have at most 15, those of its own threads some more.
const MAX_NAME: usize = 64;

const CWD: u16 = 19;
const STATUS: u16 = 22;
const LIMITS: u16 = 23;
const WARNINGS: u16 = 25;
const OPEN_FDS: u16 = 27;
const PARENT: u16 = 61;
const MAPS: u16 = 72;
const MOUNTINFO: u16 = 73;
const FAILED_THREAD: u16 = 74;

impl Details {
    /// Replaces each text with the one in `newer`. An empty one leaves the old text in place: the process may have been
    /// killed since, and then nothing can be read any more.
    pub fn update(&mut self, newer: Self) {
        let Self { cwd, status, limits, open_fds, parent, maps, mountinfo, failed_thread } = newer;
        let texts = [
            (&mut self.cwd, cwd),
            (&mut self.status, status),
            (&mut self.limits, limits),
            (&mut self.open_fds, open_fds),
            (&mut self.parent, parent),
            (&mut self.maps, maps),
            (&mut self.mountinfo, mountinfo),
            (&mut self.failed_thread, failed_thread),
        ];
        for (text, newer) in texts.into_iter().filter(|(_, newer)| !newer.is_empty()) {
            *text = newer;
        }
    }

    /// Encodes the texts as the data of a [`super::Reply`]. Each warning says what could not be read and why.
    #[must_use]
    pub fn encode(&self, warnings: &[String]) -> Vec<u8> {
        self.write_to(PayloadWriter::new(), warnings).into_payload()
    }

    /// Decodes the data of a [`super::Reply`]: the texts, and the shim's warnings about what could not be read.
    ///
    /// # Errors
    /// A field that is cut off or has an invalid value.
    pub fn decode(data: &[u8]) -> Result<(Self, Vec<String>), WireError> {
        let (mut details, mut warnings) = (Self::default(), Vec::new());
        for field in FieldReader::new(data) {
            details.read_field(&field?, &mut warnings)?;
        }
        Ok((details, warnings))
    }

    /// Appends the texts and warnings. Empty texts are left out.
    pub(super) fn write_to(&self, mut writer: PayloadWriter, warnings: &[String]) -> PayloadWriter {
        let texts = [
            (CWD, &self.cwd, MAX_TEXT),
            (STATUS, &self.status, MAX_TEXT),
            (LIMITS, &self.limits, MAX_TEXT),
            (OPEN_FDS, &self.open_fds, MAX_OPEN_FDS),
            (PARENT, &self.parent, MAX_TEXT),
            (MAPS, &self.maps, MAX_TABLE),
            (MOUNTINFO, &self.mountinfo, MAX_TABLE),
            (FAILED_THREAD, &self.failed_thread, MAX_NAME),
        ];
        for (tag, text, max) in texts.into_iter().filter(|(_, text, _)| !text.is_empty()) {
            writer = writer.bytes(tag, truncated(text, max));
        }
        for warning in warnings.iter().take(MAX_WARNINGS) {
            writer = writer.bytes(WARNINGS, truncated_text(warning, MAX_WARNING).as_bytes());
        }
        writer
    }

    /// Reads a field of these texts or a warning, and skips any other field.
    pub(super) fn read_field(&mut self, field: &Field<'_>, warnings: &mut Vec<String>) -> Result<(), WireError> {
        match field.tag {
            CWD => self.cwd = field.bytes(MAX_TEXT),
            STATUS => self.status = field.bytes(MAX_TEXT),
            LIMITS => self.limits = field.bytes(MAX_TEXT),
            OPEN_FDS => self.open_fds = field.bytes(MAX_OPEN_FDS),
            PARENT => self.parent = field.bytes(MAX_TEXT),
            MAPS => self.maps = field.bytes(MAX_TABLE),
            MOUNTINFO => self.mountinfo = field.bytes(MAX_TABLE),
            FAILED_THREAD => self.failed_thread = field.bytes(MAX_NAME),
            WARNINGS if warnings.len() < MAX_WARNINGS => warnings.push(field.text(MAX_WARNING)?),
            _ => {}
        }
        Ok(())
    }
}
