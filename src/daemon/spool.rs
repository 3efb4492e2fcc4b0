//! Imports the crashes that shims saved alone.

use super::blocking::run_blocking;
use super::crash_source::CrashSource;
use super::error::SessionError;
use super::session::Session;
use super::shared::Shared;
use crate::registration::is_test_crash;
use crate::report::ErrorKind;
use coreward_sys::{datagram, openat};
use coreward_wire::paths::{SPOOL, SPOOL_SUFFIX};
use coreward_wire::{HEADER_LEN, Header, Kind, Offer, WireError};
use nix::dir::Dir;
use nix::fcntl::renameat;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io::{self, ErrorKind as IoKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::time::interval;
use tracing::Instrument;

/// How often the spool is read; the first time is at the start.
const INTERVAL: Duration = Duration::from_secs(10);
/// A crash that this many daemons could not import is quarantined for somebody to inspect.
const ATTEMPTS: u32 = 5;
/// How long a slow journal is waited for.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Suffix of a quarantined file.
const QUARANTINE_SUFFIX: &str = ".bad";

#[derive(Debug, Error)]
enum SpoolError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is not a crash saved by a shim: {0}")]
    Wire(#[from] WireError),
}

/// Imports what is in the spool, again and again, until the daemon stops.
pub(super) async fn import_spool(shared: Arc<Shared>) {
    let mut tick = interval(INTERVAL);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.shutdown.stopped() => return,
        }
        let mut waiting = 0;
        // Where the state directory cannot be written, shims use the runtime directory.
        for parent in [shared.root.state_dir(), shared.root.run_dir()] {
            let path = parent.join(SPOOL);
            match import_directory(&shared, &parent, &path).await {
                Ok(left) => waiting += left,
                Err(error) => {
                    tracing::error!("{}: {error}", path.display());
                    shared.metrics.error(ErrorKind::Spool);
                }
            }
        }
        shared.metrics.spooled.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}

/// Imports the crashes in the spool `path`, and returns how many are left.
async fn import_directory(shared: &Arc<Shared>, parent: &Path, path: &Path) -> io::Result<usize> {
    let list = || {
        let parent = parent.to_owned();
        run_blocking(move || list_directory(&parent))
    };
    // Shims create the directory when they need it.
    let Some((dir, names)) = list().await?? else { return Ok(0) };
    if names.is_empty() {
        return Ok(0);
    }
    let dir = Arc::new(dir);
    for name in names {
        if shared.shutdown.is_stopped() {
            break;
        }
        let file = SpooledFile { dir: Arc::clone(&dir), path: path.join(&name) };
        file.import(shared, &name).await;
    }
    Ok(list().await??.map_or(0, |(_, names)| names.len()))
}

/// The directory and the names of the crashes in it, the oldest first; `None`: there is no such directory.
fn list_directory(parent: &Path) -> io::Result<Option<(OwnedFd, Vec<String>)>> {
    let dir = match File::open(parent).and_then(|parent| openat::open_dir_below(parent.as_fd(), Path::new(SPOOL))) {
        Err(error) if error.kind() == IoKind::NotFound => return Ok(None),
        dir => dir?,
    };
    let mut names: Vec<String> = Dir::from_fd(dir.try_clone()?)?
        .iter()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned()))
        .filter(|name| name.ends_with(SPOOL_SUFFIX))
        .collect();
    names.sort_unstable();
    Ok(Some((dir, names)))
}

/// One file of the spool.
struct SpooledFile {
    dir: Arc<OwnedFd>,
    /// For messages.
    path: PathBuf,
}

