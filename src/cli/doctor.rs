//! `coreward doctor`: all that can keep crashes from being collected, shown or understood, one line each.

use super::error::CliError;
use super::finding::{Finding, State};
use super::machine_checks;
use super::remedy::{Remedy, shell_word};
use super::status_report::{StatusReport, inspect};
use super::units::{self, Unit};
use super::{human, json, status_text, time};
use crate::registration::{Sysctl, SysctlKey, wanted};
use clap::Args;
use coreward_wire::paths::{EVENTS, Root, SPOOL};
use nix::unistd::geteuid;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// Options of `doctor`.
#[derive(Args, Debug)]
pub(super) struct DoctorOptions {
    /// Show a JSON object
    #[arg(long)]
    json: bool,
    /// Do not let a process crash to see whether crashes are collected
    #[arg(long)]
    no_test: bool,
}

/// What `--json` shows.
#[derive(Serialize)]
struct Diagnosis<'a> {
    /// No check has failed.
    healthy: bool,
    failed: usize,
    warnings: usize,
    checks: &'a [Finding],
}

/// The units beside those of `status` that should be active; those that are not installed are left out.
const OTHER_UNITS: [&str; 4] =
    ["coreward-metrics.socket", "coreward-event.path", "coreward-reregister.path", "coreward-delete.socket"];
/// Services that those start when there is something to do, and that end afterwards.
const STARTED_UNITS: [&str; 3] = ["coreward-query.service", "coreward-event.service", "coreward-reregister.service"];
/// A crash this far in the future was recorded under another time.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// How long an event may wait until its unit starts.
const EVENT_WAITS: Duration = Duration::from_secs(300);

