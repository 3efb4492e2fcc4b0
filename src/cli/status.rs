//! `coreward status`.

use super::error::CliError;
use super::status_report::inspect;
use super::{json, status_text};
use crate::registration::Sysctl;
use clap::Args;
use coreward_wire::paths::Root;
use std::io::Write;
use std::process::ExitCode;

/// Options of `status`.
#[derive(Args, Debug)]
pub(super) struct StatusOptions {
    /// Show a JSON object
    #[arg(long)]
    json: bool,
    /// Do not let a process crash to see whether crashes are collected
    ///
    /// By default root's command causes a crash of its own, which is neither recorded nor counted.
    #[arg(long)]
    no_test: bool,
}

/// The exit status if crashes are not being collected, as of `systemctl status` for an inactive unit.
const NOT_COLLECTING: u8 = 3;

pub(super) fn run(root: &Root, options: &StatusOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let status = inspect(root, &Sysctl::kernel(), !options.no_test)?;
    if options.json {
        json::write(out, &status)?;
    } else {
        status_text::write(&status, out)?;
    }
    Ok(if status.collecting { ExitCode::SUCCESS } else { ExitCode::from(NOT_COLLECTING) })
}
