//! Read access to a core file for one more user: POSIX access control lists in the kernel's extended-attribute form (acl(5),
//! `include/uapi/linux/posix_acl_xattr.h`).

use coreward_sys::xattr;
use nix::unistd::Uid;
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
struct AclEntry {
    tag: u16,
    id: u32,
    permissions: u16,
}

/// Grants `uid` read access to `file`, whose mode is 0640. Entries that the file inherited from its directory's default list
/// are preserved.
///
/// # Errors
/// `EOPNOTSUPP` if the file system has no access control lists, otherwise the error of fsetxattr(2).
pub(super) fn grant_read(file: BorrowedFd<'_>, uid: Uid) -> io::Result<()> {
    let mut entries = xattr::get(file, NAME)?.and_then(|bytes| decode(&bytes)).unwrap_or_else(|| {
        vec![
            AclEntry { tag: USER_OBJ, id: NO_ID, permissions: READ | WRITE },
            AclEntry { tag: GROUP_OBJ, id: NO_ID, permissions: READ },
            AclEntry { tag: OTHER, id: NO_ID, permissions: 0 },
        ]
    });
    entries.retain(|entry| entry.tag != MASK && (entry.tag, entry.id) != (USER, uid.as_raw()));
    entries.push(AclEntry { tag: USER, id: uid.as_raw(), permissions: READ });
    // The mask limits all named entries and the group to reading.
    entries.push(AclEntry { tag: MASK, id: NO_ID, permissions: READ });
    // The kernel requires entries sorted by tag, then by id.
    entries.sort_unstable();
    xattr::set(file, NAME, &encode(&entries))
}

/// Whether the list of `file` grants `uid` read access by its name.
pub(super) fn grants_read(file: BorrowedFd<'_>, uid: Uid) -> bool {
    let entries = xattr::get(file, NAME).ok().flatten().and_then(|bytes| decode(&bytes)).unwrap_or_default();
    entries.iter().any(|entry| (entry.tag, entry.id) == (USER, uid.as_raw()) && entry.permissions & READ != 0)
}

fn encode(entries: &[AclEntry]) -> Vec<u8> {
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for entry in entries {
        bytes.extend_from_slice(&entry.tag.to_le_bytes());
        bytes.extend_from_slice(&entry.permissions.to_le_bytes());
        bytes.extend_from_slice(&entry.id.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<AclEntry>> {
    let (version, rest) = bytes.split_first_chunk::<4>()?;
    let entries = rest.chunks_exact(8).map(|entry| AclEntry {
        tag: u16::from_le_bytes([entry[0], entry[1]]),
        permissions: u16::from_le_bytes([entry[2], entry[3]]),
        id: u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]),
    });
    (u32::from_le_bytes(*version) == VERSION).then(|| entries.collect())
}
