//! Which package a file is of, for many files.

use super::dpkg::{for_each_listed_file, merged, read_status};
use crate::crash::Package;
use coreward_wire::paths::Root;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;

/// Most files of all packages. Each takes some 20 bytes of memory.
const MAX_FILES: usize = 1 << 20;
/// Where no programs and libraries are, but most of all files.
const NO_PROGRAMS: &str = "/share/";

/// The installed packages and their files, by the hashes of the names.
#[derive(Debug, Default)]
pub struct PackageIndex {
    /// With the numbers of their packages.
    files: HashMap<u64, u32>,
    /// `None`: the list of a package that is not installed.
    packages: Vec<Option<Package>>,
}

impl PackageIndex {
    /// That of dpkg's database. Blocks. What cannot be read is missing.
    #[must_use]
    pub fn read(root: &Root) -> Self {
        let mut installed = read_status(root, |_| true).unwrap_or_default();
        let mut index = Self::default();
        let mut current = String::new();
        for_each_listed_file(root, |package, path| {
            if package != current || index.packages.is_empty() {
                package.clone_into(&mut current);
                index.packages.push(installed.remove(package));
            }
            if !path.contains(NO_PROGRAMS)
                && let Ok(number) = u32::try_from(index.packages.len() - 1)
            {
                index.files.insert(hash(path), number);
            }
            if index.files.len() < MAX_FILES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        index
    }

    /// Whether a package has the file with this absolute path.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.files.contains_key(&hash(path))
    }

    /// The package that has it.
    #[must_use]
    pub fn owner(&self, path: &str) -> Option<&Package> {
        self.packages.get(*self.files.get(&hash(path))? as usize)?.as_ref()
    }
}

/// The hash of a path, the same for both names that it has on a merged system.
fn hash(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    merged(path).hash(&mut hasher);
    hasher.finish()
}
