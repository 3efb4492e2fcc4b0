//! The packages of this host: which of them a file is of.

mod dpkg;
mod index;

pub use dpkg::{last_change, owners};
pub use index::PackageIndex;
