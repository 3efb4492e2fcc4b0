//! The mapped files that the daemon asks for by their addresses: programs and libraries, which have names of functions that are not in memory.
//!
//! No path of the process is looked up, so a file that was deleted or replaced is the one that was mapped. It is opened as the executable is
//! ([`super::executable`]): only if nobody serves it who may not answer.

use super::mappings::{self, FileMappings};
use super::mounts::{Backing, LocalMounts};
use super::proc_dir::ProcDir;
use coreward_sys::procmap::Mapping;
use coreward_wire::{Offer, Reply};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long opening the files may take, while the process waits. A file takes some twenty microseconds.
const TIMEOUT: Duration = Duration::from_millis(500);

/// The reply to [`coreward_wire::Request::Modules`]. Files that cannot be opened, or not in time, are missing.
pub(super) fn reply(dir: &ProcDir, offer: &Offer, addresses: Vec<u64>) -> (Reply, Vec<OwnedFd>) {
    let (thread, in_user_namespace) = (dir.thread_with_memory(), offer.namespaces.may_be_of_user());
    let opened = dir.in_thread(TIMEOUT, move |dir| {
        let of_thread = mappings::open_thread_dir(dir, thread)?;
        Modules::new(of_thread.as_ref().unwrap_or(dir), in_user_namespace)?.open_all(&addresses)
    });
    let (addresses, files): (Vec<u64>, Vec<OwnedFd>) = opened.unwrap_or_default().into_iter().unzip();
    (Reply::of_modules(&addresses), files)
}

/// The mapped files of one process.
struct Modules<'a> {
    dir: &'a OwnedFd,
    mappings: FileMappings,
    mounts: LocalMounts<'a>,
    /// The executable.
    exe: Option<FileStat>,
}

impl<'a> Modules<'a> {
    fn new(dir: &'a OwnedFd, in_user_namespace: bool) -> nix::Result<Self> {
        let mappings = FileMappings::open(dir)?;
        Ok(Self { dir, mappings, mounts: LocalMounts::new(dir, in_user_namespace), exe: None })
    }

    /// The files of the mappings with these first addresses, as far as time allows.
    fn open_all(mut self, addresses: &[u64]) -> nix::Result<Vec<(u64, OwnedFd)>> {
        // Half of the time: what was opened by then is not lost.
        let deadline = Instant::now() + TIMEOUT / 2;
        let mut opened = Vec::new();
        for address in addresses {
            if Instant::now() >= deadline {
                break;
            }
            let mapping = self.mappings.next_after(*address)?.filter(|mapping| mapping.range.start == *address);
            opened.extend(mapping.and_then(|mapping| self.open(&mapping).ok()).map(|file| (*address, file)));
        }
        Ok(opened)
    }

    fn open(&mut self, mapping: &Mapping) -> nix::Result<OwnedFd> {
        let path = mappings::open_path(self.dir, mapping)?;
        let backing = self.mounts.backing(&path)?.ok_or(Errno::EREMOTE)?;
        let stat = fstat(&path)?;
        if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
            return Err(Errno::EINVAL);
        }
        let file = mappings::open_to_read(&path)?;
        if backing == Backing::Memory && !self.is_executable(&stat)? && !is_sealed(&file) {
            return Err(Errno::EPERM);
        }
        Ok(file)
    }

    /// Whether the file is being executed. Nobody can open it for writing then.
    fn is_executable(&mut self, file: &FileStat) -> nix::Result<bool> {
        let exe = match self.exe {
            Some(exe) => exe,
            None => fstat(openat(self.dir, "exe", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)?,
        };
        self.exe = Some(exe);
        Ok((exe.st_dev, exe.st_ino) == (file.st_dev, file.st_ino))
    }
}

