//! `coreward usage`.

use super::error::CliError;
use super::message::print_message;
use super::state_volume::StateVolume;
use super::table::Table;
use super::{human, json, lookup};
use crate::crash::text::printable;
use crate::policy::evict::Attribution;
use crate::query::UsageReply;
use crate::store::{self, Layout, QueryError, StoredCore, UsageBy, UsageShare};
use clap::{Args, ValueEnum};
use coreward_wire::paths::Root;
use nix::unistd::Uid;
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
    /// `null`: not known to this user.
    pinned_bytes: Option<u64>,
}

/// The output of `--json`; sizes are in bytes.
#[derive(Serialize)]
struct UsageReport {
    bytes: u64,
    cores: u64,
    pinned_bytes: Option<u64>,
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
    /// Whether the limit on each holder applies to this one.
    #[serde(skip)]
    is_limited: bool,
    /// The most bytes that its cores may take; `null`: it has no limit of its own.
    limit: Option<u64>,
}

const HEADER: [&str; 5] = ["SIZE", "CORES", "PINNED", "LIMIT", "HOLDER"];
const PINNED: usize = 2;

impl By {
    /// The same for the service.
    fn shares(self) -> UsageBy {
        match self {
            Self::Unit => UsageBy::Unit,
            Self::User => UsageBy::User,
            Self::Executable => UsageBy::Executable,
            Self::Signature => UsageBy::Signature,
        }
    }
}

pub(super) fn run(root: &Root, options: &UsageOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let holders = match lookup::usage(root, options.by.shares())? {
        Some(usage) => Holders::of_service(options.by, usage),
        None => {
            if lookup::is_incomplete(root) {
                print_message(lookup::INCOMPLETE);
            }
            let cores = match store::stored_cores(root) {
                // Before the first crash.
                Err(QueryError::NoCatalog(_)) => Vec::new(),
                cores => cores?,
            };
            Holders::of_cores(options.by, &cores)
        }
    };
    let usage = usage_report(root, options.by, holders);
    if options.json {
        json::write(out, &usage)?;
        return Ok(ExitCode::SUCCESS);
    }
    let no_limit = || "no limit".to_owned();
    let limit = |bytes: u64| if bytes == u64::MAX { no_limit() } else { human::size(bytes) };
    writeln!(
        out,
        "{} in {} (MaxUse={}){}; {} free on the volume (KeepFree={})",
        human::size(usage.bytes),
        human::count(usage.cores, "core"),
        limit(usage.max_use),
        usage.pinned_bytes.map(|bytes| format!(", {} of it pinned", human::size(bytes))).unwrap_or_default(),
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
    let mut table = Table::new(&HEADER);
    if usage.pinned_bytes.is_none() {
        table.hide_column(PINNED);
    }
    for Holder { name, share, limit: own, .. } in &usage.holders {
        let pinned = share.pinned_bytes.filter(|bytes| *bytes > 0).map(human::size).unwrap_or_default();
        let size = human::size(share.bytes);
        table.push_row(&[&size, &share.cores.to_string(), &pinned, &own.map_or_else(no_limit, limit), name]);
    }
    table.write(out, true)?;
    Ok(ExitCode::SUCCESS)
}

/// All holders with their cores, and the sums.
struct Holders {
    all: Share,
    holders: Vec<Holder>,
}

impl Holders {
    /// What the service says of the cores that the caller may know of. It cannot read them, so it knows no pins.
    fn of_service(by: By, usage: UsageReply) -> Self {
        let holder = |share: UsageShare| {
            let name = match (by, share.name.as_str()) {
                (By::Unit, "") => "(no unit)".to_owned(),
                (By::Unit, name) => format!("unit {}", printable(name)),
                (By::User, name) => {
                    name.parse().map_or_else(|_| "(not known)".to_owned(), |uid| human::user(Uid::from_raw(uid)))
                }
                (By::Executable | By::Signature, name) => printable(name),
            };
            // Root is asked for by nobody who has to ask.
            Holder {
                name,
                share: Share { cores: share.cores, bytes: share.bytes, pinned_bytes: None },
                is_limited: true,
                limit: None,
            }
        };
        Self {
            all: Share { cores: usage.cores, bytes: usage.bytes, pinned_bytes: None },
            holders: usage.shares.into_iter().map(holder).collect(),
        }
    }

    fn of_cores(by: By, cores: &[StoredCore]) -> Self {
        let mut holders: BTreeMap<String, Holder> = BTreeMap::new();
        let mut all = Share { pinned_bytes: Some(0), ..Share::default() };
        for core in cores {
            let name = holder_name(&core.attribution, by);
            let new = |name: &String| Holder {
                name: name.clone(),
                share: Share { pinned_bytes: Some(0), ..Share::default() },
                is_limited: has_limit(&core.attribution, by),
                limit: None,
            };
            all.add(core);
            holders.entry(name).or_insert_with_key(new).share.add(core);
        }
        Self { all, holders: holders.into_values().collect() }
    }
}

impl Share {
    fn add(&mut self, core: &StoredCore) {
        self.cores += 1;
        self.bytes += core.bytes;
        let pinned = if core.pinned { core.bytes } else { 0 };
        self.pinned_bytes = self.pinned_bytes.map(|bytes| bytes + pinned);
    }
}

fn usage_report(root: &Root, by: By, holders: Holders) -> UsageReport {
    let dir = Layout::new(root).cores;
    let StateVolume { limits, free, .. } = StateVolume::inspect(&dir, &crate::config::load(root).config.quotas);
    let max_per_holder = match by {
        By::Unit => limits.per_unit,
        By::User => limits.per_user,
        By::Executable => limits.per_executable,
        By::Signature => limits.per_signature,
    };
    let Holders { all, mut holders } = holders;
    for holder in &mut holders {
        holder.limit = Some(max_per_holder).filter(|limit| *limit < u64::MAX && holder.is_limited);
    }
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.share.bytes));
    let (modules, modules_bytes) = store::stored_modules(root);
    UsageReport {
        modules,
        modules_bytes,
        max_modules_use: limits.modules,
        bytes: all.bytes,
        cores: all.cores,
        pinned_bytes: all.pinned_bytes,
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
    use nix::unistd::Pid;

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
            let report = usage_report(&Root::new(dir.path()), by, Holders::of_cores(by, &[of(0), of(4_000_000_000)]));
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
        let usage = usage_report(&Root::new(dir.path()), By::Unit, Holders::of_cores(By::Unit, &all));
        let names: Vec<&str> = usage.holders.iter().map(|holder| holder.name.as_str()).collect();
        assert_eq!(names, ["unit b", "unit a"]);
        assert_eq!(usage.holders[0].share, Share { cores: 2, bytes: 25, pinned_bytes: Some(20) });
        assert_eq!((usage.bytes, usage.cores, usage.pinned_bytes), (35, 3, Some(20)));
    }
}
