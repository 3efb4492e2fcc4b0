//! Signatures of real crashes: the same for the same bug, different for different bugs.

use crate::testbed::{Daemon, RunToEnd, TestBed, eventually, program};
use coreward::crash::{FrameTrust, Level, Module, Origin, Record, Signature};
use std::collections::{HashMap, HashSet};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

/// A command that crashes with bug `number` of a program.
fn bug(name: &str, number: usize) -> Command {
    let number_text = number.to_string();
    let mut command = match name {
        "python" | "ruby" => {
            let library = program(if name == "python" { "bugs-python.so" } else { "bugs-ruby.so" });
            let dir = library.with_extension("dir");
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::copy(&library, dir.join("bugs.so")).unwrap();
            let call = if number == 1 { "here()" } else { "there()" };
            if name == "python" {
                let mut python = Command::new("/usr/bin/python3");
                python.env("PYTHONPATH", dir).args(["-c", &format!("import bugs\ndef f():\n  bugs.{call}\nf()")]);
                python
            } else {
                let mut ruby = Command::new("ruby");
                ruby.arg("-I").arg(dir).args(["-rbugs", "-e", &format!("Bugs.{call}")]);
                ruby
            }
        }
        _ => {
            let mut command = Command::new(program(name));
            command.arg(number_text);
            command
        }
    };
    command.env("GOTRACEBACK", "crash");
    command
}

/// A record's signature and stack, for messages of failed assertions.
fn describe(record: &Record) -> String {
    let frames = record.stack.iter().take(18).map(|frame| {
        let module = frame.module.and_then(|number| record.modules.get(number as usize));
        let name = module.map_or("?", |module| module.path.rsplit('/').next().unwrap());
        format!("{name}+{:#x}/{:?}", frame.offset, frame.trust)
    });
    let frames: Vec<String> = frames.collect();
    let signature = record.signature.as_ref().unwrap();
    format!(
        "{} {} {:?} ({} frames) {:?}\n   {}",
        record.signal_name,
        signature.id,
        signature.level,
        record.stack.len(),
        record.siginfo,
        frames.join(" ")
    )
}

fn signature(record: &Record) -> &Signature {
    record.signature.as_ref().unwrap()
}

/// Crashes a program `times` times with each of the bugs; returns the records by bug.
fn crash(bed: &TestBed, name: &str, bugs: &[usize], times: usize) -> Vec<Vec<Record>> {
    let before = bed.crashes().len();
    let mut count = before;
    for number in bugs {
        for _ in 0..times {
            let ended = bug(name, *number).run_to_end();
            assert!(ended.core_dumped(), "{name} {number}: {ended}");
            count += 1;
        }
    }
    let crashes = bed.wait_for(count);
    let records: Vec<Record> = crashes.into_iter().skip(before).map(|listed| listed.record).collect();
    records.chunks(times).map(<[Record]>::to_vec).collect()
}

/// Asserts that all records of a bug have one signature of this level, and that no two bugs share one.
#[track_caller]
fn assert_distinct(name: &str, records: &[Vec<Record>], level: Level) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (index, records) in records.iter().enumerate() {
        for record in records {
            let signature = signature(record);
            assert_eq!(signature.level, level, "{name} {index}: {}", describe(record));
            let owner = *seen.entry(signature.id.clone()).or_insert(index);
            assert_eq!(owner, index, "{name}: {}", describe(record));
        }
    }
    assert_eq!(seen.len(), records.len(), "{name}: {seen:?} {}", describe(&records[0][0]));
}

/// A test bed whose daemon stores every core.
fn started() -> (TestBed, Daemon) {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nUnitBurst=0\nTotalBurst=0\n");
    let daemon = bed.daemon();
    (bed, daemon)
}

/// The bugs of bugs.c, without number 23, which smashes the stack.
const BUGS: [usize; 22] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22];

