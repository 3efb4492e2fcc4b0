//! `coreward export`.

use super::interrupt::Interrupts;
use super::part::Part;
use super::unpack::{Stored, UnpackError};
use super::{CliError, Which};
use crate::store;
use clap::Args;
use coreward_wire::paths::Root;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use thiserror::Error;

/// Options of `export`.
#[derive(Args, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    which: Which,
    /// Write to FILE, which then only its owner may read; "-" is standard output [default: -]
    ///
    /// The file appears when it is whole. Pages that are zero become holes in it.
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the core as it is stored, in zstd's format with the record in front
    #[arg(long)]
    compressed: bool,
    /// Replace FILE if it exists
    #[arg(long, short = 'f', requires = "output")]
    force: bool,
}

/// Why nothing was exported.
#[derive(Debug, Error)]
pub(super) enum ExportError {
    #[error("a core is nothing for a terminal: name a file (-o FILE) or redirect standard output")]
    Terminal,
    #[error("{0}")]
    Interrupts(io::Error),
}

pub(super) fn run(root: &Root, options: &Options, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let output = options.output.as_deref().filter(|path| *path != Path::new("-"));
    if output.is_none() && io::stdout().is_terminal() {
        return Err(ExportError::Terminal.into());
    }
    let core = Stored::open(root, &store::find(root, options.which.name.as_deref())?)?;
    match output {
        Some(path) => to_file(&core, path, options)?,
        // Here the signals stay as they are: a reader that does not read must not make Ctrl-C wait.
        None if options.compressed => core.copy(|chunk| Ok(out.write_all(chunk)?))?,
        None => core.stream_to(out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn to_file(core: &Stored, path: &Path, options: &Options) -> Result<(), CliError> {
    let interrupts = Interrupts::watch().map_err(ExportError::Interrupts)?;
    let part = Part::create(path, options.force)?;
    if options.compressed {
        core.copy(|chunk| {
            if let Some(signal) = interrupts.arrived() {
                return Err(CliError::Interrupted(signal));
            }
            let mut file = part.file();
            file.write_all(chunk).map_err(|error| UnpackError::Write { to: path.to_owned(), error })?;
            Ok(())
        })?;
    } else {
        core.unpack_to(part.file(), path, Some(&interrupts))?;
    }
    Ok(part.finish()?)
}
