//! The `coreward` command: one file per verb, and files for what several verbs share. This file defines the command line and
//! runs the verbs.

mod atomic_file;
mod bundle;
mod complete;
mod crash_columns;
mod crash_context;
mod crash_filter;
mod crash_selector;
mod crash_table;
mod debug;
mod debug_files;
mod debuginfod;
mod doctor;
mod dump;
mod dwarf_names;
mod elf_symbols;
mod error;
mod executable;
mod explanations;
mod export;
mod finding;
mod foreign_file;
mod function_addresses;
mod generate;
mod groups;
mod hooks;
mod human;
mod import;
mod info;
mod interrupt;
mod io_advice;
mod json;
mod list;
mod lookup;
mod machine_checks;
mod man;
mod message;
mod metrics_client;
mod module_packages;
mod module_source;
mod pager;
mod privileges;
mod record_field;
mod register;
mod remedy;
mod remove;
mod report;
mod report_page;
mod root_file;
mod selftest;
mod selftest_canary;
mod shim_check;
mod similar;
mod stack_lines;
mod state_volume;
mod status;
mod status_report;
mod status_text;
mod symbol_reader;
mod symbols;
mod sysctl_backup;
mod table;
mod terminal;
mod test_crash;
mod time;
mod titles;
mod top;
mod units;
mod unpack;
mod usage;
mod vacuum;
mod vetted_sysroot;
mod watch;

pub use symbol_reader::names_in_debug_data;

use crate::store::QueryError;
use clap::{CommandFactory, Parser, Subcommand};
use coreward_wire::paths::Root;
use error::CliError;
use message::print_message;
use nix::unistd::Uid;
use pager::Pager;
use privileges::become_owner;
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Show and manage the crashes that Coreward has collected
///
/// Coreward records every crash on this machine, and stores the cores that are worth keeping.
#[derive(Debug, Parser)]
#[command(name = "coreward", version, disable_help_subcommand = true, max_term_width = 100, after_long_help = SERVICE_VERBS)]
struct CommandLine {
    /// Use DIR as the root of all paths: the tree of another machine, or of a test
    #[arg(
        long,
        short = 'D',
        global = true,
        display_order = 900,
        value_name = "DIR",
        env = "COREWARD_ROOT",
        default_value = "/",
        hide_env_values = true
    )]
    root: PathBuf,
    /// Do not pipe output into a pager
    #[arg(long, global = true, display_order = 901)]
    no_pager: bool,
    /// Do not cut tables to the width of the terminal
    #[arg(long, short = 'l', global = true, display_order = 902)]
    full: bool,
    #[command(subcommand)]
    verb: Verb,
}

const SERVICE_VERBS: &str = "coreward-register.service runs `coreward register`, which makes the kernel send crashes to Coreward, and \
    `coreward unregister`, which restores the previous settings. See coreward(1).";

