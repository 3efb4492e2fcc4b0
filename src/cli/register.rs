//! `coreward register` and `coreward unregister`, run by coreward-register.service.

use super::error::{CliError, RegisterError};
use super::message::print_message;
use super::sysctl::{Sysctl, SysctlKey};
use super::sysctl_backup::SysctlBackup;
use crate::crash::text::printable;
use clap::Args;
use coreward_wire::paths::{Root, SPECIFIERS};
use nix::unistd::geteuid;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Options of `register`.
#[derive(Args, Debug)]
pub(super) struct RegisterOptions {
    /// The program that the kernel starts for a crash [default: /usr/libexec/coreward/coreward-shim]
    #[arg(long, value_name = "PATH")]
    shim: Option<PathBuf>,
}

/// Options of `unregister`.
#[derive(Args, Debug)]
pub(super) struct UnregisterOptions {
    /// Also if the installed shim was set for another --root: for the removal of the package, which takes the shim away
    #[arg(long)]
    any_root: bool,
}

/// `kernel.core_pipe_limit`. The kernel skips a dump while this many are in progress, and with any limit but 0 it keeps the
/// process, and thus `/proc/PID`, until the last reader of the pipe is gone (wait_for_dump_helpers in fs/coredump.c). With the
/// largest number every process is kept and no dump is skipped.
const NO_LIMIT: i32 = i32::MAX;
/// The defaults of the kernel: core_pattern and core_pipe_limit.
const KERNEL_DEFAULTS: (&str, &str) = ("core", "0");
/// The shim's file name, wherever it is installed.
const SHIM: &str = "coreward-shim";

/// Makes the kernel start the shim, after saving the current settings.
pub(super) fn register(root: &Root, options: &RegisterOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    must_be_root()?;
    let shim = options.shim.clone().unwrap_or_else(|| root.shim_exe());
    // The kernel needs an absolute path.
    let shim = std::path::absolute(&shim).map_err(|error| RegisterError::Shim(shim, error))?;
    check_shim(&shim)?;
    let pattern = configure_kernel(&Sysctl::kernel(), root, &shim)?;
    writeln!(out, "kernel.core_pattern = {pattern}\nkernel.core_pipe_limit = {NO_LIMIT}")?;
    Ok(ExitCode::SUCCESS)
}

/// Restores the settings from before [`register`], unless somebody else has set another pattern since.
pub(super) fn unregister(root: &Root, options: &UnregisterOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    must_be_root()?;
    let (pattern, limit) = match restore_kernel(&Sysctl::kernel(), root, options.any_root)? {
        Unregistered::Foreign(pattern) => {
            writeln!(
                out,
                "kernel.core_pattern is \"{}\", which was not set by this Coreward: it is left as it is",
                printable(&pattern)
            )?;
            return Ok(ExitCode::SUCCESS);
        }
        Unregistered::Restored(pattern, limit) => (pattern, limit),
    };
    writeln!(out, "kernel.core_pattern = {}\nkernel.core_pipe_limit = {limit}", printable(&pattern))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a `core_pattern` starts a shim for the tree `root`. That may be a shim registered with `--shim`: the settings from
/// before it are still those to restore.
pub(super) fn is_ours(pattern: &str, root: &Root) -> bool {
    let mut words = words_of(pattern);
    let Some(program) = words.next() else { return false };
    let arguments: Vec<&str> = words.collect();
    let (dir, specifiers) = match arguments.as_slice() {
        ["--root", dir, specifiers @ ..] => (*dir, specifiers),
        specifiers => ("/", specifiers),
    };
    let is_shim = specifiers.join(" ") == SPECIFIERS || Path::new(program).file_name().is_some_and(|name| name == SHIM);
    is_shim && Root::new(dir) == *root
}

/// The program that a `core_pattern` starts, and its arguments; nothing if it starts none. Like the kernel, this skips spaces in
/// front of the program (format_corename, fs/coredump.c).
fn words_of(pattern: &str) -> impl Iterator<Item = &str> {
    pattern.strip_prefix('|').unwrap_or_default().split_whitespace()
}

/// Whether a `core_pattern` starts the shim that is installed for `root`, by whatever name and with whatever arguments.
fn starts_installed_shim(pattern: &str, root: &Root) -> bool {
    let shim = root.shim_exe();
    words_of(pattern).next().is_some_and(|program| {
        let program = Path::new(program);
        program == shim
            || program.canonicalize().is_ok_and(|program| shim.canonicalize().is_ok_and(|shim| program == shim))
    })
}

/// Checks that the kernel can start the program of a `core_pattern`, if it has one.
fn check_helper(pattern: &str) -> Result<(), RegisterError> {
    if !pattern.starts_with('|') {
        return Ok(());
    }
    // The kernel starts it in `/`.
    let program = Path::new("/").join(words_of(pattern).next().unwrap_or_default());
    let failed = |error| RegisterError::Helper(program.clone(), error);
    let metadata = std::fs::metadata(&program).map_err(failed)?;
    if metadata.is_file() && metadata.mode() & 0o111 != 0 {
        Ok(())
    } else {
        Err(failed(io::Error::other("it is not an executable file")))
    }
}

fn must_be_root() -> Result<(), RegisterError> {
    if geteuid().is_root() { Ok(()) } else { Err(RegisterError::NotRoot) }
}

/// Checks that the shim can be started. A pattern that cannot be started loses every core.
fn check_shim(shim: &Path) -> Result<(), RegisterError> {
    let failed = |error| RegisterError::Shim(shim.to_owned(), error);
    let metadata = std::fs::metadata(shim).map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is not a file")));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(failed(io::Error::other("it is not executable")));
    }
    if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        print_message(&format!(
            "coreward: warning: {}: users other than root may change this program, which the kernel runs as root",
            shim.display()
        ));
    }
    Ok(())
}

