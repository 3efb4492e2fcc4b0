//! `coreward debug`.
//!
//! A debugger wants a core that it can seek in, so the stored one is unpacked: into a file without a name, that the debugger
//! inherits and opens through `/proc/PID/fd`. This program then becomes the debugger. Nobody else can open the file, it is
//! gone when the debugger is, however that ends, and terminal, signals and exit status are the debugger's own.

use super::unpack::{Stored, UnpackError};
use super::{CliError, Which, executable, say};
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
use thiserror::Error;

/// Options of `debug`.
#[derive(Args, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    which: Which,
    /// The program that crashed [default: the file of its name, where it has the same build-id]
    #[arg(long, value_name = "PATH")]
    executable: Option<PathBuf>,
    /// Directory in which the debugger looks for the program and its libraries, for a crash in a container
    #[arg(long, value_name = "DIR")]
    sysroot: Option<PathBuf>,
    /// The debugger; any that understands "EXECUTABLE -c CORE", as gdb and lldb do
    #[arg(long, value_name = "PROGRAM", default_value = "gdb")]
    debugger: PathBuf,
    /// Arguments for the debugger, in front of what is given to it anyhow
    #[arg(value_name = "DEBUGGER-ARGS", last = true)]
    arguments: Vec<OsString>,
}

/// Why no debugger ran.
#[derive(Debug, Error)]
pub(super) enum DebugError {
    #[error("{0}: no such program: install it (apt install gdb), or name another debugger with --debugger")]
    NoDebugger(PathBuf),
    #[error("{path}: {error}")]
    Start { path: PathBuf, error: io::Error },
    #[error("{dir}: {error}: the core has {bytes} bytes; set TMPDIR to a directory with room for it")]
    Temporary { dir: PathBuf, bytes: u64, error: io::Error },
    #[error("--sysroot is for gdb: tell {0} in its own words, after --")]
    Sysroot(PathBuf),
}

/// Returns only where no debugger could be started; exit status otherwise: the debugger's.
pub(super) fn run(root: &Root, options: &Options) -> Result<ExitCode, CliError> {
    let listed = store::find(root, options.which.name.as_deref())?;
    let stored = Stored::open(root, &listed)?;
    let sysroot = sysroot_arguments(options)?;
    let chosen = executable::choose(&listed.record, options.executable.as_deref(), options.sysroot.as_deref());
    for note in &chosen.notes {
        say(&format!("coreward: note: {note}"));
    }
    let dir = temporary_dir();
    let failed = |error| DebugError::Temporary { dir: dir.clone(), bytes: listed.record.core.bytes, error };
    let core = nameless(&dir).map_err(failed)?;
    stored.unpack_to(&core, &dir, None).map_err(|error| match error {
        CliError::Unpack(UnpackError::Write { error, .. }) => failed(error).into(),
        other => other,
    })?;
    // The debugger keeps this PID, and a wrapper that starts the real one without its descriptors keeps it at hand as well.
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

/// It must stand before the core is loaded, which is when a debugger looks for libraries.
fn sysroot_arguments(options: &Options) -> Result<Vec<OsString>, DebugError> {
    let Some(sysroot) = &options.sysroot else { return Ok(Vec::new()) };
    let name = options.debugger.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !name.contains("gdb") {
        return Err(DebugError::Sysroot(options.debugger.clone()));
    }
    let mut command = OsString::from("set sysroot ");
    command.push(sysroot);
    Ok(vec!["-iex".into(), command])
}

/// Where large files go: /tmp may be memory.
fn temporary_dir() -> PathBuf {
    std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

/// A file in `dir` that has no name, or none for longer than it takes to remove it.
fn nameless(dir: &Path) -> io::Result<File> {
    match tmpfile::create(File::open(dir)?.as_fd(), Mode::from_bits_truncate(0o600)) {
        // NFS, older overlays: a file system without O_TMPFILE takes the flag for a directory that is to be written to.
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
    use super::super::Arguments;
    use super::super::Verb;
    use super::*;
    use clap::Parser;

    fn sysroot_of(line: &str) -> Result<Vec<OsString>, DebugError> {
        let Verb::Debug(options) = Arguments::try_parse_from(line.split(' ')).unwrap().verb else { panic!("{line}") };
        sysroot_arguments(&options)
    }

    #[test]
    fn gdb_hears_of_a_sysroot_before_the_core() {
        assert_eq!(sysroot_of("coreward debug").unwrap(), [""; 0]);
        assert_eq!(sysroot_of("coreward debug --sysroot /i").unwrap(), ["-iex", "set sysroot /i"]);
        assert_eq!(sysroot_of("coreward debug --sysroot /i --debugger /usr/bin/gdb-multiarch").unwrap().len(), 2);
        assert!(matches!(sysroot_of("coreward debug --sysroot /i --debugger lldb"), Err(DebugError::Sysroot(_))));
    }

    #[test]
    fn the_core_leaves_no_name_behind() {
        let dir = tempfile::tempdir().unwrap();
        let file = nameless(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).is_ok());
    }
}