#[derive(Debug, Subcommand)]
enum Verb {
    /// List crashes, the newest last
    List(list::ListOptions),
    /// Show crashes as they are recorded
    ///
    /// Ends with Ctrl-C, or when nobody reads its output any more.
    Watch(watch::WatchOptions),
    /// Show all details of a crash
    Info(info::InfoOptions),
    /// Write the core of a crash to a file
    Export(export::ExportOptions),
    /// Store the core of a living process without ending it
    ///
    /// Only root may. All threads are stopped while memory is copied, at most MaxHold=. `coreward list` shows the dump with `dump` in the
    /// column SIG; it is not counted as a crash, and nobody is alerted. With -o FILE, or anything but a PID, the core of a crash is written, as
    /// `coredumpctl dump` does; see `coreward export`.
    Dump(dump::DumpOptions),
    /// Open a crash in a debugger
    #[command(visible_alias = "gdb")]
    Debug(debug::DebugOptions),
    /// Put the crash of another machine into the catalog
    Import(import::ImportOptions),
    /// List crashes by signature: one line per bug, with the number of crashes
    ///
    /// `coreward info` shows the functions of one of them.
    Groups(groups::GroupsOptions),
    /// Show what crashes most: units, executables, users and signatures
    Top(top::TopOptions),
    /// Write a page about the crashes of some time, or about one crash, to read in a browser
    ///
    /// The page is one HTML file that loads nothing else: it can be mailed, printed and attached.
    Report(report::ReportOptions),
    /// Show how much disk space cores take, by unit, user, executable or signature
    Usage(usage::UsageOptions),
    /// Protect cores from being deleted to make room
    Pin(remove::PinOptions),
    /// Allow cores to be deleted to make room again
    Unpin(remove::PinOptions),
    /// Delete cores; their records remain
    Rm(remove::RemoveOptions),
    /// Delete the least useful cores until limits are met
    Vacuum(vacuum::VacuumOptions),
    /// Show whether crashes are being collected
    Status(status::StatusOptions),
    /// Look for all that keeps crashes from being collected or shown, and name the remedies
    ///
    /// Exits with status 1 if a check has failed; warnings alone are a success.
    Doctor(doctor::DoctorOptions),
    /// Let processes crash, and follow each crash to the journal and the metrics
    ///
    /// These are real crashes, in different places: they are recorded and counted. Their cores are deleted at once. Says before what it does.
    Selftest(selftest::SelftestOptions),
    /// Make the kernel send crashes to Coreward
    #[command(hide = true)]
    Register(register::RegisterOptions),
    /// Restore the kernel settings from before `register`
    #[command(hide = true)]
    Unregister(register::UnregisterOptions),
    /// Start coreward-event@ID.service for each new signature that waits
    #[command(hide = true)]
    DispatchEvents(hooks::DispatchOptions),
    /// Run the programs in /etc/coreward/event.d with the record on standard input
    #[command(hide = true)]
    RunHooks(hooks::HookOptions),
    /// Print a completion script for a shell
    Completions(generate::CompletionsOptions),
    /// Print ids, units and executables of crashes, for completion scripts
    #[command(hide = true)]
    Complete(complete::CompleteOptions),
    /// Write manual pages and completion scripts, for packages
    #[command(hide = true)]
    Generate(generate::GenerateOptions),
}

impl Verb {
    /// Whether the verb needs the rights of the state directory's owner and no others. Root's rights are needed for the settings
    /// of the kernel and for `dump`, and those of the caller for the files that `export`, `debug` and `generate` write and `import` reads; those verbs, and
    /// `status`, which asks systemd first, become the owner when they come to the store.
    fn needs_only_the_store(&self) -> bool {
        match self {
            Self::List(_)
            | Self::Watch(_)
            | Self::Info(_)
            | Self::Groups(_)
            | Self::Top(_)
            | Self::Complete(_)
            | Self::Usage(_)
            | Self::Pin(_)
            | Self::Unpin(_)
            | Self::Rm(_)
            | Self::Vacuum(_) => true,
            Self::Export(_)
            | Self::Dump(_)
            | Self::Debug(_)
            | Self::Report(_)
            | Self::Import(_)
            | Self::Status(_)
            | Self::Doctor(_)
            | Self::Selftest(_)
            | Self::Register(_)
            | Self::Unregister(_)
            | Self::DispatchEvents(_)
            | Self::RunHooks(_)
            | Self::Completions(_)
            | Self::Generate(_) => false,
        }
    }
}

impl Verb {
    /// Whether the output may be longer than a screen.
    fn is_long(&self) -> bool {
        matches!(self, Self::List(_) | Self::Info(_) | Self::Groups(_) | Self::Top(_) | Self::Usage(_))
    }
}

