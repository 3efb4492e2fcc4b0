//! `coreward debug`.
//!
//! The debugger finds the program and its libraries in a tree of their own (`vetted_sysroot.rs`): modules that were stored with the crash,
//! and files of this machine that have the same build-id. The crash may be one of another machine, in a bundle.
//!
//! A debugger needs a core in which it can seek, so the stored core is decompressed into an unnamed file. The debugger inherits
//! the file and opens it through `/proc/PID/fd`. This process then executes the debugger: terminal, signals and exit status
//! are the debugger's own, nobody else can open the file, and the file vanishes when the debugger ends, for whatever reason.

use super::crash_selector::CrashSelector;
use super::debug_files::DEBUG_DIR;
use super::error::{CliError, DebugError, UnpackError};
use super::executable::ExecutableChoice;
use super::foreign_file::{Owners, open_foreign};
use super::message::print_message;
use super::module_source::ModuleSource;
use super::privileges::{Account, run_as_owner};
use super::unpack::CoreReader;
use super::vetted_sysroot::{LibraryName, SysrootPlan, SysrootRequest, VettedSysroot};
use super::{executable, human, lookup};
use crate::crash::Record;
use crate::crash::text::{from_bytes, printable, to_path};
use crate::elf::{self, CoreLayout};
use crate::store::Bundle;
use clap::Args;
use coreward_sys::tmpfile;
use coreward_wire::paths::Root;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::{Uid, fchown};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Where gdb finds scripts of packages. Nothing else is loaded automatically.
const SAFE_PATH: &str = "/usr/share/gdb/auto-load:/usr/lib/debug";
/// The variable that names gdb's history.
const HISTORY: &str = "GDBHISTFILE";
/// A history that does not exist, and cannot be created.
const NO_HISTORY: &str = "/dev/null/none";
/// The variable that names debuginfod servers.
const SERVERS: &str = "DEBUGINFOD_URLS";
/// A sysroot below which nothing exists.
const NO_SYSROOT: &str = "/dev/null";

/// Options of `debug`.
#[derive(Args, Debug)]
pub(super) struct DebugOptions {
    #[command(flatten)]
    crash: CrashSelector,
    /// The program that crashed [default: the executable of the crash, if the file still has the same build-id]
    #[arg(long, value_name = "PATH")]
    executable: Option<PathBuf>,
    /// Directory below which the debugger finds the program and its libraries, for a crash in a container
    #[arg(long, value_name = "DIR")]
    sysroot: Option<PathBuf>,
    /// The debugger; its command line must accept "EXECUTABLE -c CORE", as those of gdb and lldb do
    #[arg(long, value_name = "PROGRAM", default_value = "gdb")]
    debugger: PathBuf,
    /// Run the debugger as root, if root calls this
    ///
    /// By default it runs as the owner of the stored cores, because it reads what the crashed process wrote. That user may not
    /// read every program, nor /proc/PID/root.
    #[arg(long)]
    as_root: bool,
    /// Let gdb ask the debuginfod servers of the environment also about the crash of another user or container
    #[arg(long)]
    debuginfod: bool,
    /// Arguments for the debugger in one text, in which quotation marks and backslashes work as in a shell
    #[arg(long, short = 'A', value_name = "ARGS", allow_hyphen_values = true)]
    debugger_arguments: Option<String>,
    /// Arguments for the debugger; they precede EXECUTABLE and -c CORE
    #[arg(value_name = "DEBUGGER-ARGS", last = true)]
    arguments: Vec<OsString>,
}

/// The crash of which the core is opened.
enum Subject {
    /// One that this machine has recorded.
    Recorded,
    /// The one in a bundle, which has this path.
    Bundle(PathBuf, Bundle),
}

/// What the core and its record tell.
#[derive(Serialize, Deserialize)]
struct Unpacked {
    record: Record,
    libraries: Vec<LibraryName>,
}

