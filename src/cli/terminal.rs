//! Standard output as a terminal: its width, and whether it shows colours. Where it is none, nothing is coloured and nothing is cut.

use std::env;
use std::io::{self, IsTerminal};
use std::sync::OnceLock;

/// How output is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terminal {
    pub(super) colours: bool,
    /// Columns into which tables are made to fit; `None`: they need not.
    pub(super) width: Option<usize>,
}

static TERMINAL: OnceLock<Terminal> = OnceLock::new();

/// Looks at standard output, once, before anything is written. With `full` tables are as wide as they are.
pub(super) fn inspect(full: bool) {
    if io::stdout().is_terminal() {
        let width = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        let variable = |name: &str| env::var(name).ok();
        let (systemd, no_color, term) = (variable("SYSTEMD_COLORS"), variable("NO_COLOR"), variable("TERM"));
        let colours = wants_colours(systemd.as_deref(), no_color.as_deref(), term.as_deref());
        let _ = TERMINAL.set(Terminal { colours, width: width.filter(|_| !full) });
    }
}

/// What [`inspect`] found; no terminal before.
pub(super) fn terminal() -> Terminal {
    TERMINAL.get().copied().unwrap_or_default()
}

/// As systemd's tools decide it on a terminal: a boolean, or the number of colours or bits in `SYSTEMD_COLORS`; otherwise `NO_COLOR`
/// (<https://no-color.org>) and `TERM=dumb`.
fn wants_colours(systemd: Option<&str>, no_color: Option<&str>, term: Option<&str>) -> bool {
    match systemd.map(str::to_lowercase).as_deref() {
        Some("0" | "no" | "n" | "false" | "f" | "off") => false,
        Some(
            "1" | "yes" | "y" | "true" | "t" | "on" | "16" | "256" | "24bit" | "auto-16" | "auto-256" | "auto-24bit",
        ) => true,
        _ => no_color.is_none_or(str::is_empty) && term.is_none_or(|term| term != "dumb"),
    }
}

/// A look of text, as an escape sequence of ECMA-48 (console_codes(4)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Underlined,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Style {
    /// The sequences before and after the text; empty where no colours are shown.
    pub(super) fn sequences(self) -> (&'static str, &'static str) {
        if !terminal().colours {
            return ("", "");
        }
        self.escapes()
    }

    fn escapes(self) -> (&'static str, &'static str) {
        const END: &str = "\x1b[0m";
        match self {
            Self::Plain => ("", ""),
            Self::Underlined => ("\x1b[4m", END),
            Self::Dim => ("\x1b[2m", END),
            Self::Red => ("\x1b[1;31m", END),
            Self::Green => ("\x1b[32m", END),
            Self::Yellow => ("\x1b[33m", END),
        }
    }

    pub(super) fn paint(self, text: &str) -> String {
        let (begin, end) = self.sequences();
        format!("{begin}{text}{end}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_colours() {
        let wants = |systemd: &'static str, no_color: &'static str, term: &'static str| {
            let set = |value: &'static str| Some(value).filter(|value| *value != "-");
            wants_colours(set(systemd), set(no_color), set(term))
        };
        assert!(wants("-", "-", "xterm") && wants("-", "", "xterm") && wants("-", "-", "-"));
        assert!(!wants("-", "1", "xterm") && !wants("-", "-", "dumb"));
        assert!(!wants("0", "-", "xterm") && !wants("false", "-", "xterm"));
        assert!(wants("1", "1", "dumb") && wants("256", "1", "xterm"), "the more special one decides");
        assert!(!wants("what", "1", "xterm"));
    }

    #[test]
    fn a_pipe_gets_plain_text() {
        assert_eq!(terminal(), Terminal::default());
        assert_eq!(Style::Red.paint("a"), "a");
    }
}
