//! The descriptors that came with an offer.

use coreward_wire::FdKind;
use std::os::fd::OwnedFd;

/// Takes the descriptor of this kind, if there is one.
pub(super) fn take(fds: &mut Vec<(FdKind, OwnedFd)>, wanted: FdKind) -> Option<OwnedFd> {
    fds.iter().position(|(kind, _)| *kind == wanted).map(|index| fds.swap_remove(index).1)
}

/// Another descriptor of the same open file.
pub(super) fn copy(fds: &[(FdKind, OwnedFd)], wanted: FdKind) -> Option<OwnedFd> {
    fds.iter().find(|(kind, _)| *kind == wanted).and_then(|(_, fd)| fd.try_clone().ok())
}
