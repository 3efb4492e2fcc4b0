//! A stored core equals the core that the kernel writes, byte for byte. The test bed stores both for the same crash.

use crate::testbed::{RunToEnd, TestBed, assert_same_core, program};
use coreward::crash::Record;
use std::process::Command;

/// Runs `command`, which must crash, and compares the two cores; returns the record.
#[track_caller]
fn compare(bed: &TestBed, command: &mut Command) -> Record {
    let before = bed.crashes().len();
    command.run_to_end();
    let crashes = bed.wait_for(before + 1);
    let listed = &crashes[before];
    let record = listed.record.clone();
    assert_eq!((record.core.truncated, record.core.bytes), (None, record.core.expected), "{:?}", record.warnings);
    let kernels = bed.kernel_core(listed);
    assert_eq!(kernels.metadata().unwrap().len(), record.core.bytes, "nothing was consumed from the pipe");
    assert_same_core(&bed.core(listed), &kernels);
    std::fs::remove_file(&kernels).unwrap();
    record
}

#[test]
fn cores_of_one_thread_and_of_200_equal_the_kernels() {
    let bed = TestBed::with_kernel_cores();
    let _daemon = bed.daemon();
    compare(&bed, &mut Command::new(program("segv")));
    compare(&bed, Command::new(program("threads")).arg("200"));
    compare(&bed, Command::new("python3").args(["-c", "import ctypes; ctypes.string_at(0)"]));
}

#[test]
fn notes_larger_than_the_pipe_equal_the_kernels() {
    let bed = TestBed::with_kernel_cores();
    let _daemon = bed.daemon();
    // The daemon consumed the notes from the pipe, so the stream that the test bed stored begins after them.
    Command::new(program("threads")).arg("1500").run_to_end();
    let crashes = bed.wait_for(1);
    let record = &crashes[0].record;
    assert_eq!((record.core.truncated, record.core.bytes), (None, record.core.expected));
    let rest = bed.kernel_core(&crashes[0]);
    let consumed = record.core.bytes - rest.metadata().unwrap().len();
    assert!(consumed > 1 << 20, "notes of {consumed} bytes fit into a pipe");
    let tail = bed.path("tail");
    let cut = format!("tail -c +{} {} > {}", consumed + 1, bed.core(&crashes[0]).display(), tail.display());
    assert!(Command::new("sh").args(["-c", &cut]).status().unwrap().success());
    assert_same_core(&tail, &rest);
}

#[test]
fn memory_of_devices_and_of_the_kernel_is_as_in_the_kernels_core_and_waits_for_nobody() {
    let bed = TestBed::with_kernel_cores();
    let _daemon = bed.daemon();
    let devices = program("devices");
    for filter in ["0x33", "0x7f"] {
        let filtered = format!("echo {filter} > /proc/self/coredump_filter && exec {}", devices.display());
        let record = compare(&bed, Command::new("sh").args(["-c", &filtered]));
        assert_eq!(record.warnings, [] as [String; 0], "{filter}");
        assert!(record.stack.len() > 1, "{filter}: {record:?}");
    }
}

#[test]
fn mappings_of_every_kind_equal_the_kernels_for_each_coredump_filter() {
    let bed = TestBed::with_kernel_cores();
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
fn huge_pages_equal_the_kernels() {
    let bed = TestBed::with_kernel_cores();
    let _daemon = bed.daemon();
    let reserved = "/proc/sys/vm/nr_hugepages";
    let before = std::fs::read_to_string(reserved).unwrap();
    std::fs::write(reserved, "8").unwrap();
    compare(&bed, Command::new(program("shapes")).arg("huge"));
    std::fs::write(reserved, before.trim()).unwrap();
}

#[test]
fn dense_and_sparse_memory_equals_the_kernels() {
    let bed = TestBed::with_kernel_cores();
    bed.configure("[Coreward]\nProcessSizeMax=128G\nExternalSizeMax=128G\n");
    let _daemon = bed.daemon();
    // Larger than the staging area in memory: the rest is spilled to disk.
    let record = compare(&bed, Command::new(program("memory")).arg("300"));
    assert!(record.core.stored < record.core.bytes / 2, "{:?}", record.core);
    // The kernel takes a third of a second to write a GiB of holes. COREWARD_SPARSE sets the size in GiB.
    let gibibytes = std::env::var("COREWARD_SPARSE").unwrap_or_else(|_| "16".to_owned());
    compare(&bed, Command::new(program("shapes")).args(["sparse", &gibibytes]));
}
