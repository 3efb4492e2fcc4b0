//! Accepting connections.

use super::connection_limits::{ClientClass, ConnectionLimits};
use super::error::MethodError;
use super::peer::Peer;
use super::service::Service;
use super::session::Session;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, interval, sleep};

/// How long the service waits for a connection before it ends. systemd starts it again for the next one.
const IDLE_EXIT: Duration = Duration::from_secs(300);
/// How often that is checked.
const IDLE_CHECK: Duration = Duration::from_secs(30);
/// Pause after accept(2) failed, as it does where descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until there was none for a while.
pub(super) async fn serve(listener: UnixListener, service: Arc<Service>) {
    let limits = Arc::new(ConnectionLimits::default());
    let mut last_use = Instant::now();
    let mut check = interval(IDLE_CHECK);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                last_use = Instant::now();
                match accepted {
                    Ok((stream, _)) => admit(stream, &service, &limits),
                    Err(error) => {
                        tracing::warn!("accept: {error}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
            _ = check.tick() => {
                if limits.count() > 0 {
                    last_use = Instant::now();
                } else if last_use.elapsed() >= IDLE_EXIT {
                    return;
                }
            }
        }
    }
}

/// Starts a session, if its user may have another one.
fn admit(stream: UnixStream, service: &Arc<Service>, limits: &Arc<ConnectionLimits>) {
    let Ok(peer) = Peer::of(stream.as_fd()) else { return };
    let users = service.users();
    let class = ClientClass::of(peer.uid, peer.is_administrator(&users), &users);
    match limits.admit(class) {
        Ok(permit) => {
            tokio::spawn(Session::new(Arc::clone(service), peer, permit, stream).run());
        }
        Err(limit) => {
            // It fits into the empty socket.
            let _ = stream.try_write(&MethodError::TooManyConnections(limit).encode());
        }
    }
}
