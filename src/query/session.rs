//! One connection: its calls are answered in their order.

use super::connection_limits::ConnectionPermit;
use super::deletion::DeletionRequest;
use super::error::MethodError;
use super::frames::{FrameError, Frames};
use super::interface::{GroupReply, INTERFACE, SERVICE, UsageReply, description};
use super::message::{self, Call};
use super::parameters::Parameters;
use super::peer::Peer;
use super::service::Service;
use crate::crash::{CrashId, SignatureKey};
use crate::store::{CatalogView, CrashSummary, Filter, Group, MAX_GROUPS, Page, QueryError, UsageBy};
use serde::Serialize;
use serde_json::json;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

/// How long a client may take to read one reply, of at most half a MiB or so.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// The most pages in a reply to a call without "more".
const PAGES_AT_ONCE: usize = 5;
/// The most groups in one reply without examples, and with them: a record has up to 64 KiB.
const GROUPS_AT_ONCE: usize = 1000;
const EXAMPLES_AT_ONCE: usize = 8;
/// Pause before a subscription tries again to read the catalog, which the daemon may be replacing, and how often it tries.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const RETRIES: usize = 10;

/// Why a call is not answered as it should be.
enum Failure {
    /// The client gets an error.
    Method(MethodError),
    /// The client is gone, or does not read.
    Connection(io::Error),
}

impl<E: Into<MethodError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Method(error.into())
    }
}

/// A connection.
pub(super) struct Session {
    service: Arc<Service>,
    peer: Peer,
    permit: ConnectionPermit,
    calls: Frames<OwnedReadHalf>,
    replies: OwnedWriteHalf,
    /// The present call wants no reply.
    oneway: bool,
}

#[derive(Serialize)]
struct Crashes<'a> {
    crashes: &'a [CrashSummary],
}

impl Session {
    pub(super) fn new(service: Arc<Service>, peer: Peer, permit: ConnectionPermit, stream: UnixStream) -> Self {
        let (reader, replies) = stream.into_split();
        Self { service, peer, permit, calls: Frames::new(reader), replies, oneway: false }
    }

