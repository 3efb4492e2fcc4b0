//! A stored core is what the kernel would have written, byte for byte: of the same crash the kernel's own stream is kept beside
//! ours and compared.

use crate::testbed::{Ended, TestBed, program};
use coreward::crash::Record;
use std::path::Path;
use std::process::Command;

/// Crashes `command` and compares; returns the record.
#[track_caller]
fn compare(bed: &TestBed, command: &mut Command) -> Record {
    let before = bed.crashes().len();
    command.end();
    let crashes = bed.wait_for(before + 1);
    let listed = &crashes[before];
    let record = listed.record.clone();
    assert_eq!((record.core.truncated, record.core.bytes), (None, record.core.expected), "{:?}", record.warnings);
    let kernels = bed.kernels_core(listed);
    assert_eq!(kernels.metadata().unwrap().len(), record.core.bytes, "nothing was taken out of the pipe");
    same(&bed.core(listed), &kernels);
    std::fs::remove_file(&kernels).unwrap();
    record
}

#[track_caller]
pub fn same(ours: &Path, kernels: &Path) {
    let output = Command::new("cmp").arg(ours).arg(kernels).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    std::fs::remove_file(ours).unwrap();
}

#[test]
fn one_thread_and_two_hundred() {
    let Some(bed) = TestBed::beside_the_kernel() else { return };
    let _daemon = bed.daemon();
    compare(&bed, &mut Command::new(program("segv")));
    compare(&bed, Command::new(program("threads")).arg("200"));
    compare(&bed, Command::new("python3").args(["-c", "import ctypes; ctypes.string_at(0)"]));
}

#[test]
fn notes_that_no_pipe_holds() {
    let Some(bed) = TestBed::beside_the_kernel() else { return };
    let _daemon = bed.daemon();
    // The notes were taken out of the pipe, so the kernel's stream goes on behind them.
    Command::new(program("threads")).arg("1500").end();
    let crashes = bed.wait_for(1);
    let record = &crashes[0].record;
    assert_eq!((record.core.truncated, record.core.bytes), (None, record.core.expected));
    let rest = bed.kernels_core(&crashes[0]);
    let taken = record.core.bytes - rest.metadata().unwrap().len();
    assert!(taken > 1 << 20, "notes of {taken} bytes fit into a pipe");
    let tail = bed.path("tail");
    let cut = format!("tail -c +{} {} > {}", taken + 1, bed.core(&crashes[0]).display(), tail.display());
    assert!(Command::new("sh").args(["-c", &cut]).status().unwrap().success());
    same(&tail, &rest);
}

#[test]
fn mappings_of_every_kind() {
    let Some(bed) = TestBed::beside_the_kernel() else { return };
    let _daemon = bed.daemon();
    let shapes = program("shapes");
    let file = bed.path("mapped");
    for filter in ["0x33", "0x3f", "0x01", "0x7f"] {
        let filtered =
            format!("echo {filter} > /proc/self/coredump_filter && exec {} kinds {}", shapes.display(), file.display());
        let record = compare(&bed, Command::new("sh").args(["-c", &filtered]));
        assert!(record.core.bytes > 1 << 20, "{filter}");
        std::fs::remove_file(&file).unwrap();
    }
}

#[test]
fn huge_pages() {
    let Some(bed) = TestBed::beside_the_kernel() else { return };
    let _daemon = bed.daemon();
    let reserved = "/proc/sys/vm/nr_hugepages";
    let before = std::fs::read_to_string(reserved).unwrap();
    std::fs::write(reserved, "8").unwrap();
    compare(&bed, Command::new(program("shapes")).arg("huge"));
    std::fs::write(reserved, before.trim()).unwrap();
}

#[test]
fn a_dense_process_and_a_sparse_one() {
    let Some(bed) = TestBed::beside_the_kernel() else { return };
    bed.configure("[Coreward]\nProcessSizeMax=128G\nExternalSizeMax=128G\n");
    let _daemon = bed.daemon();
    // Larger than what is staged in memory: a part goes over the disk.
    let record = compare(&bed, Command::new(program("memory")).arg("300"));
    assert!(record.core.stored < record.core.bytes / 2, "{:?}", record.core);
    // The kernel needs a third of a second a GiB for its holes, and longer ones with COREWARD_SPARSE=64.
    let gibibytes = std::env::var("COREWARD_SPARSE").unwrap_or_else(|_| "16".to_owned());
    compare(&bed, Command::new(program("shapes")).args(["sparse", &gibibytes]));
}
