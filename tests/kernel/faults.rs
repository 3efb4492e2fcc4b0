//! Faults in every relation to what is mapped: told in words, and as far as it is certain.

use crate::testbed::{Daemon, RunToEnd, TestBed, coreward, program, text};
use coreward::crash::{Access, Audience, Fault, Place, Record};
use coreward::report::entry;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// A test bed whose daemon stores every core.
fn started() -> (TestBed, Daemon) {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nUnitBurst=0\nTotalBurst=0\n");
    let daemon = bed.daemon();
    (bed, daemon)
}

/// The record of a crash of this kind.
fn crash(bed: &TestBed, kind: &str) -> Record {
    let before = bed.crashes().len();
    let ended = Command::new(program("faults")).arg(kind).run_to_end();
    assert!(ended.core_dumped(), "{kind}: {ended}");
    bed.wait_for(before + 1).pop().unwrap().record
}

fn fault(record: &Record) -> &Fault {
    record.fault.as_ref().unwrap_or_else(|| panic!("no fault in {record:?}"))
}

fn sentence(record: &Record) -> String {
    record.fault_sentence(Audience::Record).unwrap_or_else(|| panic!("nothing to say of {:?}", record.fault))
}

/// A crash of this kind is told in a sentence that has all these parts, in this order.
#[track_caller]
fn assert_told(bed: &TestBed, kind: &str, parts: &[&str]) -> Record {
    let record = crash(bed, kind);
    let told = sentence(&record);
    let mut rest = told.as_str();
    for part in parts {
        let found =
            rest.split_once(part).unwrap_or_else(|| panic!("{kind}: no {part:?} in {told:?}: {:?}", record.fault));
        rest = found.1;
    }
    record
}

