//! `coreward dump`: the core of a living process; or of a crash, as `coredumpctl dump` has it.

use super::crash_selector::{CrashSelector, OneCrash, match_parser, refuse, text_parser};
use super::error::{CliError, PrivilegeError};
use super::export::{self, ExportOptions};
use super::message::print_message;
use super::privileges::become_owner;
use super::titles::Titles;
use super::{explanations, human, json};
use crate::crash::text::{printable, to_bytes};
use crate::crash::{CrashId, CrashKey};
use crate::dump::{DumpError, dump};
use crate::store::{self, Listed};
use clap::Args;
use coreward_sys::fork;
use coreward_wire::Offer;
use coreward_wire::paths::Root;
use indicatif::{ProgressBar, ProgressStyle};
use nix::fcntl::{OFlag, open};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, pipe2};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

/// How often the time on a terminal moves.
const TICK: Duration = Duration::from_millis(100);

/// Options of `dump`.
#[derive(Args, Debug)]
pub(super) struct DumpOptions {
    /// PID of the process, as ps(1) shows it on the host
    #[arg(value_name = "PID", value_parser = match_parser())]
    process: Option<String>,
    /// Why it is dumped, for the record and the journal
    #[arg(long, value_name = "TEXT", value_parser = text_parser())]
    reason: Option<String>,
    /// Show the record as JSON
    #[arg(long)]
    json: bool,
    /// Write the core of a crash to FILE, as `coreward export` does; PID may be any MATCH
    #[arg(long, short = 'o', value_name = "FILE", conflicts_with_all = ["reason", "json"])]
    output: Option<PathBuf>,
    #[command(flatten)]
    one: OneCrash,
    #[arg(long, short = 'M', hide = true, alias = "machine", value_name = "CONTAINER", value_parser = refuse(OF_EXPORT))]
    container: Option<String>,
    #[arg(long, short = 'f', hide = true, num_args = 0, default_missing_value = "", value_parser = refuse(OF_EXPORT))]
    force: Option<String>,
}

const OF_EXPORT: &str = "`coreward export [-M CONTAINER] MATCH -o FILE [--force]` writes the core of a crash";

impl DumpOptions {
    /// The living process that is meant; `None`: a crash is meant.
    fn process(&self) -> Option<Pid> {
        let is_crash = self.output.is_some() || self.one.newest;
        let pid = self.process.as_deref().filter(|_| !is_crash)?.parse().ok().filter(|pid: &i32| *pid > 0)?;
        Some(Pid::from_raw(pid))
    }
}

pub(super) fn run(root: &Root, caller: Uid, options: DumpOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let Some(pid) = options.process() else {
        if options.reason.is_some() || options.json {
            return Err(DumpError::NoPid.into());
        }
        let crash = CrashSelector::named(options.process);
        return export::run(root, caller, &ExportOptions::of_crash(crash, options.output), out);
    };
    if !Uid::effective().is_root() {
        return Err(DumpError::NotRoot(pid).into());
    }
    let reason = to_bytes(options.reason.as_deref().unwrap_or_default()).into_owned();
    let mut copy = start(root, pid, reason)?;
    let progress = progress(pid);
    let recorded = copy.follow(|| progress.set_message(format!("process {pid} goes on; its core is compressed")));
    progress.finish_and_clear();
    let id = recorded?;
    become_owner(root)?;
    let listed = store::find(root, Some(&id))?;
    let why_not = explanations::why_no_core(&listed);
    if options.json {
        json::write(out, &Titles::new(root).with_packages(&listed))?;
    } else if why_not.is_none() {
        show(&listed, out)?;
    }
    match why_not {
        None => Ok(ExitCode::SUCCESS),
        Some(why) => Err(DumpError::NoCore { pid, why: why.to_owned(), id: listed.id().to_string() }.into()),
    }
}

/// What the copy of the command tells, each on a line.
#[derive(Serialize, Deserialize)]
enum Told {
    /// The process goes on.
    Released,
    /// The dump is recorded under this ID.
    Recorded(String),
    /// It is not, for this reason.
    Refused(String),
}

/// A copy of the command that stops the process and offers its core. Memory of the process may never answer, and a thread that waits for it
/// keeps its process from ending and from becoming another user: that is the copy, and nobody waits for it.
struct Copy(BufReader<File>);

fn start(root: &Root, pid: Pid, reason: Vec<u8>) -> Result<Copy, CliError> {
    let failed = |error: io::Error| CliError::from(PrivilegeError::Copy(error));
    let (from, to) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
    let work = |to: OwnedFd| {
        // The process goes on when the command is killed.
        let _ = set_pdeathsig(Signal::SIGKILL);
        let to = Rc::new(File::from(to));
        let tell = |to: &File, told: &Told| {
            let line = serde_json::to_string(told).unwrap_or_default() + "\n";
            (&mut &*to).write_all(line.as_bytes()).is_ok()
        };
        let released = Rc::clone(&to);
        let on_release = move || {
            tell(&released, &Told::Released);
        };
        // Whoever reads the command's output would wait for the copy.
        let recorded = detach_standard_streams()
            .map_err(|errno| errno.to_string())
            .and_then(|()| dump(root, pid, reason, on_release).map_err(|error| error.to_string()));
        let id = recorded.and_then(|offer| id_of(&offer).ok_or_else(|| "the offer names no process".to_owned()));
        let told = id.map_or_else(Told::Refused, |id| Told::Recorded(id.as_str().to_owned()));
        u8::from(!tell(&to, &told))
    };
    fork::spawn_apart(to, work).map_err(failed)?;
    Ok(Copy(BufReader::new(File::from(from))))
}

/// Makes standard input, output and error of this process those of nobody.
fn detach_standard_streams() -> nix::Result<()> {
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)
}

impl Copy {
    /// The ID of the dump, when it is recorded. `on_release` is called when the process goes on.
    fn follow(&mut self, on_release: impl Fn()) -> Result<String, CliError> {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).map_err(PrivilegeError::Copy)?;
            match serde_json::from_str(&line).map_err(|error| PrivilegeError::Copy(error.into()))? {
                Told::Released => on_release(),
                Told::Recorded(id) => return Ok(id),
                Told::Refused(why) => return Err(PrivilegeError::Reported(printable(&why)).into()),
            }
        }
    }
}

/// The id under which the daemon has recorded it.
fn id_of(offer: &Offer) -> Option<CrashId> {
    let key = CrashKey { boot_id: offer.boot_id.clone(), pid: offer.pid?, start_time: offer.start_time };
    Some(key.dump_id(offer.started))
}

fn show(listed: &Listed, out: &mut dyn Write) -> Result<(), CliError> {
    let record = &listed.record;
    let (pid, comm, held) = (record.key.pid, printable(&record.comm), human::duration(record.held_us));
    let (bytes, stored) = (human::size(record.core.bytes), human::size(record.core.stored));
    writeln!(out, "Dumped process {pid} ({comm}), stopped for {held}: {bytes} of core, {stored} on disk.")?;
    writeln!(out, "Open it with: coreward debug {}", listed.id())?;
    if let Some(cut) = record.core.truncated {
        print_message(&format!("The core is truncated: {}.", explanations::why_truncated(cut)));
    }
    for warning in &record.warnings {
        print_message(&format!("Warning: {}", printable(warning)));
    }
    Ok(())
}

/// What is being done, on standard error, drawn only on a terminal.
fn progress(pid: Pid) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
    let progress = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    progress.set_message(format!("process {pid} is stopped while its memory is copied"));
    progress.enable_steady_tick(TICK);
    progress
}
