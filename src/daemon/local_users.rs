//! Reading the files that say who the users of this machine are.

use crate::policy::access::{LocalUsers, NotTheUsers, check_person};
use coreward_wire::paths::Root;
use nix::unistd::{Gid, Uid};
use std::io::ErrorKind;

/// Whether this uid may be a person's: nobody asks why a system account may not read cores. Blocks.
pub(super) fn may_be_person(root: &Root, uid: Uid) -> bool {
    // What cannot be read or understood is for [`check`] to report.
    let login_defs = read(root, "/etc/login.defs");
    login_defs.map_or(true, |text| !matches!(check_person(&text, uid), Err(NotTheUsers::NoPerson(..))))
}

/// Whether a process with this uid and gid is the user's own ([`LocalUsers::check`]). Blocks.
///
/// # Errors
/// Why it is not, or why that is unknown.
pub(super) fn check(root: &Root, uid: Uid, gid: Option<Gid>) -> Result<(), String> {
    let read = |path| read(root, path);
    let users = LocalUsers {
        passwd: read("/etc/passwd")?,
        group: read("/etc/group")?,
        subuid: read("/etc/subuid")?,
        login_defs: read("/etc/login.defs")?,
    };
    users.check(uid, gid).map_err(|reason| reason.to_string())
}

/// The text of a file. A machine without subordinate uids has no /etc/subuid; without /etc/login.defs its defaults apply.
fn read(root: &Root, path: &str) -> Result<String, String> {
    match std::fs::read(root.join(path)) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(format!("{path}: {error}")),
    }
}
