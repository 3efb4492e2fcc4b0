//! `[Unit NAME]` and `[Executable PATH]`: other values for the crashes of some.

use super::ini::Assignment;
use super::keys::{Config, SECTION};
use glob::Pattern;

/// The sections, in the order in which they stand.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    lines: Vec<Line>,
}

#[derive(Debug, PartialEq, Eq)]
struct Line {
    of: Of,
    pattern: Pattern,
    key: String,
    value: String,
}

/// What a section is about. The order is that of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Unit,
    Executable,
}

impl Overrides {
    /// Takes a line of a section other than the machine's.
    ///
    /// # Errors
    /// In words, what is wrong; the line is ignored.
    pub(super) fn add(&mut self, line: &Assignment) -> Result<(), String> {
        let Assignment { section, key, value, .. } = line;
        let (kind, name) = section.split_once(char::is_whitespace).unwrap_or((section, ""));
        let name = name.trim();
        let of = match kind {
            "Unit" if name.is_empty() => {
                return Err("[Unit] names no unit, as [Unit nginx.service] does: ignored".to_owned());
            }
            "Unit" => Of::Unit,
            "Executable" if !name.starts_with(['/', '*', '[']) => {
                return Err(format!("[{section}] names no path, as [Executable /usr/bin/foo] does: ignored"));
            }
            "Executable" => Of::Executable,
            "" => return Err(format!("{key}= is in no section: it belongs into [{SECTION}]; ignored")),
            _ => {
                return Err(format!(
                    "[{section}] is no section: there are [{SECTION}], [Unit NAME] and [Executable PATH]; {key}= is ignored"
                ));
            }
        };
        let pattern =
            Pattern::new(name).map_err(|error| format!("[{section}] is no pattern: {}: ignored", error.msg))?;
        // Tried here, so that what is wrong is said once and not with every crash.
        Config::default().set(key, value)?;
        if !Config::is_of_a_crash(key) {
            return Err(format!("{key}= is of the whole machine: it belongs into [{SECTION}]; ignored"));
        }
        self.lines.push(Line { of, pattern, key: key.clone(), value: value.clone() });
        // Names go before patterns, executables before units, later lines before earlier ones.
        self.lines.sort_by_key(|line| (line.of, is_name(&line.pattern)));
        Ok(())
    }

    /// The configuration for a crash of this unit and this executable.
    pub fn apply(&self, config: &Config, unit: Option<&str>, exe: &str) -> Config {
        let mut config = config.clone();
        for line in &self.lines {
            let name = match line.of {
                Of::Unit => unit,
                Of::Executable => Some(exe),
            };
            if name.is_some_and(|name| line.pattern.matches(name)) {
                // It was tried when it was read.
                let _ = config.set(&line.key, &line.value);
            }
        }
        config
    }
}

/// The same as its pattern.
fn is_name(pattern: &Pattern) -> bool {
    !pattern.as_str().contains(['*', '?', '['])
}
