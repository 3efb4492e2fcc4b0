//! The packages of this host: which of them a file is of.

mod dpkg;

pub use dpkg::{Package, owners};
