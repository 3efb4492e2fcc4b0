//! What all connections share: the catalog, which few may read at once, and the users of the machine.

use super::error::MethodError;
use super::peer::Peer;
use crate::config::read_local_users;
use crate::policy::access::LocalUsers;
use crate::store::{CatalogView, Layout, QueryError, Viewer, is_journal_long};
use coreward_wire::paths::Root;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Queries at once, of as many users.
const QUERIES: u32 = 2;
/// How often, and how many times at most, is looked whether the daemon has emptied a long journal of the catalog, while nobody reads. It
/// tries that every half second.
const JOURNAL_PAUSE: Duration = Duration::from_millis(50);
const JOURNAL_PAUSES: usize = 20;
/// How long one query may take. One without an index looks at every row, which takes half a second with 500,000.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long what is known of the users of the machine is not looked up again.
const USERS_KNOWN_FOR: Duration = Duration::from_secs(5);
/// The least time between two complaints about the catalog: whoever asks again and again must not fill the journal.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// How often subscribers are told of new crashes.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

pub(super) struct Service {
    pub(super) root: Root,
    queries: Arc<Semaphore>,
    users: Mutex<Option<(Instant, Arc<LocalUsers>)>>,
    complained: Mutex<Option<Instant>>,
    /// The newest row of the catalog.
    last_row: watch::Sender<i64>,
}

impl Service {
    pub(super) fn new(root: Root) -> Self {
        Self {
            root,
            queries: Arc::new(Semaphore::new(QUERIES as usize)),
            users: Mutex::default(),
            complained: Mutex::default(),
            last_row: watch::Sender::new(0),
        }
    }

    /// The users of the machine. Where they cannot be read, there are none: nobody has a crash of their own.
    pub(super) fn users(&self) -> Arc<LocalUsers> {
        let mut known = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, users)) = known.as_ref().filter(|(since, _)| since.elapsed() < USERS_KNOWN_FOR) {
            return Arc::clone(users);
        }
        let users = Arc::new(read_local_users(&self.root).unwrap_or_else(|error| {
            tracing::warn!("{error}: only root sees crashes");
            LocalUsers::default()
        }));
        *known = Some((Instant::now(), Arc::clone(&users)));
        users
    }

    /// Runs a query on what `peer` may see, one at a time of its class. `None`: there is no catalog, so there was no crash.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        peer: &Peer,
        query_lock: &Arc<Semaphore>,
        query: impl FnOnce(&CatalogView) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<Option<T>, MethodError> {
        let stopped = |_| MethodError::Unavailable("the service stops".to_owned());
        let query_permit = Arc::clone(query_lock).acquire_owned().await.map_err(stopped)?;
        let catalog = Layout::new(&self.root).catalog;
        // Queries that overlap keep the journal from being emptied, which takes of the space for cores.
        let places = if is_journal_long(&catalog) { QUERIES } else { 1 };
        let place = Arc::clone(&self.queries).acquire_many_owned(places).await.map_err(stopped)?;
        if places == QUERIES {
            for _ in 0..JOURNAL_PAUSES {
                if !is_journal_long(&catalog) {
                    break;
                }
                sleep(JOURNAL_PAUSE).await;
            }
        }
        let viewer = peer.viewer(self.users());
        let root = self.root.clone();
        let reading = spawn_blocking(move || {
            // Also if the client is gone: its next query has to wait until this one has ended.
            let _held = (query_permit, place);
            read(&root, &viewer, query)
        });
        let ended = reading.await.map_err(|error| MethodError::Unavailable(format!("the query failed: {error}")))?;
        if let Err(error @ (QueryError::NotAFile(_) | QueryError::Sqlite { .. } | QueryError::Record { .. })) = &ended {
            self.complain(error);
        }
        Ok(ended?)
    }

    fn complain(&self, error: &QueryError) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|last| last.elapsed() >= COMPLAINT_INTERVAL) {
            *complained = Some(Instant::now());
            tracing::warn!("{error}");
        }
    }

    /// Changes whenever crashes were inserted, or the catalog is another one.
    pub(super) fn subscribe(&self) -> watch::Receiver<i64> {
        self.last_row.subscribe()
    }

    /// Looks for new crashes while somebody has subscribed. By reading: where the catalog has no shared memory, as on some network
    /// file systems, nothing else tells.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut tick = interval(WATCH_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.last_row.receiver_count() == 0 {
                continue;
            }
            let root = self.root.clone();
            let reading = spawn_blocking(move || read(&root, &Viewer::Administrator, CatalogView::last_row));
            if let Ok(Ok(row)) = reading.await {
                let row = row.unwrap_or(0);
                self.last_row.send_if_modified(|last| std::mem::replace(last, row) != row);
            }
        }
    }
}

/// Runs a query; `None` if there is no catalog.
fn read<T>(
    root: &Root,
    viewer: &Viewer,
    query: impl FnOnce(&CatalogView) -> Result<T, QueryError>,
) -> Result<Option<T>, QueryError> {
    match CatalogView::open(root, viewer, QUERY_TIMEOUT).and_then(|view| query(&view)) {
        Err(QueryError::NoCatalog(_)) => Ok(None),
        ended => ended.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use tokio::time::timeout;

    #[tokio::test]
    async fn while_the_journal_is_long_nobody_else_reads() {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::new(Root::new(dir.path()));
        std::fs::create_dir_all(service.root.state_dir()).unwrap();
        let journal = File::create(service.root.state_dir().join("catalog.db-wal")).unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        let (peer, turn) = (Peer::of(stream.as_fd()).unwrap(), Arc::new(Semaphore::new(1)));
        let read = || service.read(&peer, &turn, |_| Ok(()));
        let other = Arc::clone(&service.queries).acquire_owned().await.unwrap();
        assert_eq!(read().await.unwrap(), None, "there is no catalog");
        journal.set_len(17 << 20).unwrap();
        assert!(timeout(Duration::from_millis(200), read()).await.is_err(), "another query runs");
        drop(other);
        let begun = Instant::now();
        let (ended, ()) = tokio::join!(read(), async {
            sleep(Duration::from_millis(200)).await;
            journal.set_len(0).unwrap();
        });
        assert_eq!(ended.unwrap(), None);
        assert!((200..900).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    }
}
