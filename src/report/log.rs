//! The log of daemon and query service: to the journal with its fields, elsewhere as lines on standard error. It never blocks its caller.

use crate::crash::text::printable;
use libsystemd::logging::{Priority, connected_to_journal, journal_send};
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// Messages that wait for a journal or a terminal that does not read; further ones are dropped and counted.
const QUEUE: usize = 4096;
/// The name under which the journal lists the messages of this program.
static IDENTIFIER: OnceLock<&str> = OnceLock::new();

/// How long the end of the process waits for a journal or a terminal that does not read.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps the log's thread alive. Dropped, it waits until the queue is written, at most for a second.
pub struct LogGuard {
    queue: Arc<Mutex<Option<SyncSender<LogLine>>>>,
    /// Closed by the thread when the queue is written.
    written: Receiver<()>,
}

fn identifier() -> &'static str {
    IDENTIFIER.get().copied().unwrap_or("coreward")
}

/// Starts to log, under the name of the program.
#[must_use]
pub fn start(program: &'static str) -> LogGuard {
    let _ = IDENTIFIER.set(program);
    let to_journal = connected_to_journal();
    let log = start_writer(move |message| write(message, to_journal));
    let layer = LogLayer { queue: Arc::clone(&log.queue) };
    // Another subscriber can only be there in a test that starts two daemons; it then logs for both.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(layer));
    log
}

/// Starts the thread that writes the messages of the queue.
fn start_writer(write: impl Fn(&LogLine) + Send + 'static) -> LogGuard {
    let (sender, receiver) = sync_channel(QUEUE);
    let queue = Arc::new(Mutex::new(Some(sender)));
    let (writing, written) = channel();
    let work = move || {
        write_messages(&receiver, write);
        drop(writing);
    };
    if let Err(error) = std::thread::Builder::new().name("log".to_owned()).spawn(work) {
        let _ = writeln!(std::io::stderr(), "{}: no log: {error}", identifier());
    }
    LogGuard { queue, written }
}

impl LogGuard {
    /// Ends the log with the error that ends the process. It is written to standard error, which belongs to the unit: of a
    /// message in its own protocol the journal may no longer find out whose it was once the process is gone.
    pub fn end_with(self, text: &str) {
        drop(self);
        let message = LogLine { level: Level::ERROR, text: text.to_owned(), fields: Vec::new() };
        write_line(&message, connected_to_journal());
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Nothing is ever sent: it ends when the thread does.
        let _ = self.written.recv_timeout(FLUSH_TIMEOUT);
    }
}

/// A message with the fields of its event and of the spans around it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LogLine {
    level: Level,
    text: String,
    fields: Vec<(&'static str, String)>,
}

struct LogLayer {
    queue: Arc<Mutex<Option<SyncSender<LogLine>>>>,
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for LogLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return;
        }
        let mut own = Fields::default();
        event.record(&mut own);
        let mut fields = Vec::new();
        for span in context.event_scope(event).into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            if let Some(Fields { fields: of_span, .. }) = span.extensions().get() {
                fields.extend(of_span.iter().cloned());
            }
        }
        fields.append(&mut own.fields);
        let message = LogLine { level, text: own.message, fields };
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(TrySendError::Full(_))) = queue.as_ref().map(|queue| queue.try_send(message)) {
            DROPPED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// Messages that found the queue full, not reported yet.
static DROPPED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// The fields of a span or an event, its message apart.
#[derive(Default)]
struct Fields {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.fields.push((field.name(), format!("{value:?}")));
        }
    }
}

fn write_messages(messages: &Receiver<LogLine>, write: impl Fn(&LogLine)) {
    while let Ok(message) = messages.recv() {
        write(&message);
        let dropped = DROPPED.swap(0, std::sync::atomic::Ordering::Relaxed);
        if dropped > 0 {
            let text =
                format!("{dropped} messages of the log were dropped: they came faster than they could be written");
            write(&LogLine { level: Level::WARN, text, fields: Vec::new() });
        }
    }
}

fn write(message: &LogLine, to_journal: bool) {
    if !to_journal || !send_to_journal(message) {
        write_line(message, to_journal);
    }
}

