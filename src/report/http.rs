//! `/metrics` and a page that leads there, over HTTP/1.1, on the socket that systemd passed. A slow or faulty scraper affects only its
//! own connection, and all of them together a part of one processor and a bounded amount of memory.

use super::metrics::Metrics;
use super::snapshots::Snapshots;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER, VARY,
};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{interval, sleep, timeout};

/// The most connections at the same time. Further ones push out others, first those that have not sent a whole request.
const CONNECTIONS: usize = 64;
/// How long a connection may be without a request before another may push it out.
const REQUEST_GRACE: Duration = Duration::from_millis(50);
/// The same for an answer that has not been read.
const ANSWER_GRACE: Duration = Duration::from_secs(1);
/// When to look again if there is none.
const NEXT_LOOK: Duration = Duration::from_millis(10);
/// The time in which request line and headers must arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of request line and headers.
const HEADER_BYTES: usize = 16 * 1024;
/// The time in which an answer must be made and read: Prometheus' own limit is 10 s by default.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often that is checked.
const TICK: Duration = Duration::from_secs(1);
/// The longest life of a connection. Prometheus opens another.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause after accept(2) failed, as it does where descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves the metrics for ever.
pub async fn serve(listener: TcpListener, metrics: Metrics) {
    let snapshots = Arc::new(Snapshots::new(metrics));
    let mut connections = Connections::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Without a pause this loop would spin.
                tracing::warn!("a connection to the metrics socket cannot be accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        connections.make_room().await;
        let answers = Answers::default();
        let task = tokio::spawn(serve_connection(stream, Arc::clone(&snapshots), answers.clone())).abort_handle();
        connections.0.push_back(Connection { opened: Instant::now(), answers, task });
    }
}

/// The open connections, the oldest first.
#[derive(Default)]
struct Connections(VecDeque<Connection>);

struct Connection {
    opened: Instant,
    answers: Answers,
    task: AbortHandle,
}

impl Connections {
    /// Closes one if there are too many, or waits until one ends or may be closed. Whoever connects and sends nothing, or reads nothing, cannot
    /// keep a scraper out.
    async fn make_room(&mut self) {
        loop {
            self.0.retain(|connection| !connection.task.is_finished());
            if self.0.len() < CONNECTIONS {
                return;
            }
            if let Some(victim) = self.victim().and_then(|at| self.0.remove(at)) {
                return victim.task.abort();
            }
            sleep(NEXT_LOOK).await;
        }
    }

    fn victim(&self) -> Option<usize> {
        let is_idle = |one: &Connection| one.answers.age().is_none() && one.opened.elapsed() >= REQUEST_GRACE;
        let is_slow = |one: &Connection| one.answers.age().is_some_and(|age| age >= ANSWER_GRACE);
        self.0.iter().position(is_idle).or_else(|| self.0.iter().position(is_slow))
    }
}

