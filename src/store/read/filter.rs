//! Selecting crashes, by SQL in the catalog or by their records.

use super::journal_match;
use crate::crash::{Dump, Record};
use crate::store::columns::to_signed;
use nix::unistd::Uid;
use rusqlite::ToSql;

/// A crash whose signature had a name that begins with `?` by the rules of the version before. The records say so: a quotation mark in a text is
/// escaped there. They are long, so nothing else is looked for in them.
pub(super) const NAMED_BEFORE: &str = "EXISTS (SELECT 1 FROM records AS kept WHERE kept.seq = crashes.seq AND instr(kept.record, '\"previous\":\"' || ?))";

/// Whether a text is a name, or the beginning of one, by the rules of the version before.
fn is_named_before(text: &str) -> bool {
    text.starts_with("s1-")
}

/// Which crashes to list: those that satisfy all conditions.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// An id or its prefix, a signature, a PID, a program, a unit or the name of a process; see [`Meaning`].
    pub matches: Option<String>,
    /// A system or user unit; `.service` may be omitted.
    pub unit: Option<String>,
    /// A container's name, or its id or a prefix of it.
    pub container: Option<String>,
    /// The uid of a Kubernetes pod.
    pub pod: Option<String>,
    /// A host name.
    pub hostname: Option<String>,
    /// A real uid.
    pub uid: Option<Uid>,
    /// [`Record::program`].
    pub executable: Option<String>,
    /// The name of a signal, without `SIG`.
    pub signal: Option<String>,
    /// A signature or its prefix.
    pub signature: Option<String>,
    /// The earliest time, microseconds since 1970.
    pub since_us: Option<u64>,
    /// The latest time, microseconds since 1970.
    pub until_us: Option<u64>,
    /// No dumps of living processes.
    pub crashes_only: bool,
    /// The most crashes; the newest are listed.
    pub limit: Option<usize>,
}

impl Filter {
    /// Two filters that together select the same crashes, those before `time_us` and the rest. `limit` is dropped.
    #[must_use]
    pub fn split_at(&self, time_us: u64) -> (Self, Self) {
        let last_us = time_us.saturating_sub(1);
        let earlier =
            Self { until_us: Some(self.until_us.map_or(last_us, |until| until.min(last_us))), ..self.clone() };
        let later = Self { since_us: Some(self.since_us.map_or(time_us, |since| since.max(time_us))), ..self.clone() };
        (Self { limit: None, ..earlier }, Self { limit: None, ..later })
    }

    /// `limit` for SQL, where a negative limit is none.
    pub(super) fn sql_limit(&self) -> i64 {
        self.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX))
    }

    /// Whether a record satisfies all conditions, as [`WhereClause`] decides for a row. `limit` is not considered.
    pub(in crate::store) fn accepts(&self, meaning: Option<Meaning>, record: &Record) -> bool {
        let cgroup = &record.cgroup;
        let holds = |wanted: &Option<String>, test: &dyn Fn(&String) -> bool| wanted.as_ref().is_none_or(test);
        holds(&self.matches, &|text| meaning.is_some_and(|meaning| meaning.fits(text, record)))
            && holds(&self.unit, &|name| in_unit(record, name))
            && holds(&self.container, &|prefix| {
                cgroup.container.as_ref().is_some_and(|container| container.starts_with(prefix.as_str()))
            })
            && holds(&self.pod, &|uid| cgroup.pod.as_ref() == Some(uid))
            && holds(&self.hostname, &|name| record.hostname == *name)
            && holds(&self.executable, &|path| record.program() == *path)
            && holds(&self.signal, &|name| record.signal_name == *name)
            && holds(&self.signature, &|prefix| has_signature(record, prefix))
            && !(self.crashes_only && record.dump.is_some())
            && self.uid.is_none_or(|uid| record.uid == Some(uid))
            && self.since_us.is_none_or(|since| record.time_us >= since)
            && self.until_us.is_none_or(|until| record.time_us <= until)
    }
}

/// What [`Filter::matches`] is taken for: the first of these that any crash has. A number is a PID before it is the beginning of
/// an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A whole id.
    Id,
    /// A PID.
    Pid,
    /// A program, the name of a process, a unit or a signature.
    Name,
    /// The beginning of an id.
    Prefix,
    /// Fields, or several matches (`journal_match.rs`).
    Fields,
}

impl Meaning {
    const ALL: [Self; 4] = [Self::Id, Self::Pid, Self::Name, Self::Prefix];

    /// The meaning of `text` among crashes, of which `has_any` tells whether one fits.
    pub(super) fn resolve<E>(text: &str, has_any: impl Fn(Self) -> Result<bool, E>) -> Result<Option<Self>, E> {
        if text.is_empty() {
            return Ok(None);
        }
        if journal_match::has_fields(text) {
            return Ok(Some(Self::Fields));
        }
        for meaning in Self::ALL {
            if has_any(meaning)? {
                return Ok(Some(meaning));
            }
        }
        Ok(None)
    }

    /// The condition in SQL that holds where any meaning does, with a question mark for each use of the text.
    pub(super) fn any_condition() -> String {
        format!("({})", Self::ALL.map(Self::condition).join(" OR "))
    }

