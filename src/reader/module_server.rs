//! The side of a reader that copies mapped files to the module store. Any of them may be on a file system that does not answer, and what
//! is in it is hostile.

use super::answer_requests::AnswerRequests;
use super::channel::Received;
use super::module_file::{ModuleError, ModuleFile};
use super::protocol::{Answer, Request};
use super::saved_core::find_local;
use crate::crash::text::to_path;
use crate::elf::{build_id_of_file, read_beginning, read_build_id};
use crate::store::MAX_MODULE;
use coreward_sys::mounts::Mounts;
use nix::sys::stat::{SFlag, fstat};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

/// Longest text of mounts that is read, in bytes.
const MAX_MOUNTINFO: u64 = 1 << 20;
/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;
/// A file that is longer, and takes less than a tenth of its length on the disk, is no program. Reading the holes of a long one takes as
/// long as reading data.
const MAX_SPARSE: u64 = 1 << 20;
const SPARSE: u64 = 10;
/// zstd's default level. Modules are compressed once and kept long.
const LEVEL: i32 = 3;

/// Copies modules.
#[derive(Default)]
pub(super) struct ModuleServer {
    /// The beginnings of the host's files that modules are compared with.
    hosts: Vec<Option<Vec<u8>>>,
    /// The file that was looked at last.
    module: Option<File>,
}

impl ModuleServer {
    /// The server after its first request. Opens files by their path, and parses none of them.
    ///
    /// # Errors
    /// The daemon broke the protocol.
    pub(super) fn open(received: Received<Request>) -> io::Result<Self> {
        let Received { message: Request::OpenHostFiles(paths), .. } = received else {
            return Err(ErrorKind::InvalidData.into());
        };
        let mut mountinfo = Vec::new();
        if paths.iter().any(Option::is_some) {
            let _ = File::open("/proc/self/mountinfo")
                .and_then(|file| file.take(MAX_MOUNTINFO).read_to_end(&mut mountinfo));
        }
        let mounts = Mounts::new(&mountinfo, false);
        let read = |path: &Option<String>| read_local(path.as_deref()?, &mounts).ok();
        Ok(Self { hosts: paths.iter().map(read).collect(), module: None })
    }

    fn look_at(&mut self, file: File, host: usize) -> io::Result<ModuleFile> {
        let metadata = file.metadata()?;
        // In units of 512 bytes (stat(2)).
        let on_disk = metadata.blocks().saturating_mul(512);
        if metadata.len() > MAX_SPARSE && on_disk < metadata.len() / SPARSE {
            return Err(ErrorKind::InvalidData.into());
        }
        let build_id = read_build_id(|buffer, at| file.read_at(buffer, at))?;
        let hosts = self.hosts.get(host).and_then(Option::as_deref).and_then(build_id_of_file);
        let is_hosts = hosts.is_some() && hosts == build_id;
        self.module = Some(file);
        let (owner, mode) = (metadata.uid(), metadata.mode());
        Ok(ModuleFile { length: metadata.len(), build_id, is_hosts, owner, mode })
    }

    fn copy(&self, to: &File, limit: u64) -> Result<u64, ModuleError> {
        let module = self.module.as_ref().ok_or(ModuleError::Io(nix::libc::EINVAL))?;
        let mut out = Limited { to, length: 0, limit };
        match compress(module, &mut out) {
            Ok(()) => Ok(out.length),
            Err(error) if error.kind() == ErrorKind::FileTooLarge => Err(ModuleError::TooLong),
            Err(error) => Err(ModuleError::Io(error.raw_os_error().unwrap_or(nix::libc::EIO))),
        }
    }

    fn is_same(&self, stored: &File) -> io::Result<bool> {
        let module = self.module.as_ref().ok_or(ErrorKind::InvalidInput)?;
        let mut compare = Compare { with: module, at: 0 };
        match crate::store::unpack_module(stored, &mut compare, MAX_MODULE) {
            Err(error) if error.kind() == ErrorKind::InvalidData => Ok(false),
            unpacked => Ok(unpacked? == module.metadata()?.len()),
        }
    }
}

impl AnswerRequests for ModuleServer {
    fn answer_request(&mut self, received: Received<Request>) -> io::Result<Option<Answer>> {
        let Received { message, fds, .. } = received;
        let file = fds.into_iter().next().map(File::from).ok_or(ErrorKind::InvalidData)?;
        Ok(Some(match message {
            Request::ModuleFile { host } => Answer::ModuleFile(self.look_at(file, host).ok()),
            Request::CopyModule { limit } => Answer::CopiedModule(self.copy(&file, limit)),
            Request::CompareModule => Answer::SameModule(self.is_same(&file).unwrap_or(false)),
            _ => return Err(ErrorKind::InvalidData.into()),
        }))
    }
}

