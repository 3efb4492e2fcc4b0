//! `coreward groups`.

use super::symbols::Symbols;
use super::table::Table;
use super::{CliError, json, list, say, time};
use crate::crash::text::printable;
use crate::store::{self, Group, Occurrence};
use clap::Args;
use coreward_wire::paths::Root;
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

/// Options of `groups`.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// Show where and when the crashes of this signature were; the beginning of it is enough
    #[arg(value_name = "SIGNATURE")]
    signature: Option<String>,
    /// Only the N most frequent
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<usize>,
    /// Show no line with the names of the columns
    #[arg(long)]
    no_legend: bool,
    /// Show one JSON array
    #[arg(long)]
    json: bool,
}

/// A group with its name for people.
#[derive(Serialize)]
struct Named {
    #[serde(flatten)]
    group: Group,
    name: String,
}

pub(super) fn run(root: &Root, options: &Options, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let groups = store::groups(root)?;
    match &options.signature {
        Some(beginning) => one(root, options, &groups, beginning, out),
        None => all(options, groups, out),
    }
}

fn all(options: &Options, groups: Vec<Group>, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let mut symbols = Symbols::default();
    let named: Vec<Named> = groups
        .into_iter()
        .take(options.limit.unwrap_or(usize::MAX))
        .map(|group| Named { name: name(&group, &mut symbols), group })
        .collect();
    if options.json {
        json::write(out, &named)?;
        return Ok(ExitCode::SUCCESS);
    }
    if named.is_empty() {
        say("No crash.");
        return Ok(ExitCode::SUCCESS);
    }
    let header = ["COUNT", "CORES", "FIRST", "LAST", "SIGNATURE", "EXE", "NAME"];
    let mut table = Table::new(&header);
    for Named { group, name } in &named {
        table.row(vec![
            group.count.to_string(),
            group.cores.to_string(),
            time::short(group.first_us),
            time::short(group.last_us),
            printable(&group.signature),
            printable(&group.program),
            name.clone(),
        ]);
    }
    table.write(out, !options.no_legend)?;
    Ok(ExitCode::SUCCESS)
}

fn name(group: &Group, symbols: &mut Symbols) -> String {
    match &group.example {
        Some(listed) => symbols.title(&listed.record),
        None => format!("SIG{} in {}", printable(&group.signal_name), printable(&group.program)),
    }
}

fn one(
    root: &Root,
    options: &Options,
    groups: &[Group],
    beginning: &str,
    out: &mut dyn Write,
) -> Result<ExitCode, CliError> {
    let mut matching = groups.iter().filter(|group| group.signature.starts_with(beginning));
    let group = match (matching.next(), matching.next()) {
        (None, _) => return Err(store::QueryError::NoMatch(beginning.to_owned()).into()),
        (Some(group), _) if group.signature == beginning => group,
        (Some(group), None) => group,
        (Some(_), Some(_)) => {
            let count = 2 + matching.count();
            return Err(store::QueryError::Ambiguous { prefix: beginning.to_owned(), count }.into());
        }
    };
    let mut occurrences = store::occurrences(root, &group.signature)?;
    occurrences.truncate(options.limit.unwrap_or(usize::MAX));
    if options.json {
        json::write(out, &occurrences)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !options.no_legend {
        writeln!(out, "{}: {} crashes, {} cores", name(group, &mut Symbols::default()), group.count, group.cores)?;
        if let Some(example) = group.example.as_ref().filter(|_| group.has_core()) {
            writeln!(out, "Open one with: coreward debug {}", example.id())?;
        }
        writeln!(out)?;
    }
    let header = ["COUNT", "FIRST", "LAST", "HOST", "UNIT", "CONTAINER"];
    let mut table = Table::new(&header);
    occurrences.iter().for_each(|occurrence| table.row(row(occurrence)));
    table.write(out, !options.no_legend)?;
    Ok(ExitCode::SUCCESS)
}

fn row(occurrence: &Occurrence) -> Vec<String> {
    vec![
        occurrence.count.to_string(),
        time::short(occurrence.first_us),
        time::short(occurrence.last_us),
        printable(&occurrence.hostname),
        printable(&occurrence.unit),
        printable(list::container(&occurrence.container)),
    ]
}
