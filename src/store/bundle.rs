//! A bundle: a crash in one file, for another machine. It is a tar archive, which every tar lists and unpacks; core and modules in it are
//! zstd files, as they are stored.
//!
//! ```text
//! crash-ID/README          how it is opened
//! crash-ID/record.json     the record
//! crash-ID/report.txt      what `coreward info` shows
//! crash-ID/open.sh         opens it in gdb without Coreward
//! crash-ID/modules.tsv     build-id and path of each module, for open.sh
//! crash-ID/modules/BUILDID.zst
//! crash-ID/core.zst        the stored core, with its record
//! ```
//!
//! Anybody may have made it. Nothing in it is unpacked under a name that it has there: members are ranges of the file.

use super::file_range::FileRange;
use super::module_dir::{MAX_MODULE, build_id_of_name, module_file_name, unpack_module};
use crate::crash::{CrashId, Record};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tar::{Archive, Builder, EntryType, Header};
use thiserror::Error;

/// Members beyond this number are none of Coreward's.
const MAX_MEMBERS: usize = 2048;
/// What a module may expand to for each of its compressed bytes. Programs shrink to a third, and seldom to a twentieth.
const MAX_EXPANSION: u64 = 100;
/// Longest record, in bytes.
const MAX_RECORD: u64 = 4 << 20;
/// Where the magic number of a tar archive is, and the number (tar(5)).
const MAGIC: (usize, &[u8]) = (257, b"ustar");

const README: &str = "README";
const RECORD: &str = "record.json";
const CORE: &str = "core.zst";
const MODULES: &str = "modules/";

/// Why a file is not opened as a bundle.
#[derive(Debug, Error)]
pub enum BundleError {
    /// It cannot be read, or is no tar archive.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It has something that no bundle has.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// The record cannot be parsed.
    #[error("its record cannot be parsed: {0}")]
    Record(#[from] serde_json::Error),
}

/// A bundle that is open for reading.
#[derive(Debug)]
pub struct Bundle {
    file: File,
    record: Box<Record>,
    core: Option<Range<u64>>,
    modules: HashMap<String, Range<u64>>,
}

impl Bundle {
    /// Whether a file begins as a bundle does.
    #[must_use]
    pub fn is_bundle(file: &File) -> bool {
        let mut header = [0; 512];
        let (at, magic) = MAGIC;
        file.read_exact_at(&mut header, 0).is_ok()
            && header[at..].starts_with(magic)
            && header.starts_with(b"crash-")
            && header[..100].split(|byte| *byte == 0).next().is_some_and(|name| name.ends_with(b"/README"))
    }