/// The beginning of the host's regular file with this path, which is text of the crashed process.
fn read_local(path: &str, mounts: &Mounts<'_>) -> io::Result<Vec<u8>> {
    let found: OwnedFd = find_local(&to_path(path), mounts)?;
    if fstat(&found)?.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    read_beginning(|buffer, at| file.read_at(buffer, at))
}

/// Compresses the file. It may grow meanwhile.
fn compress(module: &File, out: &mut Limited<'_>) -> io::Result<()> {
    let mut encoder = zstd::stream::write::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    let (mut chunk, mut at) = (vec![0; CHUNK], 0);
    loop {
        // The position of the descriptor is somebody else's as well.
        let count = match module.read_at(&mut chunk, at) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        if count == 0 {
            return encoder.finish().map(drop);
        }
        at += count as u64;
        if at > MAX_MODULE {
            return Err(ErrorKind::FileTooLarge.into());
        }
        encoder.write_all(&chunk[..count])?;
    }
}

/// Writes no more than was reserved.
struct Limited<'a> {
    to: &'a File,
    length: u64,
    limit: u64,
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.length.saturating_add(bytes.len() as u64) > self.limit {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let count = self.to.write_at(bytes, self.length)?;
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Accepts the bytes that a file has, in their order.
struct Compare<'a> {
    with: &'a File,
    at: u64,
}

impl Write for Compare<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut own = vec![0; bytes.len()];
        let is_there = match self.with.read_exact_at(&mut own, self.at) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
            read => read.map(|()| true)?,
        };
        if !is_there || own != bytes {
            return Err(ErrorKind::InvalidData.into());
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> File {
        File::open(std::env::current_exe().unwrap()).unwrap()
    }

    fn server(host: Option<String>) -> ModuleServer {
        let message = Request::OpenHostFiles(vec![host]);
        ModuleServer::open(Received { message, bytes: Vec::new(), fds: Vec::new() }).unwrap()
    }

    #[test]
    fn a_module_is_copied_whole_or_not_at_all() {
        let mut server = server(None);
        let facts = server.look_at(program(), 0).unwrap();
        assert!(facts.build_id.is_some() && !facts.is_hosts);
        let copy = tempfile::tempfile().unwrap();
        let length = server.copy(&copy, u64::MAX).unwrap();
        assert!(length < facts.length && copy.metadata().unwrap().len() == length);
        let mut content = Vec::new();
        assert_eq!(crate::store::unpack_module(&copy, &mut content, MAX_MODULE).unwrap(), facts.length);
        assert!(content == std::fs::read(std::env::current_exe().unwrap()).unwrap());
        assert_eq!(server.copy(&tempfile::tempfile().unwrap(), length - 1), Err(ModuleError::TooLong));
    }

    #[test]
    fn a_file_of_holes_is_not_read() {
        let mut server = server(None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
        server.look_at(File::open(&path).unwrap(), 0).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(server.look_at(File::open(&path).unwrap(), 0).is_err());
    }

    #[test]
    fn the_host_s_file_is_known_by_its_build_id() {
        let path = std::env::current_exe().unwrap().canonicalize().unwrap().display().to_string();
        assert!(server(Some(path)).look_at(program(), 0).unwrap().is_hosts);
        for other in ["/bin/true", "/usr/bin/env", "/nowhere", "relative"] {
            assert!(!server(Some(other.to_owned())).look_at(program(), 0).unwrap().is_hosts, "{other}");
        }
    }

    #[test]
    fn only_the_same_bytes_are_the_same_module() {
        let mut server = server(None);
        let source = tempfile::tempfile().unwrap();
        source.write_all_at(&[7; 500_000], 0).unwrap();
        server.look_at(source, 0).unwrap();
        let stored = |content: &[u8]| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&zstd::encode_all(content, 1).unwrap(), 0).unwrap();
            file
        };
        assert!(server.is_same(&stored(&[7; 500_000])).unwrap());
        for other in [&[7; 499_999][..], &[7; 500_001], &[8; 500_000]] {
            assert!(!server.is_same(&stored(other)).unwrap());
        }
    }
}
