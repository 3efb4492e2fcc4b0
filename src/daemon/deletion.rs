//! Deleting cores on request of their owners. coreward-query.service passes on who asks; the decision is made here, with the kernel's
//! word on who that is.

use super::blocking::run_blocking;
use super::shared::Shared;
use crate::config::read_local_users;
use crate::policy::access::RecordedAccess;
use crate::query::{Deletion, DeletionError, DeletionRequest, Peer};
use crate::store::{core_file_name, delete_core, is_pinned};
use coreward_sys::fdpass;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

/// The service sends its request at once and reads the answer. One request is served at a time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a request that deleted nothing, or after accept(2) failed: whoever asks again and again, the catalog has little to do.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves requests until the daemon stops.
pub(super) async fn listen(listener: UnixListener, shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.shutdown.stopped() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let ended = timeout(TIMEOUT, serve(stream, &shared)).await;
                    match ended.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
                        Ok(true) => continue,
                        Ok(false) => {}
                        Err(error) => tracing::warn!("a request to delete a core: {error}"),
                    }
                }
                Err(error) => {
                    tracing::error!("requests to delete cores: accept: {error}");
                }
            }
        }
        sleep(PAUSE).await;
    }
}

/// Answers a request; whether a core was deleted.
async fn serve(mut stream: UnixStream, shared: &Arc<Shared>) -> io::Result<bool> {
    let mut bytes = Vec::new();
    let mut clients: Vec<OwnedFd> = Vec::new();
    while bytes.len() < DeletionRequest::LENGTH {
        let receive = || {
            let mut buffer = [0; DeletionRequest::LENGTH];
            let (count, fds) = fdpass::recv_with_fds(stream.as_fd(), &mut buffer)?;
            Ok((buffer[..count].to_vec(), fds))
        };
        let (received, fds) = stream.async_io(Interest::READABLE, receive).await?;
        if received.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes.extend(received);
        clients.extend(fds);
    }
    let request = DeletionRequest::decode(&bytes).ok_or(ErrorKind::InvalidData)?;
    let [client] = clients.as_slice() else { return Err(ErrorKind::InvalidData.into()) };
    let peer = Peer::of_accepted(client.as_fd(), &shared.root.query_socket())?;
    let ended = delete(shared, request, peer).await;
    stream.write_all(Deletion::encode(&ended).as_bytes()).await?;
    Ok(ended.is_ok())
}

/// Deletes the core if `peer` may do that. Whoever may not see a crash is told that there is none.
async fn delete(shared: &Arc<Shared>, request: DeletionRequest, peer: Peer) -> Result<Deletion, DeletionError> {
    let DeletionRequest { id, force } = request;
    let failed = |error: String| DeletionError::Failed(error);
    let record = shared.catalog.find(id.clone()).await.map_err(|error| failed(error.to_string()))?;
    let record = record.ok_or_else(|| DeletionError::NoSuchCrash(id.clone()))?;
    let access = RecordedAccess::from(record.as_ref());
    let working = Arc::clone(shared);
    let (wanted, uid) = (id.clone(), peer.uid);
    let deleted = run_blocking(move || {
        let users = read_local_users(&working.root).map_err(failed)?;
        let is_administrator = peer.is_administrator(&users);
        if !is_administrator && !access.is_own_of(peer.uid, &users) {
            return Err(DeletionError::NoSuchCrash(wanted));
        }
        let dir = working.ledger.dir();
        let Ok(file) = fstatat(dir, &core_file_name(&wanted), AtFlags::AT_SYMLINK_NOFOLLOW) else {
            return Err(DeletionError::NoCore(wanted));
        };
        if is_pinned(dir, &wanted) && !(force && is_administrator) {
            return Err(DeletionError::Pinned(wanted));
        }
        match delete_core(dir, &wanted) {
            Ok(()) => Ok(Deletion { bytes: file.st_size.unsigned_abs() }),
            // It was evicted just now.
            Err(error) if error.kind() == ErrorKind::NotFound => Err(DeletionError::NoCore(wanted)),
            Err(error) => Err(failed(error.to_string())),
        }
    });
    let deleted = deleted.await.map_err(|error| failed(error.to_string()))??;
    // Before the answer, so that whoever asked finds it done. The thread that watches the directory may have been faster.
    if shared.ledger.forget(&id) {
        shared.catalog.mark_removed(id.clone());
        shared.refresh_metrics();
    }
    shared.catalog.flush().await;
    tracing::info!("the core of crash {id} was deleted on request of uid {uid}");
    Ok(deleted)
}
