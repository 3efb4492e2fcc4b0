//! What a shim tells of a process only when it is asked, or when it saves the crash alone. Each file of `/proc` costs the
//! kernel an inode: a storm of duplicates would pay for them ten thousand times, and none of it would be checkpoint.

use super::field::{Field, Fields, Writer};
use super::{MAX_TEXT, WireError};

/// Texts out of `/proc`, as the kernel gave them: hostile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Target of `/proc/PID/cwd`.
    pub cwd: Vec<u8>,
    /// `/proc/PID/status`.
    pub status: Vec<u8>,
    /// `/proc/PID/limits`.
    pub limits: Vec<u8>,
    /// The targets of `/proc/PID/fd/*`, a line each.
    pub open_fds: Vec<u8>,
}

/// Longest list of open descriptors.
pub const MAX_OPEN_FDS: usize = 8 * MAX_TEXT;

const CWD: u16 = 19;
const STATUS: u16 = 22;
const LIMITS: u16 = 23;
const WARNINGS: u16 = 25;
const OPEN_FDS: u16 = 27;

impl Details {
    /// Takes what `newer` has; what it has not (the process may have been killed) stays as it was.
    pub fn update(&mut self, newer: Self) {
        let Self { cwd, status, limits, open_fds } = newer;
        let texts = [
            (&mut self.cwd, cwd),
            (&mut self.status, status),
            (&mut self.limits, limits),
            (&mut self.open_fds, open_fds),
        ];
        for (text, newer) in texts.into_iter().filter(|(_, newer)| !newer.is_empty()) {
            *text = newer;
        }
    }

    /// As the data of a reply; `warnings` says in words what could not be got.
    pub fn encode(&self, warnings: &[String]) -> Vec<u8> {
        self.write(Writer::new(), warnings).payload()
    }

    /// The details in the data of a reply, and what could not be got.
    ///
    /// # Errors
    /// A field that is cut or has an invalid value.
    pub fn decode(data: &[u8]) -> Result<(Self, Vec<String>), WireError> {
        let (mut details, mut warnings) = (Self::default(), Vec::new());
        for field in Fields::of(data) {
            details.read(&field?, &mut warnings)?;
        }
        Ok((details, warnings))
    }

    pub(super) fn write(&self, mut writer: Writer, warnings: &[String]) -> Writer {
        let texts = [
            (CWD, &self.cwd, MAX_TEXT),
            (STATUS, &self.status, MAX_TEXT),
            (LIMITS, &self.limits, MAX_TEXT),
            (OPEN_FDS, &self.open_fds, MAX_OPEN_FDS),
        ];
        for (tag, text, most) in texts.into_iter().filter(|(_, text, _)| !text.is_empty()) {
            writer = writer.bytes(tag, &text[..text.len().min(most)]);
        }
        for warnings in warnings.iter().take(16) {
            let end = warnings.floor_char_boundary(256);
            writer = writer.bytes(WARNINGS, &warnings.as_bytes()[..end]);
        }
        writer
    }

    /// Takes a field that is one of these; others are skipped.
    pub(super) fn read(&mut self, field: &Field<'_>, warnings: &mut Vec<String>) -> Result<(), WireError> {
        match field.tag {
            CWD => self.cwd = field.value.to_vec(),
            STATUS => self.status = field.value.to_vec(),
            LIMITS => self.limits = field.value.to_vec(),
            OPEN_FDS => self.open_fds = field.value.to_vec(),
            WARNINGS => warnings.push(field.text()?),
            _ => {}
        }
        Ok(())
    }
}
