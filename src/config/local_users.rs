//! Reading the files that say who the users of this machine are.

use crate::policy::access::LocalUsers;
use coreward_wire::paths::Root;
use std::io::ErrorKind;

/// The users of this machine. Blocks.
///
/// # Errors
/// A file that cannot be read.
pub fn read_local_users(root: &Root) -> Result<LocalUsers, String> {
    let read = |path| read(root, path);
    Ok(LocalUsers {
        passwd: read("/etc/passwd")?,
        group: read("/etc/group")?,
        subuid: read("/etc/subuid")?,
        login_defs: read_login_defs(root)?,
    })
}

/// The text of login.defs(5). Blocks.
///
/// # Errors
/// It cannot be read.
pub fn read_login_defs(root: &Root) -> Result<String, String> {
    read(root, "/etc/login.defs")
}

/// The text of a file. A machine without subordinate uids has no /etc/subuid; without /etc/login.defs its defaults apply.
fn read(root: &Root, path: &str) -> Result<String, String> {
    match std::fs::read(root.join(path)) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(format!("{path}: {error}")),
    }
}
