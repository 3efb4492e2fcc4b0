//! `[Unit NAME]` and `[Executable PATH]`: settings for the crashes of some units and programs.
//!
//! Values and patterns are parsed when the files are read. For a crash, matching sections are copied over the machine's
//! settings; nothing is parsed again.

use super::ini::Assignment;
use super::keys::{Key, KeyOf};
use super::settings::{Config, CrashConfig};
use glob::Pattern;

/// The section of the whole machine.
pub(super) const MACHINE_SECTION: &str = "Coreward";

/// The sections, in rising precedence.
#[derive(Debug, Default)]
pub struct Overrides {
    sections: Vec<Section>,
}

#[derive(Debug)]
struct Section {
    scope: Scope,
    pattern: Pattern,
    /// The keys that the section sets.
    keys: Vec<&'static KeyOf<CrashConfig>>,
    /// Their values. The other settings mean nothing.
    values: CrashConfig,
}

/// What the pattern of a section is compared with, in rising precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Unit,
    Executable,
}

impl Overrides {
    /// Adds a line of a section other than `[Coreward]`.
    ///
    /// # Errors
    /// What is wrong with the line, which is ignored.
    pub(super) fn add(&mut self, line: &Assignment) -> Result<(), String> {
        let (scope, pattern) = parse_heading(&line.section, &line.key)?;
        match Key::find(&line.key)? {
            Key::Crash(key) => {
                let mut values = CrashConfig::default();
                key.assign(&mut values, &line.value)?;
                let section = self.section(scope, pattern);
                key.copy(&mut section.values, &values);
                section.keys.push(key);
                Ok(())
            }
            Key::Machine(key) => {
                // Wrong values are reported also where the key has no business.
                key.assign(&mut Config::default(), &line.value)?;
                let key = &line.key;
                Err(format!("{key}= applies to the whole machine: it belongs in [{MACHINE_SECTION}]; ignored"))
            }
        }
    }

    /// The section to which a line is added: behind all of the same or of lower precedence. Executables take precedence over
    /// units, exact names over patterns, later sections over earlier ones.
    fn section(&mut self, scope: Scope, pattern: Pattern) -> &mut Section {
        let rank = |scope: Scope, pattern: &Pattern| (scope, is_exact(pattern));
        let rank_here = rank(scope, &pattern);
        let end = self.sections.partition_point(|section| rank(section.scope, &section.pattern) <= rank_here);
        let last = end.checked_sub(1).filter(|last| {
            let last = &self.sections[*last];
            last.scope == scope && last.pattern == pattern
        });
        let index = last.unwrap_or_else(|| {
            self.sections.insert(end, Section { scope, pattern, keys: Vec::new(), values: CrashConfig::default() });
            end
        });
        &mut self.sections[index]
    }

    /// The settings for a crash of this unit and this executable, where `config` are those of the machine.
    #[must_use]
    pub fn apply(&self, mut config: CrashConfig, unit: Option<&str>, exe: &str) -> CrashConfig {
        for section in &self.sections {
            let name = match section.scope {
                Scope::Unit => unit,
                Scope::Executable => Some(exe),
            };
            if name.is_some_and(|name| section.pattern.matches(name)) {
                section.keys.iter().for_each(|key| key.copy(&mut config, &section.values));
            }
        }
        config
    }
}

/// The scope and the pattern of a section; `key` is the first word of its line, for messages.
fn parse_heading(section: &str, key: &str) -> Result<(Scope, Pattern), String> {
    let (kind, name) = section.split_once(char::is_whitespace).unwrap_or((section, ""));
    let name = name.trim();
    let scope = match kind {
        "Unit" if name.is_empty() => {
            return Err("[Unit] names no unit: write [Unit nginx.service], for example; ignored".to_owned());
        }
        "Unit" => Scope::Unit,
        "Executable" if !name.starts_with(['/', '*', '[']) => {
            return Err(format!(
                "[{section}] names no absolute path: write [Executable /usr/bin/foo], for example; ignored"
            ));
        }
        "Executable" => Scope::Executable,
        "" => return Err(format!("{key}= stands before any section: it belongs in [{MACHINE_SECTION}]; ignored")),
        _ => {
            return Err(format!(
                "[{section}] is not a section: the sections are [{MACHINE_SECTION}], [Unit NAME] and [Executable PATH]; {key}= is ignored"
            ));
        }
    };
    let pattern =
        Pattern::new(name).map_err(|error| format!("[{section}] is not a valid pattern: {}: ignored", error.msg))?;
    Ok((scope, pattern))
}

/// Whether the pattern matches only itself.
fn is_exact(pattern: &Pattern) -> bool {
    !pattern.as_str().contains(['*', '?', '['])
}
