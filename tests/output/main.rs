//! Everything that users see, as snapshots: help texts, lists, details, JSON, journal entries and metrics.
//!
//! The files in `snapshots/` are the expected output. When output changes on purpose, `INSTA_UPDATE=always cargo test --test
//! output` rewrites them, and the difference is part of the review. Nothing here needs root or a crash: the records come from
//! `records.json`, whose field names are a public interface.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod completion;
mod crashes;
mod help;
mod machine;
mod report;
mod stacks;
mod terminal;

use machine::Machine;
use std::process::{Command, Output, Stdio};

/// Compares `text` with the snapshot `name`.
#[track_caller]
fn assert_output(name: &str, text: &str) {
    let mut settings = insta::Settings::new();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// Runs a program where time zone, terminal and environment are the same everywhere.
fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .env_clear()
        .env("TZ", "UTC")
        .env("COLUMNS", "100")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What a program wrote, and how it ended unless that was a success.
fn transcript(output: &Output) -> String {
    let mut text = String::from_utf8(output.stdout.clone()).unwrap();
    if !output.stderr.is_empty() {
        text.push_str("[standard error]\n");
        text.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    if !output.status.success() {
        text.push_str(&format!("[exit status {}]\n", output.status.code().unwrap()));
    }
    text
}

/// JSON with one field a line, so that a difference can be read. Nothing else is changed: a comma before a quotation mark is
/// always one between fields.
fn one_field_a_line(json: &str) -> String {
    json.replace(",\"", ",\n\"")
}
