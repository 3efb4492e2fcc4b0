//! Who keeps the catalog from being written. Whoever may read its shared memory may also lock the byte that the writer locks, for reading
//! (fcntl(2)), and SQLite waits.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The bytes of the shared memory that only a writer locks: WAL_WRITE_LOCK, WAL_CKPT_LOCK and WAL_RECOVER_LOCK (SQLite's wal.c and
/// os_unix.c, UNIX_SHM_BASE).
const WRITERS_LOCKS: std::ops::RangeInclusive<u64> = 120..=122;

/// The process, other than this one, that has locked the shared memory of the catalog as a writer does. It is not asked for with F_GETLK: the
/// file would have to be opened, and closing it ends the locks that SQLite has in this process (fcntl(2)).
pub(super) fn of(catalog: &Path) -> Option<u32> {
    let shared_memory = PathBuf::from(format!("{}-shm", catalog.display()));
    let inode = fs::metadata(shared_memory).ok()?.ino();
    holder(&fs::read_to_string("/proc/locks").ok()?, inode, std::process::id())
}

/// The first process in the text of `/proc/locks` (proc_locks(5)), other than `own`, with such a lock on the file. Its device is not
/// compared: btrfs and overlay have others there.
fn holder(locks: &str, inode: u64, own: u32) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[_, "POSIX" | "OFDLCK", _, _, pid, file, start, end] = fields.as_slice() else { return None };
        let (start, end) = (start.parse::<u64>().ok()?, end.parse().unwrap_or(u64::MAX));
        let is_writers = start <= *WRITERS_LOCKS.end() && end >= *WRITERS_LOCKS.start();
        let is_file = file.rsplit(':').next()?.parse() == Ok(inode);
        pid.parse().ok().filter(|pid| is_writers && is_file && *pid != own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn the_process_is_found_that_locks_a_byte_of_the_writers() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = dir.path().join("catalog.db");
        let shared_memory = dir.path().join("catalog.db-shm");
        fs::write(&shared_memory, [0; 4096]).unwrap();
        assert_eq!(of(&catalog), None);
        let script = "import fcntl, sys\nfile = open(sys.argv[1])\nfcntl.lockf(file, fcntl.LOCK_SH, 1, int(sys.argv[2]))\nprint(flush=True)\nsys.stdin.read()";
        for (byte, is_writers) in [(120, true), (123, false)] {
            let mut command = Command::new("/usr/bin/python3");
            command.args(["-c", script]).arg(&shared_memory).arg(byte.to_string());
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
            assert_eq!(of(&catalog), is_writers.then(|| child.id()), "{byte}");
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    #[test]
    fn lines_of_other_files_and_kinds_are_none() {
        let locks = "1: FLOCK  ADVISORY  WRITE 11 fd:01:77 0 EOF\n2: POSIX  ADVISORY  WRITE 12 fd:01:77 120 120\n\
                     2: -> POSIX  ADVISORY  WRITE 13 fd:01:77 120 120\n3: POSIX  ADVISORY  READ  14 fd:01:78 120 120\n\
                     4: POSIX  ADVISORY  READ  15 fd:01:77 123 126\n5: POSIX  ADVISORY  READ  16 fd:01:77 0 EOF\n";
        assert_eq!((holder(locks, 77, 12), holder(locks, 77, 0), holder(locks, 9, 0)), (Some(16), Some(12), None));
    }
}
