//! The process that reads symbols. Symbol tables and DWARF are large formats, and whoever ran the crashed program may have
//! written them, so a process of its own parses them: it has no privileges, can open nothing, and may be killed.

use super::elf_symbols::{Function, find_functions};
use super::foreign_file::{Owners, Refusal, open_foreign};
use super::privileges::Account;
use crate::crash::text::to_path;
use crate::elf::build_id_of_file;
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;

/// The argument that makes the command this process. It is not for users.
pub(super) const ARGUMENT: &str = "--read-symbols";

/// What to look up.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// The user who called the command.
    pub(super) caller: u32,
    /// Whether files of all users are read, and not only root's and the caller's.
    pub(super) all_owners: bool,
    pub(super) modules: Vec<ModuleRequest>,
}

/// Addresses in one module.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ModuleRequest {
    /// As in records ([`crate::crash::text`]).
    pub(super) path: String,
    pub(super) build_id: String,
    pub(super) offsets: Vec<u64>,
}

/// What was found in one module: one line of the process' output.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Its index in the request.
    pub(super) module: usize,
    /// The functions of each offset, or why its own file was not read.
    pub(super) functions: Result<Vec<Vec<Function>>, NotRead>,
}

/// Why there are no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum NotRead {
    Refused(Refusal),
    /// The file is of another build.
    OtherBuild,
    TooLarge,
}

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 512 << 20;
/// Most memory of the process, in bytes: two files, and what is made of them.
const MAX_MEMORY: u64 = 3 << 30;
/// Most processor time, in seconds. The command waits no longer either.
const MAX_TIME: u64 = 10;
/// Bytes of a file that are read to find its build-id. The notes are near the beginning.
const HEAD: usize = 64 * 1024;
/// The directory in which debug packages install their files (gdb's "build-id" method).
const DEBUG_FILES: &str = "/usr/lib/debug/.build-id";
/// The user and group "nobody" of every Linux system (systemd.exec(5)).
const NOBODY: u32 = 65534;

/// The files that may have the names of a module: its own, and its debug symbols.
type Candidates = [Result<File, Refusal>; 2];

/// Answers the request on standard input, on standard output.
pub(super) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<()> {
    limit(&[
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_AS, MAX_MEMORY),
        (Resource::RLIMIT_CPU, MAX_TIME),
    ])?;
    set_no_new_privs()?;
    let request: Request = serde_json::from_reader(io::stdin().lock())?;
    let owners = if request.all_owners { Owners::All } else { Owners::RootAnd(Uid::from_raw(request.caller)) };
    let mut opened: Vec<(usize, Candidates)> =
        request.modules.iter().map(|module| open_candidates(module, owners)).enumerate().collect();
    // Root's files first: a file that a user made to take long takes only the time that is left.
    opened.sort_by_key(|(_, candidates)| candidates.iter().flatten().any(|file| !is_roots(file)));
    if Uid::effective().is_root() {
        let nobody = Account { uid: Uid::from_raw(NOBODY), gid: Gid::from_raw(NOBODY) };
        nobody.assume().map_err(io::Error::other)?;
    }
    // The parent may have ended before; changing the user clears this (prctl(2)).
    set_pdeathsig(Signal::SIGKILL)?;
    // From here on nothing can be opened.
    limit(&[(Resource::RLIMIT_NOFILE, 0)])?;
    let mut out = io::stdout().lock();
    for (module, candidates) in opened {
        let answer = Answer { module, functions: read_module(&request.modules[module], candidates) };
        serde_json::to_writer(&mut out, &answer)?;
        writeln!(out)?;
        out.flush()?;
    }
    Ok(())
}

fn limit(limits: &[(Resource, u64)]) -> io::Result<()> {
    for (resource, most) in limits {
        // A limit that is lower already cannot be raised.
        let most = getrlimit(*resource)?.1.min(*most);
        setrlimit(*resource, most, most)?;
    }
    Ok(())
}

fn is_roots(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.uid() == 0)
}

fn open_candidates(module: &ModuleRequest, owners: Owners) -> Candidates {
    let path = to_path(&module.path);
    let own = if path.is_absolute() { open_foreign(&path, owners) } else { Err(Refusal::Missing) };
    let debug = match module.build_id.split_at_checked(2) {
        Some((first, rest)) if module.build_id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            open_foreign(&Path::new(DEBUG_FILES).join(first).join(format!("{rest}.debug")), owners)
        }
        _ => Err(Refusal::Missing),
    };
    [own, debug]
}

fn read_module(module: &ModuleRequest, candidates: Candidates) -> Result<Vec<Vec<Function>>, NotRead> {
    let [own, debug] = candidates.map(|file| read_build(file.map_err(NotRead::Refused)?, &module.build_id));
    match (own, debug) {
        (Err(why), Err(_)) => Err(why),
        (own, debug) => {
            let files: Vec<Vec<u8>> = [own, debug].into_iter().flatten().collect();
            Ok(find_functions(&files, &module.offsets))
        }
    }
}

/// The content of the file, if it is this build.
fn read_build(file: File, build_id: &str) -> Result<Vec<u8>, NotRead> {
    let missing = |_: io::Error| NotRead::Refused(Refusal::Missing);
    let mut head = vec![0; HEAD];
    let length = file.read_at(&mut head, 0).map_err(missing)?;
    if build_id_of_file(&head[..length]).as_deref() != Some(build_id) {
        return Err(NotRead::OtherBuild);
    }
    let mut content = Vec::new();
    // Not what the file says of its length: it may grow.
    file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(missing)?;
    if content.len() as u64 > MAX_FILE { Err(NotRead::TooLarge) } else { Ok(content) }
}