impl SpooledFile {
    async fn import(&self, shared: &Arc<Shared>, name: &str) {
        let (stem, attempt) = attempt_of(name);
        // The name counts the attempts: should this one end the daemon, the next one knows of it.
        let claimed = attempt_name(stem, attempt + 1);
        if let Err(error) = self.rename(name, &claimed).await {
            // Without the count, a file that ends daemons would do so for ever.
            return self.log_error(shared, &format!("{error}: not imported"));
        }
        let (dir, file) = (Arc::clone(&self.dir), claimed.clone());
        let (mut offer, mut core) =
            match run_blocking(move || open_crash(&dir, &file)).await.unwrap_or_else(|error| Err(error.into())) {
                Ok(opened) => opened,
                Err(SpoolError::Io(error)) if is_transient(&error) => {
                    self.log_error(shared, &error.to_string());
                    let _ = self.rename(&claimed, &attempt_name(stem, attempt)).await;
                    return;
                }
                Err(error) => return self.quarantine(shared, &claimed, stem, &error.to_string()).await,
            };
        if is_test_crash(&offer) {
            tracing::info!("{}: a test crash that no daemon took: deleted", self.path.display());
            return self.remove(shared, claimed).await;
        }
        let is_last_attempt = attempt >= ATTEMPTS;
        if is_last_attempt {
            // The crash is counted all the same, and the file stays for somebody to inspect.
            core = None;
        }
        // The shim of daemons that ended saved only the rest of the stream, and a file that ended daemons is not parsed.
        offer.attempt = offer.attempt.max(attempt + 1);
        let session = Session::new(shared, CrashSource::Spool(core), offer);
        let span = session.span();
        self.record(shared, session, claimed, is_last_attempt).instrument(span).await;
    }

    /// Records the crash and disposes of the file.
    async fn record(&self, shared: &Arc<Shared>, session: Session, claimed: String, is_last_attempt: bool) {
        let (stem, attempt) = attempt_of(&claimed);
        // A session has a whole record in it: too large for a future on a stack.
        match Box::pin(session.import()).await {
            Ok(_) if is_last_attempt => {
                let reason = format!("importing its core failed {ATTEMPTS} times");
                self.quarantine(shared, &claimed, stem, &reason).await;
            }
            Ok(entry) => {
                self.remove(shared, claimed.clone()).await;
                send_to_journal(shared, entry).await;
            }
            Err(error) => {
                // Nothing is wrong with the crash itself: this was no attempt.
                if !matches!(error, SessionError::Stopping | SessionError::NoPlace) {
                    self.log_error(shared, &error.to_string());
                }
                let _ = self.rename(&claimed, &attempt_name(stem, attempt.saturating_sub(1))).await;
            }
        }
    }

    async fn quarantine(&self, shared: &Shared, name: &str, stem: &str, reason: &str) {
        self.log_error(shared, &format!("{reason}: quarantined as {stem}{QUARANTINE_SUFFIX}"));
        if let Err(error) = self.rename(name, &format!("{stem}{QUARANTINE_SUFFIX}")).await {
            tracing::error!("{}: {error}", self.path.display());
        }
    }

    async fn remove(&self, shared: &Shared, name: String) {
        let dir = Arc::clone(&self.dir);
        let remove = move || unlinkat(&*dir, name.as_str(), UnlinkatFlags::NoRemoveDir).map_err(io::Error::from);
        if let Err(error) = run_blocking(remove).await.flatten() {
            self.log_error(shared, &format!("the crash is dealt with, but its file cannot be removed: {error}"));
        }
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (dir, from, to) = (Arc::clone(&self.dir), from.to_owned(), to.to_owned());
        Ok(run_blocking(move || renameat(&*dir, from.as_str(), &*dir, to.as_str())).await??)
    }

    fn log_error(&self, shared: &Shared, message: &str) {
        tracing::error!("{}: {message}", self.path.display());
        shared.metrics.error(ErrorKind::Spool);
    }
}

/// No shim is left to send the entry as root.
async fn send_to_journal(shared: &Shared, entry: Vec<u8>) {
    let socket = shared.root.journal_socket();
    let send = move || datagram::send_with_retry(&socket, &entry, JOURNAL_TIMEOUT);
    if let Err(error) = run_blocking(send).await.flatten() {
        tracing::warn!("journal: {error}");
        shared.metrics.error(ErrorKind::Journal);
    }
}

/// The offer in front of a spooled crash, and the file at the first byte of its core, if the shim had room for any.
fn open_crash(dir: &OwnedFd, name: &str) -> Result<(Offer, Option<OwnedFd>), SpoolError> {
    let mut file = File::from(openat::open_file_below(dir.as_fd(), Path::new(name))?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(IoKind::InvalidInput, "it is not a regular file").into());
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

/// Whether reading the same file may succeed later: the error is not the file's.
fn is_transient(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EIO | Errno::EACCES))
}

/// The stem of a file name and how often the file was tried: `NAME.spool` never, `NAME.2.spool` twice.
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
