//! A directory in which a debugger finds the program and the libraries of a crash at the paths that the process had, and nothing else.
//!
//! A core names files: those that were mapped, and those that the dynamic linker's list names, which is the process' memory and
//! may say anything. gdb opens them all, also a FIFO, where it waits for ever, or a device. In this directory there are only modules, and
//! links to files of this machine that are root's or the caller's own and have the build-id of the file that was mapped.

use super::debug_files::DEBUG_DIR;
use super::error::CliError;
use super::executable::foreign_place;
use super::foreign_file::{Owners, open_foreign};
use super::module_source::ModuleSource;
use crate::crash::text::to_path;
use crate::crash::{Module, Record};
use crate::elf::read_build_id;
use coreward_sys::{fork, pidfd};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Uid, getpid, mkdtemp, setsid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// Directories that are links into /usr on a merged system (file-hierarchy(7)), where the dynamic linker is found.
const MERGED: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Where the link to the dynamic linker is.
const LINKER_DIR: &str = "/usr/lib64";
/// The longest path that is created.
const MAX_PATH: usize = 4000;

/// A library as the dynamic linker names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LibraryName {
    /// An address in the library.
    pub(super) address: u64,
    /// As in records ([`crate::crash::text`]).
    pub(super) name: String,
}

/// What is put into the directory, and for whom.
pub(super) struct SysrootRequest<'a> {
    pub(super) record: &'a Record,
    pub(super) libraries: &'a [LibraryName],
    pub(super) modules: ModuleSource<'a>,
    pub(super) caller: Uid,
}

/// Where the file of a module is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ModulePlace {
    /// On this machine.
    Host(PathBuf),
    /// Among the modules, under this build-id.
    Stored(String),
}

/// The files of a crash, and where they are.
pub(super) struct SysrootPlan<'a> {
    request: SysrootRequest<'a>,
    /// By the path in the process.
    files: BTreeMap<PathBuf, (ModulePlace, &'a Module)>,
    /// Mapped files that are nowhere.
    pub(super) missing: Vec<String>,
}

impl<'a> SysrootPlan<'a> {
    /// Looks for the files.
    pub(super) fn new(request: SysrootRequest<'a>) -> Self {
        let mut plan = Self { files: BTreeMap::new(), missing: Vec::new(), request };
        let record = plan.request.record;
        // Of a file and the deleted one that had its name before, the one that has the name now.
        let (deleted, present): (Vec<&Module>, Vec<&Module>) =
            record.modules.iter().filter(|module| !module.path.starts_with('[')).partition(|module| is_deleted(module));
        for module in present.into_iter().chain(deleted) {
            let path = to_path(path_of(module));
            if !is_plain(&path) || path.as_os_str().len() > MAX_PATH || plan.files.contains_key(&path) {
                continue;
            }
            match plan.find(module, &path) {
                Some(place) => drop(plan.files.insert(path, (place, module))),
                None => plan.missing.push(module.path.clone()),
            }
        }
        plan
    }

    fn find(&self, module: &Module, path: &Path) -> Option<ModulePlace> {
        let SysrootRequest { record, modules, caller, .. } = &self.request;
        let below_root = Path::new(&record.root);
        let candidates = [
            is_plain(below_root).then(|| below_root.join(path.strip_prefix("/").unwrap_or(path))),
            (record.root != "/").then(|| path.to_owned()),
        ];
        let is_elsewhere = foreign_place(record).is_some();
        let on_host = candidates.into_iter().flatten().find(|path| {
            let Ok(file) = open_foreign(path, Owners::RootAnd(*caller)) else { return false };
            match &module.build_id {
                Some(_) => build_id(&file) == module.build_id,
                // It cannot be compared: where the process saw the files of this machine, the name is all there is.
                None => !is_elsewhere && !is_deleted(module),
            }
        });
        let stored = || module.build_id.clone().filter(|build_id| modules.has(build_id));
        on_host.map(ModulePlace::Host).or_else(|| Some(ModulePlace::Stored(stored()?)))
    }

    /// The files, with their paths in the process.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Path, &ModulePlace, &Module)> {
        self.files.iter().map(|(path, (place, module))| (path.as_path(), place, *module))
    }

    /// Whether a debugger that looks up the paths of the process on this machine finds these files, and no others.
    pub(super) fn is_this_machine(&self) -> bool {
        let is_itself = |(path, (place, _)): (&PathBuf, &(ModulePlace, &Module))| matches!(place, ModulePlace::Host(host) if host == path);
        self.missing.is_empty() && self.files.iter().all(is_itself)
    }

    /// The path, in the process, of the program that crashed, if it is among the files.
    pub(super) fn executable(&self) -> Option<PathBuf> {
        let record = self.request.record;
        let is_named = |path: &&PathBuf| **path == to_path(record.exe_path());
        let is_build = |module: &Module| record.exe_build_id.is_some() && module.build_id == record.exe_build_id;
        let named = self.files.keys().find(is_named);
        named.or_else(|| self.files.iter().find(|(_, (_, module))| is_build(module)).map(|(path, _)| path)).cloned()
    }

    /// The directories in which libraries are, in the process.
    pub(super) fn library_dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = self.files.keys().filter_map(|path| path.parent()).map(Path::to_owned).collect();
        dirs.dedup();
        dirs
    }
}

