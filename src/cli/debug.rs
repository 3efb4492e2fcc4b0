//! `coreward debug`.
//!
//! A debugger needs a core in which it can seek, so the stored core is decompressed into an unnamed file. The debugger inherits
//! the file and opens it through `/proc/PID/fd`. This process then executes the debugger: terminal, signals and exit status
//! are the debugger's own, nobody else can open the file, and the file vanishes when the debugger ends, for whatever reason.

use super::crash_selector::CrashSelector;
use super::error::{CliError, DebugError, UnpackError};
use super::executable;
use super::message::print_message;
use super::unpack::CoreReader;
use crate::store;
use clap::Args;
use coreward_sys::tmpfile;
use coreward_wire::paths::Root;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::{mkstemp, unlink};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

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
    /// Arguments for the debugger; they precede EXECUTABLE and -c CORE
    #[arg(value_name = "DEBUGGER-ARGS", last = true)]
    arguments: Vec<OsString>,
}

/// Executes the debugger. Returns only if that fails; otherwise the exit status is that of the debugger.
pub(super) fn run(root: &Root, options: &DebugOptions) -> Result<ExitCode, CliError> {
    let listed = store::find(root, options.crash.name.as_deref())?;
    let stored = CoreReader::open(root, &listed)?;
    let sysroot = sysroot_arguments(options)?;
    let chosen = executable::choose(&listed.record, options.executable.as_deref(), options.sysroot.as_deref());
    for note in &chosen.notes {
        print_message(&format!("coreward: note: {note}"));
    }
    let dir = temporary_dir();
    let failed = |error| DebugError::Temporary { dir: dir.clone(), bytes: listed.record.core.bytes, error };
    let core = create_unnamed(&dir).map_err(failed)?;
    stored.unpack_to(&core, &dir, None).map_err(|error| match error {
        CliError::Unpack(UnpackError::Write { error, .. }) => failed(error).into(),
        other => other,
    })?;
    // The debugger has the PID of this process. A wrapper that starts the real debugger without the descriptor keeps it open.
    fcntl(&core, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|error| failed(error.into()))?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), core.as_raw_fd());
    let mut debugger = Command::new(&options.debugger);
    debugger.args(sysroot).args(&options.arguments).args(chosen.path).arg("-c").arg(path);
    let error = debugger.exec();
    Err(match error.kind() {
        ErrorKind::NotFound => DebugError::NoDebugger(options.debugger.clone()).into(),
        _ => DebugError::Start { path: options.debugger.clone(), error }.into(),
    })
}

/// Arguments that set the sysroot before the core is loaded, since libraries are searched at that time.
fn sysroot_arguments(options: &DebugOptions) -> Result<Vec<OsString>, DebugError> {
    let Some(sysroot) = &options.sysroot else { return Ok(Vec::new()) };
    let name = options.debugger.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !name.contains("gdb") {
        return Err(DebugError::Sysroot(options.debugger.clone()));
    }
    let mut command = OsString::from("set sysroot ");
    command.push(sysroot);
    Ok(vec!["-iex".into(), command])
}

/// The directory for large files. `/tmp` may be a tmpfs.
fn temporary_dir() -> PathBuf {
    std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

/// Creates a file in `dir` that has no name, or loses it at once.
fn create_unnamed(dir: &Path) -> io::Result<File> {
    match tmpfile::create(File::open(dir)?.as_fd(), Mode::from_bits_truncate(0o600)) {
        // A file system without O_TMPFILE (NFS, older overlayfs) reads the flag as opening a directory for writing.
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::IsADirectory) => {
            let (file, path) = mkstemp(&dir.join("coreward-XXXXXX"))?;
            unlink(&path)?;
            Ok(file.into())
        }
        created => Ok(created?.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, FromArgMatches};

    fn options(line: &str) -> DebugOptions {
        let command = DebugOptions::augment_args(Command::new("coreward debug"));
        let matches = command.try_get_matches_from(line.split(' ').skip(1)).unwrap();
        DebugOptions::from_arg_matches(&matches).unwrap()
    }

    fn sysroot_of(line: &str) -> Result<Vec<OsString>, DebugError> {
        sysroot_arguments(&options(line))
    }

    #[test]
    fn gdb_sets_a_sysroot_before_it_loads_the_core() {
        assert_eq!(sysroot_of("coreward debug").unwrap(), [""; 0]);
        assert_eq!(sysroot_of("coreward debug --sysroot /i").unwrap(), ["-iex", "set sysroot /i"]);
        assert_eq!(sysroot_of("coreward debug --sysroot /i --debugger /usr/bin/gdb-multiarch").unwrap().len(), 2);
        assert!(matches!(sysroot_of("coreward debug --sysroot /i --debugger lldb"), Err(DebugError::Sysroot(_))));
    }

    #[test]
    fn the_core_leaves_no_name_behind() {
        let dir = tempfile::tempdir().unwrap();
        let file = create_unnamed(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).is_ok());
    }
}
