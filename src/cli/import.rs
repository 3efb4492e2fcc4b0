//! `coreward import`.

use super::debug::open_bundle;
use super::error::{CliError, ImportFileError};
use super::foreign_file::{Owners, open_foreign};
use super::privileges::become_owner;
use super::unpack::{CoreReader, progress};
use crate::crash::{CrashId, Record};
use crate::elf::{BEGINNING, build_id_of_file};
use crate::store::{self, Bundle, FileRange, ImportDir, Layout, core_file_name, format};
use clap::Args;
use coreward_wire::paths::Root;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long the daemon may take to put a crash into the catalog. It looks every two seconds.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How often the command looks whether it has.
const INTERVAL: Duration = Duration::from_millis(100);

/// Options of `import`.
#[derive(Args, Debug)]
pub(super) struct ImportOptions {
    /// Bundles that `coreward export --bundle` wrote, or stored cores of another machine (cores/ID.core.zst)
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// What is imported.
enum Source {
    Bundle(Bundle),
    /// A stored core, with its record.
    Core(File, Box<Record>),
}

pub(super) fn run(root: &Root, options: &ImportOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    // The files are the caller's, and what is in them is anybody's.
    let opened: Vec<(&Path, File)> = options.files.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
    become_owner(root)?;
    for (path, file) in opened {
        let failed = |error| CliError::from(ImportFileError::new(path, error));
        let source = if Bundle::is_bundle(&file) {
            Source::Bundle(Bundle::open(file).map_err(|error| failed(io::Error::other(error)))?)
        } else {
            let mut record = format::read_record(&mut &file).map_err(|error| failed(io::Error::other(error)))?;
            record.bound();
            Source::Core(file, Box::new(record))
        };
        import(root, path, &source, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path) -> Result<(&Path, File), CliError> {
    if let Some((_, file)) = open_bundle(path) {
        return Ok((path, file));
    }
    let failed = |error| ImportFileError::new(path, error);
    let target = path.canonicalize().map_err(failed)?;
    let file = open_foreign(&target, Owners::All).map_err(|_| failed(ErrorKind::PermissionDenied.into()))?;
    Ok((path, file))
}

fn import(root: &Root, path: &Path, source: &Source, out: &mut dyn Write) -> Result<(), CliError> {
    let failed = |error| CliError::from(ImportFileError::new(path, error));
    let record = match source {
        Source::Bundle(bundle) => bundle.record(),
        Source::Core(_, record) => record,
    };
    let id = &record.id;
    if is_known(root, id) {
        writeln!(out, "Crash {id} is in the catalog already.")?;
        return Ok(());
    }
    let layout = Layout::new(root);
    let dir = ImportDir::create(&layout).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => ImportFileError::NotAllowed(layout.import.clone()).into(),
        ErrorKind::NotFound => ImportFileError::NoState(root.state_dir()).into(),
        _ => CliError::File { path: layout.import.clone(), error },
    })?;
    match source {
        Source::Bundle(bundle) => {
            let reader = CoreReader::of_bundle(bundle, path)?;
            reader.verify()?;
            add_modules(&dir, bundle).map_err(failed)?;
            let (core, length) = reader.compressed();
            let bar = progress(length);
            dir.add_core(bar.wrap_read(core), length, Some(id)).map_err(|error| failed(io::Error::other(error)))?;
            bar.finish_and_clear();
        }
        Source::Core(file, _) => {
            let length = file.metadata().map_err(failed)?.len();
            let bar = progress(length);
            let core = bar.wrap_read(FileRange::new(file, 0..length));
            dir.add_core(core, length, Some(id)).map_err(|error| failed(io::Error::other(error)))?;
            bar.finish_and_clear();
        }
    }
    let end = Instant::now() + TIMEOUT;
    let waiting = layout.import.join(core_file_name(id));
    // The daemon moves a core that it accepts to the others, and then records the crash.
    let stored = layout.cores.join(core_file_name(id));
    let is_there = |path: &Path| path.try_exists().unwrap_or(false);
    while !is_known(root, id) && (is_there(&waiting) || is_there(&stored)) && Instant::now() < end {
        std::thread::sleep(INTERVAL);
    }
    if is_known(root, id) {
        writeln!(out, "Imported crash {id}: coreward debug {id}")?;
        Ok(())
    } else if is_there(&waiting) {
        Err(ImportFileError::NoDaemon { id: id.clone(), path: waiting }.into())
    } else {
        Err(ImportFileError::Refused(id.clone()).into())
    }
}

fn is_known(root: &Root, id: &CrashId) -> bool {
    store::find(root, Some(id.as_str())).is_ok_and(|listed| listed.record.id == *id)
}

/// Puts the modules that the record has into the directory, if each is what its name says.
fn add_modules(dir: &ImportDir, bundle: &Bundle) -> io::Result<()> {
    let named = bundle.record().modules.iter().filter_map(|module| module.build_id.as_deref());
    for build_id in named.filter(|build_id| bundle.has_module(build_id)) {
        let mut beginning = Beginning(Vec::new());
        let is_whole = bundle.unpack_module(build_id, &mut beginning).is_some_and(|unpacked| unpacked.is_ok());
        if is_whole
            && build_id_of_file(&beginning.0).as_deref() == Some(build_id)
            && let Some((mut module, length)) = bundle.module(build_id)
        {
            dir.add_module(&mut module, length, build_id)?;
        }
    }
    Ok(())
}

/// Keeps the first bytes of what is written.
struct Beginning(Vec<u8>);

impl Write for Beginning {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = BEGINNING - self.0.len();
        self.0.extend(&bytes[..left.min(bytes.len())]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
