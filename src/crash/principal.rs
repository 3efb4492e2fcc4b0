//! The principal that the disk space and the rate of crashes are charged to.

use nix::unistd::Uid;
use std::fmt;

/// The party that quotas and rate limits apply to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A system unit.
    Unit(String),
    /// A program that ran in a container. The container's unit does not serve, because its name changes with every start.
    Container(String),
    /// A user, for everything in a login session or under the user's service manager.
    User(Uid),
    /// The user is unknown, because the kernel's arguments could not be read.
    Unknown,
}

impl Principal {
    /// The user with this id, or [`Self::Unknown`] for `None`.
    #[must_use]
    pub fn user(uid: Option<Uid>) -> Self {
        uid.map_or(Self::Unknown, Self::User)
    }
}

/// The form in tables and JSON: `unit nginx.service`, `container /usr/bin/app`, `user 1000`.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit) => write!(f, "unit {unit}"),
            Self::Container(program) => write!(f, "container {program}"),
            Self::User(uid) => write!(f, "user {uid}"),
            Self::Unknown => f.write_str("user unknown"),
        }
    }
}
