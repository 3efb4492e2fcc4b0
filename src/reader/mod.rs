//! Processes that read the memory of crashed processes, so that the daemon does not.
//!
//! A read of another process' memory can hang for ever, with locks of the kernel held, and whoever hangs there cannot be killed. A
//! reader has the descriptors of one crash and no others: when it is late, the daemon kills it and forgets it. Readers are copies of a
//! small process that the daemon forks before it starts a thread ([`ReaderPool::start`]).

mod answer_requests;
mod channel;
mod death_watch;
mod facts;
mod image_server;
mod memory_server;
mod module_file;
mod module_reader;
mod module_server;
mod names;
mod places;
mod pool;
mod process;
mod protocol;
mod remote_image;
mod remote_process;
mod saved_core;
mod scope;
mod server;
mod stack;

pub use facts::{RawFacts, read_auxv};
pub use module_file::{ModuleError, ModuleFile};
pub use module_reader::ModuleReader;
pub use names::{ModuleFrames, Names};
pub use places::{Place, Places, TooManyHanging};
pub use pool::ReaderPool;
pub use process::{ProcessFiles, Reader};
pub use remote_process::RemoteProcess;
pub use saved_core::{FirstPage, SavedCoreFile};
pub use scope::ReaderScope;
pub use stack::{CrashedStack, OtherThreads, SignatureContext, unwind_crashed_thread, unwind_other_threads};
