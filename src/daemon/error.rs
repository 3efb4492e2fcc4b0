//! Why a session ends without a durable record.

use super::connection::ConnectionError;
use crate::store::CatalogError;
use thiserror::Error;

/// Why a crash was not recorded. Its shim keeps it, and offers it again or spools it. A core that cannot be had is no such
/// error: the record says why it is missing.
#[derive(Debug, Error)]
pub(super) enum SessionError {
    /// The shim went, or turned to another daemon.
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    /// The record cannot be written.
    #[error("{0}")]
    Catalog(#[from] CatalogError),
    /// Other crashes of the same principal have all its places. A spooled crash tries again later; those behind it do not wait.
    #[error("other crashes of the same unit or user come first")]
    NoPlace,
    /// The daemon stops; the shim offers the crash to the next one.
    #[error("the daemon stops")]
    Stopping,
}
