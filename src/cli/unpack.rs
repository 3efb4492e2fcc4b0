//! Decompressing a stored core to the core that the kernel wrote.

use super::crash_context::newest_with_core;
use super::error::{CliError, UnpackError};
use super::explanations;
use super::interrupt::Interrupts;
use crate::store::{Bundle, FileRange, Layout, Listed, core_file_name, format};
use coreward_sys::openat;
use coreward_wire::paths::Root;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes that are read and written at once.
const CHUNK: usize = 1 << 20;
/// Blocks of zeros of this size become holes. Nearly every file system has blocks of this size.
const BLOCK: usize = 4096;

/// A stored core, open for reading.
pub(super) struct CoreReader {
    pub(super) file: File,
    /// Where in the file it is.
    range: Range<u64>,
    path: PathBuf,
    /// Bytes of core in it.
    bytes: u64,
    /// The daemon does not evict a core while this lock is held.
    _lock: Option<nix::fcntl::Flock<File>>,
}

impl CoreReader {
    /// Opens the core of a crash. Links, which the daemon's user could create, are not followed.
    pub(super) fn open(root: &Root, listed: &Listed) -> Result<Self, UnpackError> {
        let id = listed.id();
        let layout = Layout::new(root);
        let path = layout.cores.join(core_file_name(id));
        if let Some(why) = explanations::why_no_core(listed) {
            let other = newest_with_core(root, &listed.record);
            return Err(UnpackError::NoCore { id: id.to_string(), why, other });
        }
        let opened = layout.open_cores().and_then(|dir| openat::open_file_below(dir.as_fd(), &core_file_name(id)));
        match opened.map(File::from).and_then(|file| Ok((file.metadata()?, file))) {
            Ok((metadata, file)) if metadata.is_file() => {
                let lock = file.try_clone().ok().and_then(|file| crate::store::lock_for_reading(file).ok());
                Ok(Self { file, range: 0..metadata.len(), path, bytes: listed.record.core.bytes, _lock: lock })
            }
            Ok(_) => Err(UnpackError::Open { path, error: io::Error::other("not a regular file") }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let other = newest_with_core(root, &listed.record).filter(|other| other != id.as_str());
                Err(UnpackError::NoCore { id: id.to_string(), why: "its file was deleted a moment ago", other })
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(UnpackError::Denied { path }),
            Err(error) => Err(UnpackError::Open { path, error }),
        }
    }

    /// The core in a bundle, which messages call `path`.
    pub(super) fn of_bundle(bundle: &Bundle, path: &Path) -> Result<Self, UnpackError> {
        let record = bundle.record();
        let path = path.to_owned();
        let Some((file, range)) = bundle.core() else {
            return Err(UnpackError::NoCore { id: record.id.to_string(), why: "the bundle has none", other: None });
        };
        let file = file.try_clone().map_err(|error| UnpackError::Open { path: path.clone(), error })?;
        Ok(Self { file, range, path, bytes: record.core.bytes, _lock: None })
    }

    /// The stored core, compressed, and its length in bytes.
    pub(super) fn compressed(&self) -> (FileRange<'_>, u64) {
        (FileRange::new(&self.file, self.range.clone()), self.range.end - self.range.start)
    }

    /// The report that the runtime of the process wrote itself; `None`: the file has none.
    pub(super) fn runtime_report(&self) -> Result<Option<Vec<u8>>, UnpackError> {
        let damaged = |error| UnpackError::Damaged { path: self.path.clone(), error };
        format::read_report(&self.file, self.range.clone()).map_err(damaged)
    }

    /// Decompresses the core into `to`, which messages call `name`. Blocks of zeros become holes.
    pub(super) fn unpack_to(&self, to: &File, name: &Path, interrupts: Option<&Interrupts>) -> Result<(), CliError> {
        let failed = |error| UnpackError::Write { to: name.to_owned(), error };
        let mut at = 0;
        self.unpack(|chunk| {
            if let Some(signal) = interrupts.and_then(Interrupts::pending) {
                return Err(CliError::Interrupted(signal));
            }
            write_sparse(to, chunk, at).map_err(failed)?;
            at += chunk.len() as u64;
            Ok(())
        })?;
        Ok(to.set_len(at).map_err(failed)?)
    }

    /// Decompresses the core into nothing, to see whether it is whole.
    pub(super) fn verify(&self) -> Result<(), CliError> {
        self.unpack(|_| Ok(()))
    }

    /// Decompresses the core into a stream.
    pub(super) fn stream_to(&self, out: &mut dyn Write) -> Result<(), CliError> {
        self.unpack(|chunk| Ok(out.write_all(chunk)?))
    }

    /// Decompresses the core, chunk by chunk.
    fn unpack(&self, mut write: impl FnMut(&[u8]) -> Result<(), CliError>) -> Result<(), CliError> {
        let damaged = |error| UnpackError::Damaged { path: self.path.clone(), error };
        let wrong_length = |found| UnpackError::Length { path: self.path.clone(), found, expected: self.bytes };
        // Decoders skip the frames of record and seek table (RFC 8878, 3.1.2) and concatenate the others (3.1).
        let mut core = zstd::stream::read::Decoder::new(self.compressed().0).map_err(damaged)?;
        let bar = progress(self.bytes);
        let mut chunk = vec![0; CHUNK];
        let mut found = 0;
        loop {
            let count = fill(&mut core, &mut chunk).map_err(damaged)?;
            found += count as u64;
            // A decompression bomb ends here: no more is written than the record promises.
            if found > self.bytes {
                return Err(wrong_length(found).into());
            }
            write(&chunk[..count])?;
            bar.set_position(found);
            if count < chunk.len() {
                break;
            }
        }
        bar.finish_and_clear();
        if found == self.bytes { Ok(()) } else { Err(wrong_length(found).into()) }
    }

    /// Copies the file as it is, chunk by chunk.
    pub(super) fn copy(&self, mut write: impl FnMut(&[u8]) -> Result<(), CliError>) -> Result<(), CliError> {
        let failed = |error| UnpackError::Open { path: self.path.clone(), error };
        let (mut compressed, length) = self.compressed();
        let bar = progress(length);
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = fill(&mut compressed, &mut chunk).map_err(failed)?;
            write(&chunk[..count])?;
            bar.inc(count as u64);
            if count < chunk.len() {
                bar.finish_and_clear();
                return Ok(());
            }
        }
    }
}

