//! The lines of `/proc/PID/status` (proc_pid_status(5)). The kernel escapes newlines in the name, so a process cannot forge one.

use crate::crash::text::status_field;
use nix::unistd::Pid;
use std::io;

/// The text of a status file.
pub(super) struct Status(String);

impl Status {
    /// That of a process, or with `tid` of its thread.
    pub(super) fn read(pid: Pid, tid: Option<Pid>) -> io::Result<Self> {
        let path = match tid {
            Some(tid) => format!("/proc/{pid}/task/{tid}/status"),
            None => format!("/proc/{pid}/status"),
        };
        // The name need not be UTF-8.
        Ok(Self(String::from_utf8_lossy(&std::fs::read(path)?).into_owned()))
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        status_field(&self.0, name)
    }

    pub(super) fn pid(&self, name: &str) -> Option<Pid> {
        self.field(name)?.parse().ok().map(Pid::from_raw)
    }

    /// A set of signals.
    pub(super) fn signals(&self, name: &str) -> u64 {
        self.field(name).and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or(0)
    }

    /// The last number of `NSpid`, `NSpgid` or `NSsid`: that in the process' own PID namespace.
    pub(super) fn id_inside(&self, name: &str) -> Option<u32> {
        self.field(name)?.split_ascii_whitespace().next_back()?.parse().ok()
    }

    /// Whether the kernel says that it has no memory of its own.
    pub(super) fn has_memory(&self) -> bool {
        self.field("VmSize").is_some()
    }

    /// The letter of its state.
    pub(super) fn state(&self) -> Option<char> {
        self.field("State")?.chars().next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_this_process_are_found() {
        let status = Status::read(nix::unistd::getpid(), None).unwrap();
        assert_eq!(status.pid("Tgid"), Some(nix::unistd::getpid()));
        assert!(status.has_memory() && status.field("VmSiz").is_none());
        let forged =
            Status("Name:\ta\\nTgid:\\t1\nState:\tZ (zombie)\nTgid:\t7\nNSpid:\t7\t3\nSigBlk:\t00ff\n".to_owned());
        assert_eq!((forged.pid("Tgid"), forged.state()), (Some(Pid::from_raw(7)), Some('Z')));
        assert_eq!((forged.id_inside("NSpid"), forged.signals("SigBlk"), forged.signals("SigPnd")), (Some(3), 255, 0));
    }
}
