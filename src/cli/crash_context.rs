//! What `coreward info` adds to a record: the values of settings that decided, and other crashes that explain this one.

use super::module_packages::{self, ModulePackage};
use super::titles::Titles;
use super::{human, lookup};
use crate::config;
use crate::crash::{CrashId, Keep, Reason, Record};
use crate::store::{self, Filter, Listed};
use coreward_wire::paths::Root;
use nix::unistd::Pid;

/// How long a wrapper such as `unshare --fork` may take to die of the signal that its child died of, in microseconds.
const REPEATED_WITHIN_US: u64 = 10_000_000;

/// What is known of a crash beyond its record.
#[derive(Debug, Default)]
pub(super) struct CrashContext {
    /// What the crash is, in a line.
    pub(super) title: String,
    /// The packages of the executable and of the modules on the stack.
    pub(super) packages: Vec<ModulePackage>,
    /// The settings that the decision names, with their present values for this crash.
    pub(super) settings: Option<String>,
    /// The newest crash of the same signature that has a core, if this one has none.
    pub(super) with_core: Option<String>,
    /// The child whose signal this process repeated, and its crash.
    pub(super) child: Option<(Pid, CrashId)>,
}

impl CrashContext {
    /// Looks it up. What cannot be read is left out.
    pub(super) fn look_up(root: &Root, listed: &Listed) -> Self {
        let record = &listed.record;
        Self {
            title: Titles::new(root).of(record),
            packages: module_packages::look_up(root, record),
            settings: settings(root, record),
            with_core: if listed.core_state.is_present() { None } else { newest_with_core(root, record) },
            child: repeated_child(root, record),
        }
    }
}

fn settings(root: &Root, record: &Record) -> Option<String> {
    let loaded = config::load(root);
    let unit = record.cgroup.unit.as_deref();
    let rules = loaded.overrides.apply(loaded.config.crash, unit, &record.program()).rules;
    let rate = |name: &str, rate: crate::policy::rate::Rate| {
        format!("{name}Burst={} {name}IntervalSec={}", rate.burst, human::span(rate.interval))
    };
    match record.decision.reason {
        Reason::Storm | Reason::StacksBurst => {
            let storm = rules.storm;
            let interval = human::span(storm.interval);
            Some(format!("StormBurst={} StormStacks={} StormIntervalSec={interval}", storm.burst, storm.stacks))
        }
        Reason::UnitRate => Some(rate("Unit", rules.unit)),
        Reason::UserRate => Some(rate("User", rules.user)),
        Reason::TotalRate => Some(rate("Total", rules.total)),
        _ => None,
    }
}

/// The newest crash of the same signature that has a core.
pub(super) fn newest_with_core(root: &Root, record: &Record) -> Option<String> {
    let signature = Some(record.signature_key().as_str().to_owned());
    let mut newest = None;
    let mut visit = |row: &store::CrashRow<'_>| {
        if row.core_state.is_present() {
            newest = Some(row.id.to_owned());
        }
    };
    lookup::for_each_row(root, &Filter { signature, ..Filter::default() }, &mut visit).ok()?;
    newest
}

/// A process that sends itself the signal of which its child died shortly before is no crash of its own.
fn repeated_child(root: &Root, record: &Record) -> Option<(Pid, CrashId)> {
    if !record.sent_by_itself() {
        return None;
    }
    let filter = Filter {
        signal: Some(record.signal_name.clone()),
        since_us: Some(record.time_us.saturating_sub(REPEATED_WITHIN_US)),
        until_us: Some(record.time_us),
        ..Filter::default()
    };
    let before = lookup::list(root, &filter).ok()?;
    let is_child = |child: &Record| {
        child.key.boot_id == record.key.boot_id && child.id != record.id && child.parent_pid() == Some(record.key.pid)
    };
    let child = before.into_iter().rev().map(|listed| listed.record).find(is_child)?;
    Some((child.key.pid, child.id))
}

/// How a decision is shown: what was to be kept, why, and the settings.
pub(super) fn decision(record: &Record, settings: Option<&str>) -> String {
    let reason = record.decision.reason.sentence();
    let now = settings.map(|settings| format!(" (now {settings})")).unwrap_or_default();
    let failed =
        record.decision.keep != Keep::Record && !record.core.is_stored() && record.decision.reason != Reason::Gone;
    let failed = if failed { ", but no core could be stored" } else { "" };
    format!("{}: {reason}{now}{failed}", record.decision.keep.words())
}
