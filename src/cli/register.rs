//! `coreward register` and `coreward unregister`, run by coreward-register.service.

use super::error::{CliError, RegisterError};
use super::message::print_message;
use super::test_crash::{self, TestCrash};
use super::{root_file, shim_check, sysctl_backup};
use crate::crash::text::printable;
use crate::registration::{
    KERNEL_DEFAULTS, KernelSettings, Sysctl, SysctlKey, is_ours, starts_program, sysctl_file, words_of,
};
use clap::Args;
use coreward_wire::paths::Root;
use nix::unistd::geteuid;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

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

/// The order in which the settings are set: the shim never runs without the limit, and while `fs.suid_dumpable` is 2 the kernel
/// logs a warning each time that a `core_pattern` without a program or path is written or read (`validate_coredump_safety`).
const ORDER: [SysctlKey; 3] = [SysctlKey::CorePipeLimit, SysctlKey::CorePattern, SysctlKey::SuidDumpable];
/// The program that applies sysctl.d(5), where Debian 12 and 13 have it.
const SYSTEMD_SYSCTL: &str = "/lib/systemd/systemd-sysctl";

/// Makes the kernel start the shim, after saving the current settings.
pub(super) fn register(root: &Root, options: &RegisterOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    must_be_root()?;
    let shim = options.shim.clone().unwrap_or_else(|| root.shim_exe());
    // The kernel needs an absolute path.
    let shim = std::path::absolute(&shim).map_err(|error| RegisterError::Path(shim, error))?;
    check_shim(&shim)?;
    let settings = configure_kernel(&Sysctl::kernel(), root, &shim)?;
    write_settings(out, &settings)?;
    match test_crash::send(root) {
        TestCrash::Passed => {
            writeln!(out, "A crash that this command caused has arrived: crashes are being collected.")?;
        }
        TestCrash::NotTried(why) => writeln!(out, "Not tested with a crash: {why}.")?,
        TestCrash::Failed(why) => return Err(RegisterError::TestCrash(why).into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Restores the settings from before [`register`], unless somebody else has set another pattern since.
pub(super) fn unregister(root: &Root, options: &UnregisterOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    must_be_root()?;
    match restore_kernel(&Sysctl::kernel(), root, options.any_root)? {
        Unregistered::Foreign(pattern) => writeln!(
            out,
            "kernel.core_pattern is \"{}\", which was not set by this Coreward: it is left as it is",
            printable(&pattern)
        )?,
        Unregistered::Restored(settings) => write_settings(out, &settings)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write_settings(out: &mut dyn Write, settings: &KernelSettings) -> io::Result<()> {
    for key in SysctlKey::ALL {
        writeln!(out, "{} = {}", key.dotted(), printable(settings.get(key)))?;
    }
    Ok(())
}

/// Checks that the kernel can start the program of a `core_pattern`, or connect to its socket, if it has one.
fn check_helper(pattern: &str) -> Result<(), RegisterError> {
    let failed = |path: &Path, error| RegisterError::Helper(path.to_owned(), error);
    if let Some(socket) = pattern.strip_prefix('@') {
        let socket = Path::new(socket.trim_start_matches('@'));
        let metadata = std::fs::metadata(socket).map_err(|error| failed(socket, error))?;
        let is_socket = metadata.file_type().is_socket();
        return if is_socket { Ok(()) } else { Err(failed(socket, io::Error::other("it is not a socket"))) };
    }
    if !pattern.starts_with('|') {
        return Ok(());
    }
    // The kernel starts it in `/`.
    let program = Path::new("/").join(words_of(pattern).next().unwrap_or_default());
    let metadata = std::fs::metadata(&program).map_err(|error| failed(&program, error))?;
    if metadata.is_file() && metadata.mode() & 0o111 != 0 {
        Ok(())
    } else {
        Err(failed(&program, io::Error::other("it is not an executable file")))
    }
}

fn must_be_root() -> Result<(), RegisterError> {
    if geteuid().is_root() { Ok(()) } else { Err(RegisterError::NotRoot) }
}

/// Checks that the shim can be started, by starting it. A pattern that cannot be started loses every core.
fn check_shim(shim: &Path) -> Result<(), RegisterError> {
    shim_check::execute(shim)?;
    if std::fs::metadata(shim).is_ok_and(|metadata| metadata.uid() != 0 || metadata.mode() & 0o022 != 0) {
        print_message(&format!(
            "coreward: warning: {}: users other than root may change this program, which the kernel runs as root",
            shim.display()
        ));
    }
    Ok(())
}

fn configure_kernel(sysctl: &Sysctl, root: &Root, shim: &Path) -> Result<KernelSettings, CliError> {
    for path in [shim, root.path()] {
        let text = path.to_string_lossy();
        if text.contains(|character: char| character == '%' || character.is_whitespace() || character.is_control()) {
            return Err(RegisterError::Unspeakable(printable(&text)).into());
        }
    }
    let ours = KernelSettings::ours(root.core_pattern(shim).map_err(RegisterError::from)?);
    let before = KernelSettings::read(sysctl)?;
    let saved = read_backup(root, &before);
    sysctl_backup::write(root, &settings_to_save(&before, saved, root))
        .map_err(|error| RegisterError::Save(sysctl_backup::path(root), error))?;
    for key in ORDER {
        if let Err(error) = sysctl.set(key, ours.get(key)) {
            // A truncated pattern is worse than the old one.
            for key in ORDER.into_iter().rev() {
                let _ = sysctl.set(key, before.get(key));
            }
            return Err(error.into());
        }
    }
    let file = sysctl_file(root);
    if let Err(error) = root_file::replace(&file, sysctl_text(&ours).as_bytes()) {
        print_message(&format!(
            "coreward: warning: {}: {error}: the settings last until somebody applies sysctl.d(5)",
            file.display()
        ));
    }
    Ok(ours)
}

/// The file that lets others apply our settings.
fn sysctl_text(settings: &KernelSettings) -> String {
    let lines = SysctlKey::ALL.map(|key| format!("{}={}\n", key.dotted(), settings.get(key)));
    format!(
        "# Written by `coreward register` and deleted by `coreward unregister`, so that whoever applies sysctl.d(5) leaves\n\
         # crashes with Coreward. A file of this name in /etc/sysctl.d takes precedence.\n{}",
        lines.concat()
    )
}

/// Which settings to save, of those that were found and those that are saved already. Our own values are never saved, and where
/// somebody took the crashes away since the first registration, the kernel's default pattern does not replace what was found then.
fn settings_to_save(before: &KernelSettings, saved: Option<KernelSettings>, root: &Root) -> KernelSettings {
    let [default_pattern, ..] = KERNEL_DEFAULTS;
    let is_ours = is_ours(&before.core_pattern, root);
    match saved {
        Some(saved) if is_ours || before.core_pattern == default_pattern => saved,
        None if !is_ours => before.clone(),
        saved => {
            let earlier = saved.unwrap_or_else(KernelSettings::kernel_defaults);
            let value = |key| if before.is_ours(key, root) { earlier.get(key) } else { before.get(key) }.to_owned();
            KernelSettings {
                core_pattern: value(SysctlKey::CorePattern),
                core_pipe_limit: value(SysctlKey::CorePipeLimit),
                suid_dumpable: value(SysctlKey::SuidDumpable),
            }
        }
    }
}

enum Unregistered {
    /// Somebody else has set this pattern since.
    Foreign(String),
    /// The settings that are in force now.
    Restored(KernelSettings),
}

fn restore_kernel(sysctl: &Sysctl, root: &Root, any_root: bool) -> Result<Unregistered, CliError> {
    let file = sysctl_file(root);
    root_file::remove(&file).map_err(|error| RegisterError::Save(file, error))?;
    let now = KernelSettings::read(sysctl)?;
    let saved = read_backup(root, &now);
    let is_ours = is_ours(&now.core_pattern, root) || (any_root && starts_program(&now.core_pattern, &root.shim_exe()));
    let restored = if is_ours {
        let settings = settings_to_restore(saved, root);
        for key in ORDER.into_iter().rev() {
            sysctl.set(key, settings.get(key))?;
        }
        SysctlKey::ALL.to_vec()
    } else {
        // Whoever took the pattern may have left the rest: only what has our value still is put back.
        let settings = saved.unwrap_or(KernelSettings {
            suid_dumpable: now.suid_dumpable.clone(),
            ..KernelSettings::kernel_defaults()
        });
        let rest = [SysctlKey::CorePipeLimit, SysctlKey::SuidDumpable];
        let rest: Vec<SysctlKey> = rest.into_iter().filter(|key| now.is_ours(*key, root)).collect();
        for key in &rest {
            sysctl.set(*key, settings.get(*key))?;
        }
        rest
    };
    if root.is_system() {
        apply_sysctl_files(sysctl, &restored);
    }
    sysctl_backup::remove(root).map_err(|error| RegisterError::Save(sysctl_backup::path(root), error))?;
    if is_ours {
        Ok(Unregistered::Restored(KernelSettings::read(sysctl)?))
    } else {
        Ok(Unregistered::Foreign(now.core_pattern))
    }
}

/// Applies the files of sysctl.d(5) to those of the settings that have the kernel's default now: at boot Coreward registers
/// before the files are applied, so it does not find what they say.
fn apply_sysctl_files(sysctl: &Sysctl, keys: &[SysctlKey]) {
    let defaults = KernelSettings::kernel_defaults();
    let is_default = |key: &&SysctlKey| sysctl.get(**key).is_ok_and(|value| value == defaults.get(**key));
    let prefixes: Vec<String> = keys.iter().filter(is_default).map(|key| format!("--prefix=/{}", key.path())).collect();
    if prefixes.is_empty() || !Path::new(SYSTEMD_SYSCTL).exists() {
        return;
    }
    let ended = Command::new(SYSTEMD_SYSCTL).args(prefixes).stdin(Stdio::null()).stdout(Stdio::null()).status();
    match ended {
        Ok(status) if status.success() => {}
        Ok(status) => print_message(&format!("coreward: {SYSTEMD_SYSCTL}: {status}")),
        Err(error) => print_message(&format!("coreward: {SYSTEMD_SYSCTL}: {error}")),
    }
}

/// The saved settings, if there are any that can be trusted.
fn read_backup(root: &Root, now: &KernelSettings) -> Option<KernelSettings> {
    sysctl_backup::read(root, now).unwrap_or_else(|error| {
        print_message(&format!("coreward: {}: {error}: ignored", sysctl_backup::path(root).display()));
        None
    })
}

/// The saved settings if their handler still exists, else the defaults of the kernel.
fn settings_to_restore(saved: Option<KernelSettings>, root: &Root) -> KernelSettings {
    let Some(saved) = saved else { return KernelSettings::kernel_defaults() };
    if is_ours(&saved.core_pattern, root) || starts_program(&saved.core_pattern, &root.shim_exe()) {
        return KernelSettings::kernel_defaults();
    }
    match check_helper(&saved.core_pattern) {
        Ok(()) => saved,
        Err(error) => {
            print_message(&format!("coreward: {error}: the defaults of the kernel are set"));
            KernelSettings::kernel_defaults()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

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
        let root = Root::new(dir.path().join("t"));
        let sysctl = Sysctl::fixture(dir.path().to_owned(), [pattern, limit, "1"]);
        let shim = dir.path().join("coreward-shim");
        std::fs::copy("/bin/true", &shim).unwrap();
        std::fs::set_permissions(&shim, PermissionsExt::from_mode(0o755)).unwrap();
        RegisterFixture { dir, root, sysctl, shim }
    }

    impl RegisterFixture {
        fn values(&self) -> [String; 3] {
            SysctlKey::ALL.map(|key| self.sysctl.get(key).unwrap())
        }

        fn configure(&self) -> String {
            configure_kernel(&self.sysctl, &self.root, &self.shim).unwrap().core_pattern
        }

        fn restore(&self) -> Unregistered {
            restore_kernel(&self.sysctl, &self.root, false).unwrap()
        }
    }

    #[test]
    fn unregister_restores_the_settings() {
        let it = fixture(OTHER, "16");
        let pattern = it.configure();
        assert!(
            pattern.starts_with(&format!("|{} --root {} %P", it.shim.display(), it.root.path().display())),
            "{pattern}"
        );
        assert_eq!(it.values(), [pattern.as_str(), "2147483647", "2"]);
        let file = std::fs::read_to_string(sysctl_file(&it.root)).unwrap();
        let ours = format!("\nkernel.core_pattern={pattern}\nkernel.core_pipe_limit=2147483647\nfs.suid_dumpable=2\n");
        assert!(file.ends_with(&ours), "{file}");
        it.configure();
        it.sysctl.set(SysctlKey::CorePipeLimit, "4").unwrap();
        it.sysctl.set(SysctlKey::SuidDumpable, "0").unwrap();
        it.configure();
        assert_eq!(it.values(), [pattern.as_str(), "2147483647", "2"], "set again");
        it.restore();
        assert_eq!(it.values(), [OTHER, "16", "1"], "what was there before the first time");
        assert!(!sysctl_backup::path(&it.root).exists() && !sysctl_file(&it.root).exists());
    }

    #[test]
    fn a_foreign_pattern_is_left_alone_and_saved_the_next_time() {
        let it = fixture("core", "0");
        it.configure();
        it.sysctl.set(SysctlKey::CorePattern, OTHER).unwrap();
        assert!(matches!(it.restore(), Unregistered::Foreign(pattern) if pattern == OTHER));
        assert_eq!(it.values(), [OTHER, "0", "1"], "the rest was ours, and is as it was found");
        assert!(!sysctl_backup::path(&it.root).exists() && !sysctl_file(&it.root).exists());
        it.configure();
        it.restore();
        assert_eq!(it.values()[0], OTHER);
    }

    #[test]
    fn settings_that_were_taken_away_are_taken_back_and_what_was_found_first_is_not_forgotten() {
        let it = fixture(OTHER, "16");
        it.configure();
        // Whoever applies sysctl.d(5) without our file.
        it.sysctl.set(SysctlKey::CorePattern, "core").unwrap();
        it.configure();
        it.restore();
        assert_eq!(it.values(), [OTHER, "16", "1"]);
        // Another handler is installed meanwhile, with a limit of its own.
        it.configure();
        it.sysctl.set(SysctlKey::CorePattern, "|/bin/cat").unwrap();
        it.configure();
        it.restore();
        assert_eq!(it.values(), ["|/bin/cat", "16", "1"]);
    }

    #[test]
    fn our_own_values_are_never_what_was_found() {
        let it = fixture("", "2147483647");
        let pattern = it.root.core_pattern(&it.shim).unwrap();
        it.sysctl.set(SysctlKey::CorePattern, &pattern).unwrap();
        it.sysctl.set(SysctlKey::SuidDumpable, "2").unwrap();
        it.configure();
        it.restore();
        assert_eq!(it.values(), KERNEL_DEFAULTS);
    }

    #[test]
    fn without_trusted_settings_the_defaults_of_the_kernel_are_set() {
        for planted in [None, Some("core_pattern=|/tmp/evil\ncore_pipe_limit=1\nsuid_dumpable=1\n")] {
            let it = fixture("", "1");
            let pattern = it.root.core_pattern(&it.shim).unwrap();
            it.sysctl.set(SysctlKey::CorePattern, &pattern).unwrap();
            if let Some(text) = planted {
                std::fs::create_dir_all(it.root.run_dir()).unwrap();
                std::fs::write(sysctl_backup::path(&it.root), text).unwrap();
                std::fs::set_permissions(sysctl_backup::path(&it.root), PermissionsExt::from_mode(0o666)).unwrap();
            }
            it.restore();
            assert_eq!(it.values(), KERNEL_DEFAULTS);
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
            it.sysctl.set(SysctlKey::SuidDumpable, "1").unwrap();
            it.configure();
            if let Some(mode) = mode {
                std::fs::write(&helper, content).unwrap();
                std::fs::set_permissions(&helper, PermissionsExt::from_mode(mode)).unwrap();
            }
            it.restore();
            let restored = if mode == Some(0o755) { [pattern.as_str(), "7", "1"] } else { KERNEL_DEFAULTS };
            assert_eq!(it.values(), restored, "{mode:?}");
        }
        assert!(check_helper("|").is_err() && check_helper("").is_ok() && check_helper("/var/none").is_ok());
        let socket = it.dir.path().join("socket");
        let pattern = format!("@@{}", socket.display());
        assert!(check_helper(&pattern).is_err());
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(check_helper(&pattern).is_ok());
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
            it.restore();
            assert_eq!(it.values()[0], pattern, "not this tree's");
            restore_kernel(&it.sysctl, &it.root, true).unwrap();
            assert_eq!(it.values()[0], "core", "{pattern}");
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
        assert_eq!(it.values(), [OTHER, "16", "1"]);
        assert!(!sysctl_backup::path(&it.root).exists() && !sysctl_file(&it.root).exists());
    }
}
