//! Where debug symbols of a module are installed: the methods "build-id" and "debug link" of gdb, and the files of dwz(1).

use super::elf_symbols::Supplement;
use crate::crash::text::to_path;
use std::path::{Component, Path, PathBuf};

/// Where debuggers look for debug files, with links by build-id below it (gdb's manual, "Debugging Information in Separate Files").
pub(super) const DEBUG_DIR: &str = "/usr/lib/debug";

/// The debug file of a build.
pub(super) fn of_build(build_id: &str) -> Option<PathBuf> {
    let (first, rest) = build_id.split_at_checked(2).filter(|(_, rest)| !rest.is_empty())?;
    let is_hexadecimal = build_id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hexadecimal.then(|| Path::new(DEBUG_DIR).join(".build-id").join(first).join(format!("{rest}.debug")))
}

/// The debug files of the module at `path` whose `.gnu_debuglink` is `name`.
pub(super) fn linked(path: &Path, name: &str) -> Vec<PathBuf> {
    let name = to_path(name);
    let (Some(dir), true) = (path.parent().filter(|dir| dir.is_absolute()), is_plain(&name)) else { return Vec::new() };
    let installed = Path::new(DEBUG_DIR).join(dir.strip_prefix("/").unwrap_or(dir));
    [dir.to_owned(), dir.join(".debug"), installed].map(|dir| dir.join(&name)).to_vec()
}

/// The files that may be what DWARF of the module at `path` refers to. A relative path is relative to the file that names it.
pub(super) fn supplements(path: &Path, is_linked: bool, build_id: &str, wanted: &Supplement) -> Vec<PathBuf> {
    let named = to_path(&wanted.path);
    let mut paths: Vec<PathBuf> = of_build(&wanted.build_id).into_iter().collect();
    if named.is_absolute() {
        paths.push(named);
        return paths;
    }
    let mut dirs: Vec<PathBuf> = of_build(build_id).iter().filter_map(|file| Some(file.parent()?.to_owned())).collect();
    let own = path.parent().filter(|dir| dir.is_absolute());
    dirs.extend(own.map(Path::to_owned));
    if let Some(own) = own.filter(|_| is_linked) {
        dirs.extend([own.join(".debug"), Path::new(DEBUG_DIR).join(own.strip_prefix("/").unwrap_or(own))]);
    }
    paths.extend(dirs.iter().map(|dir| dir.join(&named)));
    paths
}

fn is_plain(name: &Path) -> bool {
    let mut components = name.components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_files_are_where_gdb_looks_for_them() {
        assert_eq!(of_build("00ff12"), Some(PathBuf::from("/usr/lib/debug/.build-id/00/ff12.debug")));
        for build_id in ["", "00", "../etc", "go:00ff", "0é1"] {
            assert_eq!(of_build(build_id), None, "{build_id}");
        }
        let linked = |path: &str, name: &str| linked(Path::new(path), name);
        let places = ["/usr/bin/ls.debug", "/usr/bin/.debug/ls.debug", "/usr/lib/debug/usr/bin/ls.debug"];
        assert_eq!(linked("/usr/bin/ls", "ls.debug"), places.map(PathBuf::from));
        for (path, name) in [("/usr/bin/ls", "../ls"), ("/usr/bin/ls", "/etc/passwd"), ("ls", "ls.debug"), ("/", "ls")]
        {
            assert!(linked(path, name).is_empty(), "{path} {name}");
        }
    }

    #[test]
    fn a_supplement_is_found_by_build_id_and_by_path() {
        let found = |path: &str| {
            let wanted = Supplement { path: path.to_owned(), build_id: "aabb".to_owned() };
            supplements(Path::new("/opt/x"), false, "00ff", &wanted)
        };
        let by_id = PathBuf::from("/usr/lib/debug/.build-id/aa/bb.debug");
        let absolute = "/usr/lib/debug/.dwz/x86_64-linux-gnu/x.debug";
        assert_eq!(found(absolute), [by_id.clone(), PathBuf::from(absolute)]);
        let relative = ["/usr/lib/debug/.build-id/00/../../.dwz/x", "/opt/../../.dwz/x"].map(PathBuf::from);
        assert_eq!(found("../../.dwz/x")[1..], relative);
        assert_eq!(found("../../.dwz/x")[0], by_id);
    }
}
