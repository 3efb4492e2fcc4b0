//! Crashes with their titles, as `--json` shows them.

use super::lookup::Examples;
use super::module_packages::{self, ModulePackage};
use crate::crash::{Record, SignatureKey};
use crate::store::Listed;
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

/// Titles of crashes. A duplicate has no stack of its own: its title is that of the best-known crash of its signature.
pub(super) struct Titles<'a> {
    root: &'a Root,
    /// Opened for the first crash that needs it.
    examples: OnceCell<Examples>,
    by_signature: HashMap<String, KnownBug>,
    /// For rows, whose own stack is not known.
    of_rows: HashMap<String, KnownBug>,
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
        Self { root, examples: OnceCell::new(), by_signature: HashMap::new(), of_rows: HashMap::new() }
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

    /// What is known of the bug with this signature.
    pub(super) fn of_row(&mut self, signature: &str) -> &KnownBug {
        static UNKNOWN: KnownBug = KnownBug { title: String::new(), functions: String::new() };
        // An entry would copy the name for each crash of a long list.
        if !self.of_rows.contains_key(signature) {
            if self.of_rows.len() >= MAX_BUGS {
                return &UNKNOWN;
            }
            let examples = self.examples.get_or_init(|| Examples::open(self.root));
            let bug = KnownBug::of(examples.any_of(&SignatureKey::new(signature)));
            self.of_rows.insert(signature.to_owned(), bug);
        }
        &self.of_rows[signature]
    }

    fn best_known(&mut self, record: &Record) -> &KnownBug {
        let signature = record.signature_key();
        let examples = self.examples.get_or_init(|| Examples::open(self.root));
        let look_up = || KnownBug::of(examples.of(&signature));
        self.by_signature.entry(signature.as_str().to_owned()).or_insert_with(look_up)
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

impl KnownBug {
    fn of(example: Option<Cow<'_, Listed>>) -> Self {
        let example = example.filter(|example| !example.record.stack.is_empty());
        let said =
            |example: Cow<'_, Listed>| Self { title: example.record.title(), functions: example.record.functions() };
        example.map(said).unwrap_or_default()
    }
}
