//! The intake socket: who may connect, and how many sessions run at once.

use super::connection::{Connection, ConnectionError, ShimMessage};
use super::crash_source::CrashSource;
use super::session::Session;
use super::shared::Shared;
use super::test_crash;
use crate::registration::is_test_crash;
use crate::report::ErrorKind;
use coreward_sys::clock;
use coreward_wire::DaemonMessage;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{interval, sleep};

/// Sessions at once. Further shims wait in the socket's backlog, where nothing is refused.
const SESSIONS: usize = 1024;
/// Descriptors that a session may need.
const FDS_PER_SESSION: usize = 16;
/// A shim sends its offer at once.
const OFFER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the loop proves that it runs.
const TICK: Duration = Duration::from_millis(500);
/// Pause after accept(2) failed, as it does where descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts shims until the daemon stops.
pub(super) async fn listen(listener: UnixListener, shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(session_limit()));
    let heartbeat = shared.health.register("the intake loop");
    let mut tick = interval(TICK);
    let mut permit = None;
    loop {
        heartbeat.tick();
        if permit.is_none() {
            permit = Arc::clone(&permits).try_acquire_owned().ok();
        }
        tokio::select! {
            biased;
            () = shared.shutdown.stopped() => return,
            accepted = listener.accept(), if permit.is_some() => match accepted {
                Ok((stream, _)) => {
                    let (sharing, permit) = (Arc::clone(&shared), permit.take());
                    shared.shutdown.spawn(async move {
                        Box::pin(serve_connection(stream, &sharing)).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::error!("intake: accept: {error}");
                    shared.metrics.error(ErrorKind::Connection);
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            freed = Arc::clone(&permits).acquire_owned(), if permit.is_none() => permit = freed.ok(),
            _ = tick.tick() => {}
        }
    }
}

/// As many sessions as there are descriptors for; the soft limit is raised to the hard one first.
fn session_limit() -> usize {
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return SESSIONS / 8 };
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    (usize::try_from(soft).unwrap_or(usize::MAX) / FDS_PER_SESSION).clamp(1, SESSIONS)
}

/// Reads the offer of a shim and runs its session.
async fn serve_connection(stream: UnixStream, shared: &Arc<Shared>) {
    let mut connection = Connection::new(stream);
    if !connection.peer_is_root() {
        tracing::warn!("intake: refused a connection from a peer that is not root");
        return shared.metrics.error(ErrorKind::Peer);
    }
    let received = tokio::select! {
        received = connection.receive_within(OFFER_TIMEOUT) => received,
        () = shared.shutdown.stopped() => return,
    };
    match received {
        Ok(ShimMessage::Offer(offer, _)) if is_test_crash(&offer) => {
            // The command that caused it notices if nothing is reported.
            if let Err(error) = test_crash::answer(shared, connection, &offer).await {
                tracing::info!("a test crash: {error}");
            }
        }
        Ok(ShimMessage::Offer(offer, descriptors)) => {
            let age = clock::since_boot().saturating_sub(offer.started);
            // Nobody is to be alerted of a process that root has stopped.
            let in_flight = offer.dump.is_none().then(|| shared.metrics.count_in_flight(age));
            let source = CrashSource::Shim(connection, in_flight);
            if offer.released {
                source.note_release();
            }
            Box::pin(Session::new(shared, source, *offer).serve(descriptors)).await;
        }
        Ok(ShimMessage::Reply(..) | ShimMessage::Released) => {
            reject(connection, shared, "the first message is not an offer").await;
        }
        Err(ConnectionError::Wire(error)) => reject(connection, shared, &error.to_string()).await,
        // `coreward dump` looks whether anybody is there before it stops a process.
        Err(_) if connection.is_silent_end() => {}
        Err(error) => {
            tracing::warn!("intake: {error}");
            shared.metrics.error(ErrorKind::Connection);
        }
    }
}

/// Answers a peer whose message cannot be read. A shim then spools its crash.
async fn reject(mut connection: Connection, shared: &Shared, reason: &str) {
    tracing::error!("intake: {reason}");
    shared.metrics.error(ErrorKind::Message);
    let _ = connection.send(&DaemonMessage::Rejected { reason: reason.to_owned() }).await;
}
