//! Whose a subordinate uid is, as `/etc/subuid` of this host says.

use crate::policy::subordinate::SubordinateRanges;
use coreward_wire::paths::Root;
use nix::fcntl::OFlag;
use nix::unistd::Uid;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The ranges, read again when a file has changed.
#[derive(Debug, Default)]
pub(super) struct SubordinateIds {
    subuid: PathBuf,
    passwd: PathBuf,
    /// How long what was read is believed without a look at the files.
    interval: Duration,
    read: Mutex<ReadFiles>,
}

#[derive(Debug, Default)]
struct ReadFiles {
    looked: Option<Instant>,
    versions: Versions,
    ranges: SubordinateRanges,
}

/// Tell whether the files are those that were read: their inodes, sizes and times.
type Versions = [Option<(u64, u64, i64, i64)>; 2];

/// In a storm the files are looked at once, not for each crash.
const INTERVAL: Duration = Duration::from_secs(1);

/// The most bytes of a file that are read: more than 10,000 users have.
const MAX_FILE: u64 = 1 << 20;

impl SubordinateIds {
    /// The ranges of the host below `root`. Nothing is read yet.
    pub(super) fn new(root: &Root) -> Self {
        let (subuid, passwd) = (root.join("/etc/subuid"), root.join("/etc/passwd"));
        Self { subuid, passwd, interval: INTERVAL, ..Self::default() }
    }

    /// The user whom `uid` was given to; `None` if it is nobody's subordinate uid.
    pub(super) fn owner_of(&self, uid: Uid) -> Option<Uid> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.looked.is_none_or(|looked| looked.elapsed() >= self.interval) {
            let versions = [&self.subuid, &self.passwd].map(|path| path.metadata().ok().as_ref().map(version));
            read.looked = Some(Instant::now());
            if read.versions != versions {
                read.ranges = match versions {
                    [None, _] => SubordinateRanges::default(),
                    _ => SubordinateRanges::parse(&read_text(&self.subuid), &read_text(&self.passwd)),
                };
                read.versions = versions;
            }
        }
        read.ranges.owner_of(uid)
    }
}

fn version(file: &Metadata) -> (u64, u64, i64, i64) {
    (file.ino(), file.size(), file.mtime(), file.mtime_nsec())
}

/// A file of the administrator's. One that is none, or cannot be read, is empty.
fn read_text(path: &Path) -> String {
    let mut bytes = Vec::new();
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let read = file.and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    if let Err(error) = read {
        tracing::warn!("{}: {error}: crashes under subordinate uids are counted under those uids", path.display());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let ids = SubordinateIds { interval: Duration::ZERO, ..SubordinateIds::new(&Root::new(dir.path())) };
        let owner = || ids.owner_of(Uid::from_raw(100_005)).map(Uid::as_raw);
        assert_eq!(owner(), None, "without the file");
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/subuid"), "1000:100000:65536\n").unwrap();
        assert_eq!(owner(), Some(1000));
        std::fs::write(dir.path().join("etc/subuid"), "alice:100000:65536\n").unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "alice:x:1001:1001::/:/bin/sh\n").unwrap();
        assert_eq!(owner(), Some(1001));
        std::fs::remove_file(dir.path().join("etc/subuid")).unwrap();
        assert_eq!(owner(), None);
    }
}
