//! The files that packages of this host have: the lists of dpkg(1).

use crate::packages::{self, PackageIndex};
use coreward_wire::paths::Root;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The installed packages. Read when they are first asked for, and again when a package was installed or removed.
#[derive(Debug)]
pub(super) struct HostPackages {
    root: Root,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When the database was changed last.
    changed: Option<(SystemTime, SystemTime)>,
    index: Arc<PackageIndex>,
}

impl HostPackages {
    pub(super) fn new(root: &Root) -> Self {
        Self { root: root.clone(), known: Mutex::default() }
    }

    /// What they have now. Blocks.
    pub(super) fn index(&self) -> Arc<PackageIndex> {
        let changed = packages::last_change(&self.root);
        let mut known = self.known();
        if known.changed != changed {
            let index = changed.map(|_| PackageIndex::read(&self.root)).unwrap_or_default();
            *known = Known { changed, index: Arc::new(index) };
        }
        Arc::clone(&known.index)
    }

    /// The same as it was last found out; `None`: it was not yet.
    pub(super) fn known_index(&self) -> Option<Arc<PackageIndex>> {
        let known = self.known();
        known.changed.map(|_| Arc::clone(&known.index))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic cannot leave it half changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, FileTimes};
    use std::time::Duration;

    #[test]
    fn the_lists_name_the_files_of_packages_and_are_read_again_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("var/lib/dpkg");
        let lists = database.join("info");
        let packages = HostPackages::new(&Root::new(dir.path()));
        assert!(!packages.index().has("/usr/bin/a"), "no dpkg at all");
        fs::create_dir_all(&lists).unwrap();
        fs::write(lists.join("a.list"), "/.\n/usr/bin/a\n/lib/x86_64-linux-gnu/liba.so.1\n/usr/share/a\n").unwrap();
        fs::write(lists.join("a.md5sums"), "0 usr/bin/other\n/usr/bin/other\n").unwrap();
        let install = |version: &str| {
            let status = format!("Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n");
            fs::write(database.join("status"), status).unwrap();
        };
        install("1");
        assert!(packages.known_index().is_none());
        let index = packages.index();
        assert!(packages.known_index().unwrap().has("/usr/bin/a"));
        for path in ["/usr/bin/a", "/usr/lib/x86_64-linux-gnu/liba.so.1", "/lib/x86_64-linux-gnu/liba.so.1"] {
            let package = index.owner(path).unwrap();
            assert_eq!((package.name.as_str(), package.version.as_str()), ("a", "1"), "{path}");
        }
        for path in ["/usr/bin/other", "/opt/a", "/usr/bin/a (deleted)", "/usr/share/a"] {
            assert!(!index.has(path) && index.owner(path).is_none(), "{path}");
        }
        fs::write(lists.join("b.list"), "/opt/b\n").unwrap();
        let later = |seconds| FileTimes::new().set_modified(SystemTime::now() + Duration::from_secs(seconds));
        File::open(&lists).unwrap().set_times(later(9)).unwrap();
        let index = packages.index();
        assert!(index.has("/opt/b") && index.owner("/opt/b").is_none(), "it has a list, and is not installed");
        install("2");
        File::open(database.join("status")).unwrap().set_times(later(10)).unwrap();
        assert_eq!(packages.index().owner("/bin/a").unwrap().version, "2");
    }
}