    /// Opens a bundle. Reads the headers of its members and the record; nothing is decompressed.
    ///
    /// # Errors
    /// It is no bundle, or a damaged one.
    pub fn open(file: File) -> Result<Self, BundleError> {
        let length = file.metadata()?.len();
        let mut members: HashMap<String, Range<u64>> = HashMap::new();
        let mut archive = Archive::new(&file);
        // Raw: what other programs put into an archive, such as the long names of GNU tar, is not interpreted.
        for (number, entry) in archive.entries_with_seek()?.raw(true).enumerate() {
            if number >= MAX_MEMBERS {
                return Err(BundleError::Damaged("it has too many members"));
            }
            let entry = entry?;
            if entry.header().entry_type() != EntryType::Regular {
                continue;
            }
            let begin = entry.raw_file_position();
            let end = begin.checked_add(entry.header().entry_size()?).filter(|end| *end <= length);
            let end = end.ok_or(BundleError::Damaged("a member ends behind the end of the file"))?;
            let path = entry.path_bytes();
            let Some(name) = std::str::from_utf8(&path).ok().and_then(|path| path.split_once('/')) else { continue };
            if members.insert(name.1.to_owned(), begin..end).is_some() {
                return Err(BundleError::Damaged("two members have one name"));
            }
        }
        let record = members.get(RECORD).ok_or(BundleError::Damaged("it has no record"))?;
        if record.end - record.start > MAX_RECORD {
            return Err(BundleError::Damaged("its record is too long"));
        }
        let mut json = Vec::new();
        FileRange::new(&file, record.clone()).read_to_end(&mut json)?;
        let mut record: Box<Record> = serde_json::from_slice(&json)?;
        record.bound();
        if record.id != record.key.id() {
            return Err(BundleError::Damaged("its record has the id of another crash"));
        }
        let core = members.get(CORE).cloned();
        let modules = members.into_iter().filter_map(|(name, range)| {
            let build_id = build_id_of_name(Path::new(name.strip_prefix(MODULES)?))?;
            Some((build_id.to_owned(), range))
        });
        let modules = modules.collect();
        Ok(Self { file, record, core, modules })
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The file, and where in it the stored core is, if it has one.
    #[must_use]
    pub fn core(&self) -> Option<(&File, Range<u64>)> {
        Some((&self.file, self.core.clone()?))
    }

    /// The build-ids of its modules.
    pub fn build_ids(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// Whether it has the module with this build-id.
    #[must_use]
    pub fn has_module(&self, build_id: &str) -> bool {
        self.modules.contains_key(build_id)
    }

    /// The compressed module with this build-id, and its length in bytes.
    #[must_use]
    pub fn module(&self, build_id: &str) -> Option<(FileRange<'_>, u64)> {
        let range = self.modules.get(build_id)?;
        Some((FileRange::new(&self.file, range.clone()), range.end - range.start))
    }

    /// Decompresses a module, and returns its length in bytes; `None` if the bundle does not have it.
    ///
    /// # Errors
    /// If the module is damaged, expands to more than any program does, or cannot be written.
    pub fn unpack_module(&self, build_id: &str, out: &mut dyn Write) -> Option<io::Result<u64>> {
        let (module, length) = self.module(build_id)?;
        let limit = length.saturating_mul(MAX_EXPANSION).saturating_add(1 << 20).min(MAX_MODULE);
        Some(unpack_module(module, out, limit))
    }
}

/// Writes a bundle.
pub struct BundleWriter<W: Write> {
    archive: Builder<W>,
    id: CrashId,
    /// When the members were changed last, in seconds since 1970: the time of the crash.
    time: u64,
}

impl<W: Write> BundleWriter<W> {
    /// A bundle of the crash that `record` describes, with the record.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn new(out: W, record: &Record, readme: &str) -> Result<Self, BundleError> {
        let time = record.time_us / 1_000_000;
        let mut writer = Self { archive: Builder::new(out), id: record.id.clone(), time };
        writer.add(README, readme.as_bytes())?;
        writer.add(RECORD, &serde_json::to_vec_pretty(record)?)?;
        Ok(writer)
    }

    /// Adds a file with this name.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.add_from(name, content.len() as u64, content)
    }

    /// Adds the compressed module with this build-id, of `length` bytes.
    ///
    /// # Errors
    /// It cannot be read, or `out` cannot be written.
    pub fn add_module(&mut self, build_id: &str, length: u64, from: impl Read) -> io::Result<()> {
        let name = module_file_name(build_id).ok_or(ErrorKind::InvalidInput)?;
        self.add_from(&format!("{MODULES}{}", name.display()), length, from)
    }

    /// Adds the stored core, of `length` bytes.
    ///
    /// # Errors
    /// It cannot be read, or `out` cannot be written.
    pub fn add_core(&mut self, length: u64, from: impl Read) -> io::Result<()> {
        self.add_from(CORE, length, from)
    }

