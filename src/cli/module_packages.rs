//! The packages that a crashed program and the libraries on its stack are of.

use super::foreign_file::{Owners, open_foreign};
use crate::crash::text::{printable, to_path};
use crate::crash::{Module, Package, Record};
use crate::elf::read_build_id;
use crate::packages;
use crate::policy::modules::saw_host_files;
use coreward_wire::paths::Root;
use nix::unistd::Uid;
use serde::Serialize;
use std::collections::HashSet;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Modules that are looked at.
const MAX_MODULES: usize = 16;

/// The package of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ModulePackage {
    /// Path of the module in the mount namespace of the process.
    pub(super) file: String,
    /// Name of the package.
    pub(super) name: String,
    /// Its version.
    pub(super) version: String,
    /// How it is known.
    pub(super) source: Source,
}

/// How a package is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Source {
    /// The module itself said so when it crashed (`.note.package`).
    Note,
    /// This host's dpkg has it: when it crashed it was this file, or the file that is there now has the same build-id.
    Dpkg,
}

/// The packages of the executable and of the modules on the stack of the thread that failed, in this order. Where
/// neither a module nor the record says it, the file of this host at its path tells, if it has the same build-id: after an upgrade it has another one,
/// and no package is named.
pub(super) fn look_up(root: &Root, record: &Record) -> Vec<ModulePackage> {
    let exe = record.exe_module();
    let of_frames = record.stack.iter().filter_map(|frame| record.modules.get(frame.module? as usize));
    let mut modules: Vec<&Module> = Vec::new();
    for module in exe.into_iter().chain(of_frames).filter(|module| !module.is_vdso()) {
        if modules.len() < MAX_MODULES && !modules.iter().any(|known| known.start == module.start) {
            modules.push(module);
        }
    }
    let asked: HashSet<&str> = modules
        .iter()
        .filter(|module| module.package_at_crash().is_none())
        .map(|module| module.path.as_str())
        .collect();
    let owners = if asked.is_empty() { Default::default() } else { packages::owners(root, &asked) };
    let described = modules.into_iter().filter_map(|module| {
        let file = module.path.clone();
        let noted = module.named_package().map(|package| (package, Source::Note));
        // A build ID is what whoever built the file says, so where the process had mounts of its own, the path has to be the host's.
        let of_host = || owners.get(&module.path).filter(|_| saw_host_files(record) && is_file_of_host(module));
        let owned = || Some((module.owner.as_ref().or_else(of_host)?.clone(), Source::Dpkg));
        let (Package { name, version }, source) = noted.or_else(owned)?;
        Some(ModulePackage { file, name, version, source })
    });
    described.collect()
}

/// The package of the executable, as the record has it: `nginx 1.26.0-1`.
pub(super) fn of_executable(record: &Record) -> Option<String> {
    let Package { name, version } = record.exe_module()?.package_at_crash()?;
    Some(printable(&format!("{name} {version}")).trim_end().to_owned())
}

/// Whether the module is the file that this host has at its path. Only root's files are opened: packages have no others.
fn is_file_of_host(module: &Module) -> bool {
    let Some(build_id) = &module.build_id else { return false };
    let Ok(file) = open_foreign(&to_path(&module.path), Owners::RootAnd(Uid::from_raw(0))) else { return false };
    let is_roots = file.metadata().is_ok_and(|metadata| metadata.uid() == 0);
    is_roots && read_build_id(|buffer, at| file.read_at(buffer, at)).is_ok_and(|found| found.as_ref() == Some(build_id))
}

/// `nginx 1.26.0-1; libc6 2.36-9 (libc.so.6)`: that of the executable first, others with their files.
pub(super) fn line(record: &Record, packages: &[ModulePackage]) -> Option<String> {
    let mut seen = HashSet::new();
    let shown: Vec<String> = packages
        .iter()
        .filter(|package| seen.insert((&package.name, &package.version)))
        .map(|package| {
            let text = format!("{} {}", printable(&package.name), printable(&package.version));
            let text = text.trim_end();
            let file = package.file.rsplit('/').next().unwrap_or_default();
            if package.file == record.exe_path() { text.to_owned() } else { format!("{text} ({})", printable(file)) }
        })
        .collect();
    (!shown.is_empty()).then(|| shown.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::fixtures::record;
    use crate::crash::{Frame, FrameTrust};

    #[test]
    fn the_module_says_its_package_else_the_host_if_its_file_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("var/lib/dpkg");
        std::fs::create_dir_all(database.join("info")).unwrap();
        // A file that every machine has which runs this test: the C library.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let path = maps.split_whitespace().find(|field| field.contains("/libc.so.6")).unwrap();
        let library = std::fs::canonicalize(path).unwrap().to_str().unwrap().to_owned();
        std::fs::write(database.join("info/libc6:amd64.list"), format!("{library}\n/usr/bin/segv\n")).unwrap();
        let status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n";
        std::fs::write(database.join("status"), status).unwrap();
        let build_id = crate::elf::build_id_of_file(&std::fs::read(&library).unwrap()).unwrap();
        let module = |path: &str, start, build_id: &str, package: Option<&str>| Module {
            path: path.to_owned(),
            build_id: Some(build_id.to_owned()),
            package: package.map(str::to_owned),
            owner: None,
            bias: start,
            start,
            end: start + 1,
        };
        let mut crash = record(1);
        crash.modules = vec![
            module("/usr/bin/segv", 1, "aa", Some("{\"name\":\"segv\",\"version\":\"1.0\"}")),
            module(&library, 2, &build_id, None),
            module(&library, 3, "00", None),
            module("/srv/lib.so", 4, "bb", None),
        ];
        let frame = |number| Frame {
            address: 1,
            module: Some(number),
            offset: 1,
            trust: FrameTrust::Context,
            symbol: None,
            compiler: None,
        };
        crash.stack = vec![frame(3), frame(1), frame(2), frame(0)];
        let found = look_up(&Root::new(dir.path()), &crash);
        let expected = [("segv", "1.0", Source::Note), ("libc6", "2.36-9", Source::Dpkg)];
        let shown: Vec<(&str, &str, Source)> =
            found.iter().map(|package| (package.name.as_str(), package.version.as_str(), package.source)).collect();
        assert_eq!(shown, expected, "another build is not named");
        assert_eq!(line(&crash, &found).unwrap(), "segv 1.0; libc6 2.36-9 (libc.so.6)");
        assert_eq!(line(&crash, &[]), None);
    }
}
