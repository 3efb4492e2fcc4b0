//! `coreward register` and `coreward unregister`, for coreward-register.service.

use super::saved::Saved;
use super::sysctl::{Key, Sysctl};
use super::{CliError, say};
use crate::crash::text::printable;
use clap::Args;
use coreward_wire::paths::{PatternTooLong, Root, SPECIFIERS};
use nix::unistd::geteuid;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use thiserror::Error;

/// Options of `register`.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// The program that the kernel is to start [default: /usr/libexec/coreward/coreward-shim]
    #[arg(long, value_name = "PATH")]
    shim: Option<PathBuf>,
}

/// Options of `unregister`.
#[derive(Args, Debug)]
pub(super) struct Unregister {}

/// Why the kernel was left as it was.
#[derive(Debug, Error)]
pub(super) enum RegisterError {
    #[error("only root may tell the kernel what to do with crashes (sudo coreward ...)")]
    NotRoot,
    #[error(transparent)]
    TooLong(#[from] PatternTooLong),
    #[error("{0}: the kernel would start it for every crash, and it can't be started: {1}")]
    Shim(PathBuf, io::Error),
    #[error("\"{0}\": a space ends a word in core_pattern and % means something else there: choose another path")]
    Unspeakable(String),
    #[error("{0}: the values that are set now can't be kept there: {1}")]
    Save(PathBuf, io::Error),
}

/// A dump is skipped when more than this many are going on, and with any limit but 0 the kernel keeps the process, and with it
/// `/proc/PID`, until the last reader of the pipe is gone (wait_for_dump_helpers in fs/coredump.c). The largest number: it
/// keeps every process and skips none.
const NO_LIMIT: i32 = i32::MAX;
/// What the kernel itself begins with.
const KERNELS_OWN: (&str, &str) = ("core", "0");
/// The shim's file name, wherever it is installed.
const SHIM: &str = "coreward-shim";

pub(super) fn register(root: &Root, options: &Options, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    must_be_root()?;
    let shim = options.shim.clone().unwrap_or_else(|| root.shim_exe());
    // The kernel starts nothing but absolute paths.
    let shim = std::path::absolute(&shim).map_err(|error| RegisterError::Shim(shim, error))?;
    check(&shim)?;
    let pattern = set_up(&Sysctl::kernel(), root, &shim)?;
    writeln!(out, "kernel.core_pattern = {pattern}\nkernel.core_pipe_limit = {NO_LIMIT}")?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn unregister(root: &Root, _: &Unregister, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    must_be_root()?;
    let (pattern, limit) = match put_back(&Sysctl::kernel(), root)? {
        Ended::Foreign(pattern) => {
            writeln!(
                out,
                "kernel.core_pattern is \"{}\", which is not this Coreward's: left as it is",
                printable(&pattern)
            )?;
            return Ok(ExitCode::SUCCESS);
        }
        Ended::Restored(pattern, limit) => (pattern, limit),
    };
    writeln!(out, "kernel.core_pattern = {}\nkernel.core_pipe_limit = {limit}", printable(&pattern))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a `core_pattern` starts the shim of the tree `root`. Any shim of that tree: one that was registered from elsewhere
/// (`--shim`) is ours too, and what was set before it is still what is to be put back.
pub(super) fn is_ours(pattern: &str, root: &Root) -> bool {
    let Some(command) = pattern.strip_prefix('|') else { return false };
    let (program, arguments) = command.split_once(' ').unwrap_or((command, ""));
    let (dir, specifiers) = match arguments.strip_prefix("--root ") {
        Some(rest) => rest.split_once(' ').unwrap_or((rest, "")),
        None => ("/", arguments),
    };
    let is_shim = specifiers == SPECIFIERS || Path::new(program).file_name().is_some_and(|name| name == SHIM);
    is_shim && Root::new(dir) == *root
}

fn must_be_root() -> Result<(), RegisterError> {
    if geteuid().is_root() { Ok(()) } else { Err(RegisterError::NotRoot) }
}

/// Looks at the shim before the kernel is told to start it: a pattern that can't be started loses every core.
fn check(shim: &Path) -> Result<(), RegisterError> {
    let failed = |error| RegisterError::Shim(shim.to_owned(), error);
    let about = std::fs::metadata(shim).map_err(failed)?;
    if !about.is_file() {
        return Err(failed(io::Error::other("it is not a file")));
    }
    if about.permissions().mode() & 0o111 == 0 {
        return Err(failed(io::Error::other("it is not executable")));
    }
    if about.uid() != 0 || about.mode() & 0o022 != 0 {
        say(&format!(
            "coreward: warning: {}: others than root may change what the kernel is to run as root",
            shim.display()
        ));
    }
    Ok(())
}

fn set_up(sysctl: &Sysctl, root: &Root, shim: &Path) -> Result<String, CliError> {
    for path in [shim, root.path()] {
        let text = path.to_string_lossy();
        if text.contains(|character: char| character == '%' || character.is_whitespace() || character.is_control()) {
            return Err(RegisterError::Unspeakable(printable(&text)).into());
        }
    }
    let pattern = root.core_pattern(shim).map_err(RegisterError::from)?;
    let before =
        Saved { core_pattern: sysctl.get(Key::CorePattern)?, core_pipe_limit: sysctl.get(Key::CorePipeLimit)? };
    if !is_ours(&before.core_pattern, root) {
        before.write(root).map_err(|error| RegisterError::Save(Saved::path(root), error))?;
    }
    // The limit first: no crash comes to the shim without it.
    sysctl.set(Key::CorePipeLimit, &NO_LIMIT.to_string())?;
    if let Err(error) = sysctl.set(Key::CorePattern, &pattern) {
        // A pattern that was taken by half is worse than the one before.
        let _ = sysctl.set(Key::CorePattern, &before.core_pattern);
        let _ = sysctl.set(Key::CorePipeLimit, &before.core_pipe_limit);
        return Err(error.into());
    }
    Ok(pattern)
}

enum Ended {
    /// Somebody else has been here since.
    Foreign(String),
    /// Pattern and limit.
    Restored(String, String),
}

fn put_back(sysctl: &Sysctl, root: &Root) -> Result<Ended, CliError> {
    let now = sysctl.get(Key::CorePattern)?;
    let ended = if is_ours(&now, root) {
        let (pattern, limit) = before(root);
        // In the other order than they were set.
        sysctl.set(Key::CorePattern, &pattern)?;
        sysctl.set(Key::CorePipeLimit, &limit)?;
        Ended::Restored(pattern, limit)
    } else {
        Ended::Foreign(now)
    };
    Saved::remove(root).map_err(|error| RegisterError::Save(Saved::path(root), error))?;
    Ok(ended)
}

/// What to put back: what was saved, if it can be believed, else what the kernel begins with.
fn before(root: &Root) -> (String, String) {
    let default = (KERNELS_OWN.0.to_owned(), KERNELS_OWN.1.to_owned());
    match Saved::read(root) {
        Ok(Some(saved)) if !is_ours(&saved.core_pattern, root) => (saved.core_pattern, saved.core_pipe_limit),
        Ok(_) => default,
        Err(error) => {
            let path = Saved::path(root);
            say(&format!("coreward: {}: {error}: not used, the kernel's own default is set", path.display()));
            default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEMD: &str = "|/lib/systemd/systemd-coredump %P %u %g %s %t 9223372036854775808 %h";

    struct Fixture {
        dir: tempfile::TempDir,
        root: Root,
        sysctl: Sysctl,
        shim: PathBuf,
    }

    fn fixture(pattern: &str, limit: &str) -> Fixture {
        // Short, and without a random name's length: the pattern has 127 bytes.
        let dir = tempfile::Builder::new().prefix("r").rand_bytes(4).tempdir_in("/tmp").unwrap();
        std::fs::write(dir.path().join("core_pattern"), format!("{pattern}\n")).unwrap();
        std::fs::write(dir.path().join("core_pipe_limit"), format!("{limit}\n")).unwrap();
        let root = Root::new(dir.path().join("t"));
        let sysctl = Sysctl::fixture(dir.path().to_owned());
        let shim = dir.path().join(SHIM);
        std::fs::write(&shim, "#!/bin/true\n").unwrap();
        std::fs::set_permissions(&shim, PermissionsExt::from_mode(0o755)).unwrap();
        Fixture { dir, root, sysctl, shim }
    }

    impl Fixture {
        fn values(&self) -> (String, String) {
            (self.sysctl.get(Key::CorePattern).unwrap(), self.sysctl.get(Key::CorePipeLimit).unwrap())
        }
    }

    #[test]
    fn what_was_set_comes_back() {
        let it = fixture(SYSTEMD, "16");
        let pattern = set_up(&it.sysctl, &it.root, &it.shim).unwrap();
        assert!(
            pattern.starts_with(&format!("|{} --root {} %P", it.shim.display(), it.root.path().display())),
            "{pattern}"
        );
        assert_eq!(it.values(), (pattern.clone(), "2147483647".to_owned()));
        set_up(&it.sysctl, &it.root, &it.shim).unwrap();
        it.sysctl.set(Key::CorePipeLimit, "4").unwrap();
        set_up(&it.sysctl, &it.root, &it.shim).unwrap();
        assert_eq!(it.values(), (pattern, "2147483647".to_owned()), "set again");
        put_back(&it.sysctl, &it.root).unwrap();
        assert_eq!(it.values(), (SYSTEMD.to_owned(), "16".to_owned()), "what was there before the first time");
        assert!(!Saved::path(&it.root).exists());
    }

    #[test]
    fn somebody_elses_pattern_is_left_alone_and_remembered_the_next_time() {
        let it = fixture("core", "0");
        set_up(&it.sysctl, &it.root, &it.shim).unwrap();
        it.sysctl.set(Key::CorePattern, SYSTEMD).unwrap();
        assert!(matches!(put_back(&it.sysctl, &it.root).unwrap(), Ended::Foreign(pattern) if pattern == SYSTEMD));
        assert_eq!(it.values().0, SYSTEMD);
        assert!(!Saved::path(&it.root).exists());
        set_up(&it.sysctl, &it.root, &it.shim).unwrap();
        put_back(&it.sysctl, &it.root).unwrap();
        assert_eq!(it.values().0, SYSTEMD);
    }

    #[test]
    fn where_nothing_can_be_believed_the_kernels_own_is_set() {
        for planted in [None, Some("core_pattern=|/tmp/evil\ncore_pipe_limit=1\n")] {
            let it = fixture("", "1");
            let pattern = it.root.core_pattern(&it.shim).unwrap();
            it.sysctl.set(Key::CorePattern, &pattern).unwrap();
            if let Some(text) = planted {
                std::fs::create_dir_all(it.root.run_dir()).unwrap();
                std::fs::write(Saved::path(&it.root), text).unwrap();
                std::fs::set_permissions(Saved::path(&it.root), PermissionsExt::from_mode(0o666)).unwrap();
            }
            put_back(&it.sysctl, &it.root).unwrap();
            assert_eq!(it.values(), ("core".to_owned(), "0".to_owned()));
        }
    }

    #[test]
    fn a_shim_that_cannot_be_started_or_named_is_refused_before_anything_is_set() {
        let it = fixture(SYSTEMD, "16");
        assert!(check(&it.shim).is_ok());
        assert!(matches!(check(&it.dir.path().join("none")), Err(RegisterError::Shim(..))));
        assert!(matches!(check(it.dir.path()), Err(RegisterError::Shim(..))));
        std::fs::set_permissions(&it.shim, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(check(&it.shim), Err(RegisterError::Shim(..))));
        for shim in [format!("/{}", "x".repeat(127)), "/a b".to_owned(), "/a%b".to_owned(), "/a\nb".to_owned()] {
            let error = set_up(&it.sysctl, &it.root, Path::new(&shim)).unwrap_err();
            assert!(
                matches!(error, CliError::Register(RegisterError::TooLong(_) | RegisterError::Unspeakable(_))),
                "{error}"
            );
        }
        assert_eq!(it.values(), (SYSTEMD.to_owned(), "16".to_owned()));
        assert!(!Saved::path(&it.root).exists());
    }

    #[test]
    fn ours_is_the_shim_of_this_root() {
        let (system, tree) = (Root::default(), Root::new("/t"));
        let cases = [
            ("|/usr/libexec/coreward/coreward-shim %P %I", true, false),
            ("|/src/target/debug/coreward-shim %P", true, false),
            ("|/tmp/shim %P %I %u %g %s %t %c %d %h %F", true, false),
            ("|/tmp/shim --root /t %P %I %u %g %s %t %c %d %h %F", false, true),
            ("|/tmp/shim %P", false, false),
            ("|/usr/libexec/coreward/coreward-shim --root /t %P", false, true),
            ("|/usr/libexec/coreward/coreward-shim --root /tt %P", false, false),
            (SYSTEMD, false, false),
            ("core", false, false),
            ("/var/coreward-shim %P", false, false),
            ("", false, false),
        ];
        for (pattern, of_system, of_tree) in cases {
            assert_eq!((is_ours(pattern, &system), is_ours(pattern, &tree)), (of_system, of_tree), "{pattern}");
        }
    }
}
