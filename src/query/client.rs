//! The command's end of a connection to the service.

use super::connect::connect_within;
use super::interface::{GroupReply, INTERFACE, UsageReply};
use crate::crash::text::printable;
use crate::crash::{CrashId, SignatureKey};
use crate::store::{CrashSummary, Filter, Group, Listed, Occurrence, QueryError, UsageBy};
use nix::unistd::Uid;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use thiserror::Error;

/// The service answers within its own time limits, unless many others ask.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of a reply.
const MAX_REPLY: u64 = 16 << 20;

/// Why the service does not answer as expected.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The answer is about the crashes, and not a failure of the service.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The connection broke, or nothing came in time.
    #[error("coreward-query.service: {0}")]
    Io(#[from] io::Error),
    /// What came is not a reply.
    #[error("coreward-query.service: a reply is not understood: {0}")]
    Reply(#[from] serde_json::Error),
    /// The crash has no core.
    #[error("crash {0} has no core")]
    NoCore(String),
    /// The core is pinned.
    #[error("the core of crash {0} is pinned: only an administrator can unpin it (coreward unpin {0})")]
    Pinned(String),
    /// The service refuses it.
    #[error("coreward-query.service: {}{}", printable(.0), .1.as_ref().map(|reason| format!(": {}", printable(reason))).unwrap_or_default())]
    Refused(String, Option<String>),
}

/// A connection to the service.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

/// A reply of any kind.
#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    parameters: Value,
    #[serde(default)]
    continues: bool,
}

/// The parameters of all replies that the command asks for.
#[derive(Deserialize)]
struct Replied<T> {
    #[serde(default = "Vec::new")]
    crashes: Vec<T>,
    #[serde(default = "Vec::new")]
    groups: Vec<T>,
    #[serde(default = "Vec::new")]
    occurrences: Vec<T>,
}

/// The parameters of an error.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorParameters {
    r#match: Option<String>,
    count: usize,
    id: Option<String>,
    reason: Option<String>,
}

impl Client {
    /// Connects to the service.
    ///
    /// # Errors
    /// The error of connect(2): nobody listens there, or not in time.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        Ok(Self { stream: BufReader::new(connect_within(socket, TIMEOUT)?) })
    }

    /// Calls `visit` for each crash that the filter selects, the oldest first.
    ///
    /// # Errors
    /// The service does not answer as expected.
    pub fn list(
        &mut self,
        filter: &Filter,
        records: bool,
        visit: &mut dyn FnMut(CrashSummary),
    ) -> Result<(), ClientError> {
        let filter = filter_json(filter);
        self.call("List", &json!({ "filter": filter, "records": records }), true)?;
        self.for_each(|reply: Replied<CrashSummary>| reply.crashes.into_iter().for_each(&mut *visit))
    }

    /// The crash that `name` refers to, or the newest.
    ///
    /// # Errors
    /// There is none for this user, or the service does not answer as expected.
    pub fn get(&mut self, name: Option<&str>) -> Result<Listed, ClientError> {
        #[derive(Deserialize)]
        struct Found {
            record: Listed,
        }
        self.call("Get", &json!({ "match": name }), false)?;
        let mut found = None;
        self.for_each(|reply: Found| found = Some(reply.record))?;
        Ok(found.ok_or(QueryError::Nothing)?)
    }

    /// The signatures with an example each, the most frequent first.
    ///
    /// # Errors
    /// The service does not answer as expected.
    pub fn groups(&mut self) -> Result<Vec<Group>, ClientError> {
        self.call("Groups", &json!({ "examples": true }), true)?;
        let mut groups = Vec::new();
        self.for_each(|reply: Replied<GroupReply>| {
            let with_example =
                |reply: GroupReply| Group { example: reply.example.map(|example| *example), ..reply.group };
            groups.extend(reply.groups.into_iter().map(with_example));
        })?;
        Ok(groups)
    }

    /// The crashes of a signature by host, unit, container and hour, the newest first.
    ///
    /// # Errors
    /// The service does not answer as expected.
    pub fn occurrences(&mut self, signature: &SignatureKey) -> Result<Vec<Occurrence>, ClientError> {
        self.call("Occurrences", &json!({ "signature": signature.as_str() }), true)?;
        let mut occurrences = Vec::new();
        self.for_each(|reply: Replied<Occurrence>| occurrences.extend(reply.occurrences))?;
        Ok(occurrences)
    }

    /// What stored cores take on disk.
    ///
    /// # Errors
    /// The service does not answer as expected.
    pub fn usage(&mut self, by: UsageBy) -> Result<UsageReply, ClientError> {
        self.call("Usage", &json!({ "by": by }), false)?;
        let mut usage = UsageReply::default();
        self.for_each(|reply| usage = reply)?;
        Ok(usage)
    }

    /// Asks for the crashes that are recorded from now on. The filter's limit does not count.
    ///
    /// # Errors
    /// The service does not answer as expected.
    pub fn subscribe(mut self, filter: &Filter) -> Result<Subscription, ClientError> {
        let filter = filter_json(&Filter { limit: None, ..filter.clone() });
        self.call("Subscribe", &json!({ "filter": filter }), true)?;
        let mut subscription = Subscription(self);
        // The first reply says that it has begun.
        subscription.receive()?;
        Ok(subscription)
    }

    /// Deletes the core of a crash; returns the bytes that it took.
    ///
    /// # Errors
    /// It has none, it is pinned, or the service does not answer as expected.
    pub fn delete(&mut self, id: &CrashId, force: bool) -> Result<u64, ClientError> {
        #[derive(Deserialize)]
        struct Deleted {
            bytes: u64,
        }
        self.call("Delete", &json!({ "id": id.as_str(), "force": force }), false)?;
        let mut bytes = 0;
        self.for_each(|reply: Deleted| bytes = reply.bytes)?;
        Ok(bytes)
    }

    fn call(&mut self, method: &str, parameters: &Value, more: bool) -> Result<(), ClientError> {
        let mut call = json!({ "method": format!("{INTERFACE}.{method}"), "parameters": parameters });
        if more {
            call["more"] = true.into();
        }
        let mut bytes = serde_json::to_vec(&call)?;
        bytes.push(0);
        Ok(self.stream.get_mut().write_all(&bytes)?)
    }

    /// Receives the replies to a call.
    fn for_each<T: DeserializeOwned>(&mut self, mut visit: impl FnMut(T)) -> Result<(), ClientError> {
        loop {
            let (reply, continues) = self.receive()?;
            visit(reply);
            if !continues {
                return Ok(());
            }
        }
    }

    /// Receives one reply, and whether another one follows.
    fn receive<T: DeserializeOwned>(&mut self) -> Result<(T, bool), ClientError> {
        let mut bytes = Vec::new();
        (&mut self.stream).take(MAX_REPLY).read_until(0, &mut bytes)?;
        if bytes.pop() != Some(0) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let reply: Reply = serde_json::from_slice(&bytes)?;
        if let Some(error) = reply.error {
            return Err(error_of(error, reply.parameters));
        }
        Ok((serde_json::from_value(reply.parameters)?, reply.continues))
    }
}

