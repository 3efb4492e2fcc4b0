//! The files that packages of this host have: the lists of dpkg(1).

use crate::packages;
use coreward_wire::paths::Root;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Most files of all packages. Each takes 16 bytes of memory.
const MAX_FILES: usize = 1 << 20;
/// Where no programs and libraries are, but most of all files.
const NO_PROGRAMS: &str = "/share/";

/// The files of the installed packages, by the hashes of their names. Read when they are first asked for, and again when a package was
/// installed or removed.
#[derive(Debug)]
pub(super) struct HostPackages {
    root: Root,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When the directory of the lists was changed last.
    changed: Option<SystemTime>,
    files: Arc<HashSet<u64>>,
}

impl HostPackages {
    pub(super) fn new(root: &Root) -> Self {
        Self { root: root.clone(), known: Mutex::default() }
    }

    /// A function that says whether a package has the file with this absolute path. Blocks.
    pub(super) fn files(&self) -> impl Fn(&str) -> bool + use<> {
        let changed = std::fs::metadata(packages::lists_dir(&self.root)).and_then(|dir| dir.modified()).ok();
        let mut known = self.known();
        if known.changed != changed {
            let files = changed.map(|_| self.read()).unwrap_or_default();
            *known = Known { changed, files: Arc::new(files) };
        }
        let files = Arc::clone(&known.files);
        move |path: &str| files.contains(&hash(path))
    }

    /// The same as it was last found out; `None`: it was not yet.
    pub(super) fn known_files(&self) -> Option<impl Fn(&str) -> bool + use<>> {
        let known = self.known();
        let files = known.changed.map(|_| Arc::clone(&known.files))?;
        Some(move |path: &str| files.contains(&hash(path)))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic cannot leave it half changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> HashSet<u64> {
        let mut files = HashSet::new();
        packages::for_each_listed_file(&self.root, |_, path| {
            if !path.contains(NO_PROGRAMS) {
                files.insert(hash(path));
            }
            if files.len() < MAX_FILES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        files
    }
}

/// The hash of a path, the same for both names that it has on a merged system.
fn hash(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    packages::merged(path).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, FileTimes};
    use std::time::Duration;

    #[test]
    fn the_lists_name_the_files_of_packages_and_are_read_again_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let lists = dir.path().join("var/lib/dpkg/info");
        let packages = HostPackages::new(&Root::new(dir.path()));
        assert!(!packages.files()("/usr/bin/a"), "no dpkg at all");
        fs::create_dir_all(&lists).unwrap();
        fs::write(lists.join("a.list"), "/.\n/usr/bin/a\n/lib/x86_64-linux-gnu/liba.so.1\n").unwrap();
        fs::write(lists.join("a.md5sums"), "0 usr/bin/other\n/usr/bin/other\n").unwrap();
        assert!(packages.known_files().is_none());
        let has = packages.files();
        assert!(packages.known_files().unwrap()("/usr/bin/a"));
        assert!(
            has("/usr/bin/a") && has("/usr/lib/x86_64-linux-gnu/liba.so.1") && has("/lib/x86_64-linux-gnu/liba.so.1")
        );
        assert!(!has("/usr/bin/other") && !has("/opt/a") && !has("/usr/bin/a (deleted)"));
        fs::write(lists.join("b.list"), "/opt/b\n").unwrap();
        File::open(&lists)
            .unwrap()
            .set_times(FileTimes::new().set_modified(SystemTime::now() + Duration::from_secs(9)))
            .unwrap();
        assert!(packages.files()("/opt/b"));
    }
}
