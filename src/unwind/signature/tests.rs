#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use super::*;
use proptest::prelude::*;

const EXE: u32 = 0;
const LIBC: u32 = 1;
const PLAIN: u32 = 2;
const NOWHERE: u32 = 9;

fn modules() -> Vec<Module> {
    let module = |path: &str, id: Option<&str>| Module {
        path: path.to_owned(),
        build_id: id.map(str::to_owned),
        package: None,
        owner: None,
        bias: 0,
        start: 0,
        end: 0,
    };
    vec![module("/usr/bin/a", Some("aa")), module("/lib/libc.so.6", Some("cc")), module("/opt/plain.so", None)]
}

fn frame(module: u32, offset: u64, trust: FrameTrust) -> Frame {
    let shift = 0x10_0000 * u64::from(module + 1);
    Frame {
        address: offset + shift,
        module: (module != NOWHERE).then_some(module),
        offset,
        trust,
        symbol: None,
        compiler: None,
    }
}

fn unwound(places: &[(u32, u64)]) -> Vec<Frame> {
    places.iter().map(|(module, offset)| frame(*module, *offset, FrameTrust::CallFrameInfo)).collect()
}

fn signed(signal: u32, frames: &[Frame], fault: Option<u64>) -> Signature {
    signed_with(signal, frames, fault, &Anonymous::default())
}

fn signed_with(signal: u32, frames: &[Frame], fault: Option<u64>, anonymous: &Anonymous) -> Signature {
    let modules = modules();
    let input = SignatureInput {
        signal: Some(signal),
        fault,
        stack_pointer: Some(0x7fff_0000),
        anonymous,
        frames,
        module: &|number| modules.get(number as usize),
        is_code: &|_| true,
        build_id: Some("aa"),
        program: "/usr/bin/a",
    };
    compute_signature(&input, None)
}

#[test]
fn the_hashed_text_is_the_documented_one() {
    let frames = unwound(&[(EXE, 0x10), (PLAIN, 0x20), (LIBC, 0x30), (LIBC, 0x40), (EXE, 0x50)]);
    let text = "coreward-signature 2\nmemory\nstack\naa+0x10\nplain.so+0x20\nruntime\naa+0x50\n";
    let digest: String = Sha256::digest(text).iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    let signature = signed(11, &frames, None);
    let before: String =
        Sha256::digest(text.replace(" 2", " 1")).iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    let previous = Some(format!("s1-{before}"));
    assert_eq!(signature, Signature { id: format!("s2-{digest}"), level: Level::Stack, previous, variant: None });
    assert_eq!(signature, signed(7, &frames, None), "a bad address may raise SEGV or BUS");
    assert_ne!(signature, signed(4, &frames, None));
}

#[test]
fn runtime_libraries_and_distant_callers_are_ignored() {
    let one = unwound(&[(LIBC, 1), (EXE, 0x10), (EXE, 0x20), (EXE, 0x30), (EXE, 0x40), (EXE, 0x50), (EXE, 0x60)]);
    let mut other = one.clone();
    other[0].offset = 77;
    other[6].offset = 0x99;
    assert_eq!(signed(11, &one, None), signed(11, &other, None));
    other[5].offset = 0x99;
    assert_ne!(signed(11, &one, None), signed(11, &other, None));
}

#[test]
fn aborts_count_more_frames_than_faults() {
    let plumbing: Vec<(u32, u64)> = (0..12).map(|number| (EXE, 0x1000 + number)).collect();
    let bug = |at: u64| unwound(&[&[(LIBC, 1)], plumbing.as_slice(), &[(EXE, at)]].concat());
    assert_ne!(signed(6, &bug(0x10), None), signed(6, &bug(0x20), None));
    assert_eq!(signed(11, &bug(0x10), None), signed(11, &bug(0x20), None));
}

#[test]
fn recursion_counts_once_and_an_overflow_is_its_cycle() {
    let deep = |lead: &[(u32, u64)], depth: usize| {
        let repeated = (0..depth).map(|number| (EXE, [0x10, 0x20, 0x30][number % 3]));
        unwound(&lead.iter().copied().chain(repeated).collect::<Vec<_>>())
    };
    let near = Some(0x7ffe_fff8);
    let overflow = signed(11, &deep(&[], 200), near);
    for (lead, depth) in [(vec![], 201), (vec![(EXE, 0x99)], 200), (vec![(EXE, 0x30)], 99), (vec![(LIBC, 1)], 202)] {
        assert_eq!(overflow, signed(11, &deep(&lead, depth), near), "{lead:?} {depth}");
    }
    let far = Some(8);
    assert_ne!(overflow, signed(11, &deep(&[], 200), far), "a bad pointer in a recursion is not an overflow");
    assert_eq!(signed(11, &deep(&[(EXE, 0x99)], 30), far), signed(11, &deep(&[(EXE, 0x99)], 60), far));
}

#[test]
fn the_level_tells_what_the_signature_is_computed_from() {
    assert_eq!(signed(11, &unwound(&[(EXE, 0x10)]), None).level, Level::ProgramCounter);
    assert_eq!(signed(11, &unwound(&[(LIBC, 0x10), (LIBC, 0x20)]), None).level, Level::ProgramCounter);
    assert_eq!(signed(11, &unwound(&[(NOWHERE, 0x10)]), None).level, Level::Executable);
    assert_eq!(signed(11, &[], None).level, Level::Executable);
    // A scanned frame counts only if no other does.
    let mut smashed = unwound(&[(EXE, 0x10)]);
    smashed.push(frame(EXE, 0x20, FrameTrust::Scan));
    assert_eq!(signed(11, &smashed, None), signed(11, &smashed[..1], None));
    let mut musl = unwound(&[(LIBC, 0x10)]);
    musl.extend([frame(EXE, 0x20, FrameTrust::Scan), frame(EXE, 0x30, FrameTrust::CallFrameInfo)]);
    assert_eq!(signed(6, &musl, None).level, Level::Stack);
}