/// Crashes as they are recorded.
#[derive(Debug)]
pub struct Subscription(Client);

impl Subscription {
    /// Whether the next crashes are here already: there is nothing to wait for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.0.stream.buffer().is_empty()
    }

    /// Receives the next crashes. Waits for them, but not for ever: call it when [`Self::is_ready`], or when the socket can be read.
    ///
    /// # Errors
    /// The service has ended, or does not answer as expected.
    pub fn receive(&mut self) -> Result<Vec<CrashSummary>, ClientError> {
        let (reply, continues): (Replied<CrashSummary>, bool) = self.0.receive()?;
        if continues { Ok(reply.crashes) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) }
    }
}

impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.stream.get_ref().as_fd()
    }
}

/// The interface's name for each condition.
fn filter_json(filter: &Filter) -> Value {
    json!({
        "match": filter.matches,
        "unit": filter.unit,
        "container": filter.container,
        "pod": filter.pod,
        "hostname": filter.hostname,
        "uid": filter.uid.map(Uid::as_raw),
        "executable": filter.executable,
        "signal": filter.signal,
        "signature": filter.signature,
        "since_us": filter.since_us,
        "until_us": filter.until_us,
        "limit": filter.limit,
    })
}

fn error_of(error: String, parameters: Value) -> ClientError {
    let ErrorParameters { r#match: name, count, id, reason } = serde_json::from_value(parameters).unwrap_or_default();
    let own = error.strip_prefix(INTERFACE).and_then(|rest| rest.strip_prefix('.'));
    match (own, name, id) {
        (Some("NoSuchCrash"), Some(name), _) => QueryError::NoMatch(name).into(),
        (Some("NoSuchCrash"), None, _) => QueryError::Nothing.into(),
        (Some("Ambiguous"), Some(prefix), _) => QueryError::Ambiguous { prefix, count }.into(),
        (Some("NoCore"), _, Some(id)) => ClientError::NoCore(printable(&id)),
        (Some("Pinned"), _, Some(id)) => ClientError::Pinned(printable(&id)),
        _ => ClientError::Refused(error, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// What the client makes of a server that answers with these bytes: a number of groups, or a message.
    fn groups_of(answer: &'static [u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut call = Vec::new();
            BufReader::new(stream.try_clone().unwrap()).read_until(0, &mut call).unwrap();
            stream.write_all(answer).unwrap();
        });
        let answered = Client::connect(&path).unwrap().groups();
        server.join().unwrap();
        answered.map_or_else(|error| error.to_string(), |groups| groups.len().to_string())
    }

    #[test]
    fn replies_are_read_to_their_end_and_errors_say_what_happened() {
        assert_eq!(groups_of(b"{\"parameters\":{\"groups\":[]},\"continues\":true}\0{\"parameters\":{}}\0"), "0");
        for (answer, said) in [
            (&b""[..], "unexpected end of file"),
            (b"{\"parameters\":{}}", "unexpected end of file"),
            (b"{\0", "not understood"),
            (b"{\"parameters\":{\"groups\":1}}\0", "not understood"),
            (
                b"{\"error\":\"io.coreward.Crashes.NoSuchCrash\",\"parameters\":{\"match\":\"x\"}}\0",
                "no crash matches \"x\"",
            ),
            (
                b"{\"error\":\"io.coreward.Crashes.Unavailable\",\"parameters\":{\"reason\":\"\\u001b[2J\"}}\0",
                "Unavailable: \\u{1b}[2J",
            ),
            (b"{\"error\":\"org.varlink.service.MethodNotFound\"}\0", "MethodNotFound"),
        ] {
            let error = groups_of(answer);
            assert!(error.contains(said), "{error}");
        }
    }
}