#[test]
fn an_address_is_told_in_relation_to_the_mappings() {
    let (bed, _daemon) = started();
    let null = assert_told(&bed, "null", &["write of 4 bytes at 0x11, 17 bytes above NULL"]);
    assert_told(&bed, "below-null", &["read of 8 bytes at 0xfffffffffffffff8, 8 bytes below NULL"]);
    assert_told(
        &bed,
        "unmapped",
        &[
            "read of 8 bytes at 0x",
            ", where nothing is mapped: 17 bytes above memory without a file",
            " below memory without a file",
        ],
    );
    assert_told(&bed, "constant", &["write of 4 bytes at 0x", ", in memory of faults, which is read-only"]);
    assert_told(&bed, "no-access", &["read of 8 bytes at 0x", ", in memory without a file, which nobody may access"]);
    assert_told(&bed, "jump-data", &["execution at 0x", ", in memory of faults, which is not executable"]);
    assert_told(&bed, "jump-null", &["execution at 0x0, the null pointer"]);
    assert_told(&bed, "kernel", &["read of 8 bytes at 0xffff888000000000, which is in the kernel's half"]);
    assert_told(&bed, "end-of-file", &["read of 8 bytes at 0x", ", in memory of ", ": it has no such page"]);

    let info = text(&coreward(&bed, &["info", null.id.as_str()]));
    assert!(info.starts_with("SIGSEGV in "), "{info}");
    for line in [
        "Signal Info: SEGV_MAPERR: nothing is mapped there (code 1), address 0x11\n",
        "Fault: write of 4 bytes at 0x11, 17 bytes above NULL\n",
    ] {
        assert!(info.contains(line), "{line:?} in\n{info}");
    }
    let instruction = info.lines().find(|line| line.contains("Instruction: ")).unwrap_or_else(|| panic!("{info}"));
    assert!(instruction.contains("mov dword ptr [r") && instruction.ends_with("=0x11"), "{instruction}");
    let json = text(&coreward(&bed, &["info", "--json", null.id.as_str()]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["fault"]["place"]["kind"], "null");
    assert_eq!(json["fault"]["place"]["offset"], 17);
    assert!(json["title"].as_str().unwrap().starts_with("SIGSEGV in "), "{json}");
}

#[test]
fn a_stack_overflow_is_told_of_the_thread_whose_stack_it_is() {
    let (bed, _daemon) = started();
    let own =
        format!("in the guard below the stack of thread {}: the stack has overflowed", crash_tid(&bed, "overflow"));
    assert!(sentence(&bed.crashes()[0].record).ends_with(&own), "{:?}", bed.crashes()[0].record.fault);
    let other = crash(&bed, "thread-overflow");
    let tid = other.tid.unwrap();
    assert_ne!(tid, other.key.pid);
    let own = format!("in the guard below the stack of thread {tid}: the stack has overflowed");
    assert!(sentence(&other).ends_with(&own), "{:?}", other.fault);
    // That of another thread: not an overflow, and not of the thread that failed.
    let guard = crash(&bed, "guard");
    let Some(Place::StackGuard { tid, overflow: false, .. }) = fault(&guard).place else { panic!("{:?}", guard.fault) };
    assert!(guard.other_threads.iter().any(|threads| threads.tids == [tid]), "{tid}: {:?}", guard.other_threads);
    assert_eq!(fault(&guard).access, Some(Access::Read));
}

fn crash_tid(bed: &TestBed, kind: &str) -> i32 {
    crash(bed, kind).tid.unwrap().as_raw()
}

#[test]
fn faults_that_have_no_address_of_their_own_are_told_by_the_instruction() {
    let (bed, _daemon) = started();
    let pointer =
        assert_told(&bed, "not-canonical", &["read of 8 bytes at 0x6465657020736563, which is not canonical"]);
    assert_told(&bed, "misaligned", &["write of 16 bytes at 0x", "not aligned"]);
    assert_told(&bed, "privileged", &["a privileged instruction"]);
    assert_told(&bed, "trap", &["(ud2)"]);
    assert_told(&bed, "breakpoint", &["(int3)"]);
    assert_told(&bed, "filter", &["system call number 110"]);
    let divide = crash(&bed, "divide");
    assert!(fault(&divide).instruction.as_ref().unwrap().starts_with("idiv"), "{:?}", divide.fault);
    let info = text(&coreward(&bed, &["info", pointer.id.as_str()]));
    assert!(info.contains("SI_KERNEL: a general protection fault"), "{info}");
    // What the pointer holds is memory of the process, which readers of the journal have no business with.
    let journal = String::from_utf8_lossy(&entry(&pointer, None)).into_owned();
    assert!(journal.contains("Fault: read of 8 bytes at an address that is not canonical"), "{journal}");
    assert!(!journal.contains("6465657020736563") && !journal.contains("Instruction"), "{journal}");
}

#[test]
fn a_key_that_forbids_the_access_is_told_where_the_processor_has_keys() {
    let (bed, _daemon) = started();
    let before = bed.crashes().len();
    let ended = Command::new(program("faults")).arg("key").run_to_end();
    let has_keys = std::fs::read_to_string("/proc/cpuinfo").unwrap().split_whitespace().any(|flag| flag == "ospke");
    assert_eq!(ended.core_dumped(), has_keys, "{ended}: the program says 3 where there are no keys");
    if has_keys {
        let record = bed.wait_for(before + 1).pop().unwrap().record;
        assert!(sentence(&record).ends_with("which its protection key forbids"), "{:?}", record.fault);
    }
}

#[test]
fn a_fault_that_a_handler_repeated_is_that_of_what_was_interrupted() {
    let (bed, _daemon) = started();
    let (plain, handled) = (crash(&bed, "null"), crash(&bed, "handled"));
    assert!(handled.failure.is_some());
    assert_eq!(sentence(&handled), sentence(&plain));
    assert_eq!(fault(&handled).instruction, fault(&plain).instruction);
    assert_eq!(fault(&handled).registers, fault(&plain).registers);
}

#[test]
fn registers_are_kept_where_the_core_is() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStorage=none\n");
    let _daemon = bed.daemon();
    let record = crash(&bed, "null");
    assert_eq!(sentence(&record), "write of 4 bytes at 0x11, 17 bytes above NULL");
    assert!(fault(&record).registers.is_empty(), "{:?}", record.fault);
}
