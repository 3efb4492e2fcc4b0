//! The intake stream: who is let in, and how many at once.

use super::connection::{Connection, ConnectionError, Message};
use super::context::Context;
use super::road;
use crate::report::ErrorKind;
use coreward_wire::DaemonMessage;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{interval, sleep};

/// Conversations at once; the rest wait in the socket's backlog, where nothing is refused.
const CONVERSATIONS: usize = 1024;
/// Descriptors that a conversation may need.
const FDS_EACH: usize = 16;
/// A shim speaks first, and at once.
const OFFER_WITHIN: Duration = Duration::from_secs(5);

/// Accepts shims until it is aborted.
pub(super) async fn accept(listener: UnixListener, context: Arc<Context>, alive: mpsc::Sender<()>) {
    let places = Arc::new(Semaphore::new(admission()));
    let heartbeat = context.health.register("the intake loop");
    let mut pulse = interval(Duration::from_millis(500));
    let mut place = None;
    loop {
        heartbeat.tick();
        if place.is_none() {
            place = Arc::clone(&places).try_acquire_owned().ok();
        }
        tokio::select! {
            accepted = listener.accept(), if place.is_some() => match accepted {
                Ok((stream, _)) => {
                    let (context, alive, place) = (Arc::clone(&context), alive.clone(), place.take());
                    tokio::spawn(async move {
                        converse(stream, &context).await;
                        drop((alive, place));
                    });
                }
                Err(error) => {
                    tracing::error!("intake: accept: {error}");
                    context.metrics.error(ErrorKind::Connection);
                    sleep(Duration::from_millis(100)).await;
                }
            },
            freed = Arc::clone(&places).acquire_owned(), if place.is_none() => place = freed.ok(),
            _ = pulse.tick() => {}
        }
    }
}

/// As many conversations as there are descriptors for; the soft limit is raised to the hard one first.
fn admission() -> usize {
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return CONVERSATIONS / 8 };
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    (usize::try_from(soft).unwrap_or(usize::MAX) / FDS_EACH).clamp(1, CONVERSATIONS)
}

async fn converse(stream: UnixStream, context: &Arc<Context>) {
    let mut link = Connection::new(stream);
    if !link.peer_is_root() {
        tracing::warn!("intake: somebody else than root spoke: not heard");
        return context.metrics.error(ErrorKind::Peer);
    }
    let offer = tokio::select! {
        offer = link.receive_within(OFFER_WITHIN) => offer,
        () = context.stopped() => return,
    };
    let (offer, fds) = match offer {
        Ok(Message::Offer(offer, fds)) => (offer, fds),
        Ok(_) => return refuse(&mut link, context, "a crash begins with an offer").await,
        Err(ConnectionError::Wire(error)) => return refuse(&mut link, context, &error.to_string()).await,
        Err(error) => {
            tracing::warn!("intake: {error}");
            return context.metrics.error(ErrorKind::Connection);
        }
    };
    context.metrics.in_flight.inc();
    road::travel(context, link, *offer, fds).await;
    context.metrics.in_flight.dec();
}

async fn refuse(link: &mut Connection, context: &Context, reason: &str) {
    tracing::error!("intake: {reason}");
    context.metrics.error(ErrorKind::Message);
    // The shim then saves the crash alone; whoever else it was does not care.
    let _ = link.send(&DaemonMessage::Rejected { reason: reason.to_owned() }).await;
}
