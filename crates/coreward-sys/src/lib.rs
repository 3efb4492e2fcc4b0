//! Small typed wrappers over system calls: the only room with `unsafe`. It knows no other room.
//!
//! What `nix` offers safely is called directly where it is needed; here stands what it lacks, or what takes
//! several calls that only make sense together.

pub mod arena;
pub mod clock;
pub mod datagram;
pub mod entry;
pub mod essential;
pub mod fdpass;
pub mod nice;
pub mod no_space;
pub mod openat;
pub mod pagemap;
pub mod pidfd;
pub mod pipe;
pub mod sparse_io;
pub mod tmpfile;
pub mod xattr;
