//! The fields of a payload: `tag: u16`, `length: u32`, then `length` bytes.

use super::{Header, Kind, MAX_PAYLOAD, WireError};
use nix::unistd::Pid;

/// Builds a payload field by field, and the message around it.
pub(super) struct PayloadWriter {
    payload: Vec<u8>,
}

impl PayloadWriter {
    pub(super) fn new() -> Self {
        Self { payload: Vec::new() }
    }

    pub(super) fn bytes(mut self, tag: u16, value: &[u8]) -> Self {
        // A longer value would not fit into a payload either: the reader then refuses the field as cut off.
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.payload.extend_from_slice(&tag.to_le_bytes());
        self.payload.extend_from_slice(&length.to_le_bytes());
        self.payload.extend_from_slice(value);
        self
    }

    pub(super) fn number(self, tag: u16, value: u64) -> Self {
        self.bytes(tag, &value.to_le_bytes())
    }

    pub(super) fn optional_number(self, tag: u16, value: Option<u32>) -> Self {
        match value {
            Some(value) => self.number(tag, u64::from(value)),
            None => self,
        }
    }

    /// A PID or TID. A negative one has no representation on the wire: the reader refuses the field.
    pub(super) fn optional_pid(self, tag: u16, pid: Option<Pid>) -> Self {
        self.optional_number(tag, pid.map(|pid| pid.as_raw().cast_unsigned()))
    }

    /// The fields without a header.
    pub(super) fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// The whole message, header first.
    pub(super) fn into_message(self, kind: Kind, fds: usize) -> Vec<u8> {
        // Every caller truncates its fields to limits whose sum is below MAX_PAYLOAD.
        debug_assert!(self.payload.len() <= MAX_PAYLOAD, "{kind:?} of {} bytes", self.payload.len());
        [&Header { kind, payload_len: self.payload.len(), fds }.encode(), self.payload.as_slice()].concat()
    }
}

/// At most the first `max` bytes.
pub(super) fn truncated(bytes: &[u8], max: usize) -> &[u8] {
    bytes.get(..max).unwrap_or(bytes)
}

/// At most the first `max` bytes, up to the end of a character.
pub(super) fn truncated_text(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}

/// Iterates over the fields of a payload.
pub(super) struct FieldReader<'a> {
    rest: &'a [u8],
}

/// One field.
pub(super) struct Field<'a> {
    pub(super) tag: u16,
    pub(super) value: &'a [u8],
}

impl<'a> FieldReader<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    /// The first field, and the bytes after it.
    fn split_first(bytes: &'a [u8]) -> Option<(Field<'a>, &'a [u8])> {
        let (tag, bytes) = bytes.split_first_chunk::<2>()?;
        let (length, bytes) = bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (value, rest) = bytes.split_at_checked(length)?;
        Some((Field { tag: u16::from_le_bytes(*tag), value }, rest))
    }
}

impl<'a> Iterator for FieldReader<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match Self::split_first(self.rest) {
            Some((field, rest)) => {
                self.rest = rest;
                Some(Ok(field))
            }
            None => {
                self.rest = &[];
                Some(Err(WireError::Cut))
            }
        }
    }
}

impl Field<'_> {
    pub(super) fn number(&self) -> Result<u64, WireError> {
        self.value.try_into().map(u64::from_le_bytes).map_err(|_| self.invalid())
    }

    pub(super) fn number32(&self) -> Result<u32, WireError> {
        u32::try_from(self.number()?).map_err(|_| self.invalid())
    }

    pub(super) fn flag(&self) -> Result<bool, WireError> {
        Ok(self.number()? != 0)
    }

    /// A PID or TID: not negative, and within the range of `pid_t`.
    pub(super) fn pid(&self) -> Result<Pid, WireError> {
        i32::try_from(self.number()?).map(Pid::from_raw).map_err(|_| self.invalid())
    }

    /// At most the first `max` bytes of the value.
    pub(super) fn bytes(&self, max: usize) -> Vec<u8> {
        truncated(self.value, max).to_vec()
    }

    /// At most the first `max` bytes of a text in UTF-8.
    pub(super) fn text(&self, max: usize) -> Result<String, WireError> {
        let text = std::str::from_utf8(self.value).map_err(|_| self.invalid())?;
        Ok(truncated_text(text, max).to_owned())
    }

    pub(super) fn invalid(&self) -> WireError {
        WireError::Field { tag: self.tag, length: self.value.len() }
    }
}
