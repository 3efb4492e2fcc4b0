//! `coreward selftest`: lets processes crash in different places, and follows each crash from the kernel to where operators look.

use super::error::{CliError, SelftestError};
use super::finding::{Finding, State};
use super::machine_checks::output;
use super::message::print_message;
use super::privileges::run_as_owner;
use super::remedy::Remedy;
use super::remove::{open_cores, write_down_removal};
use super::selftest_canary::{COMM, Canary, Place};
use super::unpack::CoreReader;
use super::{explanations, human, json, metrics_client, shim_check, time, units};
use crate::crash::{NoCore, Origin, signal};
use crate::registration::{KernelSettings, Sysctl, SysctlKey, words_of};
use crate::store::{self, CoreState, Filter, Listed};
use clap::Args;
use coreward_wire::paths::{Root, SPOOL, SPOOL_SUFFIX};
use nix::unistd::{User, geteuid};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// Options of `selftest`.
#[derive(Args, Debug)]
pub(super) struct SelftestOptions {
    /// Show a JSON object
    #[arg(long)]
    json: bool,
    /// Show what would be done, but let nothing crash
    #[arg(long)]
    dry_run: bool,
    /// The ordinary user whose process crashes
    #[arg(long, value_name = "USER", default_value = "nobody")]
    user: String,
    /// The signal that ends the processes; with ABRT, alerts for crashes fire as well
    #[arg(long, value_name = "SIGNAL", default_value = "QUIT", value_parser = core_signal)]
    signal: String,
    /// Where the daemon's metrics are served [default: where coreward-metrics.socket listens]
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<String>,
}

/// How long a crash may take until it is recorded: the shim offers it for 15 s, then it goes to the spool.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take from there to the journal and the metrics.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// How long a crash that the kernel handed to nobody is waited for all the same.
const UNLIKELY: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_millis(10);

