//! `coreward report`: a page about the crashes of some time, or about one crash, to read in a browser, mail or attach to an incident.

use super::atomic_file::AtomicFile;
use super::crash_context::CrashContext;
use super::crash_selector::text_parser;
use super::debuginfod;
use super::error::{CliError, ExportError};
use super::interrupt::Interrupts;
use super::privileges::{become_owner, run_as_owner};
use super::report_page::{self, Bar, Bug, Overview, Storage};
use super::state_volume::StateVolume;
use super::symbols::{Sources, Symbols};
use super::{explanations, human, lookup, time};
use crate::config;
use crate::crash::SignatureKey;
use crate::store::{self, Filter, Group, Layout, Occurrence, QueryError};
use clap::Args;
use coreward_wire::paths::Root;
use jiff::Timestamp;
use nix::unistd::Uid;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Options of `report`.
#[derive(Args, Debug)]
pub(super) struct ReportOptions {
    /// Report on this crash alone, named as for `info` [default: all crashes of the time]
    #[arg(value_name = "MATCH", value_parser = text_parser())]
    name: Option<String>,
    /// Report on crashes at or after this time, written as for `list` [default: -7d]
    #[arg(long, short = 'S', value_name = "TIME", value_parser = time::argument, allow_hyphen_values = true, conflicts_with = "name")]
    since: Option<Timestamp>,
    /// Report on crashes at or before this time
    #[arg(long, short = 'U', value_name = "TIME", value_parser = time::argument, allow_hyphen_values = true, conflicts_with = "name")]
    until: Option<Timestamp>,
    /// Write to FILE, readable by its owner only; "-" is standard output [default: -]
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace FILE if it exists
    #[arg(long, short = 'f', requires = "output")]
    force: bool,
}

const HOUR_US: u64 = 3_600_000_000;
const WEEK_US: u64 = 7 * 24 * HOUR_US;
/// The most bars of the time line: each is still to be seen on a telephone.
const MAX_BARS: u64 = 60;
/// The most bugs with a section of their own. The others are in the totals, and the page says how many there are.
const MAX_BUGS: usize = 200;