/// Executes the debugger. Returns only if that fails; otherwise the exit status is that of the debugger.
pub(super) fn run(root: &Root, caller: Uid, options: &DebugOptions) -> Result<ExitCode, CliError> {
    if options.sysroot.is_some() && !is_gdb(&options.debugger) {
        return Err(DebugError::Sysroot(options.debugger.clone()).into());
    }
    let dir = temporary_dir();
    let core = create_scratch(&dir).map_err(|error| DebugError::Temporary { dir: dir.clone(), error })?;
    let bundle = options.crash.name.as_deref().and_then(|name| open_bundle(&to_path(name)));
    let owner = Account::of_owner(root)?.or_else(|| bundle.as_ref().and_then(|_| Account::nobody_for_root()));
    let owner = owner.filter(|_| !options.as_root);
    if let Some(owner) = owner {
        // The debugger opens the file by its path, as its new owner.
        fchown(&core, Some(owner.uid), Some(owner.gid))
            .map_err(|error| DebugError::Temporary { dir: dir.clone(), error: error.into() })?;
        owner.assume()?;
    }
    let subject = match bundle {
        Some((path, file)) => {
            let opened = Bundle::open(file).map_err(|error| DebugError::Bundle { path: path.clone(), error })?;
            Subject::Bundle(path, opened)
        }
        None => Subject::Recorded,
    };
    let unpack = || unpack_core(root, options, &subject, &core, &dir);
    let Unpacked { record, libraries } = if options.as_root { run_as_owner(root, None, unpack)? } else { unpack()? };
    let modules = match &subject {
        Subject::Recorded => ModuleSource::Store(root),
        Subject::Bundle(_, bundle) => ModuleSource::Bundle(bundle),
    };
    let foreign = is_foreign(&record, caller) || matches!(subject, Subject::Bundle(..));
    let request = SysrootRequest { record: &record, libraries: &libraries, modules, caller };
    let tree = prepare_tree(&dir, options, request, foreign);
    let chosen = match &tree {
        Some(FileTree { executable: Some(path), .. }) if options.executable.is_none() => {
            ExecutableChoice { path: Some(path.clone()), notes: Vec::new() }
        }
        _ => executable::choose(&record, caller, options.executable.as_deref(), options.sysroot.as_deref()),
    };
    let missing = tree.as_ref().and_then(|tree| note_missing(&tree.missing));
    for note in chosen.notes.iter().chain(&missing) {
        print_message(&format!("coreward: note: {note}"));
    }
    let mut debugger = Command::new(&options.debugger);
    if let Some(owner) = owner {
        for path in options.executable.iter().chain(&options.sysroot) {
            if File::open(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
                print_message(&format!(
                    "coreward: note: user {}, as whom the debugger runs, may not read {}: --as-root runs it as root",
                    human::user(owner.uid),
                    path.display()
                ));
            }
        }
        // Root's own settings are not for this user.
        debugger.env_remove("HOME");
    }
    if is_gdb(&options.debugger) {
        // Without its executable, gdb would look for it by the names in the core.
        let foreign = foreign || chosen.path.is_none();
        debugger.args(gdb_arguments(options, tree.as_ref(), foreign));
        if foreign {
            if !options.debuginfod {
                debugger.env_remove(SERVERS);
            }
            // By default gdb reads a history in the current directory, which may be that of the crashed program.
            if !std::env::var_os(HISTORY).is_some_and(|file| Path::new(&file).is_absolute()) {
                debugger.env(HISTORY, NO_HISTORY);
            }
        }
    } else if let Some(tree) = tree.as_ref().filter(|_| is_lldb(&options.debugger)) {
        debugger.args(lldb_arguments(tree));
    }
    // The debugger has the PID of this process. A wrapper that starts the real debugger without the descriptor keeps it open.
    fcntl(&core, FcntlArg::F_SETFD(FdFlag::empty()))
        .map_err(|error| DebugError::Temporary { dir, error: error.into() })?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), core.as_raw_fd());
    debugger.args(options.debugger_arguments.iter().flat_map(|text| split_words(text)));
    debugger.args(&options.arguments).args(chosen.path).arg("-c").arg(path);
    let error = debugger.exec();
    Err(match error.kind() {
        ErrorKind::NotFound => DebugError::NoDebugger(options.debugger.clone()).into(),
        _ => DebugError::Start { path: options.debugger.clone(), error }.into(),
    })
}

