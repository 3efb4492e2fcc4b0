//! The report that a runtime wrote itself when its process failed.

use super::text::printable;
use serde::{Deserialize, Serialize};

/// A report of the runtime: HotSpot's `hs_err` file, or Node.js' diagnostic report. Untrusted text, as everything of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeReport {
    /// The runtime: `hotspot` or `node`.
    pub runtime: String,
    /// Where the process wrote it, in its mount namespace.
    pub path: String,
    /// Its length in bytes, when the process crashed.
    pub bytes: u64,
    /// Bytes from its beginning that are kept with the core; 0: none are.
    pub kept: u64,
}

impl RuntimeReport {
    /// The most bytes that are kept of a report. HotSpot's have some hundred KiB.
    pub const MAX_KEPT: u64 = 1 << 20;

    /// The runtime's name as people write it, escaped.
    #[must_use]
    pub fn title(&self) -> String {
        match self.runtime.as_str() {
            "hotspot" => "HotSpot".to_owned(),
            "node" => "Node.js".to_owned(),
            other => printable(other),
        }
    }

    /// The name of a file with it, without a directory.
    #[must_use]
    pub fn file_name(&self) -> &'static str {
        if self.runtime == "node" { "runtime-report.json" } else { "runtime-report.txt" }
    }
}
