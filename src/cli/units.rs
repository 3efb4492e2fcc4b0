//! The state of Coreward's units, as systemd reports it.

use crate::crash::text::printable;
use coreward_wire::paths::Root;
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// The state of a unit, in systemd's terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Unit {
    pub(super) name: String,
    /// `active`, `inactive`, `failed`, ...
    pub(super) active: String,
    /// `running`, `listening`, `dead`, ...
    pub(super) sub: String,
    /// `STATUS=` of the daemon (sd_notify(3)).
    pub(super) text: String,
}

const NAMES: [&str; 3] = ["coreward.service", "coreward.socket", "coreward-register.service"];

/// The units; `None` if systemd does not run on this machine, or `root` is not that of the machine.
pub(super) fn query_systemd(root: &Root) -> Option<Vec<Unit>> {
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

/// Parses the output of `systemctl show`: the properties of the units, separated by empty lines.
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
    fn the_output_of_systemctl_is_parsed() {
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
