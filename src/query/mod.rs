//! The service that users and programs ask for crashes, over Varlink (<https://varlink.org>), and the client that the command has.
//!
//! It reads the catalog and nothing of the intake. It runs as a user of its own, so whatever is done to it costs neither the daemon
//! nor a crash. Who asks is what the kernel says of the peer of the connection.

mod client;
mod connect;
mod connection_limits;
mod deletion;
mod error;
mod frames;
mod interface;
mod message;
mod parameters;
mod peer;
mod program;
mod server;
mod service;
mod session;

pub use client::{Client, ClientError, Subscription};
pub use deletion::{Deletion, DeletionError, DeletionRequest};
pub use interface::{GroupReply, INTERFACE, UsageReply, description};
pub use message::{Call, MAX_CALL, MessageError};
pub use parameters::filter_of;
pub use peer::Peer;
pub use program::main;
