//! A stored core equals the core that the kernel writes, byte for byte. The test bed stores both for the same crash.

use crate::testbed::{MemoryCgroup, MemoryLimit, RunToEnd, TestBed, assert_same_core, program, run_tool};
use coreward::crash::{Record, Truncation};
use coreward::store::Listed;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

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

#[cfg(target_arch = "x86_64")]
#[test]
fn cores_of_32_bit_processes_equal_the_kernels_and_come_from_memory() {
    let bed = TestBed::with_kernel_cores();
    let _daemon = bed.daemon();
    compare(&bed, &mut Command::new(program("segv-i386")));
    compare(&bed, Command::new(program("threads-i386")).arg("200"));
    compare(&bed, Command::new(program("shapes-i386")).arg("plain"));
    // The kernel takes half a second to write two GiB of holes, and a record says for how long the process was held.
    let record = compare(&bed, Command::new(program("shapes-i386")).args(["sparse", "2"]));
    assert!(record.core.bytes > 2 << 30, "{:?}", record.core);
    assert!(record.held_us < 300_000, "{} us", record.held_us);
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

/// A file that the kernel swaps to until this is dropped.
struct SwapFile(PathBuf);

impl SwapFile {
    fn new(path: PathBuf) -> Self {
        std::fs::write(&path, vec![0; 64 << 20]).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let name = path.to_str().unwrap();
        run_tool("mkswap", &[name]);
        run_tool("swapon", &[name]);
        Self(path)
    }
}

impl Drop for SwapFile {
    fn drop(&mut self) {
        run_tool("swapoff", &[self.0.to_str().unwrap()]);
    }
}

#[test]
fn mappings_of_every_kind_equal_the_kernels_for_each_coredump_filter() {
    let bed = TestBed::with_kernel_cores();
    let _swap = SwapFile::new(bed.path("swap"));
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

/// A setting of the kernel, which is what it was before when this is dropped.
struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    fn set(path: &'static str, value: u64) -> Self {
        let before = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, value.to_string()).unwrap();
        Self { path, before }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        std::fs::write(self.path, self.before.trim()).unwrap();
    }
}

const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

fn free_huge_pages() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let free = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:")).unwrap();
    free.trim().parse().unwrap()
}

#[test]
fn huge_pages_equal_the_kernels_and_none_is_taken_from_the_pool() {
    let pages = Setting::set(HUGE_PAGES, 24);
    let bed = TestBed::with_kernel_cores();
    let _daemon = bed.daemon();
    // The kernel takes none for its dump either.
    let (ended, lowest) = (AtomicBool::new(false), AtomicU64::new(u64::MAX));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                lowest.fetch_min(free_huge_pages(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        compare(&bed, Command::new(program("shapes")).arg("huge"));
        ended.store(true, Ordering::Relaxed);
    });
    // It touched one page of each of its four mappings, and reserved three more.
    let lowest = lowest.into_inner();
    assert!(lowest >= 24 - 8, "{lowest} of 24 huge pages were left");
    drop(pages);
}

#[test]
fn what_the_process_never_touched_is_not_allocated_to_read_it() {
    read_without_allocating("");
    read_without_allocating("ended");
}

/// A process with nine large mappings of which it has touched little. `who` tells which thread crashes.
fn read_without_allocating(who: &str) {
    const LENGTH: u64 = 192 << 20;
    const TOUCHED: u64 = 9 << 20;
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    // Less than any single one of the mappings has.
    let group = MemoryCgroup::new(&bed, 128 << 20);
    let file = "/dev/shm/coreward-holes";
    let command = format!(
        "echo 0x3f > /proc/self/coredump_filter && exec {} holes {file} {} {who}",
        program("shapes").display(),
        LENGTH >> 20
    );
    let status = group.command("sh".as_ref(), &["-c", &command]).run_to_end();
    std::fs::remove_file(file).unwrap();
    assert_eq!(status.signal(), Some(11), "{status}");
    let record = bed.wait_for(1).remove(0).record;
    assert_eq!((record.core.truncated, record.core.bytes), (None, record.core.expected), "{:?}", record.warnings);
    assert!(record.core.bytes > 9 * (LENGTH - 4096), "{:?}", record.core);
    // Page tables come on top, and what the C library needs.
    println!("the cgroup of the process used {} MiB, of which it had touched {}", group.peak() >> 20, TOUCHED >> 20);
    assert!(group.peak() < 3 * TOUCHED, "{} MiB", group.peak() >> 20);
}

