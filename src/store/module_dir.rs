//! The module store: the ELF files that crashed processes had mapped, each once for its build-id, as a plain zstd file. A file of the
//! process may be gone when somebody reads its core: with its container, or replaced by an upgrade.

use super::layout::Layout;
use coreward_sys::openat;
use coreward_wire::paths::Root;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".zst";
/// The longest build-id, in hexadecimal digits. Linkers write 40 or fewer, and Go writes text of 83 bytes.
const MAX_BUILD_ID: usize = 200;
/// The longest module that is stored, in bytes of the ELF file. What a file expands to is bounded by it as well.
pub const MAX_MODULE: u64 = 2 << 30;
/// Bytes that are decompressed at once.
const CHUNK: usize = 256 << 10;

/// The name of the file of the module with this build-id; `None` if that is not a build-id in lower-case hexadecimal, as a record has
/// it.
#[must_use]
pub fn module_file_name(build_id: &str) -> Option<PathBuf> {
    is_build_id(build_id).then(|| PathBuf::from(format!("{build_id}{SUFFIX}")))
}

/// The build-id of the module whose file has this name; `None` if it is not the name of a module.
#[must_use]
pub fn build_id_of_name(name: &Path) -> Option<&str> {
    name.to_str()?.strip_suffix(SUFFIX).filter(|build_id| is_build_id(build_id))
}

fn is_build_id(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (2..=MAX_BUILD_ID).contains(&text.len()) && text.bytes().all(is_digit)
}

/// A module of the store, open for reading.
#[derive(Debug)]
pub struct StoredModule {
    file: File,
}

/// Opens the module with this build-id. `None`: the store has none, or the caller may not read it.
///
/// Whoever stored it checked that the file has this build-id. That is no seal: another file may have the same one.
#[must_use]
pub fn open_module(root: &Root, build_id: &str) -> Option<StoredModule> {
    let dir = Layout::new(root).open_modules().ok()?;
    open_module_in(dir.as_fd(), build_id).ok().map(|file| StoredModule { file })
}

/// The number of stored modules, and their bytes.
#[must_use]
pub fn stored_modules(root: &Root) -> (u64, u64) {
    let entries = std::fs::read_dir(Layout::new(root).modules).into_iter().flatten().flatten();
    let modules = entries.filter(|entry| build_id_of_name(Path::new(&entry.file_name())).is_some());
    modules
        .filter_map(|module| module.metadata().ok())
        .fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.len()))
}

/// Opens the compressed file of a module. Links, which the daemon's user could create, are not followed.
pub(super) fn open_module_in(dir: BorrowedFd<'_>, build_id: &str) -> io::Result<File> {
    let name = module_file_name(build_id).ok_or(ErrorKind::InvalidInput)?;
    let file = File::from(openat::open_file_below(dir, &name)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidData.into()) }
}

impl StoredModule {
    /// The compressed file.
    #[must_use]
    pub fn compressed(&self) -> &File {
        &self.file
    }

    /// The ELF file.
    ///
    /// # Errors
    /// It is damaged, or longer than `limit` bytes (`FileTooLarge`).
    pub fn read(&self, limit: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.unpack_to(&mut content, limit)?;
        Ok(content)
    }

    /// Writes the ELF file to `out`, and returns its length in bytes.
    ///
    /// # Errors
    /// The module is damaged, or longer than `limit` bytes (`FileTooLarge`), or `out` cannot be written.
    pub fn unpack_to(&self, out: &mut dyn Write, limit: u64) -> io::Result<u64> {
        unpack_module(&self.file, out, limit)
    }
}

/// Decompresses the module in `file` from its current position on, and returns its length in bytes.
///
/// # Errors
/// As [`StoredModule::unpack_to`].
pub fn unpack_module(file: impl Read, out: &mut dyn Write, limit: u64) -> io::Result<u64> {
    let mut content = zstd::stream::read::Decoder::new(file)?;
    let mut chunk = vec![0; CHUNK];
    let mut length = 0;
    loop {
        let count = match content.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            count => count?,
        };
        if count == 0 {
            return Ok(length);
        }
        length += count as u64;
        if length > limit {
            return Err(ErrorKind::FileTooLarge.into());
        }
        out.write_all(&chunk[..count])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_module_is_found_by_its_build_id_and_read_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let modules = Layout::new(&root).modules;
        fs::create_dir_all(&modules).unwrap();
        let content = vec![7; CHUNK * 2 + 9];
        fs::write(modules.join("00ff.zst"), zstd::encode_all(&content[..], 1).unwrap()).unwrap();
        assert!(open_module(&root, "00ff").unwrap().read(MAX_MODULE).unwrap() == content);
        let refused = open_module(&root, "00ff").unwrap().read(content.len() as u64 - 1).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::FileTooLarge);
        assert!(open_module(&root, "00fe").is_none());
        std::os::unix::fs::symlink("00ff.zst", modules.join("00fd.zst")).unwrap();
        assert!(open_module(&root, "00fd").is_none(), "a link is not followed");
    }

    #[test]
    fn only_hexadecimal_digits_are_a_name() {
        assert_eq!(module_file_name("0a1b").unwrap(), Path::new("0a1b.zst"));
        assert_eq!(build_id_of_name(Path::new("0a1b.zst")), Some("0a1b"));
        for text in ["", "0", "../0a1b", "0A1B", "0a1b\n", "0a/1b", &"0".repeat(MAX_BUILD_ID + 1)] {
            assert_eq!(module_file_name(text), None, "{text:?}");
        }
        for name in ["0a1b", ".unfinished-1-2", "x.zst", "0a1b.core.zst"] {
            assert_eq!(build_id_of_name(Path::new(name)), None, "{name}");
        }
    }
}
