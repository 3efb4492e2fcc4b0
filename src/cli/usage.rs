//! `coreward usage`.

use super::error::CliError;
use super::message::print_message;
use super::state_volume::StateVolume;
use super::table::Table;
use super::{human, json};
use crate::crash::text::printable;
use crate::policy::evict::Attribution;
use crate::store::{self, Layout, QueryError, StoredCore};
use clap::{Args, ValueEnum};
use coreward_wire::paths::Root;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

/// Options of `usage`.
#[derive(Args, Debug)]
pub(super) struct UsageOptions {
    /// Group the cores by this
    #[arg(long, value_enum, default_value_t = By::Unit)]
    by: By,
    /// Show a JSON object
    #[arg(long)]
    json: bool,
}

/// How cores are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// System units; outside of them, slices of containers and users
    Unit,
    /// Real user ids
    User,
    /// Paths of programs
    Executable,
    /// Signatures
    Signature,
}

/// The cores of one holder.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Share {
    cores: u64,
    bytes: u64,
    pinned_bytes: u64,
}

/// The output of `--json`; sizes are in bytes.
#[derive(Serialize)]
struct UsageReport {
    bytes: u64,
    cores: u64,
    pinned_bytes: u64,
    max_use: u64,
    keep_free: u64,
    free_bytes: u64,
    max_per_holder: u64,
    modules_bytes: u64,
    modules: u64,
    max_modules_use: u64,
    holders: Vec<Holder>,
}

/// A unit, user, executable or signature with its cores.
#[derive(Serialize)]
struct Holder {
    name: String,
    #[serde(flatten)]
    share: Share,
    /// The most bytes that its cores may take; `null`: it has no limit of its own.
    limit: Option<u64>,
}

pub(super) fn run(root: &Root, options: &UsageOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let cores = match store::stored_cores(root) {
        // Before the first crash.
        Err(QueryError::NoCatalog(_)) => Vec::new(),
        cores => cores?,
    };
    let usage = usage_report(root, options.by, &cores);
    if options.json {
        json::write(out, &usage)?;
        return Ok(ExitCode::SUCCESS);
    }
    let no_limit = || "no limit".to_owned();
    let limit = |bytes: u64| if bytes == u64::MAX { no_limit() } else { human::size(bytes) };
    writeln!(
        out,
        "{} in {} (MaxUse={}), {} of it pinned; {} free on the volume (KeepFree={})",
        human::size(usage.bytes),
        human::count(usage.cores, "core"),
        limit(usage.max_use),
        human::size(usage.pinned_bytes),
        human::size(usage.free_bytes),
        limit(usage.keep_free),
    )?;
    writeln!(
        out,
        "{} in {} (MaxModulesUse={})\n",
        human::size(usage.modules_bytes),
        human::count(usage.modules, "module"),
        limit(usage.max_modules_use),
    )?;
    if usage.holders.is_empty() {
        print_message("No core.");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["SIZE", "CORES", "PINNED", "LIMIT", "HOLDER"]);
    for Holder { name, share, limit: own } in &usage.holders {
        let pinned = if share.pinned_bytes > 0 { human::size(share.pinned_bytes) } else { String::new() };
        let size = human::size(share.bytes);
        table.push_row(&[&size, &share.cores.to_string(), &pinned, &own.map_or_else(no_limit, limit), name]);
    }
    table.write(out, true)?;
    Ok(ExitCode::SUCCESS)
}

