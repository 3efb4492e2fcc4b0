//! The daemon: inherited sockets, sessions, watchdog, reload, shutdown. The module that knows all others.

mod blocking;
mod capture;
mod checkpoint;
mod complete;
mod connection;
mod crash_source;
mod deletion;
mod error;
mod events;
mod evidence;
mod host_packages;
mod import;
mod inspect;
mod listener;
mod local_users;
mod lock;
mod maintenance;
mod module_queue;
mod modules;
mod naming;
mod notify;
mod owners;
mod process_handles;
mod process_memory;
mod program;
mod record_builder;
mod registration_watch;
mod runtime_report;
mod session;
mod shared;
mod shutdown;
mod sockets;
mod spool;
mod subordinate_ids;
mod test_crash;

pub use program::main;
