//! Choosing the executable that a debugger loads together with a core.

use super::foreign_file::{Owners, Refusal, open_foreign};
use super::human;
use crate::crash::Record;
use crate::crash::text::{from_bytes, printable, to_path};
use crate::elf::read_build_id;
use nix::unistd::Uid;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The chosen executable, and what the user should know about the choice.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ExecutableChoice {
    pub(super) path: Option<PathBuf>,
    pub(super) notes: Vec<String>,
}

/// Chooses the file that the user named, or else the executable of the record if it is still the same build.
pub(super) fn choose(record: &Record, caller: Uid, given: Option<&Path>, sysroot: Option<&Path>) -> ExecutableChoice {
    if let Some(given) = given {
        return choose_named(record, given);
    }
    let program = record.program();
    // The kernel reports absolute paths. Anything else is forged and could be read as an option of the debugger.
    if !record.exe.starts_with('/') {
        return note("the executable is unknown: name it with --executable PATH".to_owned());
    }
    let (path, owners) = match sysroot {
        Some(sysroot) => (sysroot.join(to_path(program.trim_start_matches('/'))), Owners::All),
        None => (to_path(&program), Owners::RootAnd(caller)),
    };
    let shown = printable(&from_bytes(path.as_os_str().as_bytes()));
    let elsewhere = foreign_place(record).filter(|_| sysroot.is_none());
    match (compare_builds(record, &path, owners), &elsewhere) {
        (BuildMatch::Same, _) => ExecutableChoice { path: Some(path), notes: Vec::new() },
        // A path in a container is another file here, unless a build-id proves otherwise.
        (_, Some(place)) => note(format!(
            "the process ran in {place}, and its {shown} is not available here. To see function names, name the root directory of \
            that place with --sysroot DIR (an unpacked image, or /proc/PID/root of a process in it), or the program with \
            --executable PATH"
        )),
        (BuildMatch::Refused(why), None) => note(format!(
            "{shown} {why}: the core is opened without it. To see function names, name it with --executable {shown}"
        )),
        (BuildMatch::Missing, None) => note(format!(
            "{shown} does not exist on this host: it was deleted, or only the process saw it, in a mount namespace of its own. To see \
             function names, name the same build of it with --executable PATH{}",
            known_build(record)
        )),
        (BuildMatch::Other, None) => note(format!(
            "{shown} is not the program that crashed: it has been replaced since, as by an upgrade. The core is opened \
            without it. Name the old build with --executable PATH{}, or use this file nonetheless with --executable {shown}",
            known_build(record)
        )),
        (BuildMatch::Unknown, None) => ExecutableChoice {
            path: Some(path),
            notes: vec![format!(
                "{shown} has no build-id to compare: if it has been replaced since the crash, names will be wrong"
            )],
        },
    }
}

fn note(note: String) -> ExecutableChoice {
    ExecutableChoice { path: None, notes: vec![note] }
}

fn choose_named(record: &Record, given: &Path) -> ExecutableChoice {
    let shown = given.display();
    // The user may name a link.
    let target = given.canonicalize().unwrap_or_else(|_| given.to_owned());
    let notes = match compare_builds(record, &target, Owners::All) {
        BuildMatch::Other => {
            vec![format!("{shown} is another build than the one that crashed: names and lines may be wrong")]
        }
        BuildMatch::Missing => vec![format!("{shown} cannot be read")],
        // A debugger would wait for the writer of a FIFO.
        BuildMatch::Refused(why) => return note(format!("{shown} {why}")),
        BuildMatch::Same | BuildMatch::Unknown => Vec::new(),
    };
    ExecutableChoice { path: Some(given.to_owned()), notes }
}

#[derive(Debug, PartialEq, Eq)]
enum BuildMatch {
    Same,
    Other,
    Unknown,
    Missing,
    /// It was not opened.
    Refused(String),
}

