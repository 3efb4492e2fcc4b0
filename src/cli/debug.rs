//! `coreward debug`.
//!
//! A debugger needs a core in which it can seek, so the stored core is decompressed into an unnamed file. The debugger inherits
//! the file and opens it through `/proc/PID/fd`. This process then executes the debugger: terminal, signals and exit status
//! are the debugger's own, nobody else can open the file, and the file vanishes when the debugger ends, for whatever reason.

use super::crash_selector::CrashSelector;
use super::error::{CliError, DebugError, UnpackError};
use super::message::print_message;
use super::privileges::{Account, run_as_owner};
use super::unpack::CoreReader;
use super::vetted_sysroot::VettedSysroot;
use super::{executable, human};
use crate::crash::Record;
use crate::store;
use clap::Args;
use coreward_sys::tmpfile;
use coreward_wire::paths::Root;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::{Uid, fchown};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Where gdb finds scripts of packages. Nothing else is loaded automatically.
const SAFE_PATH: &str = "/usr/share/gdb/auto-load:/usr/lib/debug";
/// The variable that names gdb's history.
const HISTORY: &str = "GDBHISTFILE";
/// A history that does not exist, and cannot be created.
const NO_HISTORY: &str = "/dev/null/none";
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

/// Executes the debugger. Returns only if that fails; otherwise the exit status is that of the debugger.
pub(super) fn run(root: &Root, caller: Uid, options: &DebugOptions) -> Result<ExitCode, CliError> {
    if options.sysroot.is_some() && !is_gdb(&options.debugger) {
        return Err(DebugError::Sysroot(options.debugger.clone()).into());
    }
    let dir = temporary_dir();
    let core = create_scratch(&dir).map_err(|error| DebugError::Temporary { dir: dir.clone(), error })?;
    let unpack = || unpack_newest(root, options, &core, &dir);
    let owner = Account::of_owner(root)?.filter(|_| !options.as_root);
    let record = if options.as_root {
        run_as_owner(root, None, unpack)?
    } else {
        if let Some(owner) = owner {
            // The debugger opens the file by its path, as its new owner.
            fchown(&core, Some(owner.uid), Some(owner.gid))
                .map_err(|error| DebugError::Temporary { dir: dir.clone(), error: error.into() })?;
            owner.assume()?;
        }
        unpack()?
    };
    let chosen = executable::choose(&record, caller, options.executable.as_deref(), options.sysroot.as_deref());
    for note in &chosen.notes {
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
        let foreign = is_foreign(&record, caller) || chosen.path.is_none();
        debugger.args(gdb_arguments(&record, caller, foreign, options, &dir));
        if foreign {
            if !options.debuginfod {
                debugger.env_remove("DEBUGINFOD_URLS");
            }
            // By default gdb reads a history in the current directory, which may be that of the crashed program.
            if !std::env::var_os(HISTORY).is_some_and(|file| Path::new(&file).is_absolute()) {
                debugger.env(HISTORY, NO_HISTORY);
            }
        }
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

/// Unpacks the core into `core`, a file in `dir`, and returns its record.
fn unpack_newest(root: &Root, options: &DebugOptions, core: &File, dir: &Path) -> Result<Record, CliError> {
    let listed = store::find(root, options.crash.name.as_deref())?;
    CoreReader::open(root, &listed)?.unpack_to(core, dir, None).map_err(|error| match error {
        CliError::Unpack(UnpackError::Write { error, .. }) => {
            DebugError::NoRoom { dir: dir.to_owned(), bytes: listed.record.core.bytes, error }.into()
        }
        other => other,
    })?;
    Ok(listed.record)
}

fn is_gdb(debugger: &Path) -> bool {
    debugger.file_name().unwrap_or_default().to_string_lossy().contains("gdb")
}

/// Whether somebody other than `caller` could have written what the debugger reads.
fn is_foreign(record: &Record, caller: Uid) -> bool {
    record.uid != Some(caller) || executable::foreign_place(record).is_some()
}

/// Arguments that set the sysroot before the core is loaded, since libraries are searched at that time. For the crash of somebody
/// else, they also keep gdb from running scripts that lie beside the program or in the current directory, and from opening what
/// the core names. They follow gdb's initialisation files, so those cannot allow it again.
fn gdb_arguments(record: &Record, caller: Uid, foreign: bool, options: &DebugOptions, dir: &Path) -> Vec<OsString> {
    let set = |setting: &str, value: &Path| {
        let mut command = OsString::from(format!("set {setting} "));
        command.push(value);
        ["-iex".into(), command]
    };
    let mut arguments: Vec<OsString> = Vec::new();
    if foreign {
        arguments.extend(set("auto-load safe-path", Path::new(SAFE_PATH)));
        arguments.extend(set("auto-load local-gdbinit", Path::new("off")));
    }
    match &options.sysroot {
        Some(sysroot) => arguments.extend(set("sysroot", sysroot)),
        None if foreign => {
            let vetted = VettedSysroot::create(dir, record, caller).and_then(VettedSysroot::keep_until_exit);
            let sysroot = vetted.unwrap_or_else(|error| {
                print_message(&format!("coreward: note: {}: {error}: gdb finds no libraries", dir.display()));
                NO_SYSROOT.into()
            });
            arguments.extend(set("sysroot", &sysroot));
        }
        None => {}
    }
    arguments
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

    fn arguments(line: &str, uid: u32) -> Vec<OsString> {
        let dir = tempfile::tempdir().unwrap();
        let record = Record { uid: Some(Uid::from_raw(uid)), ..listed(7).record };
        gdb_arguments(
            &record,
            Uid::from_raw(1),
            is_foreign(&record, Uid::from_raw(1)),
            &options(line),
            &dir.path().join("none"),
        )
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
        assert_eq!(arguments("coreward debug", 1), [""; 0]);
        assert_eq!(arguments("coreward debug --sysroot /i", 1), ["-iex", "set sysroot /i"]);
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
        let with_sysroot = |sysroot| [restricted.as_slice(), &["-iex", sysroot]].concat();
        assert_eq!(arguments("coreward debug", 2), with_sysroot("set sysroot /dev/null"));
        assert_eq!(arguments("coreward debug --sysroot /i", 2), with_sysroot("set sysroot /i"));
    }

    #[test]
    fn the_core_leaves_no_name_behind() {
        let dir = tempfile::tempdir().unwrap();
        let file = create_scratch(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).is_ok());
    }
}
