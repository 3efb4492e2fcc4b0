//! `coreward export`.

use super::atomic_file::AtomicFile;
use super::bundle;
use super::crash_selector::CrashSelector;
use super::error::{CliError, ExportError, UnpackError};
use super::interrupt::Interrupts;
use super::lookup;
use super::privileges::{become_owner, run_as_owner};
use super::unpack::CoreReader;
use crate::crash::text::printable;
use clap::{ArgGroup, Args};
use coreward_wire::paths::Root;
use nix::unistd::Uid;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Options of `export`.
#[derive(Args, Debug)]
#[group(skip)]
#[command(group = ArgGroup::new("file").args(["output", "bundle"]))]
#[command(group = ArgGroup::new("what").args(["compressed", "bundle", "runtime_report"]))]
pub(super) struct ExportOptions {
    #[command(flatten)]
    crash: CrashSelector,
    /// Write to FILE, readable by its owner only; "-" is standard output [default: -]
    ///
    /// The file appears when it is complete. Pages of zeros become holes.
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the core as it is stored: in zstd format, preceded by the record
    #[arg(long)]
    compressed: bool,
    /// Write a bundle: a tar file with the record, the core, the program and its libraries, and what `info` shows
    ///
    /// `coreward debug FILE` opens it on any machine, and `coreward import FILE` puts it into the catalog there. The README in it says
    /// how gdb opens it without Coreward.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Write the report that the runtime wrote itself: HotSpot's hs_err file, or the diagnostic report of Node.js
    ///
    /// `info` says whether there is one. At most its first MiB is kept with the core.
    #[arg(long)]
    runtime_report: bool,
    /// Replace FILE if it exists
    #[arg(long, short = 'f', requires = "file")]
    force: bool,
}

impl ExportOptions {
    /// The core of a crash, to a file or to standard output.
    pub(super) fn of_crash(crash: CrashSelector, output: Option<PathBuf>) -> Self {
        Self { crash, output, compressed: false, bundle: None, runtime_report: false, force: false }
    }
}

pub(super) fn run(
    root: &Root,
    caller: Uid,
    options: &ExportOptions,
    out: &mut dyn Write,
) -> Result<ExitCode, CliError> {
    if let Some(path) = &options.bundle {
        let interrupts = Interrupts::block().map_err(ExportError::Interrupts)?;
        let new = AtomicFile::create(path, options.force)?;
        run_as_owner(root, Some(&interrupts), || {
            bundle::write(root, caller, &options.crash, new.file(), path, &interrupts)
        })?;
        new.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    let output = options.output.as_deref().filter(|path| *path != Path::new("-"));
    if options.runtime_report && output.is_none() {
        become_owner(root)?;
        let report = runtime_report(&open_core(root, options)?)?;
        if io::stdout().is_terminal() {
            // The crashed process may have written anything into it.
            for line in String::from_utf8_lossy(&report).lines() {
                writeln!(out, "{}", printable(line))?;
            }
        } else {
            out.write_all(&report)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if output.is_none() && io::stdout().is_terminal() {
        return Err(ExportError::Terminal.into());
    }
    let Some(path) = output else {
        become_owner(root)?;
        let core = open_core(root, options)?;
        // Signals are not blocked here: Ctrl-C must work also while the reader of the pipe does not read.
        if options.compressed {
            core.copy(|chunk| Ok(out.write_all(chunk)?))?;
        } else {
            core.stream_to(out)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let interrupts = Interrupts::block().map_err(ExportError::Interrupts)?;
    // The file is the caller's: created, named and removed with the caller's rights.
    let new = AtomicFile::create(path, options.force)?;
    run_as_owner(root, Some(&interrupts), || {
        write_to_file(&open_core(root, options)?, new.file(), path, options, &interrupts)
    })?;
    new.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn open_core(root: &Root, options: &ExportOptions) -> Result<CoreReader, CliError> {
    Ok(CoreReader::open(root, &lookup::find_core(root, &options.crash)?)?)
}

fn runtime_report(core: &CoreReader) -> Result<Vec<u8>, CliError> {
    Ok(core.runtime_report()?.ok_or(ExportError::NoRuntimeReport)?)
}

/// Writes the core to `file`, which messages call `path`, or what else the options say.
fn write_to_file(
    core: &CoreReader,
    mut file: &File,
    path: &Path,
    options: &ExportOptions,
    interrupts: &Interrupts,
) -> Result<(), CliError> {
    if options.runtime_report {
        let written = file.write_all(&runtime_report(core)?);
        return Ok(written.map_err(|error| UnpackError::Write { to: path.to_owned(), error })?);
    }
    if !options.compressed {
        return core.unpack_to(file, path, Some(interrupts));
    }
    core.copy(|chunk| {
        if let Some(signal) = interrupts.pending() {
            return Err(CliError::Interrupted(signal));
        }
        file.write_all(chunk).map_err(|error| UnpackError::Write { to: path.to_owned(), error })?;
        Ok(())
    })
}
