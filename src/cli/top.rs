//! `coreward top`: what crashes most.

use super::error::CliError;
use super::message::print_message;
use super::table::{self, Table};
use super::{human, json, lookup, time};
use crate::crash::text::printable;
use crate::store::{QueryError, Tally, TallyBy};
use clap::{Args, ValueEnum};
use coreward_wire::paths::Root;
use jiff::Timestamp;
use nix::unistd::Uid;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

/// Options of `top`.
#[derive(Args, Debug)]
pub(super) struct TopOptions {
    /// Count by this only [default: by each of them]
    #[arg(long, value_name = "WHAT")]
    by: Option<By>,
    /// Count crashes at or after this time, written as for `list` [default: -24h]
    #[arg(long, short = 'S', value_name = "TIME", value_parser = time::argument, allow_hyphen_values = true)]
    since: Option<Timestamp>,
    /// Count crashes at or before this time
    #[arg(long, short = 'U', value_name = "TIME", value_parser = time::argument, allow_hyphen_values = true)]
    until: Option<Timestamp>,
    /// Show only the N most frequent
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
    limit: usize,
    /// Show these columns, in this order; the name is what crashes are counted by
    #[arg(
        long,
        short = 'o',
        value_name = "COLUMN,...",
        value_delimiter = ',',
        ignore_case = true,
        conflicts_with = "json",
        value_parser = table::column_parser(&COLUMNS)
    )]
    fields: Vec<usize>,
    /// Omit the lines that say what is counted
    #[arg(long)]
    no_legend: bool,
    /// Show a JSON object
    #[arg(long)]
    json: bool,
}

/// What crashes are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Unit,
    Executable,
    User,
    Signature,
}

const COLUMNS: [&str; 5] = ["count", "cores", "first", "last", "name"];
const DAY_US: u64 = 86_400_000_000;

/// What `--json` shows.
#[derive(Serialize)]
struct TopReport {
    since_us: u64,
    until_us: u64,
    /// All crashes of the time.
    crashes: u64,
    /// The most frequent, by what they have in common.
    by: BTreeMap<&'static str, Vec<Tally>>,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Executable => "executable",
            Self::User => "user",
            Self::Signature => "signature",
        }
    }

    fn header(self) -> &'static str {
        match self {
            Self::Unit => "UNIT",
            Self::Executable => "EXE",
            Self::User => "USER",
            Self::Signature => "SIGNATURE",
        }
    }

    fn tally(self) -> TallyBy {
        match self {
            Self::Unit => TallyBy::Unit,
            Self::Executable => TallyBy::Executable,
            Self::User => TallyBy::User,
            Self::Signature => TallyBy::Signature,
        }
    }

    /// The name for people.
    fn shown(self, name: Option<&str>) -> String {
        let unknown = match self {
            Self::Unit => "no unit",
            Self::User => "not known",
            Self::Executable | Self::Signature => "several",
        };
        match (self, name) {
            (_, None) => format!("({unknown})"),
            (Self::User, Some(uid)) => {
                uid.parse().map_or_else(|_| printable(uid), |uid| human::user(Uid::from_raw(uid)))
            }
            (_, Some(name)) => printable(name),
        }
    }
}

pub(super) fn run(root: &Root, options: &TopOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let until_us = time::microseconds(options.until.unwrap_or_else(Timestamp::now));
    let since_us = options.since.map_or(until_us.saturating_sub(DAY_US), time::microseconds);
    let kinds = options.by.map_or_else(|| By::value_variants().to_vec(), |by| vec![by]);
    if lookup::is_incomplete(root) {
        print_message(lookup::INCOMPLETE);
    }
    let wanted: Vec<TallyBy> = kinds.iter().map(|by| by.tally()).collect();
    let mut counted = match lookup::tally(root, &wanted, since_us, until_us) {
        // Before the first crash.
        Err(CliError::Query(QueryError::NoCatalog(_))) => vec![Vec::new(); kinds.len()],
        counted => counted?,
    };
    let crashes = counted.first().into_iter().flatten().map(|tally| tally.count).sum();
    counted.iter_mut().for_each(|tallies| tallies.truncate(options.limit));
    let tables: Vec<(By, Vec<Tally>)> = kinds.into_iter().zip(counted).collect();
    if options.json {
        let by = tables.into_iter().map(|(by, tallies)| (by.name(), tallies)).collect();
        json::write(out, &TopReport { since_us, until_us, crashes, by })?;
        return Ok(ExitCode::SUCCESS);
    }
    if crashes == 0 {
        print_message("No crash.");
        return Ok(ExitCode::SUCCESS);
    }
    if !options.no_legend {
        let (since, until) = (time::short(since_us), time::short(until_us));
        writeln!(out, "{} from {since} to {until}", human::count(crashes, "crash"))?;
    }
    for (number, (by, tallies)) in tables.iter().enumerate() {
        if number > 0 || !options.no_legend {
            writeln!(out)?;
        }
        let [count, cores, first, last, _] = COLUMNS;
        let mut table = Table::with_columns(&[count, cores, first, last, by.header()]);
        if !options.fields.is_empty() {
            table.show_columns(&options.fields);
        }
        for Tally { name, count, cores, first_us, last_us } in tallies {
            let (first, last) = (time::short(*first_us), time::short(*last_us));
            table.push_row(&[&count.to_string(), &cores.to_string(), &first, &last, &by.shown(name.as_deref())]);
        }
        table.write(out, !options.no_legend)?;
    }
    Ok(ExitCode::SUCCESS)
}
