//! Messages of the Varlink protocol: JSON objects, each with a NUL at its end.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

/// The most bytes of a call. A filter with a path of PATH_MAX bytes, each of them escaped, fits.
pub const MAX_CALL: usize = 32 << 10;

/// A method call.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Call {
    /// Interface and method, separated by a dot.
    pub method: String,
    /// The arguments by name.
    #[serde(default)]
    pub parameters: Option<Map<String, Value>>,
    /// No reply is expected.
    #[serde(default)]
    pub oneway: Option<bool>,
    /// Any number of replies is accepted.
    #[serde(default)]
    pub more: Option<bool>,
    /// The connection is to be used for another protocol after the reply.
    #[serde(default)]
    pub upgrade: Option<bool>,
}

/// Why bytes are not a call.
#[derive(Debug, Error)]
pub enum MessageError {
    /// No NUL within [`MAX_CALL`].
    #[error("a call of more than {MAX_CALL} bytes")]
    TooLong,
    /// Not the JSON of a call.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

impl Call {
    /// Parses the bytes of a call, without its NUL.
    ///
    /// # Errors
    /// They are too many, or not a call.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MAX_CALL {
            return Err(MessageError::TooLong);
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The name of the interface, and that of the method in it.
    #[must_use]
    pub fn split(&self) -> (&str, &str) {
        self.method.rsplit_once('.').unwrap_or(("", &self.method))
    }

    /// Whether more than one reply is accepted.
    #[must_use]
    pub fn accepts_more(&self) -> bool {
        self.more == Some(true) && self.oneway != Some(true)
    }
}

/// A reply.
#[derive(Serialize)]
struct Reply<'a, T: Serialize> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    parameters: T,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    continues: bool,
}

/// The bytes of a reply, with its NUL. `continues`: another one follows.
pub(super) fn reply(parameters: impl Serialize, continues: bool) -> Vec<u8> {
    encode(&Reply { error: None, parameters, continues })
}

/// The bytes of a reply that is an error, with its NUL.
pub(super) fn error(name: &str, parameters: impl Serialize) -> Vec<u8> {
    encode(&Reply { error: Some(name), parameters, continues: false })
}

fn encode(message: &impl Serialize) -> Vec<u8> {
    // The types of this module have neither maps with other keys than text nor anything else that JSON lacks.
    let mut bytes = serde_json::to_vec(message).unwrap_or_default();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_parsed_and_others_refused() {
        let call = Call::parse(br#"{"method":"a.b.C","parameters":{"x":1},"more":true,"unknown":[]}"#).unwrap();
        assert_eq!((call.split(), call.accepts_more()), (("a.b", "C"), true));
        assert_eq!(call.parameters.unwrap()["x"], 1);
        let call = Call::parse(br#"{"method":"C","parameters":null,"more":true,"oneway":true}"#).unwrap();
        assert_eq!((call.split(), call.accepts_more()), (("", "C"), false));
        let deep = format!("{{\"method\":\"a\",\"parameters\":{}", "[".repeat(20_000));
        let long = format!("{{\"method\":\"{}\"}}", "a".repeat(MAX_CALL));
        for bytes in
            ["", "{}", "[]", "1", "{\"method\":1}", "{\"method\":\"a\",\"parameters\":[]}", "\u{1}", &deep, &long]
        {
            assert!(Call::parse(bytes.as_bytes()).is_err(), "{bytes:.40}");
        }
        assert!(Call::parse(b"{\"method\":\"\xff\"}").is_err());
    }

    #[test]
    fn replies_end_with_a_nul_and_have_no_other() {
        assert_eq!(
            reply(serde_json::json!({ "a": "\0" }), true),
            b"{\"parameters\":{\"a\":\"\\u0000\"},\"continues\":true}\0"
        );
        assert_eq!(error("a.B", serde_json::json!({})), b"{\"error\":\"a.B\",\"parameters\":{}}\0");
    }
}
