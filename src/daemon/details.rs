//! What a duplicate of a storm is not asked for: texts for the record, and the descriptors that a capture needs.

use super::connection::ConnectionError;
use super::giver::Giver;
use super::road::RoadError;
use crate::crash::Record;
use crate::crash::text::from_bytes;
use coreward_wire::{Details, FdKind, Request, WireError};
use std::os::fd::OwnedFd;

/// Completes the record and the descriptors with what only the shim can still tell of the process. What the spool has is
/// complete.
pub(super) async fn complete(
    giver: &mut Giver,
    record: &mut Record,
    fds: &mut Vec<(FdKind, OwnedFd)>,
) -> Result<(), RoadError> {
    let Giver::Shim(link) = giver else { return Ok(()) };
    if let Some((reply, opened)) = link.ask(Request::Details).await? {
        if reply.fds.len() != opened.len() {
            let (announced, arrived) = (reply.fds.len(), opened.len());
            return Err(ConnectionError::Wire(WireError::Descriptors { announced, arrived }).into());
        }
        let (details, warnings) = Details::decode(&reply.data).map_err(ConnectionError::Wire)?;
        put(record, &details);
        record.warnings.extend(warnings);
        fds.extend(reply.fds.into_iter().zip(opened));
    }
    Ok(())
}

/// Puts the texts into the record.
pub(super) fn put(record: &mut Record, details: &Details) {
    let Details { cwd, status, limits, open_fds } = details;
    record.cwd = from_bytes(cwd);
    record.status = from_bytes(status);
    record.limits = from_bytes(limits);
    record.open_fds = from_bytes(open_fds);
}
