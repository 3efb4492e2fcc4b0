//! Crashes with their titles, as `--json` shows them.

use super::lookup::Examples;
use super::module_packages::{self, ModulePackage};
use crate::crash::{Record, SignatureKey};
use crate::store::Listed;
use coreward_wire::paths::Root;
use serde::Serialize;
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
}

/// What the best-known crash of a signature says; empty if there is none with a stack.
#[derive(Default)]
struct KnownBug {
    title: String,
    functions: String,
}

impl<'a> Titles<'a> {
    pub(super) fn new(root: &'a Root) -> Self {
        Self { root, examples: OnceCell::new(), by_signature: HashMap::new() }
    }

    /// The title of a crash.
    pub(super) fn of(&mut self, record: &Record) -> String {
        if record.stack.is_empty() {
            let known = self.known(record.signature_key().as_str());
            if !known.title.is_empty() {
                return known.title.clone();
            }
        }
        record.title()
    }

    /// The functions of a crash that its title names; empty if none is known.
    pub(super) fn functions_of(&mut self, record: &Record) -> String {
        if record.stack.is_empty() {
            self.functions_of_signature(record.signature_key().as_str()).to_owned()
        } else {
            record.functions()
        }
    }

    /// The title of the crashes of a signature; empty if none has a stack.
    pub(super) fn of_signature(&mut self, signature: &str) -> &str {
        &self.known(signature).title
    }

    /// The functions in it.
    pub(super) fn functions_of_signature(&mut self, signature: &str) -> &str {
        &self.known(signature).functions
    }

    fn known(&mut self, signature: &str) -> &KnownBug {
        // An entry would copy the name for each crash of a long list.
        if !self.by_signature.contains_key(signature) {
            let examples = self.examples.get_or_init(|| Examples::open(self.root));
            let example = examples.of(&SignatureKey::new(signature)).filter(|example| !example.record.stack.is_empty());
            let bug = example
                .map(|example| KnownBug { title: example.record.title(), functions: example.record.functions() });
            self.by_signature.insert(signature.to_owned(), bug.unwrap_or_default());
        }
        &self.by_signature[signature]
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
