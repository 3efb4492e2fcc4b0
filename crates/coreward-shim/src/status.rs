//! What `/proc/PID/status` says of a thread (proc_pid_status(5)): whether its process is dumping core, and its credentials.
//!
//! The kernel escapes newlines and backslashes in the name, so a process cannot forge a line.

use coreward_wire::Credentials;
use nix::unistd::{Gid, Uid};

/// The lines of a status file that the shim uses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ThreadStatus {
    /// The kernel is writing the core of the process. The line is missing where the thread has no memory any more.
    pub(super) is_dumping: bool,
    pub(super) credentials: Credentials,
}

impl ThreadStatus {
    /// `None` if a line about the credentials is missing or malformed.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let value = |name: &str| {
            let mut lines = text.split(|byte| *byte == b'\n');
            let value = lines.find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b":\t"))?;
            std::str::from_utf8(value).ok()
        };
        let ids = |name| {
            let mut ids = value(name)?.split_ascii_whitespace().map(str::parse::<u32>);
            let mut next = || ids.next()?.ok();
            Some([next()?, next()?, next()?, next()?])
        };
        let set = |name| u64::from_str_radix(value(name)?, 16).ok();
        Some(Self {
            is_dumping: value("CoreDumping") == Some("1"),
            credentials: Credentials {
                uids: ids("Uid")?.map(Uid::from_raw),
                gids: ids("Gid")?.map(Gid::from_raw),
                capabilities: set("CapPrm")? | set("CapEff")? | set("CapAmb")?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\ta\\nUid:\\t0\nUmask:\t0022\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nFDSize:\t64\n\
        CoreDumping:\t1\nCapInh:\tffffffffffffffff\nCapPrm:\t0000000000000400\nCapEff:\t0000000000000001\n\
        CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000002\n";

    #[test]
    fn credentials_are_read_and_a_name_cannot_forge_them() {
        let status = ThreadStatus::parse(STATUS.as_bytes()).unwrap();
        assert!(status.is_dumping);
        assert_eq!(status.credentials.uids.map(Uid::as_raw), [1000, 1001, 1002, 1003]);
        assert_eq!(status.credentials.gids.map(Gid::as_raw), [5, 6, 7, 8]);
        assert_eq!(status.credentials.capabilities, 0x403);
    }

    #[test]
    fn a_thread_without_memory_is_not_seen_dumping_and_a_missing_line_leaves_everything_unknown() {
        let status = |without: &str| ThreadStatus::parse(STATUS.replace(without, "X").as_bytes());
        assert!(!status("CoreDumping").unwrap().is_dumping);
        for line in ["\nUid", "\nGid", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(line), None, "{line}");
        }
        assert_eq!(ThreadStatus::parse(b""), None);
        assert_eq!(ThreadStatus::parse(STATUS.replace("1003", "-1").as_bytes()), None);
    }
}