fn write_line(message: &LogLine, to_journal: bool) {
    let mut line = if to_journal {
        // systemd reads the priority from the line's beginning (sd-daemon(3)).
        format!("<{}>", u8::from(priority(message.level)))
    } else {
        format!("{}: ", identifier())
    };
    line.push_str(&line_of(message));
    line.push('\n');
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The message and its fields in one line that cannot be taken for two, or move a terminal's cursor.
fn line_of(message: &LogLine) -> String {
    let mut line = printable(&message.text);
    for (name, value) in &message.fields {
        let _ = write!(line, " {name}={}", printable(value));
    }
    line
}

/// Sends the message in the journal's own protocol, which has room for fields. `false`: the journal did not take it.
fn send_to_journal(message: &LogLine) -> bool {
    // A field's name must be one of the journal's (upper case); others are part of the text.
    let (fields, others): (Vec<_>, Vec<_>) = message.fields.iter().partition(|(name, _)| is_journal_field(name));
    let mut text = printable(&message.text);
    for (name, value) in others {
        let _ = write!(text, " {name}={}", printable(value));
    }
    let identifier = ("SYSLOG_IDENTIFIER", identifier().to_owned());
    let fields = fields.into_iter().cloned().chain([identifier]);
    journal_send(priority(message.level), &text, fields).is_ok()
}

fn is_journal_field(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
        && name.starts_with(|first: char| first.is_ascii_uppercase())
}

fn priority(level: Level) -> Priority {
    match level {
        Level::ERROR => Priority::Error,
        Level::WARN => Priority::Warning,
        Level::INFO => Priority::Info,
        _ => Priority::Debug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(log: impl FnOnce()) -> Vec<LogLine> {
        let (sender, receiver) = sync_channel(QUEUE);
        let layer = LogLayer { queue: Arc::new(Mutex::new(Some(sender))) };
        tracing::subscriber::with_default(Registry::default().with(layer), log);
        receiver.try_iter().collect()
    }

    #[test]
    fn a_journal_that_does_not_read_delays_the_end_by_a_second() {
        let (_forever, stuck) = channel::<()>();
        let log = start_writer(move |_| {
            let _ = stuck.recv();
        });
        let message = LogLine { level: Level::INFO, text: String::new(), fields: Vec::new() };
        log.queue.lock().unwrap().as_ref().unwrap().send(message).unwrap();
        let begun = std::time::Instant::now();
        drop(log);
        assert!((FLUSH_TIMEOUT..5 * FLUSH_TIMEOUT).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }

    #[test]
    fn the_end_waits_until_everything_is_written() {
        let (sender, written) = channel();
        let log = start_writer(move |message| {
            std::thread::sleep(Duration::from_millis(2));
            sender.send(message.text.clone()).unwrap();
        });
        for number in 0..50 {
            let message = LogLine { level: Level::INFO, text: number.to_string(), fields: Vec::new() };
            log.queue.lock().unwrap().as_ref().unwrap().send(message).unwrap();
        }
        drop(log);
        assert_eq!(written.try_iter().count(), 50);
    }

    #[test]
    fn a_message_has_the_fields_of_its_event_and_of_the_spans_around_it() {
        let messages = logged(|| {
            let _crash = tracing::error_span!("crash", COREWARD_ID = %"0123", COREWARD_PID = 7).entered();
            tracing::warn!(cause = "a\nb", "the core of {} is gone", "x");
            tracing::debug!("not in the log");
        });
        let fields =
            vec![("COREWARD_ID", "0123".to_owned()), ("COREWARD_PID", "7".to_owned()), ("cause", "a\nb".to_owned())];
        assert_eq!(messages, [LogLine { level: Level::WARN, text: "the core of x is gone".to_owned(), fields }]);
        assert_eq!(line_of(&messages[0]), r"the core of x is gone COREWARD_ID=0123 COREWARD_PID=7 cause=a\nb");
    }

    #[test]
    fn only_names_that_the_journal_takes_become_fields() {
        assert!(is_journal_field("COREWARD_ID"));
        for name in ["cause", "_PID", "", "Core", "0X"] {
            assert!(!is_journal_field(name), "{name}");
        }
    }
}
