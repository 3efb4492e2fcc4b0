//! The columns of tables of crashes, and how users choose them.

use super::record_field;
use super::similar::{closest, did_you_mean};
use clap::Args;
use clap::builder::{StringValueParser, TypedValueParser};

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CrashColumn {
    Time,
    Pid,
    Uid,
    Signal,
    Core,
    Size,
    Id,
    Exe,
    Unit,
    Container,
    Host,
    /// The functions that the title names: of most bugs all that the other columns do not say.
    Function,
    Title,
    Signature,
    /// Any field of a record, by its name in the journal or in JSON.
    Field(String),
}

/// The columns that have names of their own. Of these all up to FUNCTION are shown unless others are asked for.
const NAMED: [(&str, CrashColumn); 14] = [
    ("TIME", CrashColumn::Time),
    ("PID", CrashColumn::Pid),
    ("UID", CrashColumn::Uid),
    ("SIG", CrashColumn::Signal),
    ("CORE", CrashColumn::Core),
    ("SIZE", CrashColumn::Size),
    ("ID", CrashColumn::Id),
    ("EXE", CrashColumn::Exe),
    ("UNIT", CrashColumn::Unit),
    ("CONTAINER", CrashColumn::Container),
    ("HOST", CrashColumn::Host),
    ("FUNCTION", CrashColumn::Function),
    ("TITLE", CrashColumn::Title),
    ("SIGNATURE", CrashColumn::Signature),
];

impl CrashColumn {
    /// The columns that are shown if none were chosen.
    pub(super) fn by_default() -> Vec<Self> {
        let last = NAMED.iter().position(|(_, column)| *column == Self::Function).unwrap_or_default();
        NAMED.iter().take(last + 1).map(|(_, column)| column.clone()).collect()
    }

    /// What stands above the column.
    pub(super) fn header(&self) -> &str {
        match self {
            Self::Field(name) => name,
            named => NAMED.iter().find(|(_, column)| column == named).map_or("", |(name, _)| name),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let named = NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        let field = || record_field::is_known(text).then(|| Self::Field(text.to_owned()));
        named.map(|(_, column)| column.clone()).or_else(field)
    }

    /// The names of columns, and of fields that are no columns.
    pub(super) fn names() -> impl Iterator<Item = String> {
        let named = NAMED.iter().map(|(name, _)| name.to_lowercase());
        let is_other = |name: &&str| !NAMED.iter().any(|(column, _)| column.eq_ignore_ascii_case(name));
        named.chain(record_field::names().filter(is_other).map(str::to_owned))
    }
}

/// The option that chooses columns.
#[derive(Args, Debug)]
pub(super) struct ColumnOptions {
    /// Show these columns, in this order: time, pid, uid, sig, core, size, id, exe, unit, container, host, function, title, signature
    ///
    /// Any field of the records is a column as well, by its name in the journal (COREDUMP_CMDLINE) or in JSON (cwd, core.stored).
    #[arg(long, short = 'o', value_name = "COLUMN,...", value_delimiter = ',', conflicts_with = "json", value_parser = parser())]
    fields: Vec<CrashColumn>,
}

impl ColumnOptions {
    /// The chosen columns; `None`: the usual ones.
    pub(super) fn chosen(self) -> Option<Vec<CrashColumn>> {
        (!self.fields.is_empty()).then_some(self.fields)
    }
}

fn parser() -> impl TypedValueParser<Value = CrashColumn> {
    StringValueParser::new().try_map(|text| {
        CrashColumn::parse(&text).ok_or_else(|| {
            let names: Vec<String> = CrashColumn::names().collect();
            let columns: Vec<String> = NAMED.iter().map(|(name, _)| name.to_lowercase()).collect();
            let suggestion = did_you_mean(&closest(&text, names.iter().map(String::as_str)));
            format!(
                "no such column: {suggestion}columns are {}, and all fields (`coreward complete column`)",
                columns.join(", ")
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_fields_are_chosen_by_name() {
        for (text, header) in [
            ("time", "TIME"),
            ("Function", "FUNCTION"),
            ("exe", "EXE"),
            ("COREDUMP_EXE", "COREDUMP_EXE"),
            ("core.stored", "core.stored"),
        ] {
            assert_eq!(CrashColumn::parse(text).unwrap().header(), header);
        }
        assert_eq!(CrashColumn::parse("COREDUMP_NONE"), None);
        assert_eq!(CrashColumn::by_default().len(), 12);
        let names: Vec<String> = CrashColumn::names().collect();
        assert!(names.iter().all(|name| CrashColumn::parse(name).is_some()));
        assert_eq!(names.iter().filter(|name| *name == "pid").count(), 1);
    }
}