/// The directory. [`VettedSysroot::keep_until_exit`] must follow: nothing else removes it.
pub(super) struct VettedSysroot {
    /// Cannot be searched, so no name leads out of the directory in it with "..".
    parent: PathBuf,
    dir: File,
}

impl VettedSysroot {
    /// Creates it below `place`, with the files of `plan`. Those that cannot be unpacked are missing from then on.
    pub(super) fn create(place: &Path, plan: &mut SysrootPlan<'_>) -> Result<Self, CliError> {
        let failed = |error| CliError::File { path: place.to_owned(), error };
        let parent = mkdtemp(&place.join("coreward-XXXXXX")).map_err(|error| failed(error.into()))?;
        let dir = parent.join("root");
        let created = fill(&dir, plan).and_then(|()| {
            let opened = File::open(&dir).map_err(failed)?;
            fs::set_permissions(&parent, Permissions::from_mode(0o000)).map_err(failed)?;
            Ok(opened)
        });
        match created {
            Ok(dir) => Ok(Self { parent, dir }),
            Err(error) => {
                remove(&parent);
                Err(error)
            }
        }
    }

    /// The path for a program that this process executes. It does not lead through the parent.
    fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.dir.as_raw_fd()).into()
    }

    /// Keeps the directory for the program that this process executes next, and returns its path for that program. A second
    /// process removes it when the program has ended.
    pub(super) fn keep_until_exit(self) -> io::Result<PathBuf> {
        let path = self.path();
        let kept = pidfd::open(getpid().as_raw()).and_then(|user| {
            fcntl(&self.dir, FcntlArg::F_SETFD(FdFlag::empty()))?;
            fork::spawn(|| {
                // Keys that end or stop the debugger are not for this process.
                let _ = setsid();
                let mut ended = [PollFd::new(user.as_fd(), PollFlags::POLLIN)];
                while poll(&mut ended, PollTimeout::NONE) == Err(Errno::EINTR) {}
                remove(&self.parent);
                0
            })
        });
        if kept.is_err() {
            remove(&self.parent);
        }
        kept?;
        // The program inherits it.
        let _ = self.dir.into_raw_fd();
        Ok(path)
    }
}

/// Removes the directory and what is in it.
fn remove(parent: &Path) {
    let _ = fs::set_permissions(parent, Permissions::from_mode(0o700));
    let _ = fs::remove_dir_all(parent);
}

/// Whether the path is absolute, and has no "..".
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

fn is_deleted(module: &Module) -> bool {
    module.path.ends_with(" (deleted)")
}

/// The path, without what the kernel appends if the file was deleted.
fn path_of(module: &Module) -> &str {
    module.path.strip_suffix(" (deleted)").unwrap_or(&module.path)
}

fn build_id(file: &File) -> Option<String> {
    read_build_id(|buffer, at| file.read_at(buffer, at)).ok()?
}

/// Creates the files and links of `plan`, and links with the names that the dynamic linker has for them.
fn fill(dir: &Path, plan: &mut SysrootPlan<'_>) -> Result<(), CliError> {
    let tree = Tree { dir };
    let failed = |path: &Path, error: io::Error| CliError::File { path: path.to_owned(), error };
    let try_fill = || {
        fs::create_dir(dir)?;
        fs::create_dir_all(tree.place(Path::new(LINKER_DIR)))?;
        let mut unpacked = Vec::new();
        for (path, (place, _)) in &plan.files {
            // The path of one file may be that of a directory of another: the process saw a tree that changed.
            let Some(at) = tree.make_room(path) else { continue };
            match place {
                ModulePlace::Host(host) => symlink(host, at)?,
                ModulePlace::Stored(build_id) => {
                    let file = File::options().write(true).read(true).create_new(true).mode(0o600).open(at)?;
                    unpacked.push((path.clone(), build_id.clone(), file));
                }
            }
        }
        Ok(unpacked)
    };
    let unpacked = try_fill().map_err(|error| failed(dir, error))?;
    let files: Vec<(String, File)> = unpacked
        .iter()
        .map(|(_, build_id, file)| Ok((build_id.clone(), file.try_clone()?)))
        .collect::<io::Result<_>>()
        .map_err(|error| failed(dir, error))?;
    for number in plan.request.modules.unpack(&files, dir)? {
        let (path, ..) = &unpacked[number];
        let _ = fs::remove_file(tree.place(path));
        if let Some((_, module)) = plan.files.remove(path) {
            plan.missing.push(module.path.clone());
        }
    }
    tree.link_names(plan).map_err(|error| failed(dir, error))
}

