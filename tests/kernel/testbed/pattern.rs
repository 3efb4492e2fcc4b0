//! kernel.core_pattern, taken and put back.

use std::fs::{self, File};

const PATTERN: &str = "/proc/sys/kernel/core_pattern";
const LIMIT: &str = "/proc/sys/kernel/core_pipe_limit";

pub struct Pattern {
    saved: [(&'static str, String); 2],
    /// One user at a time, also across test programs.
    _lock: File,
}

impl Pattern {
    pub fn set(pattern: &str) -> Self {
        let lock = File::create("/tmp/coreward-core-pattern.lock").expect("a lock file");
        lock.lock().expect("the lock");
        let saved = [PATTERN, LIMIT].map(|file| (file, fs::read_to_string(file).expect("a sysctl").trim().to_owned()));
        let taken = Self { saved, _lock: lock };
        fs::write(PATTERN, pattern).expect("core_pattern");
        fs::write(LIMIT, i32::MAX.to_string()).expect("core_pipe_limit");
        taken
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        for (file, value) in &self.saved {
            // A pattern of a test that was killed is nothing to go back to.
            let value = if value.contains("/tmp/cw") { "core" } else { value };
            fs::write(file, value).expect("the saved sysctl");
        }
    }
}
