//! Messages for the person at the terminal, on standard error.

use std::io::{self, Write};

/// Prints a line. A standard error that cannot be written is ignored.
pub(super) fn print_message(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
