use super::*;
use crate::crash::fixtures::record;
use crate::crash::{Failure, SigInfo};

fn mapping(permissions: &str, name: Option<&str>) -> Mapping {
    Mapping { start: 0x7000, permissions: permissions.to_owned(), name: name.map(str::to_owned) }
}

fn near(name: Option<&str>, distance: u64) -> Neighbour {
    Neighbour { mapping: mapping("rw-", name), distance }
}

fn at(address: u64, access: Option<Access>, size: Option<u32>, place: Place) -> Fault {
    Fault { address: Some(address), access, size, place: Some(place), ..Fault::default() }
}

#[test]
fn relations_are_told_in_words_and_no_address_to_readers_of_the_journal() {
    use Access::{Execute, Read, ReadWrite, Write};
    for (fault, signal, code, shown, journal) in [
        (
            at(0x11, Some(Write), Some(4), Place::Null { offset: 17 }),
            11,
            1,
            "write of 4 bytes at 0x11, 17 bytes above NULL",
            "write of 4 bytes, 17 bytes above NULL",
        ),
        (
            at(0, Some(Execute), None, Place::Null { offset: 0 }),
            11,
            1,
            "execution at 0x0, the null pointer",
            "execution, the null pointer",
        ),
        (
            at(u64::MAX, Some(Read), Some(1), Place::Null { offset: -1 }),
            11,
            1,
            "read of 1 byte at 0xffffffffffffffff, 1 byte below NULL",
            "read of 1 byte, 1 byte below NULL",
        ),
        (
            at(0x6465, Some(Read), Some(8), Place::NonCanonical),
            11,
            128,
            "read of 8 bytes at 0x6465, which is not canonical: the pointer holds something else",
            "read of 8 bytes at an address that is not canonical: the pointer holds something else",
        ),
        (
            at(0x7100, Some(Write), Some(1), Place::Mapped(mapping("r--", Some("libfoo.so")))),
            11,
            2,
            "write of 1 byte at 0x7100, in memory of libfoo.so, which is read-only",
            "write of 1 byte, in memory of libfoo.so, which is read-only",
        ),
        (
            at(0x7100, Some(Execute), None, Place::Mapped(mapping("rw-", Some("[heap]")))),
            11,
            2,
            "execution at 0x7100, in [heap], which is not executable",
            "execution, in [heap], which is not executable",
        ),
        (
            at(0x7100, Some(ReadWrite), Some(4), Place::Mapped(mapping("---", None))),
            11,
            2,
            "read and write of 4 bytes at 0x7100, in memory without a file, which nobody may access (PROT_NONE)",
            "read and write of 4 bytes, in memory without a file, which nobody may access (PROT_NONE)",
        ),
        (
            at(0x7100, Some(Read), Some(1), Place::Mapped(mapping("rw-", None))),
            11,
            4,
            "read of 1 byte at 0x7100, in memory without a file, which its protection key forbids",
            "read of 1 byte, in memory without a file, which its protection key forbids",
        ),
        (
            at(0x7100, Some(Read), Some(1), Place::Mapped(mapping("r--", Some("data.bin")))),
            7,
            2,
            "read of 1 byte at 0x7100, in memory of data.bin: it has no such page, as behind the end of a file",
            "read of 1 byte, in memory of data.bin: it has no such page, as behind the end of a file",
        ),
        (
            at(
                0x7100,
                None,
                None,
                Place::Unmapped { below: Some(near(Some("libfoo.so"), 4096)), above: Some(near(None, 1)) },
            ),
            11,
            1,
            "access at 0x7100, where nothing is mapped: 4096 bytes above memory of libfoo.so, 1 byte below memory without a file",
            "access, where nothing is mapped: above memory of libfoo.so, below memory without a file",
        ),
        (
            at(0x7100, Some(Write), Some(8), Place::StackGuard { tid: 12, overflow: true, distance: 8 }),
            11,
            1,
            "write of 8 bytes at 0x7100, in the guard below the stack of thread 12: the stack has overflowed",
            "write of 8 bytes, in the guard below the stack of thread 12: the stack has overflowed",
        ),
        (
            Fault { place: Some(Place::Privileged), ..Fault::default() },
            11,
            128,
            "a privileged instruction",
            "a privileged instruction",
        ),
        (
            Fault { system_call: Some(101), ..Fault::default() },
            31,
            1,
            "system call number 101",
            "system call number 101",
        ),
    ] {
        assert!(fault.is_well_formed());
        assert_eq!(fault.sentence(signal, Some(code), Audience::Record).as_deref(), Some(shown));
        assert_eq!(fault.sentence(signal, Some(code), Audience::Journal).as_deref(), Some(journal));
        let json = serde_json::to_string(&fault).unwrap();
        assert_eq!(serde_json::from_str::<Fault>(&json).unwrap(), fault, "{json}");
    }
}