/// The directory as a root directory.
struct Tree<'a> {
    dir: &'a Path,
}

impl Tree<'_> {
    /// Where an absolute path is.
    fn place(&self, path: &Path) -> PathBuf {
        self.dir.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Where a new file can be created with this path, whose directories are created; `None`: something is in its way.
    fn make_room(&self, path: &Path) -> Option<PathBuf> {
        let at = self.place(path);
        fs::create_dir_all(at.parent()?).ok()?;
        // All links are of this program's making and lead to relative places in the tree, or out of it to a file.
        let inside = at.parent()?.canonicalize().ok()?.starts_with(self.dir.canonicalize().ok()?);
        (inside && fs::symlink_metadata(&at).is_err()).then_some(at)
    }

    /// Creates a link `from` to another path in the tree, unless there is something. What cannot be created is left out.
    fn link(&self, from: &Path, to: &Path) {
        let Some(at) = self.make_room(from) else { return };
        let (Ok(dir), Some(Ok(parent))) = (self.dir.canonicalize(), at.parent().map(Path::canonicalize)) else {
            return;
        };
        let Ok(below) = parent.strip_prefix(&dir) else { return };
        // Relative, since the tree has another path for the debugger.
        let up: PathBuf = below.components().map(|_| "..").collect();
        let _ = symlink(up.join(to.strip_prefix("/").unwrap_or(to)), at);
    }

    fn link_names(&self, plan: &SysrootPlan<'_>) -> io::Result<()> {
        for name in MERGED {
            let (merged, own) = (Path::new("usr").join(name), self.dir.join(name));
            if self.dir.join(&merged).is_dir() && fs::symlink_metadata(&own).is_err() {
                symlink(merged, own)?;
            }
        }
        for LibraryName { address, name } in plan.request.libraries {
            let name = to_path(name);
            let is_it =
                |(_, (_, module)): &(&PathBuf, &(ModulePlace, &Module))| (module.start..module.end).contains(address);
            if let Some((path, _)) = plan.files.iter().find(is_it).filter(|_| is_plain(&name)) {
                self.link(&name, path);
            }
        }
        self.link_neighbours(plan);
        for (path, (_, module)) in &plan.files {
            let split = module.build_id.as_deref().and_then(|build_id| build_id.split_at_checked(2));
            if let Some((first, rest)) = split.filter(|_| module.build_id.as_deref().is_some_and(is_hexadecimal)) {
                self.link(&Path::new(DEBUG_DIR).join(".build-id").join(first).join(rest), path);
            }
        }
        Ok(())
    }

    /// Links to files of this machine that are beside them there, such as libz.so.1 beside libz.so.1.3: of a truncated core, the linker's
    /// list may be missing.
    fn link_neighbours(&self, plan: &SysrootPlan<'_>) {
        let hosts: BTreeMap<&Path, &Path> = plan
            .files
            .iter()
            .filter_map(|(path, (place, _))| match place {
                ModulePlace::Host(host) => Some((host.as_path(), path.as_path())),
                ModulePlace::Stored(_) => None,
            })
            .collect();
        let mut places: Vec<(&Path, &Path)> =
            hosts.iter().filter_map(|(host, path)| Some((host.parent()?, path.parent()?))).collect();
        places.push((Path::new(LINKER_DIR), Path::new(LINKER_DIR)));
        places.dedup();
        for (place, inside) in places {
            for entry in fs::read_dir(place).into_iter().flatten().flatten() {
                let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                let target = is_link.then(|| entry.path().canonicalize().ok()).flatten();
                if let Some(path) = target.and_then(|target| hosts.get(target.as_path()).copied()) {
                    self.link(&inside.join(entry.file_name()), path);
                }
            }
        }
    }
}