/// A process that dies while it is copied is let go at once: what reads it keeps its memory, and allocates more at the expense of its
/// cgroup.
#[test]
fn a_process_that_is_killed_for_its_memory_costs_its_cgroup_no_other() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let group = MemoryCgroup::new(&bed, 160 << 20);
    let mut sibling = group.command("sleep".as_ref(), &["600"]).quiet().spawn().unwrap();
    let status = group.command(&program("shapes"), &["crowded"]).run_to_end();
    assert!(status.signal().is_some(), "{status}");
    let record = bed.wait_for(1).remove(0).record;
    let (kills, sibling_ended) = (group.kills(), sibling.try_wait().unwrap());
    sibling.kill().unwrap();
    sibling.wait().unwrap();
    assert_eq!((sibling_ended, kills), (None, 1), "{:?}", record.core);
    assert_eq!(record.core.truncated, Some(Truncation::EndedEarly), "{:?}", record.core);
    assert!(!record.stack.is_empty());
}

#[test]
fn a_page_that_is_there_and_cannot_be_read_is_named_in_the_record() {
    let bed = TestBed::with_kernel_cores();
    let _daemon = bed.daemon();
    let record = compare(&bed, Command::new(program("shapes")).arg("poisoned"));
    assert!(record.warnings.iter().any(|warning| warning.contains("refused to read")), "{:?}", record.warnings);
    let record = compare(&bed, Command::new(program("shapes")).arg("plain"));
    assert_eq!(record.warnings, Vec::<String>::new());
}

#[test]
fn the_crashed_thread_has_a_stack_however_much_the_kernel_writes_about_the_process() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let directory = bed.path("names");
    std::fs::create_dir(&directory).unwrap();
    // Of mappings with long names the kernel writes none. More threads have longer notes than the shim takes out of the pipe.
    Command::new(program("shapes")).arg("names").arg(&directory).run_to_end();
    bed.wait_for(1);
    Command::new(program("threads")).arg("8").run_to_end();
    bed.wait_for(2);
    Command::new(program("threads")).arg("20000").run_to_end();
    let crashes = bed.wait_for(3);
    for listed in &crashes {
        let record = &listed.record;
        // A table of so many mappings is too long to tell how long the core has to be.
        assert!([0, record.core.bytes].contains(&record.core.expected), "{:?}", record.core);
        assert_eq!(record.core.truncated, None);
        assert!(record.stack.len() > 2 && record.modules.len() > 2, "{record:?}");
    }
    let [named, few, many] = [0, 1, 2].map(|index: usize| &crashes[index].record);
    assert!(named.modules.iter().any(|module| module.path.ends_with("/shapes")), "{:?}", named.modules);
    assert_eq!(few.signature, many.signature);
    assert!(many.warnings.iter().any(|warning| warning.contains("so many threads or mappings")), "{:?}", many.warnings);
}

/// A million mappings each with COREWARD_MAPPINGS=1000000.
#[test]
fn three_processes_with_many_mappings_at_once_fit_into_the_memory_of_the_daemon() {
    let mappings = std::env::var("COREWARD_MAPPINGS").unwrap_or_else(|_| "200000".to_owned());
    let _enough = Setting::set("/proc/sys/vm/max_map_count", 8_000_000);
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nKeepFree=0\nMaxUse=8G\n");
    // That of coreward.service (MemoryMax=).
    let limit = MemoryLimit::on_daemons(&bed, 256 << 20);
    let daemon = bed.daemon();
    let pid = daemon.pid();
    Command::new(program("shapes")).args(["many", "8"]).run_to_end();
    let signature = bed.wait_for(1).remove(0).record.signature;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| Command::new(program("shapes")).args(["many", &mappings]).run_to_end());
        }
    });
    let crashes = bed.wait_for(4);
    assert_eq!((limit.kills(), daemon.pid()), (0, pid));
    for Listed { record, .. } in &crashes[1..] {
        println!("{mappings} mappings: held {:?} us, {:?}", record.held_us, record.core);
        assert_eq!((record.core.truncated, record.core.bytes), (None, record.core.expected), "{:?}", record.warnings);
        assert!(record.core.bytes > mappings.parse::<u64>().unwrap() / 8 * 4096);
        assert!(record.stack.len() > 1 && record.signature == signature, "{record:?}");
    }
    daemon.stop();
    drop(limit);
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
