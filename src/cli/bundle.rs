//! Writing a bundle: all that somebody on another machine needs to look at a crash.

use super::crash_selector::CrashSelector;
use super::error::{CliError, UnpackError};
use super::foreign_file::{Owners, open_foreign};
use super::interrupt::Interrupts;
use super::module_source::ModuleSource;
use super::unpack::{CoreReader, progress};
use super::vetted_sysroot::{ModulePlace, SysrootPlan, SysrootRequest};
use super::{info, lookup};
use crate::crash::Record;
use crate::crash::text::{to_bytes, to_path};
use crate::store::{self, BundleError, BundleWriter, MAX_MODULE, open_module};
use coreward_wire::paths::Root;
use nix::unistd::Uid;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// zstd's default level, for modules that are not compressed yet.
const LEVEL: i32 = 3;

const OPEN_SH: &str = r#"#!/bin/sh
# Opens this crash in gdb, with zstd and gdb but without Coreward: sh open.sh [GDB-ARGUMENTS]
# Whoever made the bundle wrote this script as well. Run it only if you trust them; `coreward debug FILE` runs nothing of it.
set -e
cd "$(dirname "$0")"
tab=$(printf '\t')
dirs=
executable=
while IFS="$tab" read -r build_id path; do
    case "$path" in *..*) continue ;; esac
    mkdir -p "sysroot${path%/*}"
    [ -e "sysroot$path" ] || zstd -dqf "modules/$build_id.zst" -o "sysroot$path"
    # The dynamic linker opens libz.so.1, which is a link to libz.so.1.3.
    name=${path##*/}
    while :; do
        case "$name" in *.so.*.*) ;; *) break ;; esac
        name=${name%.*}
        [ -e "sysroot${path%/*}/$name" ] || ln -s "${path##*/}" "sysroot${path%/*}/$name"
    done
    dirs="$dirs:$PWD/sysroot${path%/*}"
    [ -n "$executable" ] || executable="sysroot$path"
done <modules.tsv
for name in bin sbin lib lib32 lib64; do
    [ -e "sysroot/$name" ] || [ ! -d "sysroot/usr/$name" ] || ln -s "usr/$name" "sysroot/$name"
done
[ -e core ] || zstd -dq core.zst -o core
exec gdb -iex "set auto-load safe-path /usr/share/gdb/auto-load" -iex "set auto-load local-gdbinit off" \
    -iex "set sysroot $PWD/sysroot" -iex "set solib-search-path ${dirs#:}" "$@" $executable -c core
"#;

/// Writes a bundle of a crash to `file`, which messages call `path`.
pub(super) fn write(
    root: &Root,
    caller: Uid,
    crash: &CrashSelector,
    file: &File,
    path: &Path,
    interrupts: &Interrupts,
) -> Result<(), CliError> {
    let listed = lookup::find_core(root, crash)?;
    let core = CoreReader::open(root, &listed)?;
    let record = &listed.record;
    let modules = ModuleSource::Store(root);
    let plan = SysrootPlan::new(SysrootRequest { record, libraries: &[], modules, caller });
    let out = InterruptibleFile { file, interrupts, pending: Cell::new(false) };
    let written = write_to(root, caller, &listed, &core, &plan, &out);
    if out.pending.get()
        && let Some(signal) = interrupts.pending()
    {
        return Err(CliError::Interrupted(signal));
    }
    written.map_err(|error| match error {
        BundleError::Io(error) => UnpackError::Write { to: path.to_owned(), error }.into(),
        other => UnpackError::Write { to: path.to_owned(), error: io::Error::other(other) }.into(),
    })
}

fn write_to(
    root: &Root,
    caller: Uid,
    listed: &store::Listed,
    core: &CoreReader,
    plan: &SysrootPlan<'_>,
    out: &InterruptibleFile<'_>,
) -> Result<(), BundleError> {
    let record = &listed.record;
    let mut writer = BundleWriter::new(out, record, &readme(record))?;
    writer.add("report.txt", &info::report(root, caller, listed)?)?;
    writer.add("open.sh", OPEN_SH.as_bytes())?;
    writer.add("modules.tsv", &module_table(record, plan))?;
    // It is in the core's file as well. Where that is damaged, the rest of the bundle is of use all the same.
    if let Some(of_record) = &record.runtime_report
        && let Ok(Some(report)) = core.runtime_report()
    {
        writer.add(of_record.file_name(), &report)?;
    }
    let (stored_core, core_length) = core.compressed();
    let (sources, bytes) = sources(root, caller, plan);
    let bar = progress(bytes.saturating_add(core_length));
    for (build_id, source) in sources {
        match source {
            Source::Stored(file, length) => writer.add_module(build_id, length, bar.wrap_read(file))?,
            Source::Host(file, length) => {
                // Its length in the archive comes before it. What is damaged is missing.
                let compressed = zstd::stream::encode_all(bar.wrap_read(file.take(length.min(MAX_MODULE))), LEVEL);
                if let Ok(compressed) = compressed {
                    writer.add_module(build_id, compressed.len() as u64, compressed.as_slice())?;
                }
            }
        }
    }
    writer.add_core(core_length, bar.wrap_read(stored_core))?;
    writer.finish()?;
    bar.finish_and_clear();
    Ok(())
}

