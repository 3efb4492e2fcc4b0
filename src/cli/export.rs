//! `coreward export`.

use super::atomic_file::AtomicFile;
use super::crash_selector::CrashSelector;
use super::error::{CliError, ExportError, UnpackError};
use super::interrupt::Interrupts;
use super::unpack::CoreReader;
use crate::store;
use clap::Args;
use coreward_wire::paths::Root;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Options of `export`.
#[derive(Args, Debug)]
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
    /// Replace FILE if it exists
    #[arg(long, short = 'f', requires = "output")]
    force: bool,
}

pub(super) fn run(root: &Root, options: &ExportOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let output = options.output.as_deref().filter(|path| *path != Path::new("-"));
    if output.is_none() && io::stdout().is_terminal() {
        return Err(ExportError::Terminal.into());
    }
    let core = CoreReader::open(root, &store::find(root, options.crash.name.as_deref())?)?;
    match output {
        Some(path) => export_to_file(&core, path, options)?,
        // Signals are not blocked here: Ctrl-C must work also while the reader of the pipe does not read.
        None if options.compressed => core.copy(|chunk| Ok(out.write_all(chunk)?))?,
        None => core.stream_to(out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn export_to_file(core: &CoreReader, path: &Path, options: &ExportOptions) -> Result<(), CliError> {
    let interrupts = Interrupts::block().map_err(ExportError::Interrupts)?;
    let new = AtomicFile::create(path, options.force)?;
    if options.compressed {
        core.copy(|chunk| {
            if let Some(signal) = interrupts.pending() {
                return Err(CliError::Interrupted(signal));
            }
            let mut file = new.file();
            file.write_all(chunk).map_err(|error| UnpackError::Write { to: path.to_owned(), error })?;
            Ok(())
        })?;
    } else {
        core.unpack_to(new.file(), path, Some(&interrupts))?;
    }
    Ok(new.finish()?)
}
