//! Crashes with their titles, as `--json` shows them.

use super::module_packages::{self, ModulePackage};
use crate::crash::{Record, SignatureKey};
use crate::store::{self, Listed};
use coreward_wire::paths::Root;
use serde::Serialize;
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
    by_signature: HashMap<SignatureKey, Option<String>>,
}

impl<'a> Titles<'a> {
    pub(super) fn new(root: &'a Root) -> Self {
        Self { root, by_signature: HashMap::new() }
    }

    /// The title of a crash.
    pub(super) fn of(&mut self, record: &Record) -> String {
        if !record.stack.is_empty() {
            return record.title();
        }
        let root = self.root;
        let known = self.by_signature.entry(record.signature_key()).or_insert_with_key(|signature| {
            // What cannot be read is left out.
            let example = store::example(root, signature).ok().flatten();
            example.filter(|example| !example.record.stack.is_empty()).map(|example| example.record.title())
        });
        known.clone().unwrap_or_else(|| record.title())
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