fn is_hexadecimal(text: &str) -> bool {
    text.len() > 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Layout;
    use crate::store::fixtures::listed;
    use coreward_wire::paths::Root;

    fn module(path: &str, build_id: Option<&str>, start: u64) -> Module {
        let (build_id, end) = (build_id.map(str::to_owned), start + 0x1000);
        Module { path: path.to_owned(), build_id, package: None, owner: None, bias: 0, start, end }
    }

    /// A program with a build-id, and the build-id.
    fn program() -> (PathBuf, String) {
        let path = std::env::current_exe().unwrap().canonicalize().unwrap();
        let id = build_id(&File::open(&path).unwrap()).unwrap();
        (path, id)
    }

    fn create(dir: &Path, record: &Record, libraries: &[LibraryName]) -> (VettedSysroot, Vec<String>) {
        let root = Root::new(dir.join("state"));
        let (modules, caller) = (ModuleSource::Store(&root), Uid::current());
        let mut plan = SysrootPlan::new(SysrootRequest { record, libraries, modules, caller });
        let sysroot = VettedSysroot::create(dir, &mut plan).unwrap();
        (sysroot, plan.missing)
    }

    fn found(sysroot: &VettedSysroot, path: &Path) -> PathBuf {
        sysroot.path().join(path.strip_prefix("/").unwrap_or(path))
    }

    #[test]
    fn only_vetted_files_are_found_and_nothing_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let [own, fifo] = ["own.so.1.0", "fifo.so"].map(|name| dir.path().join(name));
        fs::write(&own, "own").unwrap();
        symlink("own.so.1.0", dir.path().join("own.so.1")).unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let mut record = listed(7).record;
        (record.root, record.in_namespace, record.cgroup.container) = ("/".to_owned(), false, None);
        let paths = [own.as_path(), &fifo, Path::new("/../etc/passwd"), Path::new("etc/passwd")];
        record.modules = paths.map(|path| module(path.to_str().unwrap(), None, 0)).to_vec();
        let (sysroot, missing) = create(dir.path(), &record, &[]);
        assert_eq!(fs::read(found(&sysroot, &own)).unwrap(), b"own");
        assert_eq!(fs::read(found(&sysroot, &dir.path().join("own.so.1"))).unwrap(), b"own");
        assert!(fs::symlink_metadata(found(&sysroot, &fifo)).is_err());
        assert!(fs::symlink_metadata(found(&sysroot, Path::new("etc/passwd"))).is_err());
        assert_eq!(missing, [fifo.display().to_string()]);
        // Root may search every directory.
        assert!(Uid::effective().is_root() || fs::metadata(found(&sysroot, Path::new("../root"))).is_err());
        remove(&sysroot.parent);
        assert!(!sysroot.parent.exists());
    }

    #[test]
    fn a_file_of_this_machine_is_used_only_if_its_build_id_agrees_and_else_the_module() {
        let dir = tempfile::tempdir().unwrap();
        let (program, id) = program();
        let modules = Layout::new(&Root::new(dir.path().join("state"))).modules;
        fs::create_dir_all(&modules).unwrap();
        let content = fs::read(&program).unwrap();
        fs::write(modules.join(format!("{id}.zst")), zstd::encode_all(&content[..], 1).unwrap()).unwrap();
        // Content of another build-id under this one.
        fs::write(modules.join("00ff.zst"), zstd::encode_all(&content[..], 1).unwrap()).unwrap();
        let mut record = listed(7).record;
        record.cgroup.container = Some("web".to_owned());
        let there = program.display().to_string();
        record.modules = vec![
            module(&there, Some(&id), 0),
            module("/usr/lib/libx.so.1.2 (deleted)", Some(&id), 0x10000),
            module("/usr/bin/env", Some("00ff"), 0x20000),
            module("/usr/bin/true", None, 0x30000),
        ];
        let libraries = [
            LibraryName { address: 0x10008, name: "/lib/libx.so.1".to_owned() },
            LibraryName { address: 0x10008, name: "/opt/deep/../libx.so".to_owned() },
            LibraryName { address: 0x10008, name: "/usr/lib/x/y/libx.so".to_owned() },
            LibraryName { address: 0x99999, name: "/usr/lib/none.so".to_owned() },
        ];
        let (sysroot, missing) = create(dir.path(), &record, &libraries);
        let is_link = |path: &Path| fs::symlink_metadata(found(&sysroot, path)).unwrap().file_type().is_symlink();
        assert!(is_link(&program) && !is_link(Path::new("/usr/lib/libx.so.1.2")));
        let (first, rest) = id.split_at(2);
        for path in [
            "/usr/lib/libx.so.1.2",
            "/lib/libx.so.1",
            "/usr/lib/x/y/libx.so",
            &format!("{DEBUG_DIR}/.build-id/{first}/{rest}"),
        ] {
            assert!(fs::read(found(&sysroot, Path::new(path))).unwrap() == content, "{path}");
        }
        assert_eq!(missing, ["/usr/bin/true", "/usr/bin/env"], "the one cannot be compared, the other is damaged");
        assert!(fs::metadata(found(&sysroot, Path::new("/usr/bin/env"))).is_err());
        remove(&sysroot.parent);
    }
}