fn core_signal(text: &str) -> Result<String, String> {
    const DUMPING: [&str; 10] = ["QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "SEGV", "XCPU", "XFSZ", "SYS"];
    let name = human::signal_name_of(text)?;
    if DUMPING.contains(&name.as_str()) {
        Ok(name)
    } else {
        Err(format!("no core is dumped for it: one of {}", DUMPING.join(", ")))
    }
}

/// A place on the way of a crash, and how it was passed.
#[derive(Serialize)]
struct Station {
    #[serde(flatten)]
    finding: Finding,
    /// Time since the process was started, in microseconds.
    time_us: Option<u64>,
}

/// What became of one canary. The field names are those of `--json`.
#[derive(Serialize)]
struct CanaryReport {
    place: &'static str,
    id: Option<String>,
    stations: Vec<Station>,
}

#[derive(Serialize)]
struct SelftestReport {
    passed: bool,
    canaries: Vec<CanaryReport>,
}

pub(super) fn run(root: &Root, options: &SelftestOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let user = User::from_name(&options.user).ok().flatten();
    let user = user.filter(|user| !user.uid.is_root()).ok_or_else(|| SelftestError::User(options.user.clone()))?;
    if !options.dry_run && !geteuid().is_root() {
        return Err(SelftestError::NotRoot.into());
    }
    let plan = plan(options);
    if options.json {
        print_message(&plan);
    } else {
        writeln!(out, "{plan}")?;
        out.flush()?;
    }
    if options.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    let program = std::env::current_exe().map_err(|error| CliError::File { path: "/proc/self/exe".into(), error })?;
    let metrics = options.metrics.clone().or_else(|| metrics_client::address(root));
    let mut report = SelftestReport { passed: true, canaries: Vec::new() };
    let mut is_broken = false;
    for (place, number) in Place::ALL.into_iter().zip(1..) {
        let token = format!("{}-{number}", std::process::id());
        let canary = Canary { place, token: &token, user: &user, signal: &options.signal, program: &program };
        let run = Run { root, canary, metrics: metrics.as_deref() };
        let found = if is_broken { run.untried() } else { run.crash()? };
        let has_failed = |check: &str| {
            found
                .stations
                .iter()
                .any(|station| station.finding.check == check && station.finding.state == State::Failed)
        };
        // The others would fail in the same way, and some of them late.
        is_broken |= has_failed(SHIM) && place != Place::Privileged || has_failed(DAEMON);
        report.passed &= found.stations.iter().all(|station| station.finding.state != State::Failed);
        if !options.json {
            write(place, &found, out)?;
            out.flush()?;
        }
        report.canaries.push(found);
    }
    if options.json {
        json::write(out, &report)?;
    } else if report.passed {
        writeln!(out, "\nCrashes are collected, stored and shown.")?;
    } else {
        writeln!(out, "\nThe self-test FAILED; coreward doctor looks further.")?;
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is about to happen.
fn plan(options: &SelftestOptions) -> String {
    let SelftestOptions { user, signal, .. } = options;
    format!(
        "Five processes of this command crash by SIG{signal}, one after the other: root's, one of user {user}, one that changed its user,\n\
         one in namespaces of its own and one in a transient unit. Their crashes are real: they are recorded and counted like all\n\
         others. Their cores are deleted at once; the records stay, and `coreward list {COMM}` shows them."
    )
}

fn write(place: Place, found: &CanaryReport, out: &mut dyn Write) -> std::io::Result<()> {
    let id = found.id.as_ref().map_or_else(String::new, |id| format!(" ({id})"));
    writeln!(out, "\n{}{id}", place.title())?;
    for Station { finding, time_us } in &found.stations {
        let time = time_us.map(human::duration).unwrap_or_default();
        writeln!(out, "  {} {time:>9}  {}", finding.state.mark(), finding.line())?;
    }
    Ok(())
}

const SHIM: &str = "shim";
const DAEMON: &str = "daemon";
const STORE: &str = "store";
const CATALOG: &str = "catalog";
const JOURNAL: &str = "journal";
const METRIC: &str = "metric";

/// One canary on its way.
struct Run<'a> {
    root: &'a Root,
    canary: Canary<'a>,
    metrics: Option<&'a str>,
}

/// What the catalog and the store say of the crash.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    id: String,
    /// When it was found in the catalog and when its core had been read, since the start of the process.
    recorded_us: u64,
    read_us: u64,
    held_us: u64,
    from_spool: bool,
    program: String,
    signal: String,
    uid: Option<u32>,
    unit: Option<String>,
    privileged: bool,
    in_namespace: bool,
    core: CoreFound,
}

#[derive(Debug, Serialize, Deserialize)]
enum CoreFound {
    /// It could be read to its end.
    Whole { bytes: u64, stored: u64 },
    /// None was kept, on purpose.
    Declined(String),
    /// None was kept, or it cannot be read.
    Lost(String),
}

impl Run<'_> {
    fn untried(&self) -> CanaryReport {
        let station =
            Station { finding: Finding::skipped(SHIM, "not tried, because an earlier crash got lost"), time_us: None };
        CanaryReport { place: self.canary.place.name(), id: None, stations: vec![station] }
    }

    fn skipped(&self, why: impl AsRef<str>) -> CanaryReport {
        let station = Station { finding: Finding::skipped(SHIM, why), time_us: None };
        CanaryReport { place: self.canary.place.name(), id: None, stations: vec![station] }
    }

    /// Lets the process crash, and follows the crash.
    fn crash(&self) -> Result<CanaryReport, CliError> {
        if self.canary.place == Place::Unit && units::query_systemd(&Root::default()).is_none() {
            return Ok(self.skipped("systemd does not run here"));
        }
        let counted_before = self.metrics.map(metrics_client::scrape);
        let since_us = time::now_us().saturating_sub(1_000_000);
        let begun = Instant::now();
        let mut child = match self.canary.command().spawn() {
            Ok(child) => child,
            Err(error) => return Ok(self.skipped(format!("{:?}: {error}", self.canary.command().get_program()))),
        };
        let ended = wait(&mut child, begun + TIMEOUT);
        let ended_us = elapsed_us(begun);
        if let Some(why) = self.why_no_crash(ended, &mut child) {
            return Ok(self.skipped(why));
        }
        let was_dumped = ended.is_some_and(|status| status.core_dumped()) || !self.canary.is_child();
        let deadline = if was_dumped { begun + TIMEOUT } else { Instant::now() + UNLIKELY };
        let token = self.canary.token.to_owned();
        let root = self.root;
        let (recorded, spooled) = run_as_owner(root, None, || {
            let recorded = find(root, &token, since_us, begun, deadline)?;
            let spooled = recorded.is_none() && spooled_since(root, since_us);
            Ok((recorded, spooled))
        })?;
        let _ = child.kill();
        let _ = child.wait();
        let mut stations = Vec::new();
        let Some(recorded) = recorded else {
            let shim = if was_dumped && (spooled || self.canary.is_child()) {
                Finding::ok(SHIM, "the kernel handed the crash over")
            } else {
                self.why_no_shim()
            };
            let reached_shim = shim.state == State::Ok;
            stations.push(Station { finding: shim, time_us: Some(ended_us) });
            if reached_shim {
                stations.push(Station { finding: self.why_not_recorded(spooled), time_us: None });
            }
            return Ok(CanaryReport { place: self.canary.place.name(), id: None, stations });
        };
        let mut push = |finding, time_us| stations.push(Station { finding, time_us: Some(time_us) });
        let held = human::duration(recorded.held_us);
        push(Finding::ok(SHIM, format!("the kernel started it, and it held the process for {held}")), ended_us);
        push(daemon_station(&recorded), recorded.recorded_us);
        push(store_station(&recorded), recorded.read_us);
        push(self.catalog(&recorded), recorded.read_us);
        push(self.journal(&recorded), elapsed_us(begun));
        push(self.metric(&recorded, counted_before), elapsed_us(begun));
        Ok(CanaryReport { place: self.canary.place.name(), id: Some(recorded.id), stations })
    }

    /// Why the process was not ended by its signal.
    fn why_no_crash(&self, ended: Option<ExitStatus>, child: &mut Child) -> Option<String> {
        let is_crash = match (ended, self.canary.place) {
            // It is being dumped, or systemd-run tells only that the unit failed.
            (None, _) | (_, Place::Unit) => true,
            (Some(status), Place::Namespaces) => status.success(),
            (Some(status), _) => status.signal().is_some(),
        };
        if is_crash {
            return None;
        }
        let mut said = String::new();
        if let Some(stderr) = &mut child.stderr {
            let _ = stderr.take(4096).read_to_string(&mut said);
        }
        Some(format!("it did not crash: {}", if said.is_empty() { "it ended by itself" } else { said.trim() }))
    }

    /// Why the kernel did not hand the crash to the shim.
    fn why_no_shim(&self) -> Finding {
        let lost = |text: &str, remedy: &Remedy| Finding::failed(SHIM, text, remedy);
        let register = match units::query(self.root, &[units::REGISTER]).and_then(|units| units.into_iter().next()) {
            Some(unit) if unit.active != "active" => unit.start(),
            Some(_) => Remedy::new(format!("systemctl reload {}", units::REGISTER)),
            None => Remedy::new("coreward register"),
        };
        let settings = match KernelSettings::read(&Sysctl::kernel()) {
            Ok(settings) => settings,
            Err(error) => return lost(&error.to_string(), &register),
        };
        if !settings.is_ours(SysctlKey::CorePattern, self.root) {
            return lost(&format!("the kernel sends crashes elsewhere: \"{}\"", settings.core_pattern), &register);
        }
        let shim: PathBuf = words_of(&settings.core_pattern).next().unwrap_or_default().into();
        if let Err(error) = shim_check::execute(&shim) {
            return lost(&error.to_string(), &error.remedy());
        }
        if self.canary.place == Place::Privileged && !settings.is_ours(SysctlKey::SuidDumpable, self.root) {
            let text = format!("fs.suid_dumpable is {}: the kernel does not dump it", settings.suid_dumpable);
            return lost(&text, &register);
        }
        lost(
            "the kernel did not start the shim, or it got lost there",
            &Remedy::to("the kernel's log says why", "dmesg | tail"),
        )
    }

    fn why_not_recorded(&self, spooled: bool) -> Finding {
        let text = if spooled {
            "no daemon took the crash: the shim saved it in the spool"
        } else {
            "the daemon did not record the crash"
        };
        let remedy = if units::query_systemd(self.root).is_some() {
            Remedy::to(
                "see what it does (journalctl -e -u coreward.service), or restart it",
                "systemctl restart coreward.socket coreward.service",
            )
        } else {
            Remedy::new("start corewardd on its socket")
        };
        Finding::failed(DAEMON, text, &remedy)
    }

    /// Whether the record says where the process crashed.
    fn catalog(&self, recorded: &Recorded) -> Finding {
        let wanted_uid = match self.canary.place {
            Place::User | Place::Privileged => self.canary.user.uid.as_raw(),
            Place::Root | Place::Namespaces | Place::Unit => 0,
        };
        let unit = self.canary.unit();
        let wrong = [
            (recorded.uid != Some(wanted_uid), format!("the user is {:?}, not {wanted_uid}", recorded.uid)),
            (recorded.signal != self.canary.signal, format!("the signal is {}", recorded.signal)),
            (self.canary.place == Place::Privileged && !recorded.privileged, "its user may read the core".to_owned()),
            (self.canary.place == Place::User && recorded.privileged, "its user may not read the core".to_owned()),
            (self.canary.place == Place::Namespaces && !recorded.in_namespace, "no namespaces".to_owned()),
            (
                self.canary.place == Place::Unit && recorded.unit.as_deref() != Some(unit.as_str()),
                format!("the unit is {:?}, not {unit}", recorded.unit),
            ),
        ];
        let wrong: Vec<String> = wrong.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, text)| text).collect();
        if wrong.is_empty() {
            return Finding::ok(CATALOG, "the record says what crashed, and where");
        }
        let info = Remedy::to("see the record", format!("coreward info {}", recorded.id));
        Finding::failed(CATALOG, format!("the record is wrong: {}", wrong.join(", ")), &info)
    }

    fn journal(&self, recorded: &Recorded) -> Finding {
        if !self.root.is_system() {
            return Finding::skipped(JOURNAL, "it is not that of this tree");
        }
        if !self.root.journal_socket().exists() {
            return Finding::skipped(JOURNAL, "journald does not run here");
        }
        let field = format!("COREWARD_ID={}", recorded.id);
        let begun = Instant::now();
        loop {
            match output("journalctl", &["--quiet", "--no-pager", "--output=cat", "--lines=1", &field]) {
                Some(entry) if !entry.trim().is_empty() => {
                    return Finding::ok(JOURNAL, format!("journalctl {field} shows it"));
                }
                _ if begun.elapsed() > SHOWN_WITHIN => {
                    let remedy = Remedy::to("see what journald does", "systemctl status systemd-journald.service");
                    return Finding::failed(JOURNAL, format!("journalctl {field} shows nothing"), &remedy);
                }
                _ => sleep(10 * INTERVAL),
            }
        }
    }

    /// Whether the counter has been raised since `before`.
    fn metric(&self, recorded: &Recorded, before: Option<std::io::Result<String>>) -> Finding {
        const COUNTER: &str = "coredump_process_count";
        let Some(address) = self.metrics else {
            return Finding::skipped(METRIC, "nothing tells where they are served: --metrics HOST:PORT");
        };
        let start = || Remedy::new(format!("systemctl enable --now {}", metrics_client::SOCKET));
        let labels = [format!("program=\"{}\"", escaped(&recorded.program)), format!("signal=\"{}\"", recorded.signal)];
        let count = |text: &str, labels: &[String]| metrics_client::sum(text, COUNTER, labels);
        let before = match before {
            Some(Ok(text)) => text,
            Some(Err(error)) => return Finding::failed(METRIC, format!("http://{address}/metrics: {error}"), &start()),
            None => String::new(),
        };
        let begun = Instant::now();
        loop {
            let text = match metrics_client::scrape(address) {
                Ok(text) => text,
                Err(error) => return Finding::failed(METRIC, format!("http://{address}/metrics: {error}"), &start()),
            };
            if count(&text, &labels) > count(&before, &labels) {
                return Finding::ok(METRIC, format!("{COUNTER}{{{}}} is {}", labels.join(","), count(&text, &labels)));
            }
            if begun.elapsed() > SHOWN_WITHIN {
                // The catalog bounds the number of label sets.
                if count(&text, &[]) > count(&before, &[]) {
                    return Finding::ok(METRIC, format!("{COUNTER} has gone up, for program=\"other\""));
                }
                let log = Remedy::to("see what the daemon does", "journalctl -e -u coreward.service");
                return Finding::failed(METRIC, format!("{COUNTER} has not gone up"), &log);
            }
            sleep(10 * INTERVAL);
        }
    }
}