/// Opens `path` if it is that of a bundle. It may as well be the path of an executable that crashed.
pub(super) fn open_bundle(path: &Path) -> Option<(PathBuf, File)> {
    let file = open_foreign(&path.canonicalize().ok()?, Owners::All).ok()?;
    Bundle::is_bundle(&file).then(|| (path.to_owned(), file))
}

/// Unpacks the core into `core`, a file in `dir`, and returns what is in it.
fn unpack_core(
    root: &Root,
    options: &DebugOptions,
    subject: &Subject,
    core: &File,
    dir: &Path,
) -> Result<Unpacked, CliError> {
    let (record, reader) = match subject {
        Subject::Recorded => {
            let listed = lookup::find_core(root, &options.crash)?;
            let reader = CoreReader::open(root, &listed)?;
            (listed.record, reader)
        }
        Subject::Bundle(path, bundle) => (bundle.record().clone(), CoreReader::of_bundle(bundle, path)?),
    };
    reader.unpack_to(core, dir, None).map_err(|error| match error {
        CliError::Unpack(UnpackError::Write { error, .. }) => {
            DebugError::NoRoom { dir: dir.to_owned(), bytes: record.core.bytes, error }.into()
        }
        other => other,
    })?;
    Ok(Unpacked { libraries: library_names(core).unwrap_or_default(), record })
}

/// The names that the dynamic linker has for the libraries of a core. `None`: the core does not tell.
fn library_names(core: &File) -> Option<Vec<LibraryName>> {
    /// Longest headers that are read, in bytes: those of a million mappings.
    const MAX_HEADERS: u64 = 256 << 20;
    let read_at = |offset: u64, length: usize| {
        let mut bytes = vec![0; length];
        core.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
    };
    let mut first = vec![0; 64 << 10];
    let count = core.read_at(&mut first, 0).ok()?;
    let length = elf::headers_len(&first[..count]).ok().filter(|length| *length <= MAX_HEADERS)?;
    let layout = CoreLayout::read(&read_at(0, usize::try_from(length).ok()?)?).ok()?;
    let (address, number) = layout.notes.program_headers?;
    let read = |address: u64, length: usize| {
        let range = layout.file_range(address).filter(|range| range.end - range.start >= length as u64)?;
        read_at(range.start, length)
    };
    let libraries = elf::loaded_libraries(layout.class, address, number, read).into_iter();
    Some(libraries.map(|library| LibraryName { address: library.dynamic, name: from_bytes(&library.name) }).collect())
}

/// The tree in which the debugger finds files, as the debugger sees it.
struct FileTree {
    path: PathBuf,
    executable: Option<PathBuf>,
    library_dirs: Vec<PathBuf>,
    missing: Vec<String>,
}

/// Makes the tree. `None`: the user named one, or the files of this machine are those of the crash, which is the caller's own.
fn prepare_tree(dir: &Path, options: &DebugOptions, request: SysrootRequest<'_>, foreign: bool) -> Option<FileTree> {
    if options.sysroot.is_some() {
        return None;
    }
    let mut plan = SysrootPlan::new(request);
    if !foreign && plan.is_this_machine() {
        return None;
    }
    let created = VettedSysroot::create(dir, &mut plan)
        .and_then(|tree| tree.keep_until_exit().map_err(|error| CliError::File { path: dir.to_owned(), error }));
    let path = match created {
        Ok(path) => path,
        Err(error) => {
            print_message(&format!("coreward: note: {error}: the debugger finds no libraries"));
            return Some(FileTree {
                path: NO_SYSROOT.into(),
                executable: None,
                library_dirs: Vec::new(),
                missing: Vec::new(),
            });
        }
    };
    let inside = |there: &Path| path.join(there.strip_prefix("/").unwrap_or(there));
    let executable = plan.executable().map(|path| inside(&path));
    let library_dirs = plan.library_dirs().iter().map(|dir| inside(dir)).collect();
    Some(FileTree { executable, library_dirs, missing: plan.missing, path })
}

