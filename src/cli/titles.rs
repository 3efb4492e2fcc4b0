//! Crashes with their titles, as `--json` shows them.

use super::lookup::Examples;
use super::module_packages::{self, ModulePackage};
use crate::crash::{Record, SignatureKey};
use crate::store::{CrashRow, Listed, ProcessOwner};
use coreward_wire::paths::Root;
use serde::Serialize;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;

/// A crash with its title.
#[derive(Serialize)]
pub(super) struct TitledCrash<'a> {
    #[serde(flatten)]
    listed: &'a Listed,
    title: String,
    /// Of one crash: the packages of its executable and of the modules on its stack.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    packages: Vec<ModulePackage>,
}

/// Titles of crashes. A duplicate has no stack of its own: its title is that of the best-known crash of its signature, of the same user, in
/// containers or outside.
pub(super) struct Titles<'a> {
    root: &'a Root,
    /// Opened for the first crash that needs it.
    examples: OnceCell<Examples>,
    of_records: KnownBugs,
    /// For rows, whose own stack is not known.
    of_rows: KnownBugs,
}

/// What the crashes of each user tell about signatures.
struct KnownBugs {
    by_signature: HashMap<String, Vec<(ProcessOwner, KnownBug)>>,
    /// How many more are looked up.
    left: usize,
}

/// What a crash with a stack says about its signature; empty if there is none.
#[derive(Default)]
pub(super) struct KnownBug {
    pub(super) title: String,
    pub(super) functions: String,
}

/// Signatures of rows that are looked up, each of which takes some 50 us. Nobody reads a list of more bugs.
const MAX_BUGS: usize = 2000;

impl<'a> Titles<'a> {
    pub(super) fn new(root: &'a Root) -> Self {
        Self {
            root,
            examples: OnceCell::new(),
            of_records: KnownBugs::new(usize::MAX),
            of_rows: KnownBugs::new(MAX_BUGS),
        }
    }

    /// The title of a crash.
    pub(super) fn of(&mut self, record: &Record) -> String {
        if record.stack.is_empty() {
            let known = self.best_known(record);
            if !known.title.is_empty() {
                return known.title.clone();
            }
        }
        record.title()
    }

    /// The functions of a crash that its title names; empty if none is known.
    pub(super) fn functions_of(&mut self, record: &Record) -> String {
        if record.stack.is_empty() { self.best_known(record).functions.clone() } else { record.functions() }
    }

    /// What is known of the bug of a row.
    pub(super) fn of_row(&mut self, row: &CrashRow<'_>) -> &KnownBug {
        let owner = ProcessOwner { uid: row.uid, in_container: !row.container.is_empty() };
        let examples = self.examples.get_or_init(|| Examples::open(self.root));
        self.of_rows.of(row.signature, owner, |signature| examples.any_of(signature, owner))
    }

    fn best_known(&mut self, record: &Record) -> &KnownBug {
        let owner = ProcessOwner::of(record);
        let examples = self.examples.get_or_init(|| Examples::open(self.root));
        self.of_records.of(record.signature_key().as_str(), owner, |signature| examples.of(signature, owner))
    }

    /// The crash with its title.
    pub(super) fn with_title<'b>(&mut self, listed: &'b Listed) -> TitledCrash<'b> {
        TitledCrash { title: self.of(&listed.record), listed, packages: Vec::new() }
    }

    /// The crash with its title and its packages.
    pub(super) fn with_packages<'b>(&mut self, listed: &'b Listed) -> TitledCrash<'b> {
        TitledCrash { packages: module_packages::look_up(self.root, &listed.record), ..self.with_title(listed) }
    }
}

impl KnownBugs {
    fn new(most: usize) -> Self {
        Self { by_signature: HashMap::new(), left: most }
    }

    /// What is known of a signature from the crashes of one owner, which is looked up once.
    fn of<'a>(
        &mut self,
        signature: &str,
        owner: ProcessOwner,
        look_up: impl FnOnce(&SignatureKey) -> Option<Cow<'a, Listed>>,
    ) -> &KnownBug {
        static UNKNOWN: KnownBug = KnownBug { title: String::new(), functions: String::new() };
        let position = |bugs: &Vec<(ProcessOwner, KnownBug)>| bugs.iter().position(|(known, _)| *known == owner);
        // An entry would copy the name for each crash of a long list.
        let mut place = self.by_signature.get(signature).and_then(position);
        if place.is_none() {
            if self.left == 0 {
                return &UNKNOWN;
            }
            self.left -= 1;
            let bug = KnownBug::of(look_up(&SignatureKey::new(signature)));
            let bugs = self.by_signature.entry(signature.to_owned()).or_default();
            bugs.push((owner, bug));
            place = Some(bugs.len() - 1);
        }
        place.and_then(|place| self.by_signature.get(signature)?.get(place)).map_or(&UNKNOWN, |(_, bug)| bug)
    }
}

impl KnownBug {
    fn of(example: Option<Cow<'_, Listed>>) -> Self {
        let example = example.filter(|example| !example.record.stack.is_empty());
        let said =
            |example: Cow<'_, Listed>| Self { title: example.record.title(), functions: example.record.functions() };
        example.map(said).unwrap_or_default()
    }
}
