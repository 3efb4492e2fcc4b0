//! One more reader for a file: POSIX access control lists as the kernel keeps them (acl(5), posix_acl_xattr.h).

use coreward_sys::xattr;
use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

const NAME: &CStr = c"system.posix_acl_access";
const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NO_ID: u32 = u32::MAX;
const READ: u16 = 4;
const WRITE: u16 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    tag: u16,
    id: u32,
    permissions: u16,
}

/// Lets `uid` read `file`, whose mode is 0640; what a default list of the directory gave to others stays.
///
/// # Errors
/// `EOPNOTSUPP` on a file system without such lists, otherwise what fsetxattr(2) says.
pub(super) fn let_read(file: BorrowedFd<'_>, uid: u32) -> io::Result<()> {
    let mut entries = xattr::get(file, NAME)?.and_then(|bytes| decode(&bytes)).unwrap_or_else(|| {
        vec![
            Entry { tag: USER_OBJ, id: NO_ID, permissions: READ | WRITE },
            Entry { tag: GROUP_OBJ, id: NO_ID, permissions: READ },
            Entry { tag: OTHER, id: NO_ID, permissions: 0 },
        ]
    });
    entries.retain(|entry| entry.tag != MASK && (entry.tag, entry.id) != (USER, uid));
    entries.push(Entry { tag: USER, id: uid, permissions: READ });
    // The mask caps every named entry and the group: reading, and nothing more.
    entries.push(Entry { tag: MASK, id: NO_ID, permissions: READ });
    // The kernel wants them in the order of their tags, and named ones in the order of their ids.
    entries.sort_unstable();
    xattr::set(file, NAME, &encode(&entries))
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for entry in entries {
        bytes.extend_from_slice(&entry.tag.to_le_bytes());
        bytes.extend_from_slice(&entry.permissions.to_le_bytes());
        bytes.extend_from_slice(&entry.id.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (version, rest) = bytes.split_first_chunk::<4>()?;
    let entries = rest.chunks_exact(8).map(|entry| Entry {
        tag: u16::from_le_bytes([entry[0], entry[1]]),
        permissions: u16::from_le_bytes([entry[2], entry[3]]),
        id: u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]),
    });
    (u32::from_le_bytes(*version) == VERSION).then(|| entries.collect())
}
