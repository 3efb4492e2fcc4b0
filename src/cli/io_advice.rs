//! What can be done about an error of the system.

use std::fmt;
use std::io;

/// What went wrong with a file, and what can be done about it.
pub(super) struct WithAdvice<'a>(pub(super) &'a io::Error);

impl fmt::Display for WithAdvice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self.0.kind() {
            io::ErrorKind::PermissionDenied => ": run this as root, or as a user who may",
            io::ErrorKind::NotFound => ": check the path",
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": free some space, or name a place elsewhere",
            io::ErrorKind::ReadOnlyFilesystem => ": name a place elsewhere",
            _ => "",
        };
        write!(f, "{}{advice}", self.0)
    }
}
