//! Parameters of a call. One that a method does not know is an error: a filter that is silently ignored would show the wrong crashes.

use super::error::MethodError;
use super::message::Call;
use crate::store::Filter;
use nix::unistd::Uid;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The parameters that nobody has asked for yet.
pub(super) struct Parameters(Map<String, Value>);

impl Parameters {
    pub(super) fn new(parameters: Option<Map<String, Value>>) -> Self {
        Self(parameters.unwrap_or_default())
    }

    /// A parameter that may be missing or null.
    pub(super) fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, MethodError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                serde_json::from_value(value).map(Some).map_err(|_| MethodError::InvalidParameter(name.to_owned()))
            }
        }
    }

    pub(super) fn required<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, MethodError> {
        self.optional(name)?.ok_or_else(|| MethodError::InvalidParameter(name.to_owned()))
    }

    /// The parameter `filter`; if it is missing, all crashes.
    pub(super) fn filter(&mut self) -> Result<Filter, MethodError> {
        let mut fields = Self::new(self.optional("filter")?);
        let filter = Filter {
            matches: fields.optional("match")?,
            unit: fields.optional("unit")?,
            container: fields.optional("container")?,
            pod: fields.optional("pod")?,
            hostname: fields.optional("hostname")?,
            uid: fields.optional("uid")?.map(Uid::from_raw),
            executable: fields.optional("executable")?,
            signal: fields.optional("signal")?,
            signature: fields.optional("signature")?,
            since_us: fields.optional("since_us")?,
            until_us: fields.optional("until_us")?,
            crashes_only: false,
            limit: fields.optional("limit")?,
        };
        fields.finish()?;
        Ok(filter)
    }

    /// Fails if one is left.
    pub(super) fn finish(self) -> Result<(), MethodError> {
        self.0.into_iter().next().map_or(Ok(()), |(name, _)| Err(MethodError::InvalidParameter(name)))
    }
}

/// The filter in the parameters of a call; `None` if it is not understood.
#[must_use]
pub fn filter_of(call: &Call) -> Option<Filter> {
    Parameters::new(call.parameters.clone()).filter().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filter(parameters: Value) -> Result<Filter, MethodError> {
        let Value::Object(parameters) = parameters else { panic!("not an object") };
        let mut parameters = Parameters::new(Some(parameters));
        let filter = parameters.filter()?;
        parameters.finish()?;
        Ok(filter)
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let good = filter(json!({ "filter": { "match": "x", "uid": 7, "since_us": 1, "unit": null } })).unwrap();
        assert_eq!((good.matches.as_deref(), good.uid, good.since_us), (Some("x"), Some(Uid::from_raw(7)), Some(1)));
        assert!(filter(json!({})).is_ok() && filter(json!({ "filter": null })).is_ok());
        for (name, bad) in [
            ("filter", json!({ "filter": 1 })),
            ("uid", json!({ "filter": { "uid": -1 } })),
            ("uid", json!({ "filter": { "uid": 4_294_967_296_u64 } })),
            ("limit", json!({ "filter": { "limit": "1" } })),
            ("programm", json!({ "filter": { "programm": "x" } })),
            ("filters", json!({ "filters": {} })),
        ] {
            match filter(bad) {
                Err(MethodError::InvalidParameter(parameter)) => assert_eq!(parameter, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
