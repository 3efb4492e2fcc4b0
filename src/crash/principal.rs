//! Who is accountable for the disk space and the rate of crashes.

use nix::unistd::Uid;
use std::fmt;

/// What quotas and rates are charged to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A system unit.
    Unit(String),
    /// The program of a container: the container's own unit has a new name at every start.
    Container(String),
    /// The user, for everything in a login session or under the user's own service manager.
    User(Uid),
    /// A crash whose arguments could not be read.
    Unknown,
}

impl Principal {
    /// A user by id, [`Self::Unknown`] without one.
    #[must_use]
    pub fn user(uid: Option<Uid>) -> Self {
        uid.map_or(Self::Unknown, Self::User)
    }
}

/// As tables and JSON show it: `unit nginx.service`, `container /usr/bin/app`, `user 1000`.
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
