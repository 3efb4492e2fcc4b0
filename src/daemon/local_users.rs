//! Whose process it was, by the files that say who the users of this machine are.

use crate::config::{read_local_users, read_login_defs};
use crate::policy::access::{NotTheUsers, check_person};
use coreward_wire::paths::Root;
use nix::unistd::{Gid, Uid};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Whether this uid may be a person's: nobody asks why a system account may not read cores. Blocks.
pub(super) fn may_be_person(root: &Root, uid: Uid) -> bool {
    // What cannot be read or understood is for [`check`] to report.
    let login_defs = read_login_defs(root);
    login_defs.map_or(true, |text| !matches!(check_person(&text, uid), Err(NotTheUsers::NoPerson(..))))
}

/// Whether a process with this uid and gid is the user's own (`LocalUsers::check`). Blocks.
///
/// # Errors
/// Why it is not, or why that is unknown.
pub(super) fn check(root: &Root, uid: Uid, gid: Option<Gid>) -> Result<(), String> {
    let users = read_local_users(root)?;
    users.check(uid, gid).map_err(|reason| reason.to_string())
}

/// Answers of [`check`] for a few seconds: in a storm, all crashes are of the same user.
#[derive(Debug)]
pub(super) struct OwnProcesses {
    answers: HashMap<(Uid, Option<Gid>), bool>,
    since: Instant,
}

/// A new user has to wait no longer than this for crashes of theirs.
const KNOWN_FOR: Duration = Duration::from_secs(5);
/// Answers that are kept at most.
const KNOWN: usize = 256;

impl Default for OwnProcesses {
    fn default() -> Self {
        Self { answers: HashMap::new(), since: Instant::now() }
    }
}

impl OwnProcesses {
    pub(super) fn get(&self, uid: Uid, gid: Option<Gid>) -> Option<bool> {
        self.answers.get(&(uid, gid)).copied().filter(|_| self.since.elapsed() < KNOWN_FOR)
    }

    pub(super) fn insert(&mut self, uid: Uid, gid: Option<Gid>, is_own: bool) {
        if self.since.elapsed() >= KNOWN_FOR || self.answers.len() >= KNOWN {
            *self = Self::default();
        }
        self.answers.insert((uid, gid), is_own);
    }
}