/// What the user should know about files that were not found.
fn note_missing(missing: &[String]) -> Option<String> {
    /// Files that are named.
    const NAMED: usize = 3;
    let named: Vec<String> = missing.iter().take(NAMED).map(|path| printable(path)).collect();
    let more = if missing.len() > NAMED { format!(" and {} more", missing.len() - NAMED) } else { String::new() };
    (!missing.is_empty()).then(|| {
        format!(
            "{}{more}: neither stored with the crash (Modules= in coreward.conf(5)) nor on this host in the build that crashed",
            named.join(", ")
        )
    })
}

fn is_gdb(debugger: &Path) -> bool {
    debugger.file_name().unwrap_or_default().to_string_lossy().contains("gdb")
}

fn is_lldb(debugger: &Path) -> bool {
    debugger.file_name().unwrap_or_default().to_string_lossy().contains("lldb")
}

/// Whether somebody other than `caller` could have written what the debugger reads.
fn is_foreign(record: &Record, caller: Uid) -> bool {
    record.uid != Some(caller) || executable::foreign_place(record).is_some()
}

/// Arguments that set the sysroot before the core is loaded, since libraries are searched at that time. For the crash of somebody
/// else, they also keep gdb from running scripts that lie beside the program or in the current directory, and from opening what
/// the core names. They follow gdb's initialisation files, so those cannot allow it again.
fn gdb_arguments(options: &DebugOptions, tree: Option<&FileTree>, foreign: bool) -> Vec<OsString> {
    let set = |setting: &str, value: &Path| {
        let mut command = OsString::from(format!("set {setting} "));
        command.push(value);
        ["-iex".into(), command]
    };
    let mut arguments: Vec<OsString> = Vec::new();
    if foreign {
        arguments.extend(set("auto-load safe-path", Path::new(SAFE_PATH)));
        arguments.extend(set("auto-load local-gdbinit", Path::new("off")));
        if options.debuginfod {
            arguments.extend(set("debuginfod enabled", Path::new("on")));
        }
    }
    match (&options.sysroot, tree) {
        (Some(sysroot), _) => arguments.extend(set("sysroot", sysroot)),
        (None, Some(tree)) => {
            arguments.extend(set("sysroot", &tree.path));
            let debug_files = [tree.path.join(DEBUG_DIR.trim_start_matches('/')), DEBUG_DIR.into()];
            for (setting, dirs) in
                [("debug-file-directory", &debug_files[..]), ("solib-search-path", &tree.library_dirs)]
            {
                if let Ok(dirs) = std::env::join_paths(dirs) {
                    arguments.extend(set(setting, Path::new(&dirs)));
                }
            }
        }
        (None, None) => {}
    }
    arguments
}

/// The same for lldb, which looks for a library by its name in directories, and compares its build-id.
fn lldb_arguments(tree: &FileTree) -> Vec<OsString> {
    let debug_files = [tree.path.join(DEBUG_DIR.trim_start_matches('/')), DEBUG_DIR.into()];
    let settings =
        [("target.exec-search-paths", &tree.library_dirs[..]), ("target.debug-file-search-paths", &debug_files)];
    let append = settings.into_iter().flat_map(|(setting, dirs)| {
        dirs.iter().flat_map(move |dir| {
            let mut command = OsString::from(format!("settings append {setting} \""));
            command.push(dir);
            command.push("\"");
            ["-O".into(), command]
        })
    });
    append.collect()
}