    /// Answers calls until the client is gone or breaks the protocol.
    pub(super) async fn run(mut self) {
        loop {
            let call = match self.calls.next().await {
                Ok(Some(call)) => Call::parse(&call).map_err(FrameError::from),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            let ended = match call {
                Ok(call) => self.answer(&call).await,
                // No log line: whoever sends nonsense could fill the journal.
                Err(_) => return,
            };
            if ended.is_err() {
                return;
            }
        }
    }

    async fn answer(&mut self, call: &Call) -> io::Result<()> {
        self.oneway = call.oneway == Some(true);
        match self.dispatch(call).await {
            Ok(()) => Ok(()),
            Err(Failure::Method(error)) => self.send(error.encode()).await,
            Err(Failure::Connection(error)) => Err(error),
        }
    }

    async fn dispatch(&mut self, call: &Call) -> Result<(), Failure> {
        if call.upgrade == Some(true) {
            return Err(MethodError::PermissionDenied.into());
        }
        let more = call.accepts_more();
        let parameters = Parameters::new(call.parameters.clone());
        match call.split() {
            (SERVICE, "GetInfo") => self.get_info(parameters).await,
            (SERVICE, "GetInterfaceDescription") => self.get_description(parameters).await,
            (INTERFACE, "List") => self.list(parameters, more).await,
            (INTERFACE, "Get") => self.get(parameters).await,
            (INTERFACE, "Groups") => self.groups(parameters, more).await,
            (INTERFACE, "Occurrences") => self.occurrences(parameters, more).await,
            (INTERFACE, "Usage") => self.usage(parameters).await,
            (INTERFACE, "Subscribe") => self.subscribe(parameters, more).await,
            (INTERFACE, "Delete") => self.delete(parameters).await,
            (SERVICE | INTERFACE, _) => Err(MethodError::MethodNotFound(call.method.clone()).into()),
            (interface, _) => Err(MethodError::InterfaceNotFound(interface.to_owned()).into()),
        }
    }

    async fn get_info(&mut self, parameters: Parameters) -> Result<(), Failure> {
        parameters.finish()?;
        let info = json!({
            "vendor": "Coreward",
            "product": "coreward-query",
            "version": env!("CARGO_PKG_VERSION"),
            "url": "",
            "interfaces": [SERVICE, INTERFACE],
        });
        self.reply(info, false).await
    }

    async fn get_description(&mut self, mut parameters: Parameters) -> Result<(), Failure> {
        let interface: String = parameters.required("interface")?;
        parameters.finish()?;
        let found = description(&interface).ok_or(MethodError::InterfaceNotFound(interface))?;
        self.reply(json!({ "description": found }), false).await
    }

    async fn list(&mut self, mut parameters: Parameters, more: bool) -> Result<(), Failure> {
        let filter = parameters.filter()?;
        let records: Option<bool> = parameters.optional("records")?;
        parameters.finish()?;
        let selected = self.read(move |view| view.select(filter, records == Some(true))).await?;
        let mut all: Vec<CrashSummary> = Vec::new();
        let mut from = None;
        for number in 1.. {
            let selection = selected.clone();
            let page = match selection {
                Some(selection) => self.read(move |view| view.page(&selection, from)).await?.unwrap_or_default(),
                None => Page::default(),
            };
            from = page.next;
            if more {
                self.reply(Crashes { crashes: &page.crashes }, from.is_some()).await?;
            } else {
                all.extend(page.crashes);
                if from.is_some() && number >= PAGES_AT_ONCE {
                    return Err(MethodError::TooMany(all.len()).into());
                }
            }
            if from.is_none() {
                break;
            }
        }
        if more { Ok(()) } else { self.reply(Crashes { crashes: &all }, false).await }
    }

    async fn get(&mut self, mut parameters: Parameters) -> Result<(), Failure> {
        let name: Option<String> = parameters.optional("match")?;
        parameters.finish()?;
        let wanted = name.clone();
        let found = self.read(move |view| view.find(wanted.as_deref())).await?;
        let listed = found.ok_or(MethodError::NoSuchCrash(name))?;
        self.reply(json!({ "record": listed }), false).await
    }

    async fn groups(&mut self, mut parameters: Parameters, more: bool) -> Result<(), Failure> {
        let limit: Option<usize> = parameters.optional("limit")?;
        let examples: Option<bool> = parameters.optional("examples")?;
        parameters.finish()?;
        let examples = examples == Some(true);
        let groups = self.read(move |view| view.groups(limit.unwrap_or(MAX_GROUPS))).await?.unwrap_or_default();
        let at_once = if examples { EXAMPLES_AT_ONCE } else { GROUPS_AT_ONCE };
        if !more && groups.len() > at_once {
            return Err(MethodError::TooMany(at_once).into());
        }
        let mut rest = groups;
        loop {
            let later = if rest.len() > at_once { rest.split_off(at_once) } else { Vec::new() };
            let now = self.read(move |view| with_examples(view, rest, examples)).await?.unwrap_or_default();
            self.reply(json!({ "groups": now }), !later.is_empty()).await?;
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
        }
    }

    async fn occurrences(&mut self, mut parameters: Parameters, more: bool) -> Result<(), Failure> {
        let signature: String = parameters.required("signature")?;
        parameters.finish()?;
        let signature = SignatureKey::new(&signature);
        let found = self.read(move |view| view.occurrences(&signature)).await?.unwrap_or_default();
        if !more && found.len() > GROUPS_AT_ONCE {
            return Err(MethodError::TooMany(GROUPS_AT_ONCE).into());
        }
        let mut parts = found.chunks(GROUPS_AT_ONCE).peekable();
        loop {
            let part = parts.next().unwrap_or_default();
            let continues = parts.peek().is_some();
            self.reply(json!({ "occurrences": part }), continues).await?;
            if !continues {
                return Ok(());
            }
        }
    }

    async fn usage(&mut self, mut parameters: Parameters) -> Result<(), Failure> {
        let by: Option<UsageBy> = parameters.optional("by")?;
        parameters.finish()?;
        let shares = self.read(move |view| view.usage(by.unwrap_or(UsageBy::Unit))).await?.unwrap_or_default();
        let cores: u64 = shares.iter().map(|share| share.cores).sum();
        let bytes: u64 = shares.iter().map(|share| share.bytes).sum();
        self.reply(UsageReply { cores, bytes, shares }, false).await
    }

    async fn subscribe(&mut self, mut parameters: Parameters, more: bool) -> Result<(), Failure> {
        let filter = parameters.filter()?;
        parameters.finish()?;
        if !more {
            return Err(MethodError::ExpectedMore.into());
        }
        if filter.limit.is_some() {
            return Err(MethodError::InvalidParameter("limit".to_owned()).into());
        }
        // Before the first look, so that no crash falls between the two.
        let mut changes = self.service.subscribe();
        let mut last = self.read(CatalogView::last_row).await?.unwrap_or(0);
        self.reply(Crashes { crashes: &[] }, true).await?;
        let mut failures = 0;
        loop {
            let changed = async {
                if failures == 0 {
                    let _ = changes.changed().await;
                } else {
                    sleep(RETRY_PAUSE).await;
                }
            };
            tokio::select! {
                () = changed => {}
                () = self.calls.closed() => return Err(Failure::Connection(io::ErrorKind::UnexpectedEof.into())),
            }
            match self.send_inserted(last, &filter).await {
                Ok(newest) => (last, failures) = (newest, 0),
                Err(Failure::Method(MethodError::Unavailable(_))) if failures < RETRIES => failures += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends the crashes that were inserted after the row `last`; returns the row after which to go on.
    async fn send_inserted(&mut self, mut last: i64, filter: &Filter) -> Result<i64, Failure> {
        loop {
            let wanted = filter.clone();
            let found = self.read(move |view| view.inserted_after(last, &wanted)).await?;
            // Without a catalog the next one begins anew.
            let Some((crashes, next)) = found else { return Ok(0) };
            if !crashes.is_empty() {
                self.reply(Crashes { crashes: &crashes }, true).await?;
            }
            if next <= last {
                return Ok(next);
            }
            last = next;
        }
    }

    async fn delete(&mut self, mut parameters: Parameters) -> Result<(), Failure> {
        let id: String = parameters.required("id")?;
        let force: Option<bool> = parameters.optional("force")?;
        parameters.finish()?;
        let unknown = || MethodError::NoSuchCrash(Some(id.clone()));
        let request = DeletionRequest { id: CrashId::parse(&id).ok_or_else(unknown)?, force: force == Some(true) };
        let wanted = id.clone();
        let found = self.read(move |view| has_core(view, &wanted)).await?;
        if !found.ok_or_else(unknown)? {
            return Err(MethodError::NoCore(id).into());
        }
        let client = self.calls.get_ref().as_ref().as_fd().try_clone_to_owned().map_err(Failure::Connection)?;
        let socket = self.service.root.deletion_socket();
        let permit = Arc::clone(&self.permit.query_lock).acquire_owned().await;
        let deleting = spawn_blocking(move || {
            let _permit = permit;
            request.send(&socket, client.as_fd())
        });
        let deleted = deleting.await.map_err(|error| MethodError::Unavailable(error.to_string()))??;
        self.reply(json!({ "id": id, "bytes": deleted.bytes }), false).await
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&CatalogView) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<Option<T>, MethodError> {
        self.service.read(&self.peer, &self.permit.query_lock, query).await
    }

    async fn reply(&mut self, parameters: impl Serialize, continues: bool) -> Result<(), Failure> {
        self.send(message::reply(parameters, continues)).await.map_err(Failure::Connection)
    }

    async fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        if self.oneway {
            return Ok(());
        }
        timeout(SEND_TIMEOUT, self.replies.write_all(&bytes)).await?
    }
}

/// Whether the crash whose whole id this is has a core.
fn has_core(view: &CatalogView, id: &str) -> Result<bool, QueryError> {
    let listed = view.find(Some(id))?;
    if listed.record.id.as_str() == id {
        Ok(listed.core_state.is_present())
    } else {
        Err(QueryError::NoMatch(id.to_owned()))
    }
}

fn with_examples(view: &CatalogView, groups: Vec<Group>, examples: bool) -> Result<Vec<GroupReply>, QueryError> {
    let with_example = |group: Group| -> Result<GroupReply, QueryError> {
        let example = if examples { view.example(&group.signature)? } else { None };
        Ok(GroupReply { group, example: example.map(Box::new) })
    };
    groups.into_iter().map(with_example).collect()
}
