//! What one check of `coreward doctor`, or one station of `coreward selftest`, has found.

use super::remedy::Remedy;
use super::terminal::Style;
use crate::crash::text::printable;
use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Nothing is wrong.
    Ok,
    /// Crashes are collected, but something is worse than it could be.
    Warning,
    /// Crashes are lost, or are not shown where they should be.
    Failed,
    /// It could not be tried, or does not apply here.
    Skipped,
}

impl State {
    /// The word at the beginning of a line, with the spaces that follow it.
    pub(super) fn mark(self) -> String {
        let (mark, style) = match self {
            Self::Ok => ("[ok]  ", Style::Green),
            Self::Warning => ("[warn]", Style::Yellow),
            Self::Failed => ("[FAIL]", Style::Red),
            Self::Skipped => ("[skip]", Style::Dim),
        };
        style.paint(mark)
    }
}

/// What a check has found. The field names are those of `--json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was checked.
    pub(super) check: &'static str,
    pub(super) state: State,
    /// What is the case.
    pub(super) text: String,
    /// The command that helps.
    pub(super) remedy: Option<String>,
    /// The command with its purpose, for people.
    #[serde(skip)]
    advice: Option<String>,
}

impl Finding {
    pub(super) fn new(check: &'static str, state: State, text: impl AsRef<str>, remedy: Option<&Remedy>) -> Self {
        Self {
            check,
            state,
            text: printable(text.as_ref()),
            remedy: remedy.map(|remedy| remedy.command().to_owned()),
            advice: remedy.map(|remedy| printable(&remedy.to_string())),
        }
    }

    pub(super) fn ok(check: &'static str, text: impl AsRef<str>) -> Self {
        Self::new(check, State::Ok, text, None)
    }

    pub(super) fn skipped(check: &'static str, why: impl AsRef<str>) -> Self {
        Self::new(check, State::Skipped, why, None)
    }

    pub(super) fn warning(check: &'static str, text: impl AsRef<str>, remedy: &Remedy) -> Self {
        Self::new(check, State::Warning, text, Some(remedy))
    }

    pub(super) fn failed(check: &'static str, text: impl AsRef<str>, remedy: &Remedy) -> Self {
        Self::new(check, State::Failed, text, Some(remedy))
    }

    /// The finding as a line without its mark.
    pub(super) fn line(&self) -> String {
        let Self { check, text, .. } = self;
        match &self.advice {
            Some(advice) => format!("{check}: {text}. Remedy: {advice}"),
            None => format!("{check}: {text}"),
        }
    }
}
