//! The `coreward` command: one file a verb, and what several of them share.

mod crash_table;
mod debug;
mod executable;
mod export;
mod generate;
mod groups;
mod human;
mod info;
mod interrupt;
mod json;
pub(crate) mod list;
mod man;
mod part;
mod register;
mod remove;
mod saved;
mod status;
mod status_text;
mod symbols;
mod sysctl;
mod table;
mod time;
mod units;
mod unpack;
mod usage;
mod vacuum;
mod words;

use crate::store::QueryError;
use clap::{Args, Parser, Subcommand};
use coreward_wire::paths::Root;
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use thiserror::Error;

/// ReadMemory at the crashes that Coreward has collected
///
/// Coreward collects the crashes of this machine: one record a crash, and the cores that tell something new.
#[derive(Debug, Parser)]
#[command(name = "coreward", version, disable_help_subcommand = true, max_term_width = 100, after_long_help = SERVICE_VERBS)]
struct Arguments {
    /// Directory below which every path lies; for tests
    #[arg(long, global = true, value_name = "DIR", env = "COREWARD_ROOT", default_value = "/", hide_env_values = true)]
    root: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

const SERVICE_VERBS: &str = "Used by coreward-register.service: `coreward register` makes the kernel hand crashes to Coreward, \
    `coreward unregister` puts back what was set before. coreward(1) describes them.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// List crashes, the newest last
    List(list::Options),
    /// Show everything that is known of a crash
    Info(info::Options),
    /// Write the core of a crash to a file
    Export(export::Options),
    /// Open a crash in a debugger
    Debug(debug::Options),
    /// List crashes by signature: which bugs there are, and how often each struck
    ///
    /// A name of a function is shown where the very build that crashed is at hand, or its debug symbols.
    Groups(groups::Options),
    /// Show who holds how much of the disk
    Usage(usage::Options),
    /// Keep cores from being deleted to make room
    Pin(remove::PinOptions),
    /// Let cores be deleted again to make room
    Unpin(remove::PinOptions),
    /// Delete cores; their records stay
    Rm(remove::Options),
    /// Delete the cores that tell least, until limits are kept
    Vacuum(vacuum::Options),
    /// Tell whether crashes are being collected
    Status(status::Options),
    /// Make the kernel hand crashes to Coreward
    #[command(hide = true)]
    Register(register::Options),
    /// Put back what the kernel did with crashes before `register`
    #[command(hide = true)]
    Unregister(register::Unregister),
    /// Print a completion script for a shell
    Completions(generate::Completions),
    /// Write manual pages and completion scripts, for packages
    #[command(hide = true)]
    Generate(generate::Options),
}

/// One crash, as it is named on the command line.
#[derive(Args, Debug)]
struct Which {
    /// Id of the crash or its beginning, PID, path of the executable, unit, or name of the process [default: the newest crash]
    ///
    /// Where several crashes match, the newest is meant. The beginning of an id must be that of one id only.
    #[arg(value_name = "MATCH")]
    name: Option<String>,
}

/// Why a verb ends without having done its work.
#[derive(Debug, Error)]
enum CliError {
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Export(#[from] export::ExportError),
    #[error(transparent)]
    Unpack(#[from] unpack::UnpackError),
    #[error(transparent)]
    Part(#[from] part::PartError),
    #[error(transparent)]
    Debug(#[from] debug::DebugError),
    #[error(transparent)]
    Register(#[from] register::RegisterError),
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
    #[error(transparent)]
    Change(#[from] remove::ChangeError),
    #[error("interrupted")]
    Interrupted(Signal),
}

/// The whole program.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = Arguments::parse_from(arguments);
    let mut out = BufWriter::new(io::stdout().lock());
    let ended = run(arguments, &mut out).and_then(|code| Ok(out.flush().map(|()| code)?));
    match ended {
        Ok(code) => code,
        // Whoever read this has seen enough (`coreward list | head`).
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => discard(out),
        Err(CliError::Interrupted(signal)) => interrupt::die_of(signal),
        Err(error) => {
            // What was written before the failure belongs in front of its message.
            let _ = out.flush();
            discard(out);
            say(&format!("coreward: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Forgets what could not be written: dropped, the buffer would try once more.
fn discard<W: Write>(out: BufWriter<W>) -> ExitCode {
    let _ = out.into_parts();
    ExitCode::SUCCESS
}

fn run(arguments: Arguments, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    // The kernel starts the shim in `/`, and a debugger may be started elsewhere.
    let dir = std::path::absolute(&arguments.root);
    let root = Root::new(dir.map_err(|error| CliError::File { path: arguments.root, error })?);
    match arguments.verb {
        Verb::List(options) => list::run(&root, options, out),
        Verb::Info(options) => info::run(&root, &options, out),
        Verb::Export(options) => export::run(&root, &options, out),
        Verb::Debug(options) => debug::run(&root, &options),
        Verb::Groups(options) => groups::run(&root, &options, out),
        Verb::Usage(options) => usage::run(&root, &options, out),
        Verb::Pin(options) => remove::pin(&root, &options, true, out),
        Verb::Unpin(options) => remove::pin(&root, &options, false, out),
        Verb::Rm(options) => remove::run(&root, &options, out),
        Verb::Vacuum(options) => vacuum::run(&root, &options, out),
        Verb::Status(options) => status::run(&root, &options, out),
        Verb::Register(options) => register::register(&root, &options, out),
        Verb::Unregister(options) => register::unregister(&root, &options, out),
        Verb::Completions(options) => generate::completions(&options, out),
        Verb::Generate(options) => generate::run(options),
    }
}

/// A line for the person in front of the terminal. That nobody can read it stops nothing.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_users_type_is_understood() {
        for line in [
            "coreward list",
            "coreward list --since -1h -n 5 --json",
            "coreward list /usr/bin/nginx --since today --until 2026-01-02",
            "coreward --root /t info 12ab",
            "coreward debug 77 --debugger lldb -- -batch -ex bt",
            "coreward debug -- -batch",
            "coreward export -o core --force",
            "coreward list --unit nginx --container 4f5c --signal SIGSEGV --user root --signature s1-12",
            "coreward groups s1-12 --json",
            "coreward usage --by signature",
            "coreward pin 12ab 77",
            "coreward rm --dry-run nginx",
            "coreward vacuum --max-use 1G --max-age 30d",
        ] {
            Arguments::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "coreward",
            "coreward list --since soon",
            "coreward list -n many",
            "coreward frobnicate",
            "coreward vacuum",
            "coreward rm",
        ] {
            let error = Arguments::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
