//! Reading the files that say who the users of this machine are.

use crate::policy::access::LocalUsers;
use coreward_wire::paths::Root;
use nix::unistd::{Gid, Uid};
use std::io::ErrorKind;

/// Whether a process with this uid and gid is the user's own ([`LocalUsers::check`]). Blocks.
///
/// # Errors
/// Why it is not, or why that is unknown.
pub(super) fn check(root: &Root, uid: Uid, gid: Option<Gid>) -> Result<(), String> {
    let read = |path: &str| match std::fs::read(root.join(path)) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        // A machine without subordinate uids has no /etc/subuid.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(format!("{path}: {error}")),
    };
    let users = LocalUsers { passwd: read("/etc/passwd")?, group: read("/etc/group")?, subuid: read("/etc/subuid")? };
    users.check(uid, gid).map_err(|reason| reason.to_string())
}
