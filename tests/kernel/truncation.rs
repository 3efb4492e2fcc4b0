//! Truncated cores: gdb shows the stack of every thread, and all memory in them is correct.

use crate::testbed::{Daemon, RunToEnd, TestBed, eventually, gdb, program};
use coreward::crash::{Record, Truncation};
use coreward::store::Listed;
use nix::sys::signal::Signal;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The PT_LOAD segments of a core: (address, offset in the file, bytes in the file).
fn mappings(core: &Path) -> Vec<(u64, u64, u64)> {
    let file = File::open(core).unwrap();
    let number = |at: u64, length: usize| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes[..length], at).unwrap();
        u64::from_le_bytes(bytes)
    };
    // e_ident[EI_CLASS], then e_phoff, e_phnum; p_vaddr, p_offset, p_filesz.
    let (word, header, segment_len, segment) = match number(4, 1) {
        1 => (4, [28, 44], 32, [8, 4, 16]),
        _ => (8, [32, 56], 56, [16, 8, 32]),
    };
    let (table, count) = (number(header[0], word), number(header[1], 2));
    let entries = (0..count).map(|index| table + index * segment_len).filter(|at| number(*at, 4) == 1);
    entries.map(|at| segment.map(|field| number(at + field, word)).into()).collect()
}

/// Asserts that all memory in a truncated core equals that in the kernel's core; returns the number of bytes.
#[track_caller]
fn assert_same_memory(ours: &Path, kernels: &Path) -> u64 {
    let theirs = mappings(kernels);
    let (file, kernels_file) = (File::open(ours).unwrap(), File::open(kernels).unwrap());
    let end = kernels_file.metadata().unwrap().len();
    let mut total = 0;
    for (address, at, length) in mappings(ours).into_iter().filter(|(_, _, length)| *length > 0) {
        let (begin, place, _) =
            theirs.iter().find(|(begin, _, size)| (*begin..begin + size).contains(&address)).unwrap();
        let mut done = 0;
        while done < length {
            let step = usize::try_from((length - done).min(1 << 20)).unwrap();
            let from = place + (address - begin) + done;
            // If the process was killed, the kernel's core ends early.
            let step = step.min(usize::try_from(end.saturating_sub(from)).unwrap());
            if step == 0 {
                break;
            }
            let (mut left, mut right) = (vec![0; step], vec![0; step]);
            file.read_exact_at(&mut left, at + done).unwrap();
            kernels_file.read_exact_at(&mut right, from).unwrap();
            assert!(left == right, "memory at {:#x} differs", address + done);
            done += step as u64;
        }
        total += length;
    }
    total
}

const THREADS: &str = "39";
const MEBIBYTES: &str = "200";

fn reload(bed: &TestBed, daemon: &Daemon, configuration: &str) {
    bed.configure(&format!("[Coreward]\nStormBurst=0\nMaxUse=8G\nKeepFree=0\n{configuration}\n"));
    daemon.reload();
}

fn crash(bed: &TestBed) -> Listed {
    crash_of("threads", bed)
}

fn crash_of(name: &str, bed: &TestBed) -> Listed {
    let before = bed.crashes().len();
    Command::new(program(name)).args([THREADS, MEBIBYTES]).run_to_end();
    bed.wait_for(before + 1).pop().unwrap()
}

/// Asserts that gdb shows the stacks of the 38 waiting threads, of main, and of the thread that crashed; returns the record.
#[track_caller]
fn assert_every_stack(bed: &TestBed, listed: &Listed) -> Record {
    let core = bed.core(listed);
    let record = listed.record.clone();
    assert_eq!(core.metadata().unwrap().len(), record.core.bytes);
    let kernels = bed.kernel_core(listed);
    let there = assert_same_memory(&core, &kernels);
    assert!(there > 0 && there < record.core.bytes, "{there} of {:?}", record.core);
    std::fs::remove_file(kernels).unwrap();
    let trace = gdb(record.exe.as_ref(), &core, &["thread apply all bt"]);
    assert_eq!(trace.matches(" wait_for_ever (").count(), 39, "{trace}");
    assert_eq!(trace.matches(" crash_here (").count(), 2, "gdb shows it once more at its start: {trace}");
    assert_eq!(trace.matches(" main (").count(), 1, "{trace}");
    for complaint in ["truncated", "not at its expected", "Cannot access memory", "corrupt"] {
        assert!(!trace.contains(complaint), "{complaint}: {trace}");
    }
    record
}

/// Lets one program use all of `MaxUse=`.
const NO_SHARES: &str = "MaxUsePerUnit=infinity\nMaxUsePerExecutable=infinity\nMaxUsePerSignature=infinity\n";

