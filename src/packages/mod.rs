//! The packages of this host: which of them a file is of.

mod dpkg;

pub use dpkg::{Package, for_each_listed_file, lists_dir, merged, owners};