fn usage_report(root: &Root, by: By, cores: &[StoredCore]) -> UsageReport {
    let dir = Layout::new(root).cores;
    let StateVolume { limits, free, .. } = StateVolume::inspect(&dir, &crate::config::load(root).config.quotas);
    let max_per_holder = match by {
        By::Unit => limits.per_unit,
        By::User => limits.per_user,
        By::Executable => limits.per_executable,
        By::Signature => limits.per_signature,
    };
    let mut holders: BTreeMap<String, Holder> = BTreeMap::new();
    for core in cores {
        let name = holder_name(&core.attribution, by);
        let limit = Some(max_per_holder).filter(|limit| *limit < u64::MAX && has_limit(&core.attribution, by));
        let new = || Holder { name: name.clone(), share: Share::default(), limit };
        let share = &mut holders.entry(name.clone()).or_insert_with(new).share;
        share.cores += 1;
        share.bytes += core.bytes;
        share.pinned_bytes += if core.pinned { core.bytes } else { 0 };
    }
    let mut holders: Vec<Holder> = holders.into_values().collect();
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.share.bytes));
    let (modules, modules_bytes) = store::stored_modules(root);
    UsageReport {
        modules,
        modules_bytes,
        max_modules_use: limits.modules,
        bytes: cores.iter().map(|core| core.bytes).sum(),
        cores: cores.len() as u64,
        pinned_bytes: cores.iter().filter(|core| core.pinned).map(|core| core.bytes).sum(),
        max_use: limits.max_use,
        keep_free: limits.keep_free,
        free_bytes: free,
        max_per_holder,
        holders,
    }
}

/// Whether the limit on each holder applies to this one: root has none as a user, and containers have no user.
fn has_limit(attribution: &Attribution, by: By) -> bool {
    match by {
        By::User => attribution.party.user().is_some_and(|uid| !uid.is_root()),
        By::Unit | By::Executable | By::Signature => true,
    }
}

fn holder_name(attribution: &Attribution, by: By) -> String {
    match by {
        By::Unit => printable(&attribution.principal.to_string()),
        By::User => attribution.party.user().map_or_else(|| printable(&attribution.principal.to_string()), human::user),
        By::Executable => printable(&attribution.program),
        By::Signature => printable(attribution.signature.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::{CrashKey, Party, Principal, SignatureKey};
    use nix::unistd::{Pid, Uid};

    #[test]
    fn root_has_no_limit_as_a_user() {
        let dir = tempfile::tempdir().unwrap();
        let of = |uid: u32| StoredCore {
            id: CrashKey { boot_id: String::new(), pid: Pid::from_raw(uid.cast_signed()), start_time: 0 }.id(),
            attribution: Attribution {
                principal: Principal::Unit("a".to_owned()),
                party: Party::User(Uid::from_raw(uid)),
                program: "/p".to_owned(),
                signature: SignatureKey::new("g"),
            },
            time_us: 0,
            bytes: 1,
            pinned: false,
        };
        let limits = |by| -> Vec<bool> {
            let report = usage_report(&Root::new(dir.path()), by, &[of(0), of(4_000_000_000)]);
            report.holders.iter().map(|holder| holder.limit.is_some()).collect()
        };
        assert_eq!(limits(By::User), [false, true]);
        assert_eq!((limits(By::Unit), limits(By::Executable)), (vec![true], vec![true]));
    }

    #[test]
    fn the_largest_holder_comes_first_and_the_shares_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let core = |number: i32, unit: &str, bytes: u64, pinned: bool| StoredCore {
            id: CrashKey { boot_id: String::new(), pid: Pid::from_raw(number), start_time: 0 }.id(),
            attribution: Attribution {
                principal: Principal::Unit(unit.to_owned()),
                party: Party::User(Uid::from_raw(0)),
                program: "/p".to_owned(),
                signature: SignatureKey::new("g"),
            },
            time_us: 0,
            bytes,
            pinned,
        };
        let all = [core(1, "a", 10, false), core(2, "b", 20, true), core(3, "b", 5, false)];
        let usage = usage_report(&Root::new(dir.path()), By::Unit, &all);
        let names: Vec<&str> = usage.holders.iter().map(|holder| holder.name.as_str()).collect();
        assert_eq!(names, ["unit b", "unit a"]);
        assert_eq!(usage.holders[0].share, Share { cores: 2, bytes: 25, pinned_bytes: 20 });
        assert_eq!((usage.bytes, usage.cores, usage.pinned_bytes), (35, 3, 20));
    }
}