pub(super) fn run(root: &Root, options: &DoctorOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let is_root = geteuid().is_root();
    // The machine is looked at as the caller: `inspect` becomes the owner of the state directory.
    let others = units::query(root, &[OTHER_UNITS.as_slice(), &STARTED_UNITS].concat());
    let machine = machine_checks::all(root);
    let status = inspect(root, &Sysctl::kernel(), !options.no_test)?;
    let mut findings = collection(root, &status, others.as_deref().unwrap_or_default());
    findings.extend(store(root, &status));
    findings.extend(machine);
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (failed, warnings, skipped) = (count(State::Failed), count(State::Warning), count(State::Skipped));
    if options.json {
        json::write(out, &Diagnosis { healthy: failed == 0, failed, warnings, checks: &findings })?;
    } else {
        write(&findings, out)?;
        let ok = findings.len() - failed - warnings - skipped;
        writeln!(out, "\n{ok} ok, {}, {failed} failed.", human::count(warnings as u64, "warning"))?;
        if !is_root && skipped > 0 {
            writeln!(out, "{} only root can do: sudo coreward doctor", human::count(skipped as u64, "check"))?;
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    for finding in findings {
        writeln!(out, "{} {}", finding.state.mark(), finding.line())?;
    }
    Ok(())
}

/// Whether crashes are collected: what `status` says, each with its own remedy.
fn collection(root: &Root, status: &StatusReport, others: &[Unit]) -> Vec<Finding> {
    let mut findings = kernel(status);
    findings.push(shim(root, status));
    let socket = status.socket.display().to_string();
    findings.push(match &status.remedies.socket {
        None => Finding::ok("socket", format!("shims connect to {socket}")),
        Some(remedy) => {
            Finding::failed("socket", format!("nobody listens on {socket}: crashes go to the spool"), remedy)
        }
    });
    if status.units.is_none() && others.is_empty() {
        let text = match status.daemon_running {
            Some(true) => "it is running",
            Some(false) => "it is not running: its socket starts it at the next crash",
            None => "only root can tell whether it is running",
        };
        findings.push(Finding::ok("daemon", text));
    }
    for unit in status.units.iter().flatten() {
        findings.push(own_unit(status, unit));
    }
    for unit in others.iter().filter(|unit| unit.load != "not-found") {
        if STARTED_UNITS.contains(&unit.name.as_str()) {
            findings.push(started_unit(unit));
            continue;
        }
        findings.push(match (unit.active.as_str(), unit.enabled.as_str()) {
            ("active", "disabled") => {
                let text = format!("{} is active, but not at the next boot", unit.name);
                Finding::warning("unit", text, &Remedy::new(format!("systemctl enable {}", unit.name)))
            }
            ("active", _) => Finding::ok("unit", format!("{} is active ({})", unit.name, unit.sub)),
            _ => Finding::warning("unit", format!("{} is {}", unit.name, unit.active), &unit.start()),
        });
    }
    findings.push(match (&status.test_crash_problem, &status.remedies.test_crash) {
        (None, _) => {
            Finding::ok("test crash", "a process of this command crashed, and the daemon could have recorded it")
        }
        (Some(why), Some(remedy)) => Finding::failed("test crash", why, remedy),
        (Some(why), None) => Finding::skipped("test crash", format!("not tried: {why}")),
    });
    findings
}

/// A service that is started when it is needed.
fn started_unit(unit: &Unit) -> Finding {
    let name = &unit.name;
    if unit.load == "masked" {
        return Finding::warning("unit", format!("{name} is masked"), &Remedy::new(format!("systemctl unmask {name}")));
    }
    match unit.active.as_str() {
        "failed" => {
            let remedy = Remedy::to("see why", format!("journalctl -u {name} -n 20; systemctl reset-failed {name}"));
            Finding::warning("unit", format!("{name} has failed"), &remedy)
        }
        "inactive" => Finding::ok("unit", format!("{name} is inactive: it is started when it is needed")),
        active => Finding::ok("unit", format!("{name} is {active} ({})", unit.sub)),
    }
}

fn kernel(status: &StatusReport) -> Vec<Finding> {
    let register = status.remedies.register.clone().unwrap_or_else(|| Remedy::new("coreward register"));
    let receiver = || format!("{} (\"{}\")", status_text::receiver(status), status.core_pattern);
    let pattern = if status.core_pattern_is_ours {
        Finding::ok("core_pattern", "the kernel sends crashes to Coreward")
    } else {
        Finding::failed("core_pattern", receiver(), &register)
    };
    let limit = match status.core_pipe_limit.as_str() {
        limit if limit == wanted(SysctlKey::CorePipeLimit) => Finding::ok("core_pipe_limit", "no crash is skipped"),
        limit => {
            let text = if status.core_pattern_is_ours {
                status_text::pipe_limit(status)
            } else {
                format!("{limit}, not {}", wanted(SysctlKey::CorePipeLimit))
            };
            Finding::warning("core_pipe_limit", text, &register)
        }
    };
    let dumpable = if status.suid_dumpable == wanted(SysctlKey::SuidDumpable) {
        Finding::ok("suid_dumpable", "programs that changed their user or are set-uid are dumped")
    } else {
        Finding::warning("suid_dumpable", status_text::privileged(status), &register)
    };
    vec![pattern, limit, dumpable]
}

/// Also where the kernel would not start it: `register` refuses then.
fn shim(root: &Root, status: &StatusReport) -> Finding {
    let found = match (&status.shim, &status.shim_problem, &status.remedies.shim) {
        (Some(_), Some(problem), Some(remedy)) => Err((problem.clone(), remedy.clone())),
        (Some(shim), _, _) => Ok(shim.clone()),
        (None, ..) => {
            let shim = root.shim_exe();
            let executed = super::shim_check::execute(&shim);
            executed.map(|()| shim).map_err(|error| (error.to_string(), error.remedy()))
        }
    };
    match found {
        Ok(shim) => Finding::ok("shim", format!("{} can be executed", shim.display())),
        Err((problem, remedy)) => Finding::failed("shim", problem, &remedy),
    }
}

fn own_unit(status: &StatusReport, unit: &Unit) -> Finding {
    let text = format!("{} is {} ({})", unit.name, unit.active, unit.sub);
    let failing = match unit.name.as_str() {
        units::DAEMON => status.remedies.daemon.as_ref(),
        _ if unit.active == "failed" => status.remedies.other_unit.as_ref(),
        _ => None,
    };
    match (unit.name.as_str(), unit.active.as_str(), failing) {
        (_, _, Some(remedy)) if status.daemon_restarts => {
            Finding::failed("unit", format!("{} ends again and again", unit.name), remedy)
        }
        (_, _, Some(remedy)) => Finding::failed("unit", text, remedy),
        (units::REGISTER, "active", _) if unit.enabled == "disabled" => {
            let remedy = Remedy::new(format!("systemctl enable {}", unit.name));
            Finding::warning("unit", format!("{text}, but not at the next boot"), &remedy)
        }
        (units::DAEMON, "inactive", _) => Finding::ok("unit", format!("{text}: its socket starts it")),
        (_, "active" | "activating" | "reloading", _) => Finding::ok("unit", text),
        _ => Finding::failed("unit", text, &unit.start()),
    }
}

/// What the state directory holds, and whether it has room.
fn store(root: &Root, status: &StatusReport) -> Vec<Finding> {
    let mut findings = Vec::new();
    let may_not_read = status.spooled.is_none();
    findings.push(match &status.catalog_problem {
        None => {
            Finding::ok("catalog", format!("{} recorded", human::count(status.crashes.unwrap_or_default(), "crash")))
        }
        Some(problem) if may_not_read => Finding::skipped("catalog", problem),
        Some(problem) => {
            let purpose = "the daemon sets a damaged catalog aside and makes a new one";
            Finding::failed("catalog", problem, &Remedy::to(purpose, "systemctl restart coreward.service"))
        }
    });
    findings.push(disk(root, status));
    for limitation in &status.state_directory_limitations {
        findings.push(Finding::new("state directory", State::Warning, limitation, None));
    }
    findings.extend(spool(root, status));
    findings.push(events(root));
    for problem in &status.configuration_problems {
        findings.push(configuration(problem));
    }
    if status.configuration_problems.is_empty() {
        findings.push(Finding::ok("configuration", "no problems"));
    }
    findings.push(clock_of_crashes(status));
    findings
}

fn disk(root: &Root, status: &StatusReport) -> Finding {
    let dir = root.state_dir();
    let (free, kept) = (human::size(status.free_bytes), status_text::limit(status.keep_free));
    if status.keep_free == u64::MAX || status.free_bytes >= status.keep_free {
        let (used, max_use) = (human::size(status.stored_bytes), status_text::limit(status.max_use));
        return Finding::ok("disk", format!("{free} free; cores take {used} of {max_use}"));
    }
    let text = format!("{free} free in {}, less than KeepFree={kept}", dir.display());
    let fits = status.free_bytes.saturating_add(status.stored_bytes) >= status.keep_free;
    if fits {
        let vacuum = Remedy::new(format!("coreward vacuum --keep-free {}", status.keep_free));
        Finding::warning("disk", format!("{text}: cores are deleted before their time"), &vacuum)
    } else {
        let list = Remedy::to("see what fills it", format!("du -xh {} | sort -h | tail", mount_of(&dir)));
        Finding::failed("disk", format!("{text}: no core is stored"), &list)
    }
}

/// The file system to look through, as a word of a shell.
fn mount_of(dir: &std::path::Path) -> String {
    shell_word(&super::shim_check::mount_point(dir))
}

fn spool(root: &Root, status: &StatusReport) -> Vec<Finding> {
    let (Some(spooled), Some(quarantined)) = (status.spooled, status.quarantined) else {
        return vec![Finding::skipped("spool", status_text::spool(status))];
    };
    let mut findings = Vec::new();
    if spooled > 0 {
        let text = format!(
            "{} for the daemon",
            if spooled == 1 { "1 crash waits".to_owned() } else { format!("{spooled} crashes wait") }
        );
        let remedy = if status.units.is_some() {
            Remedy::to("the daemon imports them when it starts", "systemctl restart coreward.service")
        } else {
            Remedy::new("start corewardd: it imports them")
        };
        findings.push(Finding::warning("spool", text, &remedy));
    }
    if quarantined > 0 {
        let dirs = [root.state_dir(), root.run_dir()].map(|dir| format!("{}/*.bad", shell_word(&dir.join(SPOOL))));
        let text = format!("no daemon could read {}", human::count(quarantined, "crash"));
        findings.push(Finding::warning(
            "spool",
            text,
            &Remedy::to("look at them, and delete them", format!("rm -f {}", dirs.join(" "))),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("spool", "empty"));
    }
    findings
}

/// Whether events wait that no unit takes.
fn events(root: &Root) -> Finding {
    let dir = root.state_dir().join(EVENTS);
    let is_late = |path: &PathBuf| {
        let modified = std::fs::symlink_metadata(path).and_then(|file| file.modified());
        modified.is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > EVENT_WAITS))
    };
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Finding::skipped("events", "only root and group coreward may read them");
        }
        entries => entries.into_iter().flatten().flatten(),
    };
    let late = entries.map(|entry| entry.path()).filter(is_late).count();
    if late == 0 {
        return Finding::ok("events", "no event waits for the programs in event.d");
    }
    let text = format!("{} for more than {}", human::count(late as u64, "event"), time::rough(EVENT_WAITS));
    Finding::warning("events", text, &Remedy::new("systemctl restart coreward-event.path"))
}

