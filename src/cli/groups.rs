//! `coreward groups`.

use super::crash_table::short_container;
use super::error::CliError;
use super::message::print_message;
use super::table::{self, Table};
use super::{human, json, lookup, time};
use crate::crash::text::printable;
use crate::store::{self, Group, Occurrence};
use clap::Args;
use coreward_wire::paths::Root;
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

const COLUMNS: [&str; 7] = ["count", "cores", "first", "last", "signature", "exe", "name"];

/// Options of `groups`.
#[derive(Args, Debug)]
pub(super) struct GroupsOptions {
    /// Show where and when the crashes of this signature occurred; a prefix of it is enough
    #[arg(value_name = "SIGNATURE")]
    signature: Option<String>,
    /// Show only the N most frequent
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<usize>,
    /// Show these columns, in this order
    #[arg(
        long,
        short = 'o',
        value_name = "COLUMN,...",
        value_delimiter = ',',
        ignore_case = true,
        conflicts_with_all = ["json", "signature"],
        value_parser = table::column_parser(&COLUMNS)
    )]
    fields: Vec<usize>,
    /// Omit the line with the names of the columns
    #[arg(long)]
    no_legend: bool,
    /// Show a JSON array
    #[arg(long)]
    pub(super) json: bool,
}

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
    let mut table = Table::with_columns(&COLUMNS);
    if !options.fields.is_empty() {
        table.show_columns(&options.fields);
    }
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

pub(super) fn title(group: &Group) -> String {
    match &group.example {
        Some(listed) => listed.record.title(),
        None => format!("SIG{} in {}", printable(&group.signal_name), printable(&group.program)),
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
        (None, None, _) => return list_groups_named_before(root, options, groups, prefix, out),
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

/// The groups of crashes whose signature had this name by the rules of the version before. There may be several: that version took different bugs for
/// one.
fn list_groups_named_before(
    root: &Root,
    options: &GroupsOptions,
    groups: &[Group],
    prefix: &str,
    out: &mut dyn Write,
) -> Result<ExitCode, CliError> {
    let signatures = store::signatures_named_before(root, prefix)?;
    let named = groups.iter().filter(|group| signatures.contains(&group.signature));
    match named.cloned().collect::<Vec<Group>>().as_slice() {
        [] => Err(lookup::with_similar_names(root, store::QueryError::NoMatch(prefix.to_owned()).into())),
        [group] => list_occurrences(root, options, groups, group.signature.as_str(), out),
        several => list_groups(options, several.to_vec(), out),
    }
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
