//! Fields of a payload: `tag: u16, length: u32, bytes`.

use super::{Header, Kind, MAX_PAYLOAD, WireError};
use nix::unistd::Pid;

/// Writes a message: fields first, the header when all are known.
pub(super) struct Writer {
    payload: Vec<u8>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { payload: Vec::new() }
    }

    pub(super) fn bytes(mut self, tag: u16, value: &[u8]) -> Self {
        self.payload.extend_from_slice(&tag.to_le_bytes());
        self.payload.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.payload.extend_from_slice(value);
        self
    }

    pub(super) fn number(self, tag: u16, value: u64) -> Self {
        self.bytes(tag, &value.to_le_bytes())
    }

    pub(super) fn maybe(self, tag: u16, value: Option<u32>) -> Self {
        match value {
            Some(value) => self.number(tag, u64::from(value)),
            None => self,
        }
    }

    /// The fields alone.
    pub(super) fn payload(self) -> Vec<u8> {
        self.payload
    }

    pub(super) fn message(self, kind: Kind, fds: usize) -> Vec<u8> {
        // Every caller cuts its fields to limits whose sum is below MAX_PAYLOAD.
        debug_assert!(self.payload.len() <= MAX_PAYLOAD, "{kind:?} of {} bytes", self.payload.len());
        let mut message = Header { kind, payload_len: self.payload.len(), fds }.encode().to_vec();
        message.extend_from_slice(&self.payload);
        message
    }
}

/// The fields of a payload, in order.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

/// One field.
pub(super) struct Field<'a> {
    pub(super) tag: u16,
    pub(super) value: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let split = |bytes: &'a [u8]| -> Option<(Field<'a>, &'a [u8])> {
            let (tag, bytes) = bytes.split_first_chunk::<2>()?;
            let (length, bytes) = bytes.split_first_chunk::<4>()?;
            let (value, rest) = bytes.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            Some((Field { tag: u16::from_le_bytes(*tag), value }, rest))
        };
        match split(self.rest) {
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

    /// A PID or TID: never negative, and within `pid_t`.
    pub(super) fn pid(&self) -> Result<Pid, WireError> {
        i32::try_from(self.number()?).map(Pid::from_raw).map_err(|_| self.invalid())
    }

    pub(super) fn text(&self) -> Result<String, WireError> {
        String::from_utf8(self.value.to_vec()).map_err(|_| self.invalid())
    }

    pub(super) fn invalid(&self) -> WireError {
        WireError::Field { tag: self.tag, length: self.value.len() }
    }
}
