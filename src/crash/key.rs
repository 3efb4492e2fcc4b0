//! The identity of a crash.

use super::ids;
use super::text::to_hexadecimal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::time::Duration;

/// The identity of a crash. A process crashes at most once, so boot id, PID and start time identify its crash across machines,
/// however often it is offered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CrashKey {
    /// Boot id, 32 hexadecimal digits (boot_id in random(4)).
    pub boot_id: String,
    /// PID in the initial PID namespace; 0 if the kernel's arguments could not be read.
    #[serde(with = "ids")]
    pub pid: Pid,
    /// Start time of the process, in clock ticks since boot (proc_pid_stat(5)).
    pub start_time: u64,
}

/// The name of a crash in the user interface and in file names: 16 hexadecimal digits derived from its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CrashId(String);

impl CrashKey {
    /// The id: the first 64 bits of the SHA-256 of the key. It is the same for every offer of the crash.
    #[must_use]
    pub fn id(&self) -> CrashId {
        CrashId::of_hash(self.hash())
    }

    /// The id of a dump of the process, which was stopped at this time since boot: another one for each dump, and never that of its crash.
    #[must_use]
    pub fn dump_id(&self, stopped: Duration) -> CrashId {
        let mut hash = self.hash();
        hash.update(b"dump");
        hash.update(stopped.as_nanos().to_le_bytes());
        CrashId::of_hash(hash)
    }

    fn hash(&self) -> Sha256 {
        let mut hash = Sha256::new();
        hash.update(self.boot_id.as_bytes());
        hash.update(self.pid.as_raw().to_le_bytes());
        hash.update(self.start_time.to_le_bytes());
        hash
    }
}

impl CrashId {
    const DIGITS: usize = 16;

    fn of_hash(hash: Sha256) -> Self {
        Self(to_hexadecimal(&hash.finalize()).chars().take(Self::DIGITS).collect())
    }

    /// Parses an id. `None`: `text` is not 16 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == Self::DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self(text.to_owned()))
    }

    /// The hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CrashId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_same_for_every_offer_and_differs_with_each_part_of_the_key() {
        let key = CrashKey { boot_id: "0".repeat(32), pid: Pid::from_raw(7), start_time: 99 };
        assert_eq!(key.id(), key.clone().id());
        assert!(CrashId::parse(key.id().as_str()).is_some());
        for other in [
            CrashKey { boot_id: "1".repeat(32), ..key.clone() },
            CrashKey { pid: Pid::from_raw(8), ..key.clone() },
            CrashKey { start_time: 100, ..key.clone() },
        ] {
            assert_ne!(other.id(), key.id());
        }
        let dumps = [1, 2].map(|nanoseconds| key.dump_id(Duration::from_nanos(nanoseconds)));
        assert!(dumps[0] != dumps[1] && !dumps.contains(&key.id()));
    }

    #[test]
    fn an_id_cannot_smuggle_a_path() {
        for text in ["", "../../etc/passwd", "0123456789ABCDEF", "0123456789abcde", "0123456789abcdef0"] {
            assert_eq!(CrashId::parse(text), None);
        }
    }
}
