//! `coreward groups`.

use super::crash_table::short_container;
use super::error::CliError;
use super::message::print_message;
use super::symbols::place;
use super::table::Table;
use super::{human, json, lookup, time};
use crate::crash::Record;
use crate::crash::text::printable;
use crate::store::{self, Group, Occurrence};
use crate::unwind::is_runtime;
use clap::Args;
use coreward_wire::paths::Root;
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

/// Options of `groups`.
#[derive(Args, Debug)]
pub(super) struct GroupsOptions {
    /// Show where and when the crashes of this signature occurred; a prefix of it is enough
    #[arg(value_name = "SIGNATURE")]
    signature: Option<String>,
    /// Show only the N most frequent
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<usize>,
    /// Omit the line with the names of the columns
    #[arg(long)]
    no_legend: bool,
    /// Show a JSON array
    #[arg(long)]
    pub(super) json: bool,
}

/// The number of frames in the title of a group.
const TITLE: usize = 2;

/// A group with a title for people.
#[derive(Serialize)]
struct TitledGroup {
    #[serde(flatten)]
    group: Group,
    #[serde(rename = "name")]
    title: String,
}

pub(super) fn run(root: &Root, options: &GroupsOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let groups = lookup::groups(root)?;
    match &options.signature {
        Some(prefix) => list_occurrences(root, options, &groups, prefix, out),
        None => list_groups(options, groups, out),
    }
}

fn list_groups(options: &GroupsOptions, groups: Vec<Group>, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let titled: Vec<TitledGroup> = groups
        .into_iter()
        .take(options.limit.unwrap_or(usize::MAX))
        .map(|group| TitledGroup { title: title(&group), group })
        .collect();
    if options.json {
        json::write(out, &titled)?;
        return Ok(ExitCode::SUCCESS);
    }
    if titled.is_empty() {
        print_message("No crash.");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["COUNT", "CORES", "FIRST", "LAST", "SIGNATURE", "EXE", "NAME"]);
    for TitledGroup { group, title } in &titled {
        table.push_row(&[
            &group.count.to_string(),
            &group.cores.to_string(),
            &time::short(group.first_us),
            &time::short(group.last_us),
            &printable(group.signature.as_str()),
            &printable(&group.program),
            title,
        ]);
    }
    table.write(out, !options.no_legend)?;
    Ok(ExitCode::SUCCESS)
}

fn title(group: &Group) -> String {
    match &group.example {
        Some(listed) => title_of(&listed.record),
        None => format!("SIG{} in {}", printable(&group.signal_name), printable(&group.program)),
    }
}

/// A title for a crash, such as `SIGSEGV in oj.so+0x4f1c <- ruby+0x1a20`: the first frames outside of the language's runtime. It
/// has no function names, because that would need files of every program that ever crashed. The signal is that of the failure, as the
/// stack is.
fn title_of(record: &Record) -> String {
    let name = record.failure.as_ref().map_or(&record.signal_name, |failure| &failure.signal_name);
    let is_named = record.signal.is_some() && name.starts_with(|first: char| first.is_ascii_alphabetic());
    let signal = if is_named { format!("SIG{}", printable(name)) } else { format!("signal {}", printable(name)) };
    let places = record.stack.iter().filter_map(|frame| {
        let module = record.modules.get(frame.module? as usize)?;
        (!is_runtime(&module.path)).then(|| place(module, frame))
    });
    let mut places = places.take(TITLE);
    match places.next() {
        Some(first) => places.fold(format!("{signal} in {first}"), |title, caller| format!("{title} <- {caller}")),
        None => format!("{signal} in {}", printable(&record.program())),
    }
}

fn list_occurrences(
    root: &Root,
    options: &GroupsOptions,
    groups: &[Group],
    prefix: &str,
    out: &mut dyn Write,
) -> Result<ExitCode, CliError> {
    let whole = groups.iter().find(|group| group.signature.as_str() == prefix);
    let mut matching = groups.iter().filter(|group| group.signature.as_str().starts_with(prefix));
    let group = match (whole, matching.next(), matching.next()) {
        (Some(group), _, _) | (None, Some(group), None) => group,
        (None, None, _) => return Err(store::QueryError::NoMatch(prefix.to_owned()).into()),
        (None, Some(_), Some(_)) => {
            let count = 2 + matching.count();
            return Err(store::QueryError::Ambiguous { prefix: prefix.to_owned(), count }.into());
        }
    };
    let mut occurrences = lookup::occurrences(root, &group.signature)?;
    occurrences.truncate(options.limit.unwrap_or(usize::MAX));
    if options.json {
        json::write(out, &occurrences)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !options.no_legend {
        let crashes = match group.count {
            1 => "1 crash".to_owned(),
            count => format!("{count} crashes"),
        };
        writeln!(out, "{}: {crashes}, {}", title(group), human::count(group.cores, "core"))?;
        if let Some(example) = group.example_with_core() {
            writeln!(out, "Open one with: coreward debug {}", example.id())?;
        }
        writeln!(out)?;
    }
    let mut table = Table::new(&["COUNT", "FIRST", "LAST", "HOST", "UNIT", "CONTAINER"]);
    for occurrence in &occurrences {
        push_occurrence(&mut table, occurrence);
    }
    table.write(out, !options.no_legend)?;
    Ok(ExitCode::SUCCESS)
}

fn push_occurrence(table: &mut Table, occurrence: &Occurrence) {
    table.push_row(&[
        &occurrence.count.to_string(),
        &time::short(occurrence.first_us),
        &time::short(occurrence.last_us),
        &printable(&occurrence.hostname),
        &printable(&occurrence.unit),
        &printable(short_container(&occurrence.container)),
    ]);
}