/// The words of a text as a shell would split it, without expansions.
fn split_words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            (_, Some(mark)) if character == mark => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(characters.next()),
            ('\'' | '"', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (_, None) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// The directory for large files. `/tmp` may be a tmpfs.
fn temporary_dir() -> PathBuf {
    std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

/// Creates a file in `dir` that has no name.
fn create_scratch(dir: &Path) -> io::Result<File> {
    Ok(tmpfile::create_scratch(File::open(dir)?.as_fd(), Mode::from_bits_truncate(0o600))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures::listed;
    use clap::{Command, FromArgMatches};

    fn options(line: &str) -> DebugOptions {
        let command = DebugOptions::augment_args(Command::new("coreward debug"));
        let matches = command.try_get_matches_from(line.split(' ').skip(1)).unwrap();
        DebugOptions::from_arg_matches(&matches).unwrap()
    }

    fn arguments(line: &str, uid: u32, tree: Option<&FileTree>) -> Vec<OsString> {
        let record = Record { uid: Some(Uid::from_raw(uid)), ..listed(7).record };
        gdb_arguments(&options(line), tree, is_foreign(&record, Uid::from_raw(1)))
    }

    fn tree() -> FileTree {
        FileTree {
            path: "/t".into(),
            executable: None,
            library_dirs: vec!["/t/lib".into(), "/t/opt".into()],
            missing: Vec::new(),
        }
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        for (text, expected) in [
            ("-batch -ex 'thread apply all bt'", &["-batch", "-ex", "thread apply all bt"][..]),
            (r#"  a\ b "c \" d" '' "#, &["a b", "c \" d", ""]),
            ("'open", &["open"]),
            ("", &[]),
        ] {
            assert_eq!(split_words(text), expected, "{text}");
        }
    }

    #[test]
    fn gdb_sets_a_sysroot_before_it_loads_the_core() {
        assert_eq!(arguments("coreward debug", 1, None), [""; 0]);
        assert_eq!(arguments("coreward debug --sysroot /i", 1, None), ["-iex", "set sysroot /i"]);
        assert!(is_gdb(Path::new("/usr/bin/gdb-multiarch")) && !is_gdb(Path::new("/usr/bin/lldb")));
    }

    #[test]
    fn gdb_runs_no_scripts_and_opens_no_files_of_strangers() {
        let restricted = [
            "-iex",
            "set auto-load safe-path /usr/share/gdb/auto-load:/usr/lib/debug",
            "-iex",
            "set auto-load local-gdbinit off",
        ];
        let with = |more: &[&'static str]| [restricted.as_slice(), more].concat();
        assert_eq!(arguments("coreward debug --sysroot /i", 2, None), with(&["-iex", "set sysroot /i"]));
        let found_in_tree = [
            "-iex",
            "set sysroot /t",
            "-iex",
            "set debug-file-directory /t/usr/lib/debug:/usr/lib/debug",
            "-iex",
            "set solib-search-path /t/lib:/t/opt",
        ];
        assert_eq!(arguments("coreward debug", 2, Some(&tree())), with(&found_in_tree));
        let with_servers = with(&["-iex", "set debuginfod enabled on", "-iex", "set sysroot /i"]);
        assert_eq!(arguments("coreward debug --debuginfod --sysroot /i", 2, None), with_servers);
    }

    #[test]
    fn lldb_searches_the_directories_of_the_tree() {
        let shown: Vec<String> =
            lldb_arguments(&tree()).iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
        assert_eq!(shown[..2], ["-O", "settings append target.exec-search-paths \"/t/lib\""]);
        assert!(
            shown.contains(&"settings append target.debug-file-search-paths \"/usr/lib/debug\"".to_owned()),
            "{shown:?}"
        );
        assert!(is_lldb(Path::new("/usr/bin/lldb-19")) && !is_lldb(Path::new("gdb")));
    }

    #[test]
    fn what_is_missing_is_said_in_one_line() {
        assert_eq!(note_missing(&[]), None);
        let missing: Vec<String> = (0..5).map(|number| format!("/lib/{number}\n")).collect();
        let note = note_missing(&missing).unwrap();
        assert!(note.starts_with(r"/lib/0\n, /lib/1\n, /lib/2\n and 2 more: "), "{note}");
    }

    #[test]
    fn the_core_leaves_no_name_behind() {
        let dir = tempfile::tempdir().unwrap();
        let file = create_scratch(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).is_ok());
    }
}
