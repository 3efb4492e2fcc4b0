//! The pages of `coreward report`: HTML that needs nothing else. maud escapes every text; no script runs and nothing is loaded, which the page
//! also demands of the browser (Content-Security-Policy). Colours and sizes that mail programs must not lose are attributes.

use super::crash_context::CrashContext;
use super::stack_lines::{FrameLines, frame_lines};
use super::symbols::Symbols;
use super::{human, info, module_packages, time};
use crate::crash::text::printable;
use crate::crash::{InterpreterFrame, InterpreterStack, Record, StackTrace};
use crate::store::Listed;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::time::Duration;

/// The page about the crashes of some time.
pub(super) struct Overview {
    pub(super) host: String,
    pub(super) since_us: u64,
    pub(super) until_us: u64,
    pub(super) crashes: u64,
    pub(super) signatures: usize,
    pub(super) new_signatures: usize,
    /// How much time a bar stands for.
    pub(super) bar_us: u64,
    pub(super) bars: Vec<Bar>,
    pub(super) bugs: Vec<Bug>,
    /// Bugs that are not among `bugs`.
    pub(super) omitted: usize,
    pub(super) storage: Option<Storage>,
}

/// Crashes of some time, by what ended the process.
#[derive(Default)]
pub(super) struct Bar {
    pub(super) from_us: u64,
    pub(super) memory: u64,
    pub(super) abort: u64,
    pub(super) other: u64,
}

/// The crashes of one signature.
pub(super) struct Bug {
    pub(super) title: String,
    pub(super) signature: String,
    pub(super) program: String,
    pub(super) count: u64,
    /// Crashes that the catalog only counts.
    pub(super) rolled_up: u64,
    pub(super) is_new: bool,
    /// The first crash of all, which may be before the time of the page.
    pub(super) first_us: u64,
    pub(super) last_us: u64,
    pub(super) hosts: Vec<String>,
    pub(super) units: Vec<String>,
    pub(super) containers: Vec<String>,
    /// How many crashes had which outcome for the core.
    pub(super) outcomes: Vec<(String, u64)>,
    pub(super) example: Option<Listed>,
}

/// What stored cores take, in bytes.
pub(super) struct Storage {
    pub(super) cores: u64,
    pub(super) bytes: u64,
    pub(super) max_use: u64,
    pub(super) free: u64,
}

const STYLE: &str = include_str!("report.css");
/// Height of the time line in pixels.
const HEIGHT: u64 = 120;
/// The most frames of a stack on the page about many crashes.
const MAX_FRAMES: usize = 24;
/// The most names in a list.
const MAX_NAMES: usize = 12;
/// What ends a process, with its colour and its words.
const KINDS: [(&str, &str, &str); 3] = [
    ("memory", "#c0392b", "invalid memory (SEGV, BUS)"),
    ("abort", "#d68910", "abort (ABRT)"),
    ("other", "#2e86c1", "other signals"),
];

/// The page about the crashes of some time.
pub(super) fn overview(data: &Overview) -> String {
    let title = format!("Crashes on {}", printable(&data.host));
    let body = html! {
        h1 { (title) }
        p.when { (time::short(data.since_us)) " to " (time::short(data.until_us)) }
        div.numbers {
            (number(data.crashes, if data.crashes == 1 { "crash" } else { "crashes" }))
            (number(data.signatures as u64, if data.signatures == 1 { "bug" } else { "bugs" }))
            (number(data.new_signatures as u64, "new"))
            @if let Some(storage) = &data.storage {
                (number(storage.cores, if storage.cores == 1 { "core" } else { "cores" }))
            }
        }
        @if data.crashes == 0 {
            p { "No process crashed in this time." }
        } @else {
            (time_line(data))
            h2 { "Bugs" }
            (table_of_bugs(data))
            @for (index, bug) in data.bugs.iter().enumerate() { (bug_section(index, bug)) }
        }
        @if let Some(storage) = &data.storage { (storage_section(storage)) }
        (footer())
    };
    document(&title, &body)
}

