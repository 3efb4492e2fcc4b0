//! `coreward list`.

use super::crash_columns::ColumnOptions;
use super::crash_filter::CrashFilter;
use super::crash_table::{CrashTable, ShownColumns};
use super::error::CliError;
use super::message::print_message;
use super::titles::{TitledCrash, Titles};
use super::{human, json, lookup, record_field};
use clap::Args;
use coreward_wire::paths::Root;
use nix::unistd::Uid;
use std::io::Write;
use std::process::ExitCode;

/// Options of `list`.
#[derive(Args, Debug)]
pub(super) struct ListOptions {
    #[command(flatten)]
    filter: CrashFilter,
    /// Only the newest N crashes
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<usize>,
    /// Only the newest crash
    #[arg(short = '1', conflicts_with = "limit")]
    newest: bool,
    /// List the newest crash first
    #[arg(long, short)]
    reverse: bool,
    #[command(flatten)]
    columns: ColumnOptions,
    /// Print only this field of each crash, by its name in the journal (COREDUMP_EXE) or in JSON (exe, core.stored); several with tabs
    #[arg(
        long,
        short = 'F',
        value_name = "FIELD,...",
        value_delimiter = ',',
        value_parser = record_field::parser(),
        conflicts_with_all = ["json", "fields"]
    )]
    field: Vec<String>,
    /// Say nothing if there is no crash
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Omit the line with the names of the columns
    #[arg(long)]
    no_legend: bool,
    /// Show the complete records as a JSON array
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(root: &Root, caller: Uid, options: ListOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let filter = options.filter.into_filter(options.limit.or(options.newest.then_some(1)));
    if lookup::is_incomplete(root) && !options.quiet {
        print_message(lookup::INCOMPLETE);
    }
    if options.json || !options.field.is_empty() {
        let mut crashes = lookup::list(root, &filter)?;
        if options.reverse {
            crashes.reverse();
        }
        let mut titles = Titles::new(root);
        if options.json {
            let titled: Vec<TitledCrash<'_>> = crashes.iter().map(|listed| titles.with_title(listed)).collect();
            json::write(out, &titled)?;
        } else {
            record_field::write(&crashes, &options.field, &mut titles, out)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let here = human::host_name();
    let shown = ShownColumns::new(options.columns.chosen());
    let mut table = CrashTable::read(root, &filter, &here, &shown)?;
    if table.is_empty() {
        // Not a failure: "no crash since yesterday" is a good answer. Standard output stays empty for scripts that count lines.
        let whose = if caller.is_root() { "" } else { " (root and group adm see the crashes of all users)" };
        if !options.quiet && lookup::is_nothing_recorded(root) {
            print_message(lookup::nothing_recorded(root));
        } else if !options.quiet {
            print_message(&format!("No crash.{whose}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if options.reverse {
        table.reverse();
    }
    table.write(out, !options.no_legend)?;
    Ok(ExitCode::SUCCESS)
}