#[test]
fn a_call_through_a_bad_pointer_is_identified_by_its_caller() {
    let call = |address: u64, caller: u64| {
        let mut frames = unwound(&[(NOWHERE, 0), (EXE, caller), (EXE, 0x50)]);
        frames[0] =
            Frame { address, module: None, offset: 0, trust: FrameTrust::Context, symbol: None, compiler: None };
        signed(11, &frames, None)
    };
    assert_eq!(call(0, 0x10), call(8, 0x10));
    assert_ne!(call(0, 0x10), call(0, 0x20));
    assert_eq!(call(0x7f00_0000_0000, 0x10), call(0x7f00_0010_0000, 0x10));
}

#[test]
fn code_without_a_file_is_told_apart_by_its_instruction_and_a_guest_by_its_program() {
    let mut frames = unwound(&[(NOWHERE, 0x123), (EXE, 0x10), (EXE, 0x20)]);
    frames[0].trust = FrameTrust::Context;
    let jit = |code: [u8; 4], variant: &str| {
        let anonymous =
            Anonymous { instruction: Some(code.to_vec()), variant: variant.to_owned(), ..Anonymous::default() };
        signed_with(11, &frames, None, &anonymous)
    };
    let one = jit([0xc6, 0, 1, 0xc9], "a");
    let text = "coreward-signature 2\nmemory\nstack\njit c60001c9\naa+0x10\naa+0x20\n";
    let digest: String = Sha256::digest(text).iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((one.id.as_str(), one.level), (format!("s2-{digest}").as_str(), Level::Stack));
    assert_eq!(one.variant.as_deref(), Some("a"));
    let text = "coreward-signature 1\nmemory\nstack\njit\naa+0x10\naa+0x20\n";
    let digest: String = Sha256::digest(text).iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(one.previous, Some(format!("s1-{digest}")), "version 1 knew no instruction");
    assert_ne!(one.id, jit([0x8b, 0, 0xc9, 0xc3], "a").id);
    assert_eq!(one.id, jit([0xc6, 0, 1, 0xc9], "b").id, "the variant is no part of the name");

    let native = unwound(&[(EXE, 0x10), (EXE, 0x20)]);
    let guest = |guest: Option<&str>| {
        let (guest, variant) = (guest.map(str::to_owned), "c".to_owned());
        signed_with(11, &native, None, &Anonymous { guest, variant, ..Anonymous::default() })
    };
    let text = "coreward-signature 2\nmemory\nstack\nguest dd\naa+0x10\naa+0x20\n";
    let digest: String = Sha256::digest(text).iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(guest(Some("dd")).id, format!("s2-{digest}"));
    assert_eq!((guest(Some("dd")).variant.as_deref(), guest(None).variant), (Some("c"), None));
    assert_ne!(guest(Some("dd")).id, guest(Some("ee")).id);

    // Frames of an emulator that repeats its guest's signal.
    let repeated = |frames: &[Frame]| {
        let (guest, variant) = (Some("dd".to_owned()), "c".to_owned());
        signed_with(11, frames, None, &Anonymous { guest, variant, is_guests_signal: true, instruction: None })
    };
    let text = "coreward-signature 2\nmemory\nexecutable\nguest dd\naa\n";
    let digest: String = Sha256::digest(text).iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    for signature in [repeated(&native), repeated(&frames)] {
        assert_eq!((signature.id, signature.level), (format!("s2-{digest}"), Level::Executable));
        assert_eq!(signature.variant.as_deref(), Some("c"));
    }
    assert_eq!(repeated(&native).previous, guest(None).previous, "version 1 knew no guest");
}

#[test]
fn version_1_knows_nothing_of_code_without_a_file_whatever_version_2_makes_of_it() {
    let (jit, one, other) = ((NOWHERE, 0x123), (EXE, 0x10), (EXE, 0x20));
    let near = Some(0x7fff_0000 - 64);
    // The first cycle of an overflow may begin with the instruction, which version 1 does not tell from other code.
    let stacks = [
        [vec![jit; 9], vec![other; 9]].concat(),
        [vec![jit], vec![one; 8], vec![jit, one, one]].concat(),
        [vec![jit], [jit, one].repeat(9), vec![other; 3]].concat(),
        vec![jit, one, other],
    ];
    for places in stacks {
        let mut frames = unwound(&places);
        frames[0].trust = FrameTrust::Context;
        for fault in [None, near] {
            let known = Anonymous { instruction: Some(vec![0xcc]), variant: "a".to_owned(), ..Anonymous::default() };
            let previous = signed_with(11, &frames, fault, &known).previous;
            assert_eq!(previous, signed(11, &frames, fault).previous, "{places:?} {fault:?}");
        }
    }
}

proptest! {
    #[test]
    fn load_addresses_do_not_matter(
        places in prop::collection::vec((0..3_u32, 0..64_u64), 0..200), shift in 0..1_u64 << 40, signal in prop::sample::select(vec![4_u32, 6, 8, 11])
    ) {
        let frames = unwound(&places);
        let mut moved = frames.clone();
        for frame in &mut moved {
            frame.address += shift;
        }
        prop_assert_eq!(signed(signal, &frames, None), signed(signal, &moved, None));
    }
}
