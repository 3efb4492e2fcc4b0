//! The daemon's own log: lines on standard error that never make it wait.

use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Keeps the writer alive; dropped, what waits is written.
pub struct LogGuard {
    _worker: WorkerGuard,
}

struct Lines {
    in_journal: bool,
}

/// Lines that may wait for a journal that does not read; the next ones are dropped.
const WAITING: usize = 4096;

/// Begins to log. A journal that stands still fills a bounded queue and stops nobody.
pub fn start() -> LogGuard {
    let (writer, worker) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING).finish(std::io::stderr());
    let lines = Lines { in_journal: libsystemd::logging::connected_to_journal() };
    let subscriber =
        tracing_subscriber::fmt().with_writer(writer).event_format(lines).with_max_level(Level::INFO).finish();
    // A second subscriber can only be there in a test that starts two daemons; the first then logs for both.
    let _ = tracing::subscriber::set_global_default(subscriber);
    LogGuard { _worker: worker }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        // The journal reads the priority off the line's beginning (sd-daemon(3)).
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let mut message = Message(String::new());
        event.record(&mut message);
        let text = crate::crash::text::printable(&message.0);
        if self.in_journal { writeln!(writer, "<{priority}>{text}") } else { writeln!(writer, "corewardd: {text}") }
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write;
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}