    fn add_from(&mut self, name: &str, length: u64, from: impl Read) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(length);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        // A file that grows or shrinks meanwhile has its old length in the archive.
        let padded = from.chain(io::repeat(0)).take(length);
        self.archive.append_data(&mut header, format!("crash-{}/{name}", self.id), padded)
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn finish(self) -> io::Result<W> {
        self.archive.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::fixtures::record;

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn bundle(add: impl FnOnce(&mut BundleWriter<Vec<u8>>)) -> Vec<u8> {
        let mut writer = BundleWriter::new(Vec::new(), &record(7), "read me").unwrap();
        add(&mut writer);
        writer.finish().unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = bundle(|writer| {
            writer.add_module("00ff", 3, &b"abc"[..]).unwrap();
            writer.add("later", b"?").unwrap();
            writer.add_core(4, &b"core"[..]).unwrap();
        });
        let opened = Bundle::open(file(&bytes)).unwrap();
        assert!(
            Bundle::is_bundle(&file(&bytes)) && !Bundle::is_bundle(&file(b"")) && !Bundle::is_bundle(&file(&[0; 999]))
        );
        assert_eq!((opened.record(), opened.build_ids().collect::<Vec<_>>()), (&record(7), vec!["00ff"]));
        let mut read = Vec::new();
        opened.module("00ff").unwrap().0.read_to_end(&mut read).unwrap();
        let (whole, range) = opened.core().unwrap();
        FileRange::new(whole, range).read_to_end(&mut read).unwrap();
        assert_eq!(read, b"abccore");
        assert!(opened.module("00fe").is_none());
    }

    #[test]
    fn every_tar_can_unpack_it() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = bundle(|writer| writer.add_core(4, &b"core"[..]).unwrap());
        std::fs::write(dir.path().join("bundle.tar"), bytes).unwrap();
        let tar =
            std::process::Command::new("tar").args(["xf", "bundle.tar"]).current_dir(dir.path()).status().unwrap();
        assert!(tar.success());
        let unpacked = dir.path().join(format!("crash-{}", record(7).id));
        assert_eq!(std::fs::read(unpacked.join("core.zst")).unwrap(), b"core");
        assert_eq!(std::fs::read(unpacked.join("README")).unwrap(), b"read me");
    }

    #[test]
    fn a_damaged_or_hostile_file_is_refused() {
        let good = bundle(|writer| writer.add_core(4, &b"core"[..]).unwrap());
        for cut in [0, 100, 512, 1024, 2000] {
            assert!(Bundle::open(file(&good[..cut])).is_err(), "{cut}");
        }
        let twice = bundle(|writer| {
            writer.add_core(1, &b"a"[..]).unwrap();
            writer.add_core(1, &b"b"[..]).unwrap();
        });
        assert!(matches!(Bundle::open(file(&twice)), Err(BundleError::Damaged(_))));
        let many = bundle(|writer| (0..=MAX_MEMBERS).for_each(|number| writer.add(&number.to_string(), b"").unwrap()));
        assert!(matches!(Bundle::open(file(&many)), Err(BundleError::Damaged(_))));
        let hostile_names = bundle(|writer| {
            writer.add("modules/../../../etc/passwd", b"x").unwrap_err();
            writer.add_module("../x", 1, &b"x"[..]).unwrap_err();
        });
        assert_eq!(Bundle::open(file(&hostile_names)).unwrap().build_ids().count(), 0);
        // A member that says it is longer than the file: its size is octal text at byte 124 of its header.
        let at = good.windows(8).rposition(|window| window == b"core.zst").unwrap();
        let header = at - at % 512;
        let mut long = good.clone();
        long[header + 124..header + 135].copy_from_slice(b"77777777777");
        let sum: u32 = long[header..header + 512]
            .iter()
            .enumerate()
            .map(|(index, byte)| if (148..156).contains(&index) { 32 } else { u32::from(*byte) })
            .sum();
        long[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(Bundle::open(file(&long)).is_err());
        let other = Record { id: record(8).id, ..record(7) };
        let forged = BundleWriter::new(Vec::new(), &other, "").unwrap().finish().unwrap();
        assert!(matches!(Bundle::open(file(&forged)), Err(BundleError::Damaged(_))));
    }
}
