//! The kernel's log (`/dev/kmsg`): where the shim speaks when nobody else could hear it.

use coreward_wire::paths::Root;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

pub(super) struct Kmsg {
    path: PathBuf,
}

impl Kmsg {
    pub(super) fn new(root: &Root) -> Self {
        // A test tree may bring a file of its own; there is no other kernel log to fall back to than the real one.
        let own = root.join("/dev/kmsg");
        Self { path: if own.exists() { own } else { PathBuf::from("/dev/kmsg") } }
    }

    /// Writes one record, priority 3 (err) of facility daemon (3 << 3). Failing to log is not a failure.
    pub(super) fn say(&self, message: &str) {
        let text = message.as_bytes()[..message.len().min(800)].escape_ascii();
        let line = format!("<27>coreward-shim[{}]: {text}\n", std::process::id());
        // One write is one record (dev-kmsg in the kernel's ABI documentation).
        let _ = File::options().append(true).open(&self.path).and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
