//! What a thread of the crashed process was allowed to do (credentials(7), capabilities(7)).

use super::WireError;
use super::field::Field;
use nix::unistd::{Gid, Uid};

/// User and group IDs in the initial user namespace, in the order of `/proc/PID/status` (proc_pid_status(5)): real, effective,
/// saved, file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The four user IDs.
    pub uids: [Uid; 4],
    /// The four group IDs.
    pub gids: [Gid; 4],
    /// Every capability in the permitted, the effective or the ambient set, one bit each.
    pub capabilities: u64,
}

/// Most threads whose credentials an offer has: the crashed one and the main one.
pub(super) const MAX_THREADS: usize = 2;
/// Eight IDs of four bytes, and the capabilities.
const LEN: usize = size_of::<[u32; 8]>() + size_of::<u64>();

impl Credentials {
    /// Encodes them as the value of a field.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let ids = self.uids.map(Uid::as_raw).into_iter().chain(self.gids.map(Gid::as_raw));
        ids.flat_map(u32::to_le_bytes).chain(self.capabilities.to_le_bytes()).collect()
    }

    /// Decodes them from a field.
    pub(super) fn from_field(field: &Field<'_>) -> Result<Self, WireError> {
        let decode = || {
            let (ids, capabilities) = field.value.split_last_chunk().filter(|_| field.value.len() == LEN)?;
            let (ids, _) = ids.as_chunks();
            let [u0, u1, u2, u3, g0, g1, g2, g3] = *<&[_; 8]>::try_from(ids).ok()?;
            Some(Self {
                uids: [u0, u1, u2, u3].map(|id| Uid::from_raw(u32::from_le_bytes(id))),
                gids: [g0, g1, g2, g3].map(|id| Gid::from_raw(u32::from_le_bytes(id))),
                capabilities: u64::from_le_bytes(*capabilities),
            })
        };
        decode().ok_or_else(|| field.invalid())
    }
}
