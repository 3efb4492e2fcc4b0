//! Taking in what shims saved alone.

use super::context::Context;
use super::giver::Giver;
use super::road::{self, RoadError};
use crate::report::ErrorKind;
use coreward_sys::{datagram, openat};
use coreward_wire::paths::{SPOOL, SPOOL_SUFFIX};
use coreward_wire::{HEADER_LEN, Header, Kind, Offer, WireError};
use nix::dir::Dir;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io::{self, ErrorKind as IoKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::interval;

/// How often the spool is looked at; the first time is at once.
const LOOK: Duration = Duration::from_secs(10);
/// A crash that so many daemons could not take in is put aside for somebody to look at.
const ATTEMPTS: u32 = 5;
/// How long a journal that is behind is waited for.
const JOURNAL_WITHIN: Duration = Duration::from_secs(2);
/// Ending of what was put aside.
const ASIDE: &str = ".bad";

#[derive(Debug, Error)]
enum SpoolError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is not a crash that a shim saved: {0}")]
    Wire(#[from] WireError),
}

/// Takes in what is there, now and again later, until the daemon stops.
pub(super) async fn take_in(context: Arc<Context>, alive: mpsc::Sender<()>) {
    let mut look = interval(LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = context.stopped() => break,
        }
        for parent in context.spools() {
            if let Err(error) = take_in_all(&context, &parent).await {
                tracing::error!("{}: {error}", parent.join(SPOOL).display());
                context.metrics.error(ErrorKind::Spool);
            }
        }
    }
    drop(alive);
}

async fn take_in_all(context: &Arc<Context>, parent: &Path) -> io::Result<()> {
    let dir = match File::open(parent).and_then(|parent| openat::open_dir_below(parent.as_fd(), Path::new(SPOOL))) {
        // Shims make it when they need it.
        Err(error) if error.kind() == IoKind::NotFound => return Ok(()),
        dir => dir?,
    };
    let mut names: Vec<String> = Dir::from_fd(dir.try_clone()?)?
        .iter()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned()))
        .filter(|name| name.ends_with(SPOOL_SUFFIX))
        .collect();
    names.sort_unstable();
    for name in names {
        take_in_one(context, &dir, &parent.join(SPOOL), &name).await;
    }
    Ok(())
}

async fn take_in_one(context: &Arc<Context>, dir: &OwnedFd, path: &Path, name: &str) {
    let (stem, attempt) = attempt_of(name);
    let path = path.join(name);
    let aside = |name: &str, why: &str| {
        tracing::error!("{}: {why}: put aside as {stem}{ASIDE}", path.display());
        context.metrics.error(ErrorKind::Spool);
        if let Err(error) = rename(dir, name, &format!("{stem}{ASIDE}")) {
            tracing::error!("{}: {error}", path.display());
        }
    };
    // The name counts the attempts: should this one end the daemon, the next knows of it.
    let next = attempt_name(stem, attempt + 1);
    if let Err(error) = rename(dir, name, &next) {
        // Without the count a file that ends daemons would do so for ever.
        tracing::error!("{}: {error}: not taken in", path.display());
        return context.metrics.error(ErrorKind::Spool);
    }
    let name = next;
    let (mut offer, mut core) = match open(dir, &name) {
        Ok(opened) => opened,
        Err(SpoolError::Io(error)) if is_passing(&error) => {
            tracing::error!("{}: {error}", path.display());
            let _ = rename(dir, &name, &attempt_name(stem, attempt));
            return context.metrics.error(ErrorKind::Spool);
        }
        Err(error) => return aside(&name, &error.to_string()),
    };
    let given_up = attempt >= ATTEMPTS;
    if given_up {
        // It is counted all the same, and the file stays for somebody to look at.
        core = None;
    }
    // A shim whose daemons died has only the rest of the stream; a file that killed daemons is not parsed.
    offer.attempt = offer.attempt.max(attempt + 1);
    match road::record(context, &mut Giver::Spool(core), offer, None, Vec::new()).await {
        Ok(_) if given_up => aside(&name, &format!("{ATTEMPTS} daemons could not take in its core")),
        Ok(entry) => {
            if let Err(error) = unlinkat(dir, name.as_str(), UnlinkatFlags::NoRemoveDir) {
                tracing::error!("{}: it is recorded, but can't be removed: {error}", path.display());
                context.metrics.error(ErrorKind::Spool);
            }
            // No shim is there to send it as root.
            let socket = context.root.journal_socket();
            let sent = spawn_blocking(move || datagram::send_with_retry(&socket, &entry, JOURNAL_WITHIN)).await;
            if let Ok(Err(error)) = sent {
                tracing::warn!("journal: {error}");
                context.metrics.error(ErrorKind::Journal);
            }
        }
        Err(error) => {
            // Nothing was wrong with the crash itself: this was no attempt.
            if !matches!(error, RoadError::Stopping) {
                tracing::error!("{}: {error}", path.display());
                context.metrics.error(ErrorKind::Spool);
            }
            let _ = rename(dir, &name, &attempt_name(stem, attempt));
        }
    }
}

/// The offer in front of a spooled crash, and the file at the first byte of its core, if the shim had room for any.
fn open(dir: &OwnedFd, name: &str) -> Result<(Offer, Option<OwnedFd>), SpoolError> {
    let mut file = File::from(openat::open_file_below(dir.as_fd(), Path::new(name))?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(IoKind::InvalidInput, "it is not a file").into());
    }
    let mut header = [0; HEADER_LEN];
    file.read_exact(&mut header)?;
    let header = Header::decode(&header)?;
    if header.kind != Kind::Offer {
        return Err(WireError::Unexpected(header.kind).into());
    }
    let mut payload = vec![0; header.payload_len];
    file.read_exact(&mut payload)?;
    let (offer, _) = Offer::decode(&payload)?;
    let without_core = file.metadata()?.len() == (HEADER_LEN + header.payload_len) as u64;
    let core = if without_core && offer.cut { None } else { Some(file.into()) };
    Ok((offer, core))
}

/// Whether the same file may be read later: it was not the file that was at fault.
fn is_passing(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EIO | Errno::EACCES))
}

/// `NAME.spool` has not been tried, `NAME.2.spool` was tried twice.
fn attempt_of(name: &str) -> (&str, u32) {
    let stem = name.strip_suffix(SPOOL_SUFFIX).unwrap_or(name);
    match stem.rsplit_once('.').and_then(|(stem, attempt)| Some((stem, attempt.parse().ok()?))) {
        Some((stem, attempt)) => (stem, attempt),
        None => (stem, 0),
    }
}

fn attempt_name(stem: &str, attempt: u32) -> String {
    if attempt == 0 { format!("{stem}{SPOOL_SUFFIX}") } else { format!("{stem}.{attempt}{SPOOL_SUFFIX}") }
}

fn rename(dir: &OwnedFd, from: &str, to: &str) -> io::Result<()> {
    Ok(nix::fcntl::renameat(dir, from, dir, to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_counts_the_attempts() {
        for attempt in 0..ATTEMPTS {
            let name = attempt_name("0a1b2c3d-77-1234", attempt);
            assert_eq!(attempt_of(&name), ("0a1b2c3d-77-1234", attempt), "{name}");
        }
    }
}