#[test]
fn a_core_truncated_by_a_size_limit_or_quota_shows_every_stack() {
    let bed = TestBed::with_kernel_cores();
    let daemon = bed.daemon();
    reload(&bed, &daemon, "");
    let whole = assert_every_stack(&bed, &crash(&bed)).core;
    assert_eq!(whole.truncated, None);
    for (key, size, cut) in [
        ("ProcessSizeMax", whole.bytes, Truncation::ProcessSizeMax),
        ("ExternalSizeMax", whole.stored, Truncation::ExternalSizeMax),
        (&format!("{NO_SHARES}MaxUse"), whole.stored, Truncation::Quota),
        // The limit is reached while the process waits, or after it was released, when a part of the core is on disk.
        ("CompressLevel=9\nExternalSizeMax", whole.stored, Truncation::ExternalSizeMax),
    ] {
        for percent in if key.starts_with("Compress") { [60, 75, 90] } else { [1, 10, 50] } {
            let limit = size * percent / 100;
            for file in bed.names("var/lib/coreward/cores") {
                std::fs::remove_file(bed.path("var/lib/coreward/cores").join(file)).unwrap();
            }
            daemon.signal(Signal::SIGTERM);
            daemon.wait_for_notification("STOPPING=1");
            daemon.wait_for_notification("READY=1");
            reload(&bed, &daemon, &format!("{key}={limit}"));
            let core = assert_every_stack(&bed, &crash(&bed)).core;
            assert_eq!(core.truncated, Some(cut), "{key}={limit}");
            let used = if key == "ProcessSizeMax" { core.bytes } else { core.stored };
            assert!(used <= limit, "{key}={limit}: {core:?}");
            // Most of the allowed size is used; a frame and the parts stored first may be lost.
            assert!(percent == 1 || used > limit / 2, "{key}={limit}: {core:?}");
        }
    }
}

#[test]
fn storage_stacks_keeps_every_stack_and_the_list_of_libraries() {
    let bed = TestBed::with_kernel_cores();
    let daemon = bed.daemon();
    reload(&bed, &daemon, "Storage=stacks");
    let core = assert_every_stack(&bed, &crash(&bed)).core;
    assert_eq!(core.truncated, Some(Truncation::Stacks));
    assert!(core.stored < 1 << 20, "{core:?}");
    // The linker's list of libraries loaded with dlopen(3) is on the heap.
    Command::new("python3").args(["-c", "import ctypes, json, socket, ssl; ctypes.string_at(0)"]).run_to_end();
    let crashes = bed.wait_for(2);
    let trace = gdb(crashes[1].record.exe.as_ref(), &bed.core(&crashes[1]), &["info sharedlibrary"]);
    assert!(trace.contains("libffi") && trace.contains("_ctypes"), "{trace}");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_truncated_core_of_a_32_bit_process_shows_every_stack() {
    let bed = TestBed::with_kernel_cores();
    let daemon = bed.daemon();
    let limit = |size: u64, percent: u64| size * percent / 100;
    reload(&bed, &daemon, "");
    let whole = assert_every_stack(&bed, &crash_of("threads-i386", &bed)).core;
    assert_eq!((whole.truncated, whole.bytes), (None, whole.expected));
    for percent in [10, 60] {
        reload(&bed, &daemon, &format!("ProcessSizeMax={}", limit(whole.bytes, percent)));
        let core = assert_every_stack(&bed, &crash_of("threads-i386", &bed)).core;
        assert_eq!(core.truncated, Some(Truncation::ProcessSizeMax));
        assert!(core.bytes <= limit(whole.bytes, percent) && core.bytes > limit(whole.bytes, percent) / 2, "{core:?}");
    }
    reload(&bed, &daemon, "Storage=stacks");
    let core = assert_every_stack(&bed, &crash_of("threads-i386", &bed)).core;
    assert_eq!(core.truncated, Some(Truncation::Stacks));
    assert!(core.stored < 1 << 20, "{core:?}");
}

#[test]
fn max_hold_truncates_the_core() {
    let bed = TestBed::with_kernel_cores();
    let daemon = bed.daemon();
    reload(&bed, &daemon, "MaxHold=100ms\nCompressLevel=19");
    let record = assert_every_stack(&bed, &crash(&bed));
    assert_eq!(record.core.truncated, Some(Truncation::MaxHold), "{:?}", record.core);
    assert!(record.core.bytes < record.core.expected);
    assert_eq!(daemon.metric("coreward_truncated_total", "reason=\"max-hold\""), 1.0);
}

#[test]
fn a_process_killed_during_capture_leaves_a_truncated_core() {
    let bed = TestBed::with_kernel_cores();
    let daemon = bed.daemon();
    reload(&bed, &daemon, "CompressLevel=19\nCompressThreads=1");
    let crashing = std::thread::spawn(|| {
        let mut child = Command::new(program("threads")).args([THREADS, "1500"]).spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let begun = std::time::Instant::now();
        // The kernel has begun to dump it.
        eventually(Duration::from_secs(30), || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains("CoreDumping:\t1") || begun.elapsed() > Duration::from_secs(20)
        });
        // 1.5 GiB cannot be stored in this time.
        std::thread::sleep(Duration::from_millis(100));
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        child.wait().unwrap()
    });
    crashing.join().unwrap();
    let crashes = bed.wait_for(1);
    let record = assert_every_stack(&bed, &crashes[0]);
    assert_eq!(record.core.truncated, Some(Truncation::EndedEarly), "{:?}", record.core);
    assert!(record.core.bytes < record.core.expected);
}
