//! Errors that a method replies with.

use super::deletion::DeletionError;
use super::interface::{INTERFACE, SERVICE};
use super::message;
use crate::store::QueryError;
use rusqlite::ErrorCode;
use serde_json::{Value, json};

/// Why a method fails.
#[derive(Debug)]
pub(super) enum MethodError {
    InterfaceNotFound(String),
    MethodNotFound(String),
    InvalidParameter(String),
    ExpectedMore,
    /// The call asks for another protocol.
    PermissionDenied,
    NoSuchCrash(Option<String>),
    Ambiguous(String, usize),
    NoCore(String),
    Pinned(String),
    NotAllowed,
    TooMany(usize),
    TooManyConnections(usize),
    /// A reason that says nothing about crashes of others.
    Unavailable(String),
}

impl MethodError {
    /// The reply.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (interface, name, parameters) = self.parts();
        message::error(&format!("{interface}.{name}"), parameters)
    }

    fn parts(&self) -> (&str, &str, Value) {
        match self {
            Self::InterfaceNotFound(interface) => (SERVICE, "InterfaceNotFound", json!({ "interface": interface })),
            Self::MethodNotFound(method) => (SERVICE, "MethodNotFound", json!({ "method": method })),
            Self::InvalidParameter(name) => (SERVICE, "InvalidParameter", json!({ "parameter": name })),
            Self::ExpectedMore => (SERVICE, "ExpectedMore", json!({})),
            Self::PermissionDenied => (SERVICE, "PermissionDenied", json!({})),
            Self::NoSuchCrash(name) => (INTERFACE, "NoSuchCrash", json!({ "match": name })),
            Self::Ambiguous(prefix, count) => (INTERFACE, "Ambiguous", json!({ "match": prefix, "count": count })),
            Self::NoCore(id) => (INTERFACE, "NoCore", json!({ "id": id })),
            Self::Pinned(id) => (INTERFACE, "Pinned", json!({ "id": id })),
            Self::NotAllowed => (INTERFACE, "NotAllowed", json!({})),
            Self::TooMany(limit) => (INTERFACE, "TooMany", json!({ "limit": limit })),
            Self::TooManyConnections(limit) => (INTERFACE, "TooManyConnections", json!({ "limit": limit })),
            Self::Unavailable(reason) => (INTERFACE, "Unavailable", json!({ "reason": reason })),
        }
    }
}

impl From<QueryError> for MethodError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Nothing => Self::NoSuchCrash(None),
            QueryError::NoMatch(name) => Self::NoSuchCrash(Some(name)),
            QueryError::Ambiguous { prefix, count } => Self::Ambiguous(prefix, count),
            QueryError::Sqlite { error, .. } if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                Self::Unavailable("the query took too long: ask for less of the time, or of one unit".to_owned())
            }
            QueryError::NoCatalog(_)
            | QueryError::NotAFile(_)
            | QueryError::Sqlite { .. }
            | QueryError::Record { .. } => {
                Self::Unavailable("the catalog cannot be read; the log of coreward-query.service says why".to_owned())
            }
        }
    }
}

impl From<DeletionError> for MethodError {
    fn from(error: DeletionError) -> Self {
        match error {
            DeletionError::NoSuchCrash(id) => Self::NoSuchCrash(Some(id.to_string())),
            DeletionError::NoCore(id) => Self::NoCore(id.to_string()),
            DeletionError::Pinned(id) => Self::Pinned(id.to_string()),
            DeletionError::NotAllowed => Self::NotAllowed,
            DeletionError::Failed(reason) => Self::Unavailable(reason),
        }
    }
}
