//! The database of dpkg(1), as its own programs read it.

use crate::crash::Package;
use coreward_wire::paths::Root;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where dpkg keeps its database.
const DATABASE: &str = "/var/lib/dpkg";
/// A longer list of files is none of dpkg's, in bytes.
const MAX_LIST: u64 = 64 << 20;

/// The packages that have these absolute paths. Files that were diverted (dpkg-divert(1)) are not followed.
#[must_use]
pub fn owners(root: &Root, paths: &HashSet<&str>) -> HashMap<String, Package> {
    let wanted: HashMap<&str, &str> = paths.iter().map(|path| (merged(path), *path)).collect();
    let mut found: HashMap<String, String> = HashMap::new();
    if !wanted.is_empty() {
        for_each_listed_file(root, |package, path| {
            if let Some(path) = wanted.get(merged(path)) {
                found.insert((*path).to_owned(), package.to_owned());
            }
            if found.len() == wanted.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
    }
    let listed: HashSet<&str> = found.values().map(String::as_str).collect();
    let installed = read_status(root, |package| listed.contains(package)).unwrap_or_default();
    found.iter().filter_map(|(path, package)| Some((path.clone(), installed.get(package)?.clone()))).collect()
}

/// The directory with the list of each package's files.
fn lists_dir(root: &Root) -> PathBuf {
    root.join(DATABASE).join("info")
}

fn status_file(root: &Root) -> PathBuf {
    root.join(DATABASE).join("status")
}

/// When a package was last installed, upgraded or removed: the times of the lists of files, and of the list of packages, which dpkg writes after
/// those. `None`: there is no such database.
#[must_use]
pub fn last_change(root: &Root) -> Option<(SystemTime, SystemTime)> {
    let changed = |path: PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified());
    Some((changed(lists_dir(root)).ok()?, changed(status_file(root)).unwrap_or(SystemTime::UNIX_EPOCH)))
}

/// Calls `visit` with each package, named as its list is (`libc6:amd64`, or `bash`), and each path in the list. Lists that cannot be read, and such
/// as are none of dpkg's, are left out.
pub(super) fn for_each_listed_file(root: &Root, mut visit: impl FnMut(&str, &str) -> ControlFlow<()>) {
    for entry in fs::read_dir(lists_dir(root)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(package) = name.to_str().and_then(|name| name.strip_suffix(".list")) else { continue };
        let Ok(list) = read_list(&entry.path()) else { continue };
        if list.lines().try_for_each(|path| visit(package, path)).is_break() {
            return;
        }
    }
}

/// The path without `/usr`: `/lib` and `/usr/lib` are one directory on a merged system (and so are `bin` and `sbin`), and lists have the one or
/// the other.
pub(super) fn merged(path: &str) -> &str {
    path.strip_prefix("/usr").filter(|rest| rest.starts_with('/')).unwrap_or(path)
}

fn read_list(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_LIST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The installed packages that are wanted, by the names of their lists: `libc6:amd64`, or `bash`.
pub(super) fn read_status(root: &Root, wanted: impl Fn(&str) -> bool) -> io::Result<HashMap<String, Package>> {
    let mut packages = HashMap::new();
    let (mut name, mut architecture, mut is_installed) = (String::new(), String::new(), false);
    for line in BufReader::new(File::open(status_file(root))?).lines() {
        let line = line?;
        // The fields are in this order (dpkg(1) writes them so); Version comes last of them.
        match line.split_once(": ") {
            Some(("Package", value)) => (name, architecture, is_installed) = (value.to_owned(), String::new(), false),
            Some(("Status", value)) => is_installed = value.ends_with(" installed") || value.ends_with(" unpacked"),
            Some(("Architecture", value)) => value.clone_into(&mut architecture),
            Some(("Version", version)) if is_installed => {
                for listed in [format!("{name}:{architecture}"), name.clone()] {
                    if wanted(&listed) {
                        packages.insert(listed, Package { name: name.clone(), version: version.to_owned() });
                    }
                }
            }
            _ => {}
        }
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_of_the_package_that_lists_it_also_by_its_other_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let paths =
            HashSet::from(["/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/bin/bash", "/opt/app", "/usr/bin/gone"]);
        assert!(owners(&root, &paths).is_empty(), "no dpkg at all");
        let database = dir.path().join("var/lib/dpkg");
        fs::create_dir_all(database.join("info")).unwrap();
        let list = |name: &str, text: &str| fs::write(database.join("info").join(name), text).unwrap();
        list("libc6:amd64.list", "/.\n/lib\n/lib/x86_64-linux-gnu/libc.so.6\n");
        list("libc6:i386.list", "/.\n/lib/i386-linux-gnu/libc.so.6\n");
        list("bash.list", "/bin/bash\n/usr/share/doc/bash\n");
        list("gone.list", "/usr/bin/gone\n");
        list("bash.md5sums", "/opt/app\n");
        let status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\nDescription: x\n Version: 9\n\n\
             Package: libc6\nStatus: install ok installed\nArchitecture: i386\nVersion: 2.35-1\n\n\
             Package: bash\nStatus: install ok installed\nArchitecture: amd64\nMulti-Arch: foreign\nVersion: 5.2.15-2\n\n\
             Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n";
        fs::write(database.join("status"), status).unwrap();
        let found = owners(&root, &paths);
        let package = |name: &str, version: &str| Package { name: name.to_owned(), version: version.to_owned() };
        assert_eq!(found.get("/usr/lib/x86_64-linux-gnu/libc.so.6"), Some(&package("libc6", "2.36-9")));
        assert_eq!(found.get("/usr/bin/bash"), Some(&package("bash", "5.2.15-2")));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn the_database_of_this_host_knows_its_own_shell() {
        // Also without dpkg nothing fails.
        let found = owners(&Root::default(), &HashSet::from(["/bin/bash", "/usr/bin/dpkg-query"]));
        if Path::new("/var/lib/dpkg/status").exists() {
            assert_eq!(found["/usr/bin/dpkg-query"].name, "dpkg");
            assert!(!found["/bin/bash"].version.is_empty());
        }
    }
}