fn configure_kernel(sysctl: &Sysctl, root: &Root, shim: &Path) -> Result<String, CliError> {
    for path in [shim, root.path()] {
        let text = path.to_string_lossy();
        if text.contains(|character: char| character == '%' || character.is_whitespace() || character.is_control()) {
            return Err(RegisterError::Unspeakable(printable(&text)).into());
        }
    }
    let pattern = root.core_pattern(shim).map_err(RegisterError::from)?;
    let before = SysctlBackup {
        core_pattern: sysctl.get(SysctlKey::CorePattern)?,
        core_pipe_limit: sysctl.get(SysctlKey::CorePipeLimit)?,
    };
    if !is_ours(&before.core_pattern, root) {
        before.write(root).map_err(|error| RegisterError::Save(SysctlBackup::path(root), error))?;
    }
    // The limit is set first, so that the shim never runs without it.
    sysctl.set(SysctlKey::CorePipeLimit, &NO_LIMIT.to_string())?;
    if let Err(error) = sysctl.set(SysctlKey::CorePattern, &pattern) {
        // A truncated pattern is worse than the old one.
        let _ = sysctl.set(SysctlKey::CorePattern, &before.core_pattern);
        let _ = sysctl.set(SysctlKey::CorePipeLimit, &before.core_pipe_limit);
        return Err(error.into());
    }
    Ok(pattern)
}

enum Unregistered {
    /// Somebody else has set this pattern since.
    Foreign(String),
    /// The pattern and the limit that are set now.
    Restored(String, String),
}

fn restore_kernel(sysctl: &Sysctl, root: &Root, any_root: bool) -> Result<Unregistered, CliError> {
    let now = sysctl.get(SysctlKey::CorePattern)?;
    let ended = if is_ours(&now, root) || (any_root && starts_installed_shim(&now, root)) {
        let (pattern, limit) = settings_to_restore(root);
        // In the reverse order of registering.
        sysctl.set(SysctlKey::CorePattern, &pattern)?;
        sysctl.set(SysctlKey::CorePipeLimit, &limit)?;
        Unregistered::Restored(pattern, limit)
    } else {
        Unregistered::Foreign(now)
    };
    SysctlBackup::remove(root).map_err(|error| RegisterError::Save(SysctlBackup::path(root), error))?;
    Ok(ended)
}

