//! Why crashes cannot be listed.

use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why crashes cannot be listed.
#[derive(Debug, Error)]
pub enum QueryError {
    /// There is no catalog.
    #[error("{0}: there is no catalog: has coreward.service ever run? (systemctl status coreward.socket)")]
    NoCatalog(PathBuf),
    /// Something else is in the place of the catalog.
    #[error(
        "{0}: not a regular file, not opened: move it away, and coreward.service makes a new catalog (systemctl restart coreward.service)"
    )]
    NotAFile(PathBuf),
    /// An error of SQLite.
    #[error("{path}: {error} (`coreward doctor` names a remedy)")]
    Sqlite {
        /// The catalog.
        path: PathBuf,
        /// The error.
        error: rusqlite::Error,
    },
    /// A record that cannot be parsed.
    #[error("crash {id}: the record cannot be parsed: {error}: was it written by a newer version of Coreward?")]
    Record {
        /// The crash.
        id: String,
        /// The error.
        error: serde_json::Error,
    },
    /// No crash matches.
    #[error("no crash matches \"{0}\": `coreward list` shows what there is")]
    NoMatch(String),
    /// The catalog is empty.
    #[error("no crash has been recorded")]
    Nothing,
    /// Several ids or signatures begin with the same prefix.
    #[error("\"{prefix}\" is ambiguous ({count} begin with it): type more of it")]
    Ambiguous {
        /// The prefix.
        prefix: String,
        /// The number of ids.
        count: usize,
    },
}

impl QueryError {
    /// An error of SQLite about the catalog at `path`.
    pub(super) fn sqlite(path: &Path, error: rusqlite::Error) -> Self {
        Self::Sqlite { path: path.to_owned(), error }
    }
}
