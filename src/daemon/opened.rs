//! The core before a byte of it is taken: its stream, and what stands in front of the memory.

use super::context::Context;
use super::giver::Giver;
use super::road::RoadError;
use crate::capture::{self, CaptureError, PeekedHeaders};
use crate::elf;
use coreward_wire::{Offer, Request};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// From this attempt on the bytes of the core are not looked at: something in them may have killed the daemons before.
const UNPARSED_FROM: u32 = 3;
/// What a head has at least, and mostly.
const USUAL_HEAD: u64 = 64 << 10;
/// A saved core with a longer head is not looked at: it would be read into memory.
const MAX_SAVED_HEAD: u64 = 16 << 20;

/// The stream of a core.
pub(super) struct Opened {
    /// The pipe, or the file that it was saved in.
    pub(super) core: OwnedFd,
    /// What has been taken out of the pipe already, kept by the shim.
    pub(super) before: Option<OwnedFd>,
    /// Headers and notes, whole; `None` where they can't be understood or must not be looked at.
    pub(super) head: Option<Vec<u8>>,
    /// Where in a file the core begins; `None`: a pipe.
    pub(super) saved_at: Option<u64>,
}

/// Whether the bytes of this crash may be looked at.
pub(super) fn may_parse(offer: &Offer) -> bool {
    offer.attempt < UNPARSED_FROM
}

/// Brings the stream and its head together. `head`: what was seen of it in the pipe, if anybody looked.
pub(super) async fn open(
    context: &Context,
    giver: &mut Giver,
    offer: &Offer,
    core: OwnedFd,
    mut before: Option<OwnedFd>,
    seen: Option<Result<Arc<PeekedHeaders>, CaptureError>>,
) -> Result<Result<Opened, CaptureError>, RoadError> {
    let Giver::Shim(link) = giver else {
        let (head, saved_at) = if may_parse(offer) { saved(&core) } else { (None, None) };
        return Ok(Ok(Opened { core, before, head, saved_at }));
    };
    let mut head = None;
    if may_parse(offer) {
        if before.is_none() {
            let seen = match seen {
                Some(seen) => seen.map(Arc::unwrap_or_clone),
                None => {
                    let (pipe, cancelled) = (core.try_clone(), context.cancel_switch());
                    let looked = spawn_blocking(move || {
                        capture::peek_headers(pipe.map_err(CaptureError::Read)?.as_fd(), &cancelled)
                    });
                    looked.await.unwrap_or_else(|error| Err(CaptureError::Read(io::Error::other(error))))
                }
            };
            match seen {
                Ok(PeekedHeaders::Complete(bytes)) => head = Some(bytes),
                Ok(PeekedHeaders::TooLong(bytes)) => before = link.ask_for_fd(Request::Head(bytes)).await?,
                Ok(PeekedHeaders::Unsupported(_) | PeekedHeaders::Empty) => {}
                Err(failure) => return Ok(Err(failure)),
            }
        }
        if let Some(before) = &before {
            head = read_all(before);
        }
    }
    Ok(Ok(Opened { core, before, head, saved_at: None }))
}

/// The head of a core in a file, and where the file has it; its position stays.
fn saved(core: &OwnedFd) -> (Option<Vec<u8>>, Option<u64>) {
    let read = || -> io::Result<(Option<Vec<u8>>, u64)> {
        let mut file = File::from(core.try_clone()?);
        let at = file.stream_position()?;
        let read = |length: u64| {
            let mut bytes = Vec::new();
            let file = &file;
            file.take(length).read_to_end(&mut bytes).map(|_| bytes)
        };
        let mut bytes = read(USUAL_HEAD)?;
        let length = elf::headers_len(&bytes).ok().filter(|length| *length <= MAX_SAVED_HEAD);
        if let Some(length) = length {
            let rest = length.saturating_sub(bytes.len() as u64);
            bytes.extend(read(rest)?);
            bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        }
        file.seek(SeekFrom::Start(at))?;
        Ok((length.filter(|length| bytes.len() as u64 >= *length).map(|_| bytes), at))
    };
    match read() {
        Ok((head, at)) => (head, Some(at)),
        Err(_) => (None, None),
    }
}

/// All of a file whose position may be anywhere.
fn read_all(file: &OwnedFd) -> Option<Vec<u8>> {
    let file = File::from(file.try_clone().ok()?);
    let mut bytes = vec![0; usize::try_from(file.metadata().ok()?.len()).ok()?];
    file.read_exact_at(&mut bytes, 0).ok().map(|()| bytes)
}
