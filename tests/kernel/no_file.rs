//! Bugs in code that no file has: that of compilers at run time, and that of programs for another machine, which an emulator translates.

use crate::testbed::{RunToEnd, TestBed, coreward, program, text};
use coreward::crash::{Decision, Keep, Reason, Record, Signature};
use std::process::Command;

/// A test bed whose daemon stores one core of a signature, and no stacks.
fn bed() -> TestBed {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=1\nStormStacks=0\n");
    bed
}

fn crash(bed: &TestBed, command: &mut Command) -> Record {
    let before = bed.crashes().len();
    command.run_to_end();
    bed.wait_for(before + 1).pop().unwrap().record
}

fn signature(record: &Record) -> &Signature {
    record.signature.as_ref().unwrap()
}

fn decided(record: &Record) -> (Keep, Reason, bool) {
    let Decision { keep, reason } = record.decision;
    (keep, reason, record.core.is_stored())
}

#[test]
fn two_bugs_in_generated_code_have_two_signatures_and_one_has_one() {
    let bed = bed();
    let _daemon = bed.daemon();
    let generated = |bug: &str| crash(&bed, Command::new(program("generated")).arg(bug));
    let [store, load] = [generated("1"), generated("2")];
    assert_ne!(signature(&store).id, signature(&load).id);
    assert!(store.core.is_stored() && load.core.is_stored());
    for _ in 0..5 {
        let again = generated("1");
        assert_eq!(signature(&again), signature(&store), "also the variant");
        assert_eq!(decided(&again), (Keep::Record, Reason::Storm, false));
    }
    // The same instruction in another function is another bug, which may also be chance.
    let elsewhere = generated("3");
    assert_eq!(signature(&elsewhere).id, signature(&store).id);
    assert_ne!(signature(&elsewhere).variant, signature(&store).variant);
    assert_eq!(decided(&elsewhere), (Keep::Full, Reason::Variant, true));
    assert_eq!(decided(&generated("3")), (Keep::Record, Reason::Storm, false));
    let info = text(&coreward(&bed, &["info", elsewhere.id.as_str()]));
    assert!(info.contains("but it may be another bug"), "{info}");
}

#[test]
fn guests_of_an_emulator_are_told_apart_and_each_of_two_bugs_of_one_has_a_core() {
    let bed = bed();
    let _daemon = bed.daemon();
    let guest = |name: &str, bug: &str| {
        let mut emulator = Command::new("qemu-aarch64-static");
        emulator.args(["-L", "/usr/aarch64-linux-gnu"]).arg(program(name)).arg(bug);
        crash(&bed, &mut emulator)
    };
    let names = ["guest", "guest-other", "guest-dynamic"];
    let first = names.map(|name| guest(name, "1"));
    for (index, record) in first.iter().enumerate() {
        assert!(record.core.is_stored(), "{record:?}");
        let same = first.iter().filter(|other| signature(other).id == signature(record).id);
        assert_eq!(same.count(), 1, "{}: {:?}", names[index], first.each_ref().map(signature));
        let modules: Vec<&str> = record.modules.iter().map(|module| module.path.as_str()).collect();
        assert!(modules.contains(&program(names[index]).to_str().unwrap()), "{modules:?}");
    }
    for (name, first) in names.iter().zip(&first) {
        let again = guest(name, "1");
        // The name of version 1 hung on where the host had put the guest.
        let without_previous = |record| Signature { previous: None, ..signature(record).clone() };
        assert_eq!(without_previous(&again), without_previous(first), "{name}");
        assert_eq!(decided(&again), (Keep::Record, Reason::Storm, false), "{name}");
        let second = guest(name, "2");
        assert_eq!(signature(&second).id, signature(first).id, "{name}: the emulator's own frames are the same");
        assert_eq!(decided(&second), (Keep::Full, Reason::Variant, true), "{name}: {:?}", signature(&second));
    }
}