#[test]
fn the_22_bugs_of_a_c_program_have_22_signatures() {
    let (bed, _daemon) = started();
    for name in ["bugs", "bugs-stripped", "bugs-static"] {
        assert_distinct(name, &crash(&bed, name, &BUGS, 3), Level::Stack);
    }
    let smashed = crash(&bed, "bugs", &[23], 3);
    assert_distinct("a smashed stack", &smashed, Level::ProgramCounter);
    let record = &smashed[0][0];
    assert!(record.stack.iter().skip(1).all(|frame| frame.trust != FrameTrust::FramePointer), "{}", describe(record));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_22_bugs_of_a_32_bit_program_have_22_signatures() {
    let (bed, _daemon) = started();
    for name in ["bugs-i386", "bugs-i386-stripped", "bugs-i386-static"] {
        assert_distinct(name, &crash(&bed, name, &BUGS, 3), Level::Stack);
    }
    assert_distinct("a smashed stack", &crash(&bed, "bugs-i386", &[23], 3), Level::ProgramCounter);
}

#[test]
fn each_frame_records_how_it_was_found() {
    let (bed, _daemon) = started();
    let records = crash(&bed, "bugs", &[1, 12, 17, 21, 22, 14], 1);
    let [plain, nothing, handler, vdso, generated, overflow] = &records[..] else { unreachable!() };
    let found = |record: &Record| record.stack.iter().map(|frame| frame.trust).collect::<Vec<_>>();
    let (plain, nothing, handler) = (&plain[0], &nothing[0], &handler[0]);
    assert_eq!(
        found(plain)[..3],
        [FrameTrust::Context, FrameTrust::CallFrameInfo, FrameTrust::CallFrameInfo],
        "{}",
        describe(plain)
    );
    assert_eq!(plain.siginfo.as_ref().unwrap().address, Some(0));
    let exe = &plain.modules[plain.stack[0].module.unwrap() as usize];
    assert_eq!((exe.path.as_str(), &exe.build_id), (plain.exe.as_str(), &plain.exe_build_id));
    assert_eq!((nothing.stack[0].address, nothing.stack[0].module), (0, None), "{}", describe(nothing));
    // After the kernel's signal frame come the frames that the signal interrupted.
    assert_eq!(
        found(handler).iter().filter(|found| **found == FrameTrust::Context).count(),
        2,
        "{}",
        describe(handler)
    );
    let first = |record: &Record| record.stack[0].module.map(|number| record.modules[number as usize].path.clone());
    assert_eq!(first(&vdso[0]).as_deref(), Some("[vdso]"));
    let generated = &generated[0];
    assert_eq!(
        (first(generated), generated.stack[1].trust),
        (None, FrameTrust::FramePointer),
        "{}",
        describe(generated)
    );
    assert_eq!(overflow[0].stack.len(), 64, "the record has at most 64 frames");
}

#[test]
fn the_bugs_of_a_musl_program_have_distinct_signatures_without_unwind_tables() {
    let (bed, _daemon) = started();
    let bugs: Vec<usize> = BUGS.into_iter().filter(|bug| *bug != 16).collect();
    assert_distinct("bugs-musl", &crash(&bed, "bugs-musl", &bugs, 2), Level::Stack);
    // A callback from musl: the frames after it could only be guessed, and are not used.
    assert_distinct("bugs-musl", &crash(&bed, "bugs-musl", &[16], 2), Level::ProgramCounter);
}

#[test]
fn bugs_in_other_languages_have_distinct_signatures() {
    let (bed, _daemon) = started();
    for (name, bugs) in [("bugs-c++", 6), ("bugs-rust", 6), ("bugs-go", 4), ("python", 2), ("ruby", 2)] {
        let bugs: Vec<usize> = (1..=bugs).collect();
        assert_distinct(name, &crash(&bed, name, &bugs, 3), Level::Stack);
    }
}

#[test]
fn a_bug_has_one_signature_at_any_address() {
    let (bed, _daemon) = started();
    // vm.mmap_rnd_compat_bits is 8.
    for (name, at_least) in [
        ("bugs", 50),
        #[cfg(target_arch = "x86_64")]
        ("bugs-i386", 20),
    ] {
        let records = crash(&bed, name, &[16], 100);
        assert_distinct(name, &records, Level::Stack);
        let addresses: HashSet<u64> = records[0].iter().map(|record| record.stack[0].address).collect();
        assert!(addresses.len() > at_least, "addresses are random: {}", addresses.len());
    }
}

#[test]
fn the_same_program_in_two_container_images_has_one_signature() {
    let (bed, _daemon) = started();
    let (mut ids, mut count) = (HashSet::new(), 0);
    for name in ["one", "other"] {
        let image = bed.path(&format!("image-{name}"));
        let libraries = ["/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"];
        for library in libraries {
            let to = image.join(&library[1..]);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            let mut bytes = std::fs::read(library).unwrap();
            if name == "other" && library.contains("libc.so") {
                // Another build-id, as if another distribution had built it.
                let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
                let at = bytes.windows(note.len()).position(|window| window == note).unwrap() + note.len();
                bytes[at..at + 20].fill(0x55);
            }
            std::fs::write(&to, bytes).unwrap();
            std::fs::set_permissions(&to, std::fs::metadata(library).unwrap().permissions()).unwrap();
        }
        std::fs::copy(program("bugs"), image.join("bugs")).unwrap();
        for (number, bug) in [5, 16].into_iter().enumerate() {
            let mut inside = Command::new("unshare");
            inside.args(["--uts", "--mount", "--root"]).arg(&image).args(["/bugs", &bug.to_string()]);
            assert!(inside.run_to_end().core_dumped(), "{name}");
            count += 1;
            let record = bed.wait_for(count).pop().unwrap().record;
            let is_libc = |module: &&Module| module.path.ends_with("libc.so.6");
            let libc = record.modules.iter().find(is_libc).and_then(|module| module.build_id.clone()).unwrap();
            assert_eq!(libc.starts_with("5555"), name == "other");
            ids.insert((number, signature(&record).id.clone()));
        }
    }
    assert_eq!(ids.len(), 2, "one signature per bug: {ids:?}");
}

#[test]
fn info_shows_a_stack_trace_with_function_names() {
    let (bed, _daemon) = started();
    let c = ["read_one (bugs.c:22) in bugs", "first_caller (bugs.c:24) in bugs", "main (bugs.c:"];
    for (name, number, lines) in [
        ("bugs", 1, &c[..]),
        #[cfg(target_arch = "x86_64")]
        ("bugs-i386", 1, &c[..]),
        ("bugs-rust", 1, &["bugs::index_here", "bugs::main"]),
        ("bugs-c++", 3, &["out_of_range in bugs-c+++0x", "main in"]),
        ("bugs-go", 3, &["main.panicHere (bugs.go:", "main.main (bugs.go:"]),
    ] {
        let id = crash(&bed, name, &[number], 1)[0][0].id.clone();
        let root = bed.root.path().to_str().unwrap();
        let info =
            Command::new(env!("CARGO_BIN_EXE_coreward")).args(["--root", root, "info", id.as_str()]).output().unwrap();
        let text = String::from_utf8(info.stdout).unwrap();
        for line in lines {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
        assert!(text.contains("Signature: s2-"), "{text}");
    }
}

#[test]
fn a_spooled_crash_has_the_same_signature_as_a_live_one() {
    let bed = TestBed::new();
    let bugs = [1, 6, 12, 14, 16, 18];
    bed.configure("[Coreward]\nStormBurst=0\n");
    let programs = [
        "bugs",
        #[cfg(target_arch = "x86_64")]
        "bugs-i386",
    ];
    let count = programs.len() * bugs.len();
    for name in programs {
        for number in bugs {
            assert!(bug(name, number).run_to_end().core_dumped());
            eventually(Duration::from_secs(10), || !bed.kmsg().is_empty());
        }
    }
    eventually(Duration::from_secs(20), || bed.names("var/lib/coreward/spool").len() == count);
    let _daemon = bed.daemon();
    let mut spooled: Vec<Record> = bed.wait_for(count).into_iter().map(|listed| listed.record).collect();
    // PIDs begin again at some time.
    spooled.sort_by_key(|record| record.time_us);
    let live = programs.into_iter().flat_map(|name| crash(&bed, name, &bugs, 1));
    for (spooled, live) in spooled.iter().zip(live) {
        assert_eq!(spooled.origin, Origin::Spool);
        // Version 1 had no frames of i386, and hung on what the spool does not tell.
        let without_previous = |record| Signature { previous: None, ..signature(record).clone() };
        let (spooled_as, live_as) = (without_previous(spooled), without_previous(&live[0]));
        assert_eq!(spooled_as, live_as, "{} {}", describe(spooled), describe(&live[0]));
    }
}