async fn serve_connection(stream: TcpStream, snapshots: Arc<Snapshots>, answers: Answers) {
    let answering = answers.clone();
    let service = service_fn(move |request| {
        let (snapshots, answer) = (Arc::clone(&snapshots), answering.begin());
        async move { Ok::<_, Infallible>(respond(&request, &snapshots, answer).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES);
    let mut connection = pin!(timeout(CONNECTION_TIMEOUT, server.serve_connection(TokioIo::new(stream), service)));
    let mut tick = interval(TICK);
    loop {
        tokio::select! {
            // A connection that fails concerns only its peer.
            _ = &mut connection => return,
            _ = tick.tick() => {
                if answers.age().is_some_and(|age| age > ANSWER_TIMEOUT) {
                    return;
                }
            }
        }
    }
}

/// The answers of a connection that are being made or have not been read yet, and since when there are any.
#[derive(Clone, Debug, Default)]
struct Answers(Arc<Mutex<(usize, Option<Instant>)>>);

impl Answers {
    fn begin(&self) -> Answer {
        let mut state = self.lock();
        state.0 += 1;
        state.1.get_or_insert_with(Instant::now);
        Answer(self.clone())
    }

    fn age(&self) -> Option<Duration> {
        self.lock().1.map(|since| since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, (usize, Option<Instant>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One answer, until its last byte is in the kernel's buffer.
#[derive(Debug)]
struct Answer(Answers);

impl Drop for Answer {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.0 = state.0.saturating_sub(1);
        if state.0 == 0 {
            state.1 = None;
        }
    }
}

impl Answer {
    /// A body that is part of this answer.
    fn body(self, bytes: Bytes) -> Full<Bytes> {
        struct Body(Bytes, #[expect(dead_code, reason = "it is dropped with the bytes")] Answer);
        impl AsRef<[u8]> for Body {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Full::new(Bytes::from_owner(Body(bytes, self)))
    }
}

async fn respond(request: &Request<Incoming>, snapshots: &Snapshots, answer: Answer) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain_text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n", answer);
        set(&mut response, ALLOW, "GET, HEAD");
        return response;
    }
    match request.uri().path() {
        "/metrics" => scrape(request.headers(), snapshots, answer).await,
        "/" => {
            let mut response = new_response(StatusCode::OK, "text/html; charset=utf-8", landing_page().into(), answer);
            set(&mut response, CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'");
            response
        }
        _ => plain_text(StatusCode::NOT_FOUND, "not found: the metrics are at /metrics\n", answer),
    }
}

async fn scrape(headers: &HeaderMap, snapshots: &Snapshots, answer: Answer) -> Response<Full<Bytes>> {
    let gzip = accepts_gzip(headers);
    let text = match snapshots.newest(gzip).await {
        Ok(Some(text)) => text,
        Ok(None) => {
            let reason = "too many answers have not been read yet\n";
            let mut response = plain_text(StatusCode::SERVICE_UNAVAILABLE, reason, answer);
            set(&mut response, RETRY_AFTER, "1");
            return response;
        }
        Err(error) => return plain_text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n"), answer),
    };
    let mut response = new_response(StatusCode::OK, prometheus::TEXT_FORMAT, text, answer);
    set(&mut response, VARY, "Accept-Encoding");
    if gzip {
        set(&mut response, CONTENT_ENCODING, "gzip");
    }
    response
}

/// Whether the peer reads gzip (RFC 9110, section 12.5.3). A name goes before `*`; a weight of 0 is a refusal.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    let (mut named, mut any) = (None, None);
    for coding in values.flat_map(|value| value.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let is_accepted = weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0));
        match name {
            name if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => {
                named = Some(is_accepted);
            }
            "*" => any = Some(is_accepted),
            _ => {}
        }
    }
    named.or(any).unwrap_or(false)
}

/// What people find who open the address: nothing about crashes.
fn landing_page() -> String {
    let style =
        "body{font-family:sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}:root{color-scheme:light dark}";
    maud::html! {
        (maud::DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "Coreward" }
                style { (maud::PreEscaped(style)) }
            }
            body {
                h1 { "Coreward" }
                p { "Crash collector, version " (env!("CARGO_PKG_VERSION")) ". The metrics for Prometheus are at " a href="/metrics" { "/metrics" } "." }
                p { "On this host: " code { "coreward list" } ", " code { "coreward status" } "." }
            }
        }
    }
    .into_string()
}

fn plain_text(status: StatusCode, text: &str, answer: Answer) -> Response<Full<Bytes>> {
    new_response(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(text.as_bytes()), answer)
}

fn new_response(status: StatusCode, kind: &'static str, body: Bytes, answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(answer.body(body));
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, kind);
    set(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

fn set(response: &mut Response<Full<Bytes>>, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_gzip() {
        let accepts = |value: &'static str| {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            accepts_gzip(&headers)
        };
        for value in
            ["gzip", "deflate, gzip;q=0.5", "GZip", "x-gzip", "*", "gzip;q=1, *;q=0", "identity;q=0.5 , gzip; q=0.1"]
        {
            assert!(accepts(value), "{value}");
        }
        for value in ["", "identity", "gzip;q=0", "*, gzip;q=0", "*;q=0", "br", "gzip;q=x", "gzipped"] {
            assert!(!accepts(value), "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn an_answer_lasts_until_its_bytes_are_gone() {
        let answers = Answers::default();
        assert_eq!(answers.age(), None);
        let body = answers.begin().body(Bytes::from_static(b"text"));
        let second = answers.begin();
        assert!(answers.age().is_some());
        drop(second);
        assert!(answers.age().is_some(), "the first has not been read");
        drop(body);
        assert_eq!(answers.age(), None);
    }
}
