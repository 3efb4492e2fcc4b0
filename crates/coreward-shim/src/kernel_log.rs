//! The kernel's log (`/dev/kmsg`). The shim reports there because nothing else may be running that could take a message.

use coreward_wire::paths::Root;
use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// Longest message in bytes. The kernel refuses records of more than 1024, older ones of more than some 990 (`devkmsg_write`,
/// kernel/printk/printk.c).
const MAX_MESSAGE: usize = 800;

/// Writes messages to the kernel's log.
pub(super) struct KernelLog {
    path: PathBuf,
}

impl KernelLog {
    pub(super) fn new(root: &Root) -> Self {
        // A test may provide a file in place of the device.
        let in_root = root.join("/dev/kmsg");
        Self { path: if in_root.exists() { in_root } else { PathBuf::from("/dev/kmsg") } }
    }

    /// Writes one record with priority LOG_DAEMON | LOG_ERR (27, syslog(3)). Failure to log is ignored.
    pub(super) fn log(&self, message: impl Display) {
        // One line of ASCII, so it can be cut anywhere.
        let mut text = message.to_string().as_bytes().escape_ascii().to_string();
        text.truncate(MAX_MESSAGE);
        let record = format!("<27>coreward-shim[{}]: {text}\n", std::process::id());
        // One write(2) is one record (Documentation/ABI/testing/dev-kmsg).
        let _ = File::options().append(true).open(&self.path).and_then(|mut file| file.write_all(record.as_bytes()));
    }
}
