//! Setting kernel.core_pattern, kernel.core_pipe_limit and fs.suid_dumpable for the duration of a test.

use std::fs::{self, File};

const PATTERN: &str = "/proc/sys/kernel/core_pattern";
const LIMIT: &str = "/proc/sys/kernel/core_pipe_limit";
/// Set to what the kernel starts with: the tests must not depend on what the machine has.
const DUMPABLE: &str = "/proc/sys/fs/suid_dumpable";

/// The sysctls, set; dropping it restores them.
pub(crate) struct CorePattern {
    saved: [(&'static str, String); 3],
    /// Only one test of the machine may set them at a time.
    _lock: File,
}

impl CorePattern {
    pub(crate) fn set(pattern: &str) -> Self {
        let lock = File::create("/tmp/coreward-core-pattern.lock").expect("a lock file");
        lock.lock().expect("the lock");
        let saved = [PATTERN, LIMIT, DUMPABLE]
            .map(|file| (file, fs::read_to_string(file).expect("a sysctl").trim().to_owned()));
        let set = Self { saved, _lock: lock };
        fs::write(PATTERN, pattern).expect("core_pattern");
        fs::write(LIMIT, i32::MAX.to_string()).expect("core_pipe_limit");
        fs::write(DUMPABLE, "0").expect("suid_dumpable");
        set
    }
}

impl Drop for CorePattern {
    fn drop(&mut self) {
        for (file, value) in &self.saved {
            // The value that a killed test left behind is not worth restoring.
            let value = if value.contains("/tmp/cw") { "core" } else { value };
            fs::write(file, value).expect("the saved sysctl");
        }
    }
}