/// A line such as `/etc/coreward/coreward.conf:2: unknown key X=, ignored`.
fn configuration(problem: &str) -> Finding {
    let mut parts = problem.splitn(3, ':');
    let remedy = match (parts.next(), parts.next()) {
        (Some(file), Some(line)) => {
            let file = shell_word(std::path::Path::new(file));
            Remedy::new(format!("editor +{line} {file} && systemctl reload coreward.service"))
        }
        _ => Remedy::new("editor /etc/coreward/coreward.conf && systemctl reload coreward.service"),
    };
    Finding::warning("configuration", problem, &remedy)
}

/// A clock that was set back puts new crashes before old ones.
fn clock_of_crashes(status: &StatusReport) -> Finding {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let newest = status.newest_time_us.map(Duration::from_micros);
    match newest.and_then(|newest| newest.checked_sub(now)).filter(|ahead| *ahead > CLOCK_TOLERANCE) {
        Some(ahead) => {
            let text = format!("the newest crash is {} in the future: the clock was set back", time::rough(ahead));
            Finding::warning("times of crashes", text, &Remedy::new("timedatectl set-ntp true"))
        }
        None => Finding::ok("times of crashes", "none is in the future"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units that are not looked at, and why.
    const EXEMPT: [(&str, &str); 1] = [(
        "coreward-event@.service",
        "a template; an instance fails with the operator's programs, and the journal says so",
    )];

    #[test]
    fn every_unit_of_the_package_is_looked_at() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");
        let is_unit =
            |name: &String| [".service", ".socket", ".path", ".timer"].iter().any(|kind| name.ends_with(kind));
        let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        let files = names.filter(|entry| entry.file_type().unwrap().is_file());
        let mut units: Vec<String> =
            files.map(|entry| entry.file_name().into_string().unwrap()).filter(is_unit).collect();
        let mut known: Vec<&str> = units::NAMES.into_iter().chain(OTHER_UNITS).chain(STARTED_UNITS).collect();
        known.extend(EXEMPT.map(|(name, _)| name));
        units.sort_unstable();
        known.sort_unstable();
        assert_eq!(units, known);
    }

    #[test]
    fn a_service_that_waits_to_be_started_is_fine_unless_it_has_failed() {
        let unit = |load: &str, active: &str| {
            let text = |text: &str| text.to_owned();
            let finding = started_unit(&Unit {
                name: text("coreward-query.service"),
                load: text(load),
                active: text(active),
                sub: text("dead"),
                enabled: text("static"),
                text: String::new(),
                restarts: 0,
            });
            (finding.state, finding.line())
        };
        assert_eq!(unit("loaded", "inactive").0, State::Ok);
        let (state, line) = unit("loaded", "failed");
        assert!(state == State::Warning && line.contains("journalctl -u coreward-query.service"), "{line}");
        let (state, line) = unit("masked", "inactive");
        assert!(state == State::Warning && line.contains("systemctl unmask"), "{line}");
    }
}
