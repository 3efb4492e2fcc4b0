//! `coreward dump`: the core of a living process; or of a crash, as `coredumpctl dump` has it.

use super::crash_selector::{CrashSelector, OneCrash, match_parser, text_parser};
use super::error::CliError;
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
use coreward_wire::Offer;
use coreward_wire::paths::Root;
use indicatif::{ProgressBar, ProgressStyle};
use nix::unistd::{Pid, Uid};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How often the time on a terminal moves.
const TICK: Duration = Duration::from_millis(100);

/// Options of `dump`.
#[derive(Args, Debug)]
pub(super) struct DumpOptions {
    /// The process, as the host counts it
    #[arg(value_name = "PID", value_parser = match_parser())]
    process: Option<String>,
    /// Why it is dumped, for the record and the journal
    #[arg(long, value_name = "TEXT", value_parser = text_parser())]
    reason: Option<String>,
    /// Show the record as JSON
    #[arg(long)]
    json: bool,
    /// Write the core of a crash, which PID or any other MATCH names, to FILE: the same as `coreward export`
    ///
    /// This is what `coredumpctl dump` does. Without a PID, or with another MATCH than a PID, a crash is meant as well.
    #[arg(long, short = 'o', value_name = "FILE", conflicts_with_all = ["reason", "json"])]
    output: Option<PathBuf>,
    #[command(flatten)]
    one: OneCrash,
}

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
        let crash = CrashSelector::named(options.process);
        return export::run(root, caller, &ExportOptions::of_crash(crash, options.output), out);
    };
    if !Uid::effective().is_root() {
        return Err(DumpError::NotRoot(pid).into());
    }
    let progress = progress(pid);
    let shown = progress.clone();
    let on_release = move || shown.set_message(format!("process {pid} goes on; its core is compressed"));
    let reason = to_bytes(options.reason.as_deref().unwrap_or_default()).into_owned();
    let dumped = dump(root, pid, reason, on_release);
    progress.finish_and_clear();
    let offer = dumped?;
    become_owner(root)?;
    let listed = store::find(root, id_of(&offer).as_ref().map(CrashId::as_str))?;
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

/// The id under which the daemon has recorded it.
fn id_of(offer: &Offer) -> Option<CrashId> {
    let key = CrashKey { boot_id: offer.boot_id.clone(), pid: offer.pid?, start_time: offer.start_time };
    Some(key.dump_id(offer.started))
}

fn show(listed: &Listed, out: &mut dyn Write) -> Result<(), CliError> {
    let record = &listed.record;
    let (pid, comm, held) = (record.key.pid, printable(&record.comm), human::duration(record.held_us));
    let (bytes, stored) = (human::size(record.core.bytes), human::size(record.core.stored));
    writeln!(out, "Dumped process {pid} ({comm}), which stood still for {held}: {bytes} of core, {stored} on disk.")?;
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
    progress.set_message(format!("process {pid} stands still while it is copied"));
    progress.enable_steady_tick(TICK);
    progress
}
