//! Whether the kernel can start the shim: it is executed, because the mode of a file does not tell. Its file system may be
//! mounted noexec, it may be of another architecture, somebody may be writing to it, a security module may forbid it.

use super::error::ShimError;
use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long an installation may be writing to the file, and how long the shim may run. It ends at once without a core.
const TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Executes the shim without a core, which it refuses.
pub(super) fn execute(shim: &Path) -> Result<(), ShimError> {
    let metadata = std::fs::metadata(shim).map_err(|error| why_not_found(shim, error))?;
    if !metadata.is_file() {
        return Err(ShimError::NotAFile(shim.to_owned()));
    }
    let begun = Instant::now();
    let mut command = Command::new(shim);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = loop {
        match command.spawn() {
            Ok(child) => break child,
            Err(error) if is(&error, Errno::ETXTBSY) && begun.elapsed() < TIMEOUT => sleep(PAUSE),
            Err(error) => return Err(why_not_started(shim, &metadata, error)),
        }
    };
    while begun.elapsed() < TIMEOUT {
        if !matches!(child.try_wait(), Ok(None)) {
            return Ok(());
        }
        sleep(PAUSE);
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(ShimError::Hangs(shim.to_owned()))
}

fn why_not_found(shim: &Path, error: io::Error) -> ShimError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ShimError::Missing(shim.to_owned()),
        _ => ShimError::Other(shim.to_owned(), error),
    }
}

fn why_not_started(shim: &Path, metadata: &Metadata, error: io::Error) -> ShimError {
    let path = shim.to_owned();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES) if metadata.mode() & 0o111 == 0 => ShimError::Mode(path),
        Some(Errno::EACCES) if statvfs(shim).is_ok_and(|volume| volume.flags().contains(FsFlags::ST_NOEXEC)) => {
            ShimError::NoExec { mount: mount_point(shim), path }
        }
        Some(Errno::EACCES | Errno::EPERM) => ShimError::Forbidden(path, error),
        Some(Errno::ENOEXEC | Errno::ELIBBAD) => ShimError::Format(path),
        Some(Errno::ENOENT) => ShimError::NoLoader(path),
        Some(Errno::ETXTBSY) => ShimError::Busy(path),
        _ => ShimError::Other(path, error),
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// The directory on which the file system of `path` is mounted. A bind mount has the device of another mount, so the table of
/// mounts decides (proc_pid_mountinfo(5)).
pub(super) fn mount_point(path: &Path) -> PathBuf {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mount_point_in(&table, &path)
}

fn mount_point_in(table: &str, path: &Path) -> PathBuf {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape_octal);
    let above = points.filter(|point| path.starts_with(point));
    above.max_by_key(|point| point.components().count()).unwrap_or_else(|| PathBuf::from("/"))
}

/// The kernel writes spaces, tabs, newlines and backslashes in paths as `\ooo`.
fn unescape_octal(text: &str) -> PathBuf {
    let [space, tab, newline, backslash] = ["\\040", "\\011", "\\012", "\\134"];
    text.replace(space, " ").replace(tab, "\t").replace(newline, "\n").replace(backslash, "\\").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};
    use std::os::unix::fs::PermissionsExt;

    fn remedy(result: Result<(), ShimError>) -> String {
        result.unwrap_err().remedy().to_string()
    }

    #[test]
    fn each_reason_is_found_by_executing_and_has_its_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let shim = dir.path().join("shim");
        assert!(remedy(execute(&shim)).starts_with("apt install --reinstall"), "missing");
        assert!(matches!(execute(dir.path()), Err(ShimError::NotAFile(_))));
        fs::copy("/bin/true", &shim).unwrap();
        execute(&shim).unwrap();
        fs::set_permissions(&shim, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(remedy(execute(&shim)), format!("chmod 755 {}", shim.display()));
        fs::set_permissions(&shim, PermissionsExt::from_mode(0o755)).unwrap();
        let writer = OpenOptions::new().append(true).open(&shim).unwrap();
        assert_eq!(remedy(execute(&shim)), format!("end what is writing to it: fuser -v {}", shim.display()));
        drop(writer);
        // An ELF file of a machine that this is not: e_machine is the 16-bit number at offset 18 (elf(5)).
        let mut other = fs::read("/bin/true").unwrap();
        other[18..20].copy_from_slice(&[0xf7, 0]);
        fs::write(&shim, other).unwrap();
        assert!(matches!(execute(&shim), Err(ShimError::Format(_))));
        fs::write(&shim, "#!/bin/sh\nexec sleep 600\n").unwrap();
        assert!(matches!(execute(&shim), Err(ShimError::Hangs(_))));
    }

    #[test]
    fn the_mount_point_is_the_innermost_one() {
        let table = "21 1 254:1 / / rw - ext4 /dev/vda rw\n30 21 254:1 /usr/lib/x /usr/lib/x ro,noexec - ext4 /dev/vda rw\n\
            31 21 0:40 / /usr/li rw - tmpfs t rw\n32 21 0:41 / /a\\040b rw - tmpfs t rw\n";
        for (path, expected) in [("/usr/lib/x/shim", "/usr/lib/x"), ("/usr/lib/y", "/"), ("/a b/shim", "/a b")] {
            assert_eq!(mount_point_in(table, Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
