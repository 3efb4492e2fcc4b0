//! Serializes nix's id types as plain numbers.

use nix::unistd::{Gid, Pid, Uid};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An id that is serialized as its number.
pub trait Number: Sized + Copy {
    /// The number of the id.
    fn number(self) -> u32;
    /// The id with this number.
    fn from_number(number: u32) -> Self;
}

impl Number for Pid {
    fn number(self) -> u32 {
        self.as_raw().cast_unsigned()
    }

    fn from_number(number: u32) -> Self {
        Self::from_raw(number.cast_signed())
    }
}

impl Number for Uid {
    fn number(self) -> u32 {
        self.as_raw()
    }

    fn from_number(number: u32) -> Self {
        Self::from_raw(number)
    }
}

impl Number for Gid {
    fn number(self) -> u32 {
        self.as_raw()
    }

    fn from_number(number: u32) -> Self {
        Self::from_raw(number)
    }
}

/// For fields of type `Option`: `#[serde(with = "ids::optional")]`.
pub mod optional {
    use super::{Deserialize, Deserializer, Number, Serialize, Serializer};

    /// Serializes the number, or null for `None`.
    ///
    /// # Errors
    /// The serializer fails.
    pub fn serialize<S: Serializer, T: Number>(id: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        id.map(Number::number).serialize(serializer)
    }

    /// Deserializes a number or null.
    ///
    /// # Errors
    /// The value is neither a 32-bit number nor null.
    pub fn deserialize<'de, D: Deserializer<'de>, T: Number>(deserializer: D) -> Result<Option<T>, D::Error> {
        Ok(Option::<u32>::deserialize(deserializer)?.map(T::from_number))
    }
}

/// Serializes the number, for `#[serde(with = "ids")]`.
///
/// # Errors
/// The serializer fails.
pub fn serialize<S: Serializer, T: Number>(id: &T, serializer: S) -> Result<S::Ok, S::Error> {
    id.number().serialize(serializer)
}

/// Deserializes a number.
///
/// # Errors
/// The value is not a 32-bit number.
pub fn deserialize<'de, D: Deserializer<'de>, T: Number>(deserializer: D) -> Result<T, D::Error> {
    Ok(T::from_number(u32::deserialize(deserializer)?))
}