/// The page about one crash.
pub(super) fn crash(host: &str, listed: &Listed, context: &CrashContext, symbols: &Symbols) -> String {
    let record = &listed.record;
    let title = record.title();
    let body = html! {
        h1 { (title) }
        p.when { "Crash " (record.id.to_string()) " on " (printable(host)) ", " (time::short(record.time_us)) }
        @for trace in record.stack_traces() {
            @if !trace.frames.is_empty() { h2 { (trace.owner) } }
            (stack(record, &trace, symbols, usize::MAX))
        }
        h2 { "Details" }
        table.details {
            @for (label, text) in info::lines(listed, context) { tr { th { (label) } td { (text) } } }
        }
        @for note in &symbols.notes { p.note { "Note: " (note) "." } }
        @if listed.core_state.is_present() { p { "Open it with " code { "coreward debug " (record.id.to_string()) } } }
        (footer())
    };
    document(&title, &body)
}

fn document(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    };
    page.into_string()
}

fn number(count: u64, noun: &str) -> Markup {
    html! { div.number { b { (count) } " " span { (noun) } } }
}

fn time_line(data: &Overview) -> Markup {
    let total = |bar: &Bar| bar.memory + bar.abort + bar.other;
    let most = data.bars.iter().map(total).max().unwrap_or(0).max(1);
    let width = human::span(Duration::from_micros(data.bar_us));
    html! {
        figure.timeline {
            table cellpadding="0" cellspacing="0" width="100%" {
                tr {
                    @for bar in &data.bars {
                        td valign="bottom" height=(HEIGHT) title=(tooltip(bar)) {
                            @for ((name, colour, _), count) in KINDS.iter().zip([bar.memory, bar.abort, bar.other]) {
                                @if count > 0 {
                                    div class=(name) style=(format!("height:{}px;background:{colour}", (count * HEIGHT).div_ceil(most))) {}
                                }
                            }
                        }
                    }
                }
            }
            div.scale { span { (time::short(data.since_us)) } span { (time::short(data.until_us)) } }
            figcaption {
                "Crashes per " (width) ", at most " (most) ": "
                @for (_, colour, words) in KINDS { span.key { span.dot style=(format!("background:{colour}")) {} (words) } " " }
            }
        }
    }
}

fn tooltip(bar: &Bar) -> String {
    let parts = KINDS.iter().zip([bar.memory, bar.abort, bar.other]).filter(|(_, count)| *count > 0);
    let counts: Vec<String> = parts.map(|((_, _, words), count)| format!("{count} {words}")).collect();
    let counts = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
    format!("{}: {counts}", time::short(bar.from_us))
}

fn table_of_bugs(data: &Overview) -> Markup {
    html! {
        table.bugs {
            tr { th.count { "Crashes" } th { "Bug" } th.wide { "First seen" } th.wide { "Last seen" } }
            @for (index, bug) in data.bugs.iter().enumerate() {
                tr {
                    td.count { (bug.count) }
                    td {
                        a href=(format!("#bug-{index}")) { (bug.title) }
                        @if bug.is_new { " " span.new { "new" } }
                        div.program { (printable(&bug.program)) }
                    }
                    td.wide { (time::short(bug.first_us)) }
                    td.wide { (time::short(bug.last_us)) }
                }
            }
        }
        @if data.omitted > 0 {
            p.note { (human::count(data.omitted as u64, "less frequent bug")) " not shown: " code { "coreward groups" } " lists them." }
        }
    }
}

fn bug_section(index: usize, bug: &Bug) -> Markup {
    html! {
        section.bug id=(format!("bug-{index}")) {
            h3 { (bug.title) @if bug.is_new { " " span.new { "new" } } }
            table.details {
                tr { th { "Program" } td { (printable(&bug.program)) } }
                tr { th { "Signature" } td { (printable(&bug.signature)) } }
                tr { th { "Crashes" } td { (bug.count) ", first " (time::short(bug.first_us)) ", last " (time::short(bug.last_us)) } }
                (names("Hosts", &bug.hosts))
                (names("Units", &bug.units))
                (names("Containers", &bug.containers))
                @if let Some(listed) = &bug.example { (build(&listed.record)) }
                tr { th { "Cores" } td { (outcomes(bug)) } }
            }
            @if let Some(listed) = &bug.example {
                @match listed.record.stack_traces().next() {
                    Some(trace) => (stack(&listed.record, &trace, &Symbols::default(), MAX_FRAMES)),
                    None => p.note { "No stack is known." },
                }
                p.note {
                    code { "coreward info " (listed.id().to_string()) }
                    @if listed.core_state.is_present() { " " code { "coreward debug " (listed.id().to_string()) } }
                }
            }
        }
    }
}