/// A label's value as the text format writes it.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

fn daemon_station(recorded: &Recorded) -> Finding {
    if recorded.from_spool {
        let log = Remedy::to("see why it took the crash from the spool", "journalctl -e -u coreward.service");
        return Finding::warning(DAEMON, "it did not take the crash from the shim", &log);
    }
    Finding::ok(DAEMON, "it took the crash from the shim")
}

fn store_station(recorded: &Recorded) -> Finding {
    match &recorded.core {
        CoreFound::Whole { bytes, stored } => {
            let (bytes, stored) = (human::size(*bytes), human::size(*stored));
            Finding::ok(STORE, format!("a core of {bytes} was stored in {stored} and could be read; it is deleted"))
        }
        CoreFound::Declined(why) => Finding::ok(STORE, format!("no whole core was to be stored: {why}")),
        CoreFound::Lost(why) => {
            let usage = Remedy::to("see what there is room for", "coreward usage");
            Finding::failed(STORE, why, &usage)
        }
    }
}

/// Waits until the process ends; `None`: it did not in time.
fn wait(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => sleep(Duration::from_millis(1)),
            _ => return None,
        }
    }
}

/// Waits until the crash of the canary is recorded, then reads its core and deletes it.
fn find(
    root: &Root,
    token: &str,
    since_us: u64,
    begun: Instant,
    deadline: Instant,
) -> Result<Option<Recorded>, CliError> {
    let filter = Filter { since_us: Some(since_us), ..Filter::default() };
    loop {
        let crashes = match store::list(root, &filter) {
            Err(store::QueryError::NoCatalog(_)) => Vec::new(),
            crashes => crashes?,
        };
        let is_canary = |listed: &Listed| {
            listed.record.comm == COMM && listed.record.cmdline.split(' ').any(|argument| argument == token)
        };
        if let Some(listed) = crashes.into_iter().find(is_canary) {
            let recorded_us = elapsed_us(begun);
            let core = read_core(root, &listed);
            let read_us = elapsed_us(begun);
            if listed.core_state.is_present() {
                delete(root, &listed);
            }
            let record = listed.record;
            return Ok(Some(Recorded {
                program: record.program(),
                id: record.id.to_string(),
                recorded_us,
                read_us,
                held_us: record.held_us,
                from_spool: record.origin == Origin::Spool,
                signal: signal::name(record.signal),
                uid: record.uid.map(nix::unistd::Uid::as_raw),
                unit: record.cgroup.unit,
                privileged: record.privileged,
                in_namespace: record.in_namespace,
                core,
            }));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        sleep(INTERVAL);
    }
}

fn read_core(root: &Root, listed: &Listed) -> CoreFound {
    let core = &listed.record.core;
    match (listed.core_state, core.outcome) {
        (CoreState::None, crate::crash::CoreOutcome::None(reason)) => {
            let why = explanations::why_no_core(listed).unwrap_or_default().to_owned();
            match reason {
                NoCore::Storm | NoCore::Rate | NoCore::Configured | NoCore::Limit => CoreFound::Declined(why),
                _ => CoreFound::Lost(why),
            }
        }
        (CoreState::Truncated, _) if listed.stacks_only() => {
            CoreFound::Declined("only the stacks, as configured".to_owned())
        }
        (CoreState::Stored, _) => {
            let read = CoreReader::open(root, listed).map_err(CliError::from);
            match read.and_then(|reader| reader.stream_to(&mut std::io::sink())) {
                Ok(()) => CoreFound::Whole { bytes: core.bytes, stored: core.stored },
                Err(error) => CoreFound::Lost(error.to_string()),
            }
        }
        (CoreState::Truncated, _) => {
            let why = core.truncated.map(explanations::why_truncated).unwrap_or_default();
            CoreFound::Lost(format!("the core is not complete: {why}"))
        }
        _ => CoreFound::Lost(explanations::why_no_core(listed).unwrap_or_default().to_owned()),
    }
}

/// Deletes the core of a canary: there is nothing in it to look for.
fn delete(root: &Root, listed: &Listed) {
    let id = listed.id();
    let deleted = open_cores(root).map(|(_, dir)| store::delete_core(&dir, id).is_ok());
    if matches!(deleted, Ok(true)) {
        write_down_removal(root, std::slice::from_ref(id));
    }
}

/// Whether a shim has saved a crash since this time.
fn spooled_since(root: &Root, since_us: u64) -> bool {
    let since = SystemTime::UNIX_EPOCH + Duration::from_micros(since_us);
    let is_new = |path: &Path| {
        let modified = std::fs::symlink_metadata(path).and_then(|file| file.modified());
        path.to_string_lossy().ends_with(SPOOL_SUFFIX) && modified.is_ok_and(|time| time >= since)
    };
    let dirs = [root.state_dir(), root.run_dir()];
    let entries = dirs.iter().flat_map(|dir| std::fs::read_dir(dir.join(SPOOL))).flatten().flatten();
    entries.into_iter().any(|entry| is_new(&entry.path()))
}

fn elapsed_us(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