    /// Whether `text` in this meaning names the crash of a record.
    pub(in crate::store) fn fits(self, text: &str, record: &Record) -> bool {
        match self {
            Self::Id => record.id.as_str() == text,
            Self::Pid => record.key.pid.to_string() == text,
            Self::Name => {
                record.program() == text
                    || record.comm == text
                    || record.signature_key().as_str() == text
                    || (is_named_before(text) && previous_signature(record) == Some(text))
                    || in_unit(record, text)
            }
            Self::Prefix => record.id.as_str().starts_with(text),
            Self::Fields => journal_match::fits(text, record, |name| {
                [Self::Id, Self::Pid, Self::Name].into_iter().any(|meaning| meaning.fits(name, record))
            }),
        }
    }

    /// The same in SQL, with a question mark for each use of the text.
    pub(super) fn condition(self) -> &'static str {
        match self {
            Self::Id => "id = ?",
            Self::Pid => "CAST(pid AS TEXT) = ?",
            Self::Name => concat!(
                "(? IN (program, comm, signature, unit, user_unit) OR ? || '.service' IN (unit, user_unit) OR (? GLOB 's1-*' AND EXISTS (",
                "SELECT 1 FROM records AS kept WHERE kept.seq = crashes.seq AND instr(kept.record, '\"previous\":\"' || ? || '\"'))))"
            ),
            Self::Prefix => "substr(id, 1, length(?)) = ?",
            // Of those each has its own.
            Self::Fields => "? NOTNULL",
        }
    }
}

/// The name of a crash's signature by the rules of the version before.
fn previous_signature(record: &Record) -> Option<&str> {
    record.signature.as_ref()?.previous.as_deref()
}

/// Whether the signature of a crash has a name that begins like this, by the rules of this version or the one before.
fn has_signature(record: &Record, prefix: &str) -> bool {
    record.signature_key().as_str().starts_with(prefix)
        || (is_named_before(prefix) && previous_signature(record).is_some_and(|name| name.starts_with(prefix)))
}

/// Whether it crashed in this unit of the system's or a user's service manager; `.service` may be omitted.
fn in_unit(record: &Record, name: &str) -> bool {
    let units = [&record.cgroup.unit, &record.cgroup.user_unit];
    units.into_iter().flatten().any(|unit| unit == name || unit.strip_suffix(".service") == Some(name))
}

/// A filter's conditions in SQL, except for `limit`.
pub(super) struct WhereClause {
    /// `WHERE ...`, never empty, so that `AND` can follow.
    pub(super) sql: String,
    values: Vec<Box<dyn ToSql>>,
}

impl WhereClause {
    /// `meaning` is that of [`Filter::matches`]; without one no crash matches.
    pub(super) fn new(filter: &Filter, meaning: Option<Meaning>) -> Self {
        let mut clause = Self { sql: "WHERE true".to_owned(), values: Vec::new() };
        let mut of_signature = "substr(signature, 1, length(?)) = ?".to_owned();
        if filter.signature.as_deref().is_some_and(is_named_before) {
            of_signature = format!("({of_signature} OR {NAMED_BEFORE})");
        }
        let texts = [
            (meaning.map_or("? ISNULL", Meaning::condition), &filter.matches),
            ("(? IN (unit, user_unit) OR ? || '.service' IN (unit, user_unit))", &filter.unit),
            ("substr(container, 1, length(?)) = ?", &filter.container),
            ("pod = ?", &filter.pod),
            ("hostname = ?", &filter.hostname),
            ("program = ?", &filter.executable),
            ("signal_name = ?", &filter.signal),
            (&of_signature, &filter.signature),
        ];
        for (condition, text) in texts {
            if let Some(text) = text {
                clause.and(condition, text.clone());
            }
        }
        if let (Some(Meaning::Fields), Some(text)) = (meaning, &filter.matches) {
            for (condition, values) in journal_match::conditions(text) {
                clause.and_each(&condition, values);
            }
        }
        if filter.crashes_only {
            clause.and("signal_name != ?", Dump::SIGNAL_NAME);
        }
        let numbers = [
            ("uid = ?", filter.uid.map(|uid| u64::from(uid.as_raw()))),
            ("time_us >= ?", filter.since_us),
            ("time_us <= ?", filter.until_us),
        ];
        for (condition, number) in numbers {
            if let Some(number) = number {
                clause.and(condition, to_signed(number));
            }
        }
        clause
    }

    /// Adds a condition, and `value` for each of its question marks.
    pub(super) fn and(&mut self, condition: &str, value: impl ToSql + Clone + 'static) {
        self.sql.push_str(" AND ");
        self.sql.push_str(condition);
        self.values.extend(condition.matches('?').map(|_| Box::new(value.clone()) as Box<dyn ToSql>));
    }

    /// Adds a condition with a value for each of its question marks.
    fn and_each(&mut self, condition: &str, values: Vec<String>) {
        self.sql.push_str(" AND ");
        self.sql.push_str(condition);
        self.values.extend(values.into_iter().map(|value| Box::new(value) as Box<dyn ToSql>));
    }

    /// The values of the question marks in `sql`.
    pub(super) fn values(&self) -> Vec<&dyn ToSql> {
        self.values.iter().map(AsRef::as_ref).collect()
    }
}
