//! Values of the catalog's columns, and their conversion to and from SQLite.

use crate::crash::{CrashId, SignatureKey};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Row, RowIndex};

/// Column `crashes.core`: the state of the core when it was last recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordedCore {
    /// There is a core file, whole or truncated.
    Stored,
    /// No core was stored.
    None,
    /// Deleted to make room.
    Evicted,
    /// Found to be gone when the daemon started.
    Missing,
    /// Deleted by somebody else while the daemon was running.
    Removed,
}

impl RecordedCore {
    const ALL: [Self; 5] = [Self::Stored, Self::None, Self::Evicted, Self::Missing, Self::Removed];

    fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::None => "none",
            Self::Evicted => "evicted",
            Self::Missing => "missing",
            Self::Removed => "removed",
        }
    }
}

impl ToSql for RecordedCore {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.name().into())
    }
}

impl FromSql for RecordedCore {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let name = value.as_str()?;
        let known = Self::ALL.into_iter().find(|state| state.name() == name);
        known.ok_or_else(|| FromSqlError::Other(format!("\"{name}\" is not the state of a core").into()))
    }
}

impl ToSql for SignatureKey {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for SignatureKey {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str().map(Self::new)
    }
}

impl ToSql for CrashId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for CrashId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let text = value.as_str()?;
        Self::parse(text).ok_or_else(|| FromSqlError::Other(format!("\"{text}\" is not the id of a crash").into()))
    }
}

/// `value` as SQLite's signed integer; values above `i64::MAX`, which no time or size reaches, become `i64::MAX`.
pub(super) fn to_signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The number in a column that [`to_signed`] filled.
pub(super) fn get_unsigned(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_keys_and_ids_are_read_as_they_were_written() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let write_and_read =
            |value: &dyn ToSql| -> String { db.query_row("SELECT ?1", [value], |row| row.get(0)).unwrap() };
        for state in RecordedCore::ALL {
            assert_eq!(write_and_read(&state), state.name());
            assert_eq!(db.query_row("SELECT ?1", [state], |row| row.get::<_, RecordedCore>(0)), Ok(state));
        }
        assert!(db.query_row("SELECT 'lost'", [], |row| row.get::<_, RecordedCore>(0)).is_err());
        let key = SignatureKey::new("s1-00");
        assert_eq!(db.query_row("SELECT ?1", [&key], |row| row.get::<_, SignatureKey>(0)), Ok(key));
        let id = CrashId::parse("0123456789abcdef").unwrap();
        assert_eq!(db.query_row("SELECT ?1", [&id], |row| row.get::<_, CrashId>(0)), Ok(id));
        assert!(db.query_row("SELECT '../x'", [], |row| row.get::<_, CrashId>(0)).is_err());
    }
}