/// Runs the command line `arguments`, the first of which is the name of the program.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|argument| argument == symbol_reader::ARGUMENT) {
        return symbol_reader::main();
    }
    if arguments.get(1).is_some_and(|argument| argument == test_crash::ARGUMENT) {
        return test_crash::main();
    }
    if arguments.get(1).is_some_and(|argument| argument == selftest_canary::ARGUMENT) {
        let rest: Vec<String> =
            arguments.iter().skip(2).map(|argument| argument.to_string_lossy().into_owned()).collect();
        return selftest_canary::main(&rest);
    }
    let arguments = CommandLine::parse_from(json::understand_modes(arguments));
    let mut out = BufWriter::new(io::stdout().lock());
    let ended = run(arguments, &mut out).and_then(|code| Ok(out.flush().map(|()| code)?));
    match ended {
        Ok(code) => code,
        // The reader has closed the pipe, as in `coreward list | head`.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => discard(out),
        Err(CliError::Interrupted(signal)) => interrupt::end_by(signal),
        Err(error) => {
            // Output from before the failure precedes its message.
            let _ = out.flush();
            discard(out);
            print_message(&format!("coreward: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Drops a writer without writing what is left in its buffer.
fn discard<W: Write>(out: BufWriter<W>) -> ExitCode {
    let _ = out.into_parts();
    ExitCode::SUCCESS
}

fn run(arguments: CommandLine, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    // The kernel starts the shim in `/`, so the path in core_pattern must be absolute.
    let dir = std::path::absolute(&arguments.root);
    let root = Root::new(dir.map_err(|error| CliError::File { path: arguments.root, error })?);
    let caller = Uid::current();
    terminal::inspect(arguments.full);
    if arguments.verb.needs_only_the_store() {
        become_owner(&root)?;
    }
    let pager = if arguments.verb.is_long() && !arguments.no_pager { Pager::start(caller) } else { None };
    let Some(pager) = pager else { return run_verb(&root, caller, arguments.verb, out) };
    let mut paged = BufWriter::new(pager);
    let ended =
        run_verb(&root, caller, arguments.verb, &mut paged).and_then(|code| Ok(paged.flush().map(|()| code)?));
    // A user who has seen enough ends the pager, and what is left in the buffer is not wanted.
    let (pager, _) = paged.into_parts();
    pager.finish();
    ended
}

fn run_verb(root: &Root, caller: Uid, verb: Verb, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    match verb {
        Verb::List(options) => {
            let (empty, quiet) = (options.json.then_some("[]"), options.quiet);
            list::run(root, caller, options, out).or_else(|error| show_none(root, error, empty, quiet, out))
        }
        Verb::Watch(options) => watch::run(root, options, out),
        Verb::Info(options) => info::run(root, caller, &options, out)
            .or_else(|error| show_none(root, error, options.json.then_some("null"), false, out)),
        Verb::Export(options) => export::run(root, caller, &options, out),
        Verb::Dump(options) => dump::run(root, caller, options, out),
        Verb::Import(options) => import::run(root, &options, out),
        Verb::Debug(options) => debug::run(root, caller, &options),
        Verb::Groups(options) => groups::run(root, &options, out)
            .or_else(|error| show_none(root, error, options.json.then_some("[]"), false, out)),
        Verb::Top(options) => top::run(root, &options, out),
        Verb::Report(options) => report::run(root, caller, &options, out),
        Verb::Usage(options) => usage::run(root, &options, out),
        Verb::Pin(options) => remove::pin(root, &options, true, out),
        Verb::Unpin(options) => remove::pin(root, &options, false, out),
        Verb::Rm(options) => remove::run(root, &options, out),
        Verb::Vacuum(options) => vacuum::run(root, &options, out),
        Verb::Status(options) => status::run(root, &options, out),
        Verb::Doctor(options) => doctor::run(root, &options, out),
        Verb::Selftest(options) => selftest::run(root, &options, out),
        Verb::Register(options) => register::register(root, &options, out),
        Verb::Unregister(options) => register::unregister(root, &options, out),
        Verb::DispatchEvents(options) => hooks::dispatch(root, &options),
        Verb::RunHooks(options) => hooks::run(root, &options),
        Verb::Completions(options) => generate::completions(&options, &CommandLine::command(), out),
        Verb::Complete(options) => complete::run(root, &options, out),
        Verb::Generate(options) => generate::run(options, &CommandLine::command()),
    }
}

/// Before the first crash it is no failure that there is none. `empty` is what `--json` shows then.
fn show_none(
    root: &Root,
    error: CliError,
    empty: Option<&'static str>,
    quiet: bool,
    out: &mut dyn Write,
) -> Result<ExitCode, CliError> {
    let is_first = match &error {
        CliError::Query(QueryError::NoCatalog(_) | QueryError::Nothing) => true,
        CliError::NoMatch { .. } => lookup::is_nothing_recorded(root),
        _ => false,
    };
    if !is_first {
        return Err(error);
    }
    if let Some(empty) = empty {
        writeln!(out, "{empty}")?;
    }
    if !quiet {
        print_message(lookup::nothing_recorded(root));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn command_lines_are_parsed() {
        for line in [
            "coreward list",
            "coreward list --since -1h -n 5 --json",
            "coreward list /usr/bin/nginx --since today --until 2026-01-02",
            "coreward --root /t info 12ab",
            "coreward info 12ab --all-symbols --debuginfod",
            "coreward debug 77 --debugger lldb -- -batch -ex bt",
            "coreward debug -- -batch",
            "coreward gdb -1 -q 77 -A -batch",
            "coreward dump -1 77 -o core",
            "coreward dump 77 --reason slow --json",
            "coreward list -M web",
            "coreward info --machine=web nginx",
            "coreward -D /t list --no-pager -l",
            "coreward export -o core --force",
            "coreward list --unit nginx --container 4f5c --signal SIGSEGV --user root --signature s2-12",
            "coreward groups s2-12 --json",
            "coreward list COREDUMP_UNIT=nginx.service COREDUMP_SIGNAL=11 nginx -1 -r -q",
            "coreward list -F COREDUMP_EXE,pid",
            "coreward list -o id,Exe,COREDUMP_CMDLINE --all",
            "coreward watch --fields time,function",
            "coreward groups -o count,NAME",
            "coreward top -o name",
            "coreward info COREDUMP_PID=7",
            "coreward watch nginx --json -n 3",
            "coreward top --by user --since -7d -n 3",
            "coreward doctor --json --no-test",
            "coreward selftest --dry-run --signal abrt",
            "coreward usage --by signature",
            "coreward report --since -7d -o report.html",
            "coreward report 12ab --force -o -",
            "coreward pin 12ab 77",
            "coreward rm --dry-run nginx",
            "coreward vacuum --max-use 1G --max-age 30d",
        ] {
            CommandLine::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "coreward",
            "coreward list --since soon",
            "coreward list -n many",
            "coreward list COREDUMP_NONE=1",
            "coreward list -b",
            "coreward list --file x.journal",
            "coreward info -S today",
            "coreward info COREDUMP_PID=1 COREDUMP_EXE=/x",
            "coreward dump --image=x.raw",
            "coreward selftest --signal TERM",
            "coreward frobnicate",
            "coreward vacuum",
            "coreward report 12ab --since -1d",
            "coreward rm",
            "coreward dump 77 -o core --reason slow",
        ] {
            let error = CommandLine::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn every_verb_and_every_option_is_in_the_manual_page() {
        let page = String::from_utf8(man::page(&CommandLine::command()).unwrap()).unwrap().replace("\\-", "-");
        let command = CommandLine::command();
        for verb in command.get_subcommands() {
            assert!(page.contains(&format!("coreward {}\"", verb.get_name())), "{}", verb.get_name());
            for flag in verb.get_arguments().filter_map(|argument| argument.get_long()) {
                assert!(page.contains(&format!("--{flag}")), "{flag}");
            }
        }
        assert!(page.contains("--root") && page.contains(".SH \"EXIT STATUS\""));
        assert_eq!(page.matches(".TH ").count(), 1);
    }

    #[test]
    fn every_shell_has_its_script_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("deep/er");
        for files in ["completions", "man"] {
            let line = ["coreward", "generate", files, to.to_str().unwrap()];
            run(CommandLine::try_parse_from(line).unwrap(), &mut io::sink()).unwrap();
        }
        for name in ["coreward.bash", "_coreward", "coreward.fish", "coreward.1"] {
            let text = std::fs::read_to_string(to.join(name)).unwrap();
            assert!(
                text.contains("--no-legend") || text.contains("no-legend") || text.contains(r"\-\-no\-legend"),
                "{name}"
            );
        }
    }
}