/// The saved settings if they can be trusted, else the defaults of the kernel.
fn settings_to_restore(root: &Root) -> (String, String) {
    let default = (KERNEL_DEFAULTS.0.to_owned(), KERNEL_DEFAULTS.1.to_owned());
    match SysctlBackup::read(root) {
        Ok(Some(saved)) if is_ours(&saved.core_pattern, root) || starts_installed_shim(&saved.core_pattern, root) => {
            default
        }
        Ok(Some(saved)) => match check_helper(&saved.core_pattern) {
            Ok(()) => (saved.core_pattern, saved.core_pipe_limit),
            Err(error) => {
                print_message(&format!("coreward: {error}: the defaults of the kernel are set"));
                default
            }
        },
        Ok(None) => default,
        Err(error) => {
            let path = SysctlBackup::path(root);
            print_message(&format!(
                "coreward: {}: {error}: ignored, the defaults of the kernel are set",
                path.display()
            ));
            default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A handler with arguments; its program exists everywhere.
    const OTHER: &str = "|/bin/sh %P %u %g %s %t 9223372036854775808 %h";

    struct RegisterFixture {
        dir: tempfile::TempDir,
        root: Root,
        sysctl: Sysctl,
        shim: PathBuf,
    }

    fn fixture(pattern: &str, limit: &str) -> RegisterFixture {
        // The path must be short: a pattern has at most 127 bytes.
        let dir = tempfile::Builder::new().prefix("r").rand_bytes(4).tempdir_in("/tmp").unwrap();
        std::fs::write(dir.path().join("core_pattern"), format!("{pattern}\n")).unwrap();
        std::fs::write(dir.path().join("core_pipe_limit"), format!("{limit}\n")).unwrap();
        let root = Root::new(dir.path().join("t"));
        let sysctl = Sysctl::fixture(dir.path().to_owned());
        let shim = dir.path().join(SHIM);
        std::fs::write(&shim, "#!/bin/true\n").unwrap();
        std::fs::set_permissions(&shim, PermissionsExt::from_mode(0o755)).unwrap();
        RegisterFixture { dir, root, sysctl, shim }
    }

    impl RegisterFixture {
        fn values(&self) -> (String, String) {
            (self.sysctl.get(SysctlKey::CorePattern).unwrap(), self.sysctl.get(SysctlKey::CorePipeLimit).unwrap())
        }
    }

    #[test]
    fn unregister_restores_the_settings() {
        let it = fixture(OTHER, "16");
        let pattern = configure_kernel(&it.sysctl, &it.root, &it.shim).unwrap();
        assert!(
            pattern.starts_with(&format!("|{} --root {} %P", it.shim.display(), it.root.path().display())),
            "{pattern}"
        );
        assert_eq!(it.values(), (pattern.clone(), "2147483647".to_owned()));
        configure_kernel(&it.sysctl, &it.root, &it.shim).unwrap();
        it.sysctl.set(SysctlKey::CorePipeLimit, "4").unwrap();
        configure_kernel(&it.sysctl, &it.root, &it.shim).unwrap();
        assert_eq!(it.values(), (pattern, "2147483647".to_owned()), "set again");
        restore_kernel(&it.sysctl, &it.root, false).unwrap();
        assert_eq!(it.values(), (OTHER.to_owned(), "16".to_owned()), "what was there before the first time");
        assert!(!SysctlBackup::path(&it.root).exists());
    }

    #[test]
    fn a_foreign_pattern_is_left_alone_and_saved_the_next_time() {
        let it = fixture("core", "0");
        configure_kernel(&it.sysctl, &it.root, &it.shim).unwrap();
        it.sysctl.set(SysctlKey::CorePattern, OTHER).unwrap();
        assert!(
            matches!(restore_kernel(&it.sysctl, &it.root, false).unwrap(), Unregistered::Foreign(pattern) if pattern == OTHER)
        );
        assert_eq!(it.values().0, OTHER);
        assert!(!SysctlBackup::path(&it.root).exists());
        configure_kernel(&it.sysctl, &it.root, &it.shim).unwrap();
        restore_kernel(&it.sysctl, &it.root, false).unwrap();
        assert_eq!(it.values().0, OTHER);
    }

    #[test]
    fn without_trusted_settings_the_defaults_of_the_kernel_are_set() {
        for planted in [None, Some("core_pattern=|/tmp/evil\ncore_pipe_limit=1\n")] {
            let it = fixture("", "1");
            let pattern = it.root.core_pattern(&it.shim).unwrap();
            it.sysctl.set(SysctlKey::CorePattern, &pattern).unwrap();
            if let Some(text) = planted {
                std::fs::create_dir_all(it.root.run_dir()).unwrap();
                std::fs::write(SysctlBackup::path(&it.root), text).unwrap();
                std::fs::set_permissions(SysctlBackup::path(&it.root), PermissionsExt::from_mode(0o666)).unwrap();
            }
            restore_kernel(&it.sysctl, &it.root, false).unwrap();
            assert_eq!(it.values(), ("core".to_owned(), "0".to_owned()));
        }
    }

    #[test]
    fn a_handler_that_is_gone_is_not_put_back() {
        let it = fixture("", "7");
        let helper = it.dir.path().join("helper");
        for (mode, content) in [(None, ""), (Some(0o644), "not executable"), (Some(0o755), "#!/bin/true")] {
            let pattern = format!("|{} %P", helper.display());
            it.sysctl.set(SysctlKey::CorePattern, &pattern).unwrap();
            it.sysctl.set(SysctlKey::CorePipeLimit, "7").unwrap();
            configure_kernel(&it.sysctl, &it.root, &it.shim).unwrap();
            if let Some(mode) = mode {
                std::fs::write(&helper, content).unwrap();
                std::fs::set_permissions(&helper, PermissionsExt::from_mode(mode)).unwrap();
            }
            restore_kernel(&it.sysctl, &it.root, false).unwrap();
            let restored = if mode == Some(0o755) { (pattern, "7") } else { ("core".to_owned(), "0") };
            assert_eq!(it.values(), (restored.0, restored.1.to_owned()), "{mode:?}");
        }
        assert!(check_helper("|").is_err() && check_helper("").is_ok() && check_helper("/var/none").is_ok());
    }

    #[test]
    fn the_removal_restores_whatever_starts_the_installed_shim() {
        let it = fixture("", "1");
        let shim = it.root.shim_exe();
        std::fs::create_dir_all(shim.parent().unwrap()).unwrap();
        std::fs::rename(&it.shim, &shim).unwrap();
        let link = it.dir.path().join("link");
        std::os::unix::fs::symlink(&shim, &link).unwrap();
        for pattern in [
            format!("|{} --root /elsewhere %P", shim.display()),
            format!("| {}", shim.display()),
            format!("|{} %P", link.display()),
        ] {
            it.sysctl.set(SysctlKey::CorePattern, &pattern).unwrap();
            restore_kernel(&it.sysctl, &it.root, false).unwrap();
            assert_eq!(it.values().0, pattern, "not this tree's");
            restore_kernel(&it.sysctl, &it.root, true).unwrap();
            assert_eq!(it.values().0, "core", "{pattern}");
        }
    }

    #[test]
    fn a_shim_that_cannot_be_started_or_named_is_refused_before_anything_is_set() {
        let it = fixture(OTHER, "16");
        assert!(check_shim(&it.shim).is_ok());
        assert!(matches!(check_shim(&it.dir.path().join("none")), Err(RegisterError::Shim(..))));
        assert!(matches!(check_shim(it.dir.path()), Err(RegisterError::Shim(..))));
        std::fs::set_permissions(&it.shim, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(check_shim(&it.shim), Err(RegisterError::Shim(..))));
        for shim in [format!("/{}", "x".repeat(127)), "/a b".to_owned(), "/a%b".to_owned(), "/a\nb".to_owned()] {
            let error = configure_kernel(&it.sysctl, &it.root, Path::new(&shim)).unwrap_err();
            assert!(
                matches!(error, CliError::Register(RegisterError::TooLong(_) | RegisterError::Unspeakable(_))),
                "{error}"
            );
        }
        assert_eq!(it.values(), (OTHER.to_owned(), "16".to_owned()));
        assert!(!SysctlBackup::path(&it.root).exists());
    }

    #[test]
    fn ours_is_the_shim_of_this_root() {
        let (system, tree) = (Root::default(), Root::new("/t"));
        let cases = [
            ("|/usr/libexec/coreward/coreward-shim %P %I", true, false),
            ("|/src/target/debug/coreward-shim %P", true, false),
            ("|/tmp/shim %P %I %u %g %s %t %c %d %h %F", true, false),
            ("|/tmp/shim --root /t %P %I %u %g %s %t %c %d %h %F", false, true),
            ("| /usr/libexec/coreward/coreward-shim  %P", true, false),
            ("|/tmp/shim %P", false, false),
            ("|/usr/libexec/coreward/coreward-shim --root /t %P", false, true),
            ("|/usr/libexec/coreward/coreward-shim --root /tt %P", false, false),
            (OTHER, false, false),
            ("core", false, false),
            ("/var/coreward-shim %P", false, false),
            ("", false, false),
        ];
        for (pattern, of_system, of_tree) in cases {
            assert_eq!((is_ours(pattern, &system), is_ours(pattern, &tree)), (of_system, of_tree), "{pattern}");
        }
    }
}
