//! What a reader says of mapped files.

use nix::sys::stat::Mode;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

/// What a reader found out about a mapped file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleFile {
    /// Its length in bytes.
    pub length: u64,
    /// Its build-id.
    pub build_id: Option<String>,
    /// The host's file at this path, which was to be compared with it, has the same build-id.
    pub is_hosts: bool,
    /// Its owner, as a number of this machine.
    pub owner: u32,
    /// Its permissions.
    pub mode: u32,
}

impl ModuleFile {
    /// Whether nobody but its root could have written it: that of this host, or of the container that the file is in.
    #[must_use]
    pub fn is_only_roots(&self) -> bool {
        self.owner == 0 && !self.mode().intersects(Mode::S_IWGRP | Mode::S_IWOTH)
    }

    /// Whether the user could read the file, of whatever groups the user is. A process maps a program also if it may only be executed.
    #[must_use]
    pub fn is_readable_by(&self, uid: Uid) -> bool {
        let all = Mode::S_IRGRP | Mode::S_IROTH;
        if self.owner == uid.as_raw() { self.mode().contains(Mode::S_IRUSR) } else { self.mode().contains(all) }
    }

    fn mode(&self) -> Mode {
        Mode::from_bits_truncate(self.mode)
    }
}

/// Why a module was not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleError {
    /// Compressed, it is longer than it may be.
    TooLong,
    /// The error number (errno(3)) of what failed.
    Io(i32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_who_may_only_execute_a_program_cannot_read_it() {
        let file = |owner, mode| ModuleFile { length: 1, build_id: None, is_hosts: false, owner, mode };
        let reads = |owner, mode| file(owner, mode).is_readable_by(Uid::from_raw(1000));
        assert!(reads(0, 0o100_755) && reads(1000, 0o100_700) && reads(1001, 0o100_444));
        assert!(!reads(0, 0o100_711) && !reads(0, 0o100_750) && !reads(1000, 0o100_111) && !reads(1000, 0o100_077));
        assert!(!reads(0, 0o100_705), "it may be of the user's group");
        assert!(file(0, 0o100_755).is_only_roots());
        assert!(!file(0, 0o100_775).is_only_roots() && !file(0, 0o100_757).is_only_roots());
        assert!(!file(1000, 0o100_755).is_only_roots());
    }
}
