//! The daemon's own log: to the journal with its fields, elsewhere as lines on standard error. It never blocks its caller.

use crate::crash::text::printable;
use libsystemd::logging::{Priority, connected_to_journal, journal_send};
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// Messages that wait for a journal or a terminal that does not read; further ones are dropped and counted.
const QUEUE: usize = 4096;
/// The name under which the journal lists the daemon's messages.
const IDENTIFIER: &str = "corewardd";

/// Keeps the log's thread alive. Dropped, it waits until the queue is written.
pub struct LogGuard {
    queue: Arc<Mutex<Option<SyncSender<Message>>>>,
    writer: Option<JoinHandle<()>>,
}

/// Starts to log.
#[must_use]
pub fn start() -> LogGuard {
    let (sender, receiver) = sync_channel(QUEUE);
    let queue = Arc::new(Mutex::new(Some(sender)));
    let writer = std::thread::Builder::new().name("log".to_owned()).spawn(move || write_messages(&receiver)).ok();
    let layer = LogLayer { queue: Arc::clone(&queue) };
    // Another subscriber can only be there in a test that starts two daemons; it then logs for both.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(layer));
    LogGuard { queue, writer }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// A message with the fields of its event and of the spans around it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    level: Level,
    text: String,
    fields: Vec<(&'static str, String)>,
}

struct LogLayer {
    queue: Arc<Mutex<Option<SyncSender<Message>>>>,
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
        let message = Message { level, text: own.message, fields };
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

fn write_messages(messages: &Receiver<Message>) {
    let to_journal = connected_to_journal();
    while let Ok(message) = messages.recv() {
        write(&message, to_journal);
        let dropped = DROPPED.swap(0, std::sync::atomic::Ordering::Relaxed);
        if dropped > 0 {
            let text =
                format!("{dropped} messages of the log were dropped: they came faster than they could be written");
            write(&Message { level: Level::WARN, text, fields: Vec::new() }, to_journal);
        }
    }
}

fn write(message: &Message, to_journal: bool) {
    if to_journal && send_to_journal(message) {
        return;
    }
    let mut line = if to_journal {
        // systemd reads the priority from the line's beginning (sd-daemon(3)).
        format!("<{}>", u8::from(priority(message.level)))
    } else {
        format!("{IDENTIFIER}: ")
    };
    line.push_str(&line_of(message));
    line.push('\n');
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The message and its fields in one line that cannot be taken for two, or move a terminal's cursor.
fn line_of(message: &Message) -> String {
    let mut line = printable(&message.text);
    for (name, value) in &message.fields {
        let _ = write!(line, " {name}={}", printable(value));
    }
    line
}

/// Sends the message in the journal's own protocol, which has room for fields. `false`: the journal did not take it.
fn send_to_journal(message: &Message) -> bool {
    // A field's name must be one of the journal's (upper case); others are part of the text.
    let (fields, others): (Vec<_>, Vec<_>) = message.fields.iter().partition(|(name, _)| is_journal_field(name));
    let mut text = printable(&message.text);
    for (name, value) in others {
        let _ = write!(text, " {name}={}", printable(value));
    }
    let identifier = ("SYSLOG_IDENTIFIER", IDENTIFIER.to_owned());
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

    fn logged(log: impl FnOnce()) -> Vec<Message> {
        let (sender, receiver) = sync_channel(QUEUE);
        let layer = LogLayer { queue: Arc::new(Mutex::new(Some(sender))) };
        tracing::subscriber::with_default(Registry::default().with(layer), log);
        receiver.try_iter().collect()
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
        assert_eq!(messages, [Message { level: Level::WARN, text: "the core of x is gone".to_owned(), fields }]);
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