fn compare_builds(record: &Record, path: &Path, owners: Owners) -> BuildMatch {
    let found = open_foreign(path, owners)
        .and_then(|file| read_build_id(|buffer, at| file.read_at(buffer, at)).map_err(|_| Refusal::Missing));
    let found = match found {
        Ok(found) => found,
        Err(Refusal::Missing) => return BuildMatch::Missing,
        Err(Refusal::NotAFile) => return BuildMatch::Refused("is not a regular file".to_owned()),
        Err(Refusal::WritableByAll) => return BuildMatch::Refused("is writable by everybody".to_owned()),
        Err(Refusal::Foreign(uid)) => {
            return BuildMatch::Refused(format!("belongs to user {}", human::user(Uid::from_raw(uid))));
        }
    };
    match (found, &record.exe_build_id) {
        (Some(found), Some(crashed)) if found == *crashed => BuildMatch::Same,
        (Some(_), Some(_)) => BuildMatch::Other,
        _ => BuildMatch::Unknown,
    }
}

/// The place where the process ran, if its paths are not those of this machine.
pub(super) fn foreign_place(record: &Record) -> Option<String> {
    match &record.cgroup.container {
        Some(container) => Some(format!("container {}", printable(container))),
        None => (record.in_namespace || record.root != "/").then(|| "namespaces of its own".to_owned()),
    }
}

fn known_build(record: &Record) -> String {
    record.exe_build_id.as_ref().map(|id| format!(" (build-id {})", printable(id))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures::listed;

    fn this_program() -> (PathBuf, Option<String>) {
        let path = std::env::current_exe().unwrap();
        let head = std::fs::read(&path).unwrap();
        (path, crate::elf::build_id_of_file(&head[..65536]))
    }

    fn crash_of(exe: &Path, build_id: Option<String>) -> Record {
        Record { exe: exe.display().to_string(), exe_build_id: build_id, ..listed(7).record }
    }

    #[test]
    fn the_same_build_needs_no_note() {
        let (exe, build_id) = this_program();
        assert!(build_id.is_some());
        let mut record = crash_of(&exe, build_id);
        let expected = ExecutableChoice { path: Some(exe), notes: Vec::new() };
        assert_eq!(choose(&record, Uid::current(), None, None), expected);
        record.exe.push_str(" (deleted)");
        assert_eq!(choose(&record, Uid::current(), None, None), expected, "it may have been put back");
        record.cgroup.container = Some("web".to_owned());
        assert_eq!(choose(&record, Uid::current(), None, None), expected, "a build-id is the same everywhere");
    }

    #[test]
    fn another_build_is_reported_and_used_only_on_request() {
        let (exe, _) = this_program();
        let record = crash_of(&exe, Some("00".repeat(20)));
        let choice = choose(&record, Uid::current(), None, None);
        assert_eq!(choice.path, None);
        assert!(choice.notes[0].contains("replaced since"), "{choice:?}");
        let choice = choose(&record, Uid::current(), Some(&exe), None);
        assert_eq!(choice.path, Some(exe));
        assert!(choice.notes[0].contains("another build"), "{choice:?}");
    }

    #[test]
    fn a_containers_program_is_looked_for_below_the_sysroot() {
        let mut record = crash_of(Path::new("/usr/bin/env"), None);
        record.cgroup.container = Some("we\nb".to_owned());
        let choice = choose(&record, Uid::current(), None, None);
        assert_eq!(choice.path, None);
        assert!(choice.notes[0].contains(r"container we\nb") && choice.notes[0].contains("--sysroot"), "{choice:?}");
        assert_eq!(choose(&record, Uid::current(), None, Some(Path::new("/"))).path, Some("/usr/bin/env".into()));
    }

    #[test]
    fn what_is_gone_or_unknown_leaves_the_core_alone() {
        let choice = choose(&crash_of(Path::new("/nowhere/x"), Some("ab".to_owned())), Uid::current(), None, None);
        assert!(choice.path.is_none() && choice.notes[0].contains("(build-id ab)"), "{choice:?}");
        assert_eq!(choose(&crash_of(Path::new(""), None), Uid::current(), None, None).path, None);
    }
}
