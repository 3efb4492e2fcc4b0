//! What systemd says of Coreward's units.

use crate::crash::text::printable;
use coreward_wire::paths::Root;
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// A unit's state, in systemd's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Unit {
    pub(super) name: String,
    /// `active`, `inactive`, `failed`, ...
    pub(super) active: String,
    /// `running`, `listening`, `dead`, ...
    pub(super) sub: String,
    /// The daemon's own line.
    pub(super) text: String,
}

const NAMES: [&str; 3] = ["coreward.service", "coreward.socket", "coreward-register.service"];

/// Asks systemd; `None` where it does not run this machine, or where a test's tree is meant.
pub(super) fn ask(root: &Root) -> Option<Vec<Unit>> {
    // sd_booted(3)
    if !root.is_system() || !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let mut systemctl = Command::new("systemctl");
    systemctl.args(["show", "-p", "Id,ActiveState,SubState,StatusText"]).args(NAMES);
    let output = systemctl.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let units = parse(&String::from_utf8_lossy(&output.stdout));
    (!units.is_empty()).then_some(units)
}

/// Properties of one unit after the other, with an empty line between.
fn parse(text: &str) -> Vec<Unit> {
    let units = text.split("\n\n").filter_map(|block| {
        let properties: HashMap<&str, &str> = block.lines().filter_map(|line| line.split_once('=')).collect();
        let value = |name: &str| properties.get(name).map(|value| printable(value)).unwrap_or_default();
        Some(Unit {
            name: value("Id"),
            active: value("ActiveState"),
            sub: value("SubState"),
            text: value("StatusText"),
        })
        .filter(|unit| !unit.name.is_empty())
    });
    units.collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn systemds_answer_is_read() {
        let text = "Id=coreward.service\nStatusText=a=b\x1b\nActiveState=active\nSubState=running\n\n\
            Id=coreward.socket\nActiveState=inactive\nSubState=dead\n";
        let units = parse(text);
        assert_eq!(
            (units[0].active.as_str(), units[0].sub.as_str(), units[0].text.as_str()),
            ("active", "running", r"a=b\u{1b}")
        );
        assert_eq!((units[1].name.as_str(), units[1].text.as_str(), units.len()), ("coreward.socket", "", 2));
        assert_eq!(parse(""), []);
    }
}
