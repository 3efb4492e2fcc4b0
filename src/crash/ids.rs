//! nix's ids in records: JSON has plain numbers.

use nix::unistd::{Gid, Pid, Uid};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An id with a number that JSON shows.
pub trait Number: Sized + Copy {
    /// The id's number.
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

/// `#[serde(with = "ids::optional")]`.
pub mod optional {
    use super::{Deserialize, Deserializer, Number, Serialize, Serializer};

    /// Writes the number, or null.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer, T: Number>(id: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        id.map(Number::number).serialize(serializer)
    }

    /// Reads a number, or null.
    ///
    /// # Errors
    /// Something else than a number.
    pub fn deserialize<'de, D: Deserializer<'de>, T: Number>(deserializer: D) -> Result<Option<T>, D::Error> {
        Ok(Option::<u32>::deserialize(deserializer)?.map(T::from_number))
    }
}

/// `#[serde(with = "ids")]`.
///
/// # Errors
/// The serializer's own.
pub fn serialize<S: Serializer, T: Number>(id: &T, serializer: S) -> Result<S::Ok, S::Error> {
    id.number().serialize(serializer)
}

/// Reads a number.
///
/// # Errors
/// Something else than a number.
pub fn deserialize<'de, D: Deserializer<'de>, T: Number>(deserializer: D) -> Result<T, D::Error> {
    Ok(T::from_number(u32::deserialize(deserializer)?))
}