/// A module, and its length in bytes.
enum Source {
    /// Compressed.
    Stored(File, u64),
    /// As it is on this machine.
    Host(File, u64),
}

/// The modules of a crash by their build-ids, and all their bytes. A file of this machine that no other has is among them: it may not be on
/// the machine where the bundle is opened.
fn sources<'a>(root: &Root, caller: Uid, plan: &'a SysrootPlan<'_>) -> (BTreeMap<&'a str, Source>, u64) {
    let mut sources = BTreeMap::new();
    let mut bytes = 0;
    for (_, place, module) in plan.files() {
        let Some(build_id) = module.build_id.as_deref().filter(|build_id| !sources.contains_key(build_id)) else {
            continue;
        };
        let stored = || open_module(root, build_id)?.compressed().try_clone().ok();
        let opened = match place {
            ModulePlace::Stored(_) => stored().map(|file| (file, true)),
            // The file that was found to be this build, and not one that a user may have supplied to the store.
            ModulePlace::Host(host) => open_foreign(host, Owners::RootAnd(caller))
                .map(|file| (file, false))
                .ok()
                .or_else(|| Some((stored()?, true))),
        };
        let Some((file, is_stored)) = opened else { continue };
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        bytes += length;
        sources.insert(build_id, if is_stored { Source::Stored(file, length) } else { Source::Host(file, length) });
    }
    (sources, bytes)
}

/// A line for each module, the executable first: build-id and path in the process. Paths that a line cannot have are left out.
fn module_table(record: &Record, plan: &SysrootPlan<'_>) -> Vec<u8> {
    let executable: PathBuf = plan.executable().unwrap_or_else(|| to_path(record.exe_path()));
    let mut lines: Vec<(bool, Vec<u8>)> = Vec::new();
    for (path, _, module) in plan.files() {
        let Some(build_id) = &module.build_id else { continue };
        let bytes = path.as_os_str().as_bytes();
        if !bytes.iter().any(|byte| matches!(byte, b'\n' | b'\t' | b'\\')) {
            lines.push((path != executable, [build_id.as_bytes(), b"\t", bytes, b"\n"].concat()));
        }
    }
    lines.sort();
    lines.into_iter().flat_map(|(_, line)| line).collect()
}

fn readme(record: &Record) -> String {
    let id = &record.id;
    let program = String::from_utf8_lossy(&to_bytes(&record.program()))
        .chars()
        .filter(|letter| !letter.is_control())
        .collect::<String>();
    let report = record.runtime_report.as_ref().filter(|report| report.kept > 0);
    let report =
        report.map(|report| format!("{:<13} what the runtime wrote itself when it failed\n", report.file_name()));
    let report = report.unwrap_or_default();
    format!(
        "This is crash {id} of {program}, as Coreward recorded it.\n\n\
         Open it in gdb:               coreward debug THE-TAR-FILE\n\
         Put it into the catalog:      coreward import THE-TAR-FILE\n\
         Without Coreward:             tar xf THE-TAR-FILE && sh crash-{id}/open.sh\n\n\
         report.txt    what `coreward info` showed\n\
         {report}record.json   the record (coreward(1) describes it)\n\
         core.zst      the core, a zstd file\n\
         modules/      the program and its libraries by build-id, zstd files\n\
         modules.tsv   their paths in the process, the program first\n\
         open.sh       for gdb and zstd without Coreward\n\n\
         A core has the memory of the process, with whatever secrets were in it.\n"
    )
}

/// The output file. Writing to it fails when a signal has arrived.
struct InterruptibleFile<'a> {
    file: &'a File,
    interrupts: &'a Interrupts,
    pending: Cell<bool>,
}

impl Write for &InterruptibleFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.interrupts.is_pending() {
            self.pending.set(true);
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        (&mut &*self.file).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