pub(super) fn run(
    root: &Root,
    caller: Uid,
    options: &ReportOptions,
    out: &mut dyn Write,
) -> Result<ExitCode, CliError> {
    let output = options.output.as_deref().filter(|path| *path != Path::new("-"));
    let Some(path) = output else {
        if io::stdout().is_terminal() {
            return Err(ExportError::TerminalPage.into());
        }
        become_owner(root)?;
        out.write_all(page(root, caller, options)?.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    };
    let interrupts = Interrupts::block().map_err(ExportError::Interrupts)?;
    // The file is the caller's, as that of `export`.
    let new = AtomicFile::create(path, options.force)?;
    run_as_owner(root, Some(&interrupts), || {
        let mut file = new.file();
        let written = file.write_all(page(root, caller, options)?.as_bytes());
        written.map_err(|error| CliError::File { path: path.to_owned(), error })
    })?;
    new.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn page(root: &Root, caller: Uid, options: &ReportOptions) -> Result<String, CliError> {
    let host = human::host_name();
    if let Some(name) = &options.name {
        let listed = lookup::find(root, Some(name))?;
        let context = CrashContext::look_up(root, &listed);
        let sources = Sources { root, caller, all_owners: false, cache: debuginfod::cache_dir(root, caller) };
        let symbols = Symbols::look_up(&listed.record, &sources, None);
        return Ok(report_page::crash(&host, &listed, &context, &symbols));
    }
    let until_us = time::microseconds(options.until.unwrap_or_else(Timestamp::now));
    let since_us = options.since.map_or(until_us.saturating_sub(WEEK_US), time::microseconds);
    Ok(report_page::overview(&overview(root, host, since_us, until_us)?))
}

/// Everything on the page about the crashes from `since_us` to `until_us`.
fn overview(root: &Root, host: String, since_us: u64, until_us: u64) -> Result<Overview, CliError> {
    let groups = match lookup::groups(root) {
        // Before the first crash.
        Err(CliError::Query(QueryError::NoCatalog(_))) => Vec::new(),
        groups => groups?,
    };
    let mut kept = kept(root, since_us, until_us)?;
    let mut time_line = TimeLine::new(since_us, until_us);
    let mut bugs = Vec::new();
    for group in groups {
        if group.last_us < since_us || group.first_us > until_us {
            continue;
        }
        let mut bug = BugBuilder::default();
        for occurrence in lookup::occurrences(root, &group.signature)? {
            if occurrence.last_us >= since_us && occurrence.first_us <= until_us {
                time_line.add(&group, &occurrence);
                bug.add(&occurrence);
            }
        }
        let is_new = group.first_us >= since_us;
        let outcomes = kept.remove(&group.signature).unwrap_or_default();
        // Rolled-up crashes may lie in an hour that is only partly in the interval.
        bugs.extend((bug.count > 0).then(|| bug.finish(group, is_new, outcomes)));
    }
    bugs.sort_by(|a, b| b.count.cmp(&a.count).then(b.last_us.cmp(&a.last_us)));
    let omitted = bugs.split_off(bugs.len().min(MAX_BUGS));
    Ok(Overview {
        host,
        since_us,
        until_us,
        crashes: bugs.iter().chain(&omitted).map(|bug| bug.count).sum(),
        signatures: bugs.len() + omitted.len(),
        new_signatures: bugs.iter().chain(&omitted).filter(|bug| bug.is_new).count(),
        bar_us: time_line.bar_us,
        bars: time_line.bars,
        bugs,
        omitted: omitted.len(),
        storage: storage(root),
    })
}

/// How many crashes of each signature had which outcome, as `list` names it. Crashes that were rolled up had no core.
fn kept(root: &Root, since_us: u64, until_us: u64) -> Result<HashMap<SignatureKey, BTreeMap<String, u64>>, CliError> {
    let filter = Filter { since_us: Some(since_us), until_us: Some(until_us), ..Filter::default() };
    let mut kept: HashMap<SignatureKey, BTreeMap<String, u64>> = HashMap::new();
    let counted = lookup::for_each_row(root, &filter, &mut |row| {
        let mut outcome = String::new();
        explanations::push_core_state(&mut outcome, row.core_state, row.stacks_only, row.no_core);
        *kept.entry(SignatureKey::new(row.signature)).or_default().entry(outcome).or_default() += 1;
    });
    match counted {
        Err(CliError::Query(QueryError::NoCatalog(_))) => Ok(HashMap::new()),
        counted => counted.map(|()| kept),
    }
}

fn storage(root: &Root) -> Option<Storage> {
    let volume = StateVolume::inspect(&Layout::new(root).cores, &config::load(root).config.quotas);
    let cores = store::stored_cores(root).ok()?;
    Some(Storage {
        cores: cores.len() as u64,
        bytes: cores.iter().map(|core| core.bytes).sum(),
        max_use: volume.limits.max_use,
        free: volume.free,
    })
}

/// The bars of the time line.
struct TimeLine {
    since_us: u64,
    bar_us: u64,
    bars: Vec<Bar>,
}

impl TimeLine {
    fn new(since_us: u64, until_us: u64) -> Self {
        // The catalog counts rolled-up crashes by the hour.
        let hours = until_us.saturating_sub(since_us).div_ceil(HOUR_US).max(1);
        let bar_us = hours.div_ceil(MAX_BARS) * HOUR_US;
        let count = usize::try_from((hours * HOUR_US).div_ceil(bar_us)).unwrap_or(0);
        let bars = (0_u64..).take(count).map(|number| Bar { from_us: since_us + number * bar_us, ..Bar::default() });
        Self { since_us, bar_us, bars: bars.collect() }
    }

    /// Crashes of several hours that were merged are spread evenly.
    fn add(&mut self, group: &Group, occurrence: &Occurrence) {
        let number = |time_us: u64| {
            let number = time_us.saturating_sub(self.since_us) / self.bar_us;
            usize::try_from(number).unwrap_or(usize::MAX).min(self.bars.len().saturating_sub(1))
        };
        let (first, last) = (number(occurrence.first_us), number(occurrence.last_us));
        let Some(bars) = self.bars.get_mut(first..=last) else { return };
        let length = bars.len() as u64;
        for (bar, index) in bars.iter_mut().zip(0..) {
            let share = occurrence.count / length + u64::from(index < occurrence.count % length);
            match group.signal_name.as_str() {
                "SEGV" | "BUS" => bar.memory += share,
                "ABRT" => bar.abort += share,
                _ => bar.other += share,
            }
        }
    }
}

/// Where the crashes of a bug happened.
#[derive(Default)]
struct BugBuilder {
    count: u64,
    last_us: u64,
    hosts: BTreeSet<String>,
    units: BTreeSet<String>,
    containers: BTreeSet<String>,
}

impl BugBuilder {
    fn add(&mut self, occurrence: &Occurrence) {
        self.count += occurrence.count;
        self.last_us = self.last_us.max(occurrence.last_us);
        let places = [
            (&mut self.hosts, &occurrence.hostname),
            (&mut self.units, &occurrence.unit),
            (&mut self.containers, &occurrence.container),
        ];
        for (set, name) in places {
            if !name.is_empty() {
                set.insert(name.clone());
            }
        }
    }

    fn finish(self, group: Group, is_new: bool, outcomes: BTreeMap<String, u64>) -> Bug {
        let listed: u64 = outcomes.values().sum();
        Bug {
            title: super::groups::title(&group),
            signature: group.signature.as_str().to_owned(),
            program: group.program.clone(),
            count: self.count,
            rolled_up: self.count.saturating_sub(listed),
            is_new,
            first_us: group.first_us,
            last_us: self.last_us,
            hosts: self.hosts.into_iter().collect(),
            units: self.units.into_iter().collect(),
            containers: self.containers.into_iter().collect(),
            outcomes: outcomes.into_iter().collect(),
            example: group.example,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(signal: &str) -> Group {
        Group {
            signature: SignatureKey::new("s"),
            count: 1,
            cores: 0,
            first_us: 0,
            last_us: 0,
            signal_name: signal.to_owned(),
            program: "/bin/x".to_owned(),
            example: None,
        }
    }

    fn occurrence(first_us: u64, last_us: u64, count: u64) -> Occurrence {
        let text = String::new;
        Occurrence { hostname: text(), unit: text(), container: text(), first_us, last_us, count }
    }

    #[test]
    fn the_time_line_has_few_bars_and_no_crash_is_missing_from_it() {
        let since = 1_780_000_000_000_000;
        for hours in [1, 24, 60, 61, 168, 24 * 365] {
            let until = since + hours * HOUR_US;
            let mut line = TimeLine::new(since, until);
            assert!(line.bars.len() as u64 <= MAX_BARS && line.bars.len() as u64 * line.bar_us >= until - since);
            line.add(&group("SEGV"), &occurrence(since, since + 1, 3));
            line.add(&group("ABRT"), &occurrence(until, until, 4));
            line.add(&group("ILL"), &occurrence(since - HOUR_US, until, 1001));
            let sum = |part: fn(&Bar) -> u64| line.bars.iter().map(part).sum::<u64>();
            assert_eq!((sum(|bar| bar.memory), sum(|bar| bar.abort), sum(|bar| bar.other)), (3, 4, 1001), "{hours}");
        }
    }
}
