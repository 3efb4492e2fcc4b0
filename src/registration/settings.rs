//! The values that the settings should have, and whether those of the kernel are ours.

use super::sysctl::{Sysctl, SysctlError, SysctlKey};
use coreward_wire::paths::{Root, SPECIFIERS};
use std::path::{Path, PathBuf};

/// `kernel.core_pipe_limit`. The kernel skips a dump while this many are in progress, and with any limit but 0 it keeps the
/// process, and thus `/proc/PID`, until the last reader of the pipe is gone (`wait_for_dump_helpers` in fs/coredump.c). With the
/// largest number every process is kept and no dump is skipped.
const NO_LIMIT: &str = "2147483647";
/// `fs.suid_dumpable`: processes that changed their privileges are dumped too, and %d says that only root may read the core.
const SUID_SAFE: &str = "2";
/// The shim's file name, wherever it is installed.
const SHIM: &str = "coreward-shim";

/// The three settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSettings {
    /// `kernel.core_pattern`.
    pub core_pattern: String,
    /// `kernel.core_pipe_limit`.
    pub core_pipe_limit: String,
    /// `fs.suid_dumpable`.
    pub suid_dumpable: String,
}

/// The defaults of the kernel, in the order of [`SysctlKey::ALL`].
pub const KERNEL_DEFAULTS: [&str; 3] = ["core", "0", "0"];

impl KernelSettings {
    /// The defaults of the kernel.
    #[must_use]
    pub fn kernel_defaults() -> Self {
        let [core_pattern, core_pipe_limit, suid_dumpable] = KERNEL_DEFAULTS.map(str::to_owned);
        Self { core_pattern, core_pipe_limit, suid_dumpable }
    }

    /// The settings with which the kernel starts a shim by this pattern for every crash.
    #[must_use]
    pub fn ours(core_pattern: String) -> Self {
        Self { core_pattern, core_pipe_limit: NO_LIMIT.to_owned(), suid_dumpable: SUID_SAFE.to_owned() }
    }

    /// The settings of the kernel.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn read(sysctl: &Sysctl) -> Result<Self, SysctlError> {
        Ok(Self {
            core_pattern: sysctl.get(SysctlKey::CorePattern)?,
            core_pipe_limit: sysctl.get(SysctlKey::CorePipeLimit)?,
            suid_dumpable: sysctl.get(SysctlKey::SuidDumpable)?,
        })
    }

    /// The value of a setting.
    #[must_use]
    pub fn get(&self, key: SysctlKey) -> &str {
        match key {
            SysctlKey::CorePattern => &self.core_pattern,
            SysctlKey::CorePipeLimit => &self.core_pipe_limit,
            SysctlKey::SuidDumpable => &self.suid_dumpable,
        }
    }

    /// Whether a setting lets crashes reach the shim of the tree `root`.
    #[must_use]
    pub fn is_ours(&self, key: SysctlKey, root: &Root) -> bool {
        match key {
            SysctlKey::CorePattern => is_ours(&self.core_pattern, root),
            _ => self.get(key) == wanted(key),
        }
    }
}

/// The value that a setting should have; empty for `core_pattern`, which depends on the place of the shim.
#[must_use]
pub fn wanted(key: SysctlKey) -> &'static str {
    match key {
        SysctlKey::CorePattern => "",
        SysctlKey::CorePipeLimit => NO_LIMIT,
        SysctlKey::SuidDumpable => SUID_SAFE,
    }
}

/// The file that makes systemd-sysctl(8) and `sysctl --system` apply our settings while Coreward is registered. Files of
/// sysctl.d(5) are applied in the order of their names, the last one wins: this name comes after systemd's 50-coredump.conf,
/// Debian's 10-coredump-debian.conf and 99-sysctl.conf.
#[must_use]
pub fn sysctl_file(root: &Root) -> PathBuf {
    root.join("/run/sysctl.d/99-zz-coreward.conf")
}

/// Whether a `core_pattern` starts a shim for the tree `root`. That may be a shim registered with `--shim`: the settings from
/// before it are still those to restore.
#[must_use]
pub fn is_ours(pattern: &str, root: &Root) -> bool {
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
pub fn words_of(pattern: &str) -> impl Iterator<Item = &str> {
    pattern.strip_prefix('|').unwrap_or_default().split_whitespace()
}

/// Whether a `core_pattern` starts the program at `path`, by whatever name and with whatever arguments.
#[must_use]
pub fn starts_program(pattern: &str, path: &Path) -> bool {
    words_of(pattern).next().is_some_and(|program| {
        let program = Path::new(program);
        program == path
            || program.canonicalize().is_ok_and(|program| path.canonicalize().is_ok_and(|path| program == path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("|/bin/sh %P %u %g %s %t 9223372036854775808 %h", false, false),
            ("@@/run/systemd/coredumpd/kernel", false, false),
            ("core", false, false),
            ("/var/coreward-shim %P", false, false),
            ("", false, false),
        ];
        for (pattern, of_system, of_tree) in cases {
            assert_eq!((is_ours(pattern, &system), is_ours(pattern, &tree)), (of_system, of_tree), "{pattern}");
        }
    }

    #[test]
    fn the_file_comes_after_those_of_distributions_and_of_administrators() {
        let name = sysctl_file(&Root::default()).file_name().unwrap().to_str().unwrap().to_owned();
        for other in ["10-coredump-debian.conf", "50-coredump.conf", "60-coredump.conf", "99-sysctl.conf", "99-z.conf"]
        {
            assert!(name.as_str() > other, "{other}");
        }
    }
}