/// A progress bar on standard error, drawn only on a terminal. Its message stands before it.
pub(super) fn progress(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg}{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Reads until `buffer` is full or the source ends.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match from.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Writes the blocks of `chunk` that are not all zeros, the first byte of `chunk` at offset `at`.
fn write_sparse(to: &File, chunk: &[u8], at: u64) -> io::Result<()> {
    const ZERO: [u8; BLOCK] = [0; BLOCK];
    let is_zero = |block: &[u8]| *block == ZERO[..block.len()];
    let mut begin = 0;
    for run in chunk.chunks(BLOCK).collect::<Vec<_>>().chunk_by(|left, right| is_zero(left) == is_zero(right)) {
        let end = begin + run.iter().map(|block| block.len()).sum::<usize>();
        if !is_zero(run[0]) {
            to.write_all_at(&chunk[begin..end], at + begin as u64)?;
        }
        begin = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures::listed;
    use crate::store::{CoreState, format};
    use std::os::unix::fs::MetadataExt;

    struct UnpackFixture {
        dir: tempfile::TempDir,
        root: Root,
        listed: Listed,
        core: Vec<u8>,
    }

    /// A stored core of several frames that contains a hole, in the format of the daemon.
    fn fixture() -> UnpackFixture {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mut core = vec![7; 3 * CHUNK + 5];
        core[BLOCK..2 * CHUNK].fill(0);
        let mut listed = listed(7);
        listed.record.core.bytes = core.len() as u64;
        let fixture = UnpackFixture { dir, root, listed, core };
        fixture.store(&fixture.core);
        fixture
    }

    impl UnpackFixture {
        fn file(&self) -> PathBuf {
            Layout::new(&self.root).cores.join(core_file_name(self.listed.id()))
        }

        fn store(&self, core: &[u8]) {
            let room = format::record_room(&self.listed.record, 0).unwrap();
            let mut file = format::record_frame(&self.listed.record, room).unwrap();
            let mut frames = vec![(u32::try_from(room).unwrap(), 0)];
            for part in core.chunks(CHUNK + 3) {
                let frame = zstd::encode_all(part, 1).unwrap();
                frames.push((u32::try_from(frame.len()).unwrap(), u32::try_from(part.len()).unwrap()));
                file.extend(frame);
            }
            file.extend(format::seek_table(&frames));
            std::fs::create_dir_all(self.file().parent().unwrap()).unwrap();
            std::fs::write(self.file(), file).unwrap();
        }

        fn stream(&self) -> Result<Vec<u8>, CliError> {
            let mut out = Vec::new();
            CoreReader::open(&self.root, &self.listed)?.stream_to(&mut out).map(|()| out)
        }
    }

    #[test]
    fn all_frames_are_decompressed_and_zeros_become_holes() {
        let it = fixture();
        assert!(it.stream().unwrap() == it.core);
        let path = it.dir.path().join("core");
        let file = File::create(&path).unwrap();
        let core = CoreReader::open(&it.root, &it.listed).unwrap();
        core.unpack_to(&file, &path, None).unwrap();
        assert!(std::fs::read(&path).unwrap() == it.core);
        assert!(file.metadata().unwrap().blocks() * 512 <= CHUNK as u64 + 4 * BLOCK as u64, "{:?}", file.metadata());
        let mut copy = Vec::new();
        core.copy(|chunk| Ok(copy.write_all(chunk)?)).unwrap();
        assert!(copy == std::fs::read(it.file()).unwrap());
    }

    #[test]
    fn a_core_that_ends_in_zeros_has_its_length() {
        let mut it = fixture();
        it.core = vec![0; 2 * CHUNK + 1];
        it.listed.record.core.bytes = it.core.len() as u64;
        it.store(&it.core);
        let path = it.dir.path().join("core");
        let core = CoreReader::open(&it.root, &it.listed).unwrap();
        core.unpack_to(&File::create(&path).unwrap(), &path, None).unwrap();
        assert!(std::fs::read(&path).unwrap() == it.core);
    }

    #[test]
    fn a_damaged_file_is_reported() {
        let it = fixture();
        let mut short = std::fs::read(it.file()).unwrap();
        short.truncate(short.len() - 60);
        std::fs::write(it.file(), &short).unwrap();
        assert!(matches!(it.stream(), Err(CliError::Unpack(UnpackError::Damaged { .. }))));
        for length in [1, it.core.len() - 1, it.core.len() + 1] {
            let mut core = it.core.clone();
            core.resize(length, 0);
            it.store(&core);
            assert!(matches!(it.stream(), Err(CliError::Unpack(UnpackError::Length { .. }))), "{length}");
        }
    }

    #[test]
    fn a_missing_core_is_reported_with_the_reason() {
        let mut it = fixture();
        std::fs::remove_file(it.file()).unwrap();
        assert!(it.stream().unwrap_err().to_string().ends_with("its file was deleted a moment ago"));
        std::os::unix::fs::symlink("/etc/hostname", it.file()).unwrap();
        assert!(matches!(it.stream(), Err(CliError::Unpack(UnpackError::Open { .. }))), "a link is not followed");
        it.listed.core_state = CoreState::Evicted;
        assert!(it.stream().unwrap_err().to_string().contains("deleted to make room"));
    }
}
