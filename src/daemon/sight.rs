//! What is read of a process that waits, before anything is decided: one trip to a thread for all of it, since a storm pays
//! every trip ten thousand times.

use super::context::{Context, lock};
use super::fds;
use super::probe::probe_within;
use super::stack::{LOOK_WITHIN, Looked, MemorySource, looked};
use super::triage::{FromMemory, read_memory};
use crate::capture::{self, CaptureError, PeekedHeaders};
use crate::crash::program_of;
use crate::crash::text::from_bytes;
use coreward_wire::{FdKind, Offer};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// As far as it could be read: what hangs hides nothing that was read before.
#[derive(Default)]
pub(super) struct Sight {
    /// What stands in front of the core; `None`: nobody looked.
    pub(super) head: Option<Result<Arc<PeekedHeaders>, CaptureError>>,
    pub(super) memory: Option<FromMemory>,
    pub(super) looked: Option<Looked>,
    /// All was read that can be.
    pub(super) is_whole: bool,
}

/// Reads it. `core`: its pipe, where the head in it may be looked at.
pub(super) async fn see(
    context: &Context,
    offer: &Offer,
    fds: &mut Vec<(FdKind, OwnedFd)>,
    core: Option<&OwnedFd>,
) -> Sight {
    let mem = fds::copy(fds, FdKind::Mem).map(File::from);
    let mut take = |wanted| fds::take(fds, wanted).map(File::from);
    let (cmdline, auxv) = (take(FdKind::Cmdline), take(FdKind::Auxv));
    let core = core.map(OwnedFd::try_clone);
    let (signal, program) = (offer.signal, program_of(&from_bytes(&offer.exe), &from_bytes(&offer.comm)));
    let cancelled = context.cancel_switch();
    let seen = Arc::new(Mutex::new(Sight::default()));
    let sight = Arc::clone(&seen);
    let read = move || {
        // First what never hangs: it is the kernel's own.
        let head =
            core.map(|core| capture::peek_headers(core.map_err(CaptureError::Read)?.as_fd(), &cancelled).map(Arc::new));
        let whole = head.as_ref().and_then(|head| head.as_ref().ok()).map(Arc::clone);
        lock(&sight).head = head;
        let memory = read_memory(cmdline, auxv, mem.as_ref());
        let build_id = memory.exe_build_id.clone();
        lock(&sight).memory = Some(memory);
        let looked = match whole.as_deref() {
            Some(PeekedHeaders::Complete(head)) => {
                looked(head, mem.map(MemorySource::Live), signal, build_id.as_deref(), &program)
            }
            _ => None,
        };
        // Whoever waits takes the head as it is, and need not copy it.
        drop(whole);
        let mut sight = lock(&sight);
        sight.looked = looked;
        sight.is_whole = true;
    };
    let _ = probe_within(context, LOOK_WITHIN, read).await;
    std::mem::take(&mut lock(&seen))
}