fn names(label: &str, names: &[String]) -> Markup {
    let shown: Vec<String> = names.iter().take(MAX_NAMES).map(|name| printable(name)).collect();
    let more = names.len().saturating_sub(MAX_NAMES);
    html! {
        @if !names.is_empty() {
            tr { th { (label) } td { (shown.join(", ")) @if more > 0 { " and " (more) " more" } } }
        }
    }
}

/// The build that crashed: all crashes of a signature are of one.
fn build(record: &Record) -> Markup {
    let package = module_packages::of_executable(record);
    html! {
        @if package.is_some() || record.exe_build_id.is_some() {
            tr {
                th { "Build" }
                td {
                    @if let Some(package) = package { (package) " " }
                    @if let Some(id) = &record.exe_build_id { span.id { "build-id " (printable(id)) } }
                }
            }
        }
    }
}

/// `2 stored, 3 none:storm, 95 counted only`.
fn outcomes(bug: &Bug) -> String {
    let mut parts: Vec<String> = bug.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    parts.extend((bug.rolled_up > 0).then(|| format!("{} counted only", bug.rolled_up)));
    parts.join(", ")
}

/// A stack with at most this many frames.
fn stack(record: &Record, stack: &StackTrace<'_>, symbols: &Symbols, limit: usize) -> Markup {
    let more = stack.frames.len().saturating_sub(limit);
    html! {
        @if !stack.frames.is_empty() {
            ol.stack start="0" {
                @for lines in frame_lines(record, stack, symbols).take(limit) { li { (frame(&lines, stack.interpreter)) } }
            }
        }
        @if more > 0 { p.note { "and " (human::count(more as u64, "more frame")) } }
        @if let Some((heading, frames)) = stack.interpreter.and_then(InterpreterStack::frames_apart) {
            (frames_apart(&heading, frames.take(limit)))
        }
    }
}

fn frame(lines: &FrameLines<'_>, interpreter: Option<&InterpreterStack>) -> Markup {
    html! {
        @for interpreted in lines.interpreted {
            b { (interpreted.shown()) }
            @if let Some(interpreter) = interpreter { " " span.place { (printable(interpreter.title())) } }
            br;
        }
        @for (function, mark) in lines.marked_functions() {
            b { (function.name) }
            @if let Some(source) = &function.source { " " span.source { (source) } }
            @if !mark.is_empty() { span.place { (mark) } }
            br;
        }
        span.place {
            @if lines.place.is_none() { (format!("{:#x} ", lines.frame.address)) }
            (lines.place())
        }
    }
}

/// Frames of an interpreted program that belong to no native frame.
fn frames_apart<'a>(heading: &str, frames: impl Iterator<Item = (usize, &'a InterpreterFrame)>) -> Markup {
    html! {
        h3 { (heading) }
        ol.stack {
            @for (number, frame) in frames { li value=(number) { b { (frame.shown()) } } }
        }
    }
}

fn storage_section(storage: &Storage) -> Markup {
    let percent = storage.bytes.saturating_mul(100).checked_div(storage.max_use).unwrap_or(100).min(100);
    html! {
        h2 { "Storage" }
        p {
            (human::count(storage.cores, "core")) " take " (human::size(storage.bytes)) " of " (human::size(storage.max_use))
            " (MaxUse=); " (human::size(storage.free)) " of the volume are free."
        }
        div.gauge { div style=(format!("width:{percent}%")) {} }
    }
}

fn footer() -> Markup {
    html! { footer { "coreward " (env!("CARGO_PKG_VERSION")) ", " (time::short(now_us())) } }
}

fn now_us() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or(0)
}
