//! The state of Coreward's units, as systemd reports it.

use super::remedy::Remedy;
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
    /// `loaded`, `masked`, `not-found`, ...
    pub(super) load: String,
    /// `active`, `inactive`, `failed`, ...
    pub(super) active: String,
    /// `running`, `listening`, `dead`, ...
    pub(super) sub: String,
    /// `enabled`, `disabled`, ... Empty: unknown.
    pub(super) enabled: String,
    /// `STATUS=` of the daemon (sd_notify(3)).
    pub(super) text: String,
    /// How often systemd has started it again by itself.
    pub(super) restarts: u64,
}

/// The unit of the daemon.
pub(super) const DAEMON: &str = "coreward.service";
/// The unit of the intake.
pub(super) const SOCKET: &str = "coreward.socket";
/// The unit that registers.
pub(super) const REGISTER: &str = "coreward-register.service";
/// The socket on which users ask.
pub(super) const QUERY: &str = "coreward-query.socket";

/// The units that `status` asks for.
pub(super) const NAMES: [&str; 4] = [DAEMON, SOCKET, REGISTER, QUERY];

impl Unit {
    /// The command that starts it now and at each boot.
    pub(super) fn start(&self) -> Remedy {
        let name = &self.name;
        let masked = if self.load == "masked" { format!("systemctl unmask {name} && ") } else { String::new() };
        Remedy::new(format!("{masked}systemctl enable --now {name}"))
    }
}

/// The units; `None` if systemd does not run on this machine, or `root` is not that of the machine.
pub(super) fn query_systemd(root: &Root) -> Option<Vec<Unit>> {
    query(root, &NAMES)
}

/// The same for other units.
pub(super) fn query(root: &Root, names: &[&str]) -> Option<Vec<Unit>> {
    let properties = ["show", "-p", "Id,LoadState,ActiveState,SubState,UnitFileState,StatusText,NRestarts"];
    let units = parse(&systemctl(root, &[properties.as_slice(), names].concat())?);
    (!units.is_empty()).then_some(units)
}

/// A property of a unit; `None` as for [`query_systemd`].
pub(super) fn property(root: &Root, unit: &str, name: &str) -> Option<String> {
    Some(systemctl(root, &["show", "--value", "-p", name, unit])?.trim().to_owned())
}

/// What systemctl(1) prints; `None` as for [`query_systemd`].
pub(super) fn systemctl(root: &Root, arguments: &[&str]) -> Option<String> {
    // sd_booted(3)
    if !root.is_system() || !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let output = Command::new("systemctl").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Parses the output of `systemctl show`: the properties of the units, separated by empty lines.
fn parse(text: &str) -> Vec<Unit> {
    let units = text.split("\n\n").filter_map(|block| {
        let properties: HashMap<&str, &str> = block.lines().filter_map(|line| line.split_once('=')).collect();
        let value = |name: &str| properties.get(name).map(|value| printable(value)).unwrap_or_default();
        Some(Unit {
            name: value("Id"),
            load: value("LoadState"),
            active: value("ActiveState"),
            sub: value("SubState"),
            enabled: value("UnitFileState"),
            text: value("StatusText"),
            restarts: value("NRestarts").parse().unwrap_or(0),
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
        let text = "NRestarts=7\nId=coreward.service\nLoadState=loaded\nStatusText=a=b\x1b\nActiveState=active\nSubState=running\n\n\
            Id=coreward.socket\nActiveState=inactive\nSubState=dead\n";
        let units = parse(text);
        assert_eq!(
            (units[0].active.as_str(), units[0].sub.as_str(), units[0].text.as_str()),
            ("active", "running", r"a=b\u{1b}")
        );
        assert_eq!((units[0].restarts, units[0].load.as_str(), units[1].restarts), (7, "loaded", 0));
        assert_eq!((units[1].name.as_str(), units[1].text.as_str(), units.len()), ("coreward.socket", "", 2));
        assert_eq!(parse(""), []);
    }
}