#[test]
fn instructions_that_are_there_to_fail_are_explained() {
    let with = |text: &str| Fault { instruction: Some(text.to_owned()), ..Fault::default() };
    assert!(with("ud2").sentence(4, Some(2), Audience::Record).unwrap().contains("compilers put"));
    assert!(with("int3").sentence(5, Some(128), Audience::Record).unwrap().contains("breakpoint"));
    assert_eq!(with("idiv ecx").sentence(8, Some(1), Audience::Record), None);
}

#[test]
fn the_signal_is_that_of_the_failure() {
    let mut handled = record(1);
    (handled.signal, handled.signal_name) = (Some(6), "ABRT".to_owned());
    handled.siginfo = Some(SigInfo { code: -6, address: None, sender: Some((1, 0)) });
    handled.fault = Some(at(0x7100, Some(Access::Read), Some(1), Place::Mapped(mapping("r--", None))));
    handled.failure = Some(Failure {
        tid: 1,
        thread_name: String::new(),
        dumped: 1,
        signal: 7,
        signal_name: "BUS".to_owned(),
        code: Some(2),
        address: Some(0x7100),
        threads: 1,
        handler: Vec::new(),
    });
    assert!(handled.fault_sentence(Audience::Record).unwrap().contains("behind the end of a file"));
    handled.shorten();
    assert_eq!(handled.fault, None);
}

#[test]
fn registers_go_with_the_core() {
    let mut crash = record(1);
    crash.fault = Some(at(0x6465_6570, Some(Access::Read), Some(8), Place::NonCanonical));
    crash.fault.as_mut().unwrap().registers.insert("rax".to_owned(), 0x6465_6570);
    crash.omit_tables();
    let fault = crash.fault.unwrap();
    assert!(fault.registers.is_empty() && fault.address.is_none(), "{fault:?}");
}

#[test]
fn mappings_without_a_file_are_named_as_the_kernel_names_them() {
    let maps = "00007000-00009000 rw-p 00000000 00:00 0                          [heap]\n00a00000-00b00000 rw-p 00000000 00:00 0 \n...\n";
    let mut fault = at(0x7100, None, None, Place::Mapped(mapping("rw-", None)));
    fault.name_mappings(maps);
    assert_eq!(fault.place, Some(Place::Mapped(mapping("rw-", Some("[heap]")))));
    let mut fault =
        at(0x7100, None, None, Place::Unmapped { below: Some(near(None, 1)), above: Some(near(Some("a.so"), 1)) });
    fault.name_mappings("7000-8000 rw-p 0 00:00 0 /tmp/\n");
    assert_eq!(fault.place, Some(Place::Unmapped { below: Some(near(None, 1)), above: Some(near(Some("a.so"), 1)) }));
}

#[test]
fn what_somebody_makes_up_is_not_well_formed() {
    let fault = Fault::default();
    assert!(fault.is_well_formed());
    assert!(!Fault { code: "0".repeat(31), ..fault.clone() }.is_well_formed());
    assert!(!Fault { code: "x".to_owned(), ..fault.clone() }.is_well_formed());
    assert!(!Fault { instruction: Some("\u{1b}[2J".to_owned()), ..fault.clone() }.is_well_formed());
    assert!(!Fault { instruction: Some("a".repeat(129)), ..fault.clone() }.is_well_formed());
    assert!(!Fault { registers: [("ra x".to_owned(), 1)].into(), ..fault.clone() }.is_well_formed());
    assert!(
        !Fault { registers: (0..17).map(|number| (format!("r{number}"), 1)).collect(), ..fault.clone() }
            .is_well_formed()
    );
    assert!(!at(1, None, None, Place::Mapped(mapping("rwxp", None))).is_well_formed());
    let long = "a".repeat(256);
    assert!(!at(1, None, None, Place::Unmapped { below: None, above: Some(near(Some(&long), 1)) }).is_well_formed());
}