/// Whether nobody can write to a memfd any more. Whoever has another one open for reading may open it again for writing.
fn is_sealed(file: &OwnedFd) -> bool {
    let against_writing = SealFlag::F_SEAL_WRITE | SealFlag::from_bits_retain(nix::libc::F_SEAL_FUTURE_WRITE);
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    seals.is_ok_and(|seals| seals.intersects(against_writing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreward_sys::sparse_io;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    /// The mappings of a process, and the files that are opened for their first addresses.
    fn open_all_of(pid: u32) -> (Vec<Mapping>, Vec<u64>, Vec<OwnedFd>) {
        let dir = ProcDir::open(nix::unistd::Pid::from_raw(pid.cast_signed()), None).unwrap();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let mappings: Vec<Mapping> = maps.lines().filter_map(coreward_sys::procmap::parse).collect();
        let addresses = mappings.iter().map(|mapping| mapping.range.start).collect();
        let (reply, files) = reply(&dir, &Offer::default(), addresses);
        assert_eq!(reply.addresses().len(), files.len());
        (mappings, reply.addresses(), files)
    }

    /// The program `path` when it sleeps: it is started before its file is mapped, and before its dynamic linker maps the libraries.
    fn sleeping(path: &Path) -> Child {
        let process = Command::new(path).arg("60").stdin(Stdio::null()).spawn().unwrap();
        let wchan = format!("/proc/{}/wchan", process.id());
        let deadline = Instant::now() + Duration::from_secs(30);
        while !std::fs::read_to_string(&wchan).is_ok_and(|at| at.contains("nanosleep")) {
            assert!(Instant::now() < deadline, "{} does not sleep", path.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        process
    }

    #[test]
    fn the_files_of_a_program_and_its_libraries_are_opened_also_when_they_have_no_name_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        assert!(Command::new("cp").arg("/bin/sleep").arg(&path).status().unwrap().success());
        let mut process = sleeping(&path);
        let expected = std::fs::metadata(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (mappings, addresses, files) = open_all_of(process.id());
        process.kill().unwrap();
        process.wait().unwrap();
        let with_file = mappings.iter().filter(|mapping| !mapping.has_no_file()).map(|mapping| mapping.range.start);
        assert_eq!(addresses, with_file.collect::<Vec<_>>());
        let mut inodes = Vec::new();
        for (address, file) in addresses.iter().zip(files) {
            let mut file = File::from(file);
            let mapping = mappings.iter().find(|mapping| mapping.range.start == *address).unwrap();
            let metadata = file.metadata().unwrap();
            assert_eq!(metadata.ino(), mapping.inode);
            inodes.push((metadata.dev(), metadata.ino()));
            if mapping.name.contains(".so") {
                let mut magic = [0; 4];
                file.read_exact(&mut magic).unwrap();
                assert_eq!(&magic, b"\x7fELF");
            }
        }
        assert!(inodes.contains(&(expected.dev(), expected.ino())));
    }

    #[test]
    fn a_program_in_memory_is_opened_and_what_may_be_written_is_told_from_what_is_sealed() {
        let mut program = sparse_io::create_memfd("program").unwrap();
        program.write_all(&std::fs::read("/bin/sleep").unwrap()).unwrap();
        assert!(!is_sealed(&program.try_clone().unwrap().into()));
        let path = format!("/proc/{}/fd/{}", std::process::id(), program.as_raw_fd());
        let mut process = sleeping(path.as_ref());
        let inode = program.metadata().unwrap().ino();
        let (mappings, addresses, _) = open_all_of(process.id());
        process.kill().unwrap();
        process.wait().unwrap();
        let own: Vec<u64> =
            mappings.iter().filter(|mapping| mapping.inode == inode).map(|mapping| mapping.range.start).collect();
        assert!(!own.is_empty() && own.iter().all(|start| addresses.contains(start)), "{own:x?} {addresses:x?}");
        let sealed = memfd_create("sealed", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC).unwrap();
        assert!(!is_sealed(&sealed));
        fcntl(&sealed, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
        assert!(is_sealed(&sealed));
    }
}
