//! Names of functions in records, in the journal and in `info`, wherever they are: in memory, in a file that is not where it was, in a container.

use crate::testbed::{RunToEnd, TestBed, Volume, coreward, eventually, program, run_tool, text};
use coreward::crash::{CoreOutcome, Frame, Origin, Record};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The name of each frame; `?` of one without.
fn names(frames: &[Frame]) -> Vec<String> {
    frames
        .iter()
        .map(|frame| frame.symbol.as_ref().map_or_else(|| "?".to_owned(), |symbol| symbol.name.clone()))
        .collect()
}

/// Lets the command crash, as the only one on this machine that is recorded next; returns its record.
fn crash(bed: &TestBed, command: &mut Command) -> Record {
    let before = bed.crashes().len();
    let ended = command.run_to_end();
    assert!(ended.core_dumped(), "{command:?}: {ended}");
    bed.wait_for(before + 1).pop().unwrap().record
}

trait CoreDumped {
    fn core_dumped(&self) -> bool;
}

impl CoreDumped for std::process::ExitStatus {
    fn core_dumped(&self) -> bool {
        std::os::unix::process::ExitStatusExt::core_dumped(self)
    }
}

/// A test bed that stores every core.
fn started() -> (TestBed, crate::testbed::Daemon) {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nUnitBurst=0\nTotalBurst=0\n");
    let daemon = bed.daemon();
    (bed, daemon)
}

/// A copy of a program in the directory of the test.
fn copy(bed: &TestBed, name: &str, to: &str) -> PathBuf {
    let path = bed.path(to);
    // Written and closed by another process: a child of another test may have a file open for writing that is to be executed.
    run_tool("cp", &[program(name).to_str().unwrap(), path.to_str().unwrap()]);
    path
}

/// The frames from the fault in names.c up to main.
const STATIC: [&str; 4] = ["static_fault", "static_caller", "exported_caller", "main"];

#[test]
fn a_function_that_calls_itself_has_its_name_in_all_frames() {
    let (bed, _daemon) = started();
    let path = copy(&bed, "bugs", "recursion");
    let record = crash(&bed, Command::new(&path).arg("14"));
    let named = names(&record.stack);
    assert!(named.len() >= 60 && !named.contains(&"?".to_owned()), "{named:?}");
}

#[test]
fn static_functions_have_names_in_the_record_the_journal_and_in_info_when_the_file_is_gone() {
    let (bed, _daemon) = started();
    let path = copy(&bed, "names", "names");
    let record = crash(&bed, Command::new(&path).arg("static"));
    assert_eq!(names(&record.stack)[..4], STATIC, "{record:?}");
    let [fault, caller, ..] = &record.stack[..] else { unreachable!() };
    let offset = |frame: &Frame| frame.symbol.as_ref().unwrap().offset;
    assert!(offset(fault) < 16 && (1..32).contains(&offset(caller)), "{:?}", record.stack);
    let entry = String::from_utf8_lossy(&bed.journal()[0]).into_owned();
    for (number, name) in STATIC.iter().enumerate() {
        let line = entry.lines().find(|line| line.starts_with(&format!("#{number}  0x"))).unwrap();
        assert!(line.contains(&format!(" {name} ({} + 0x", path.display())), "{line}");
    }
    std::fs::remove_file(&path).unwrap();
    let info = text(&coreward(&bed, &["info", record.id.as_str()]));
    for name in STATIC {
        // The module store has the file, with its lines.
        assert!(info.contains(&format!(" {name} (names.c:")), "{info}");
    }
    let json = text(&coreward(&bed, &["info", "--json", record.id.as_str()]));
    assert!(json.contains("\"symbol\":{\"name\":\"static_caller\","), "{json}");
    assert!(record.warnings.is_empty(), "{:?}", record.warnings);
}

#[test]
fn a_stripped_program_has_the_names_that_the_dynamic_linker_uses_and_those_of_its_debug_data() {
    let (bed, _daemon) = started();
    let stripped = crash(&bed, Command::new(program("names-stripped")).arg("static"));
    assert_eq!(names(&stripped.stack)[..3], ["?", "?", "exported_caller"], "{stripped:?}");
    // As Fedora's packages have it ("MiniDebugInfo").
    let path = copy(&bed, "names-stripped", "minidebug");
    let (symbols, data) = (bed.path("symbols"), bed.path("symbols.xz"));
    let [symbols, data] = [symbols.to_str().unwrap(), data.to_str().unwrap()];
    run_tool(
        "objcopy",
        &[
            "-S",
            "--remove-section=.comment",
            "--keep-symbol=static_fault",
            "--keep-symbol=static_caller",
            program("names-unstripped").to_str().unwrap(),
            symbols,
        ],
    );
    run_tool("xz", &["--keep", symbols]);
    run_tool("objcopy", &[&format!("--add-section=.gnu_debugdata={data}"), path.to_str().unwrap()]);
    let with_data = crash(&bed, Command::new(&path).arg("static"));
    assert_eq!(names(&with_data.stack)[..3], STATIC[..3], "{with_data:?}");
}

#[test]
fn a_library_that_was_deleted_or_replaced_names_its_functions() {
    let (bed, _daemon) = started();
    for then in ["", "delete", "replace"] {
        let path = copy(&bed, "names-library.so", "library.so");
        copy(&bed, "names-other.so", "library.so.new");
        let mut command = Command::new(program("names"));
        command.arg("library").arg(&path).arg("library_entry").args(Some(then).filter(|then| !then.is_empty()));
        let record = crash(&bed, &mut command);
        let expected = ["library_fault", "library_entry", "call_library", "main"];
        assert_eq!(names(&record.stack)[..4], expected, "{then}: {record:?}");
    }
}

#[test]
fn functions_of_a_container_whose_files_are_gone_have_names() {
    let (bed, _daemon) = started();
    let root = bed.path("container");
    std::fs::create_dir(&root).unwrap();
    copy(&bed, "names-static", "container/program");
    let mut command = Command::new("chroot");
    command.arg(&root).args(["/program", "static"]);
    let record = crash(&bed, &mut command);
    assert_eq!(names(&record.stack)[..4], STATIC, "{record:?}");
    assert_eq!(Path::new(&record.root), root);
    std::fs::remove_dir_all(&root).unwrap();
    let info = text(&coreward(&bed, &["info", record.id.as_str()]));
    assert!(info.contains(" static_fault in program+0x"), "{info}");
}

#[test]
fn a_program_in_memory_has_names_and_a_library_that_may_be_written_has_those_of_the_dynamic_linker() {
    let (bed, _daemon) = started();
    let record = crash(&bed, Command::new(program("names")).args(["memfd", "static"]));
    assert_eq!(names(&record.stack)[..4], STATIC, "{record:?}");
    let mut command = Command::new(program("names"));
    command.arg("memory-library").arg(program("names-library.so")).arg("library_entry");
    let record = crash(&bed, &mut command);
    assert_eq!(names(&record.stack)[..4], ["?", "library_entry", "call_library", "main"], "{record:?}");
}

#[test]
fn rust_and_go_functions_have_names_and_those_of_the_kernels_vdso() {
    let (bed, _daemon) = started();
    let rust = crash(&bed, Command::new(program("bugs-rust")).arg("1"));
    let entry = String::from_utf8_lossy(&bed.journal()[0]).into_owned();
    assert!(names(&rust.stack).iter().any(|name| name.starts_with("_ZN4bugs")), "{rust:?}");
    assert!(entry.contains(" bugs::index_here (") && !entry.contains("_ZN"), "{entry}");
    for name in ["bugs-go", "bugs-go-stripped", "bugs-go-pie-stripped"] {
        let go = crash(&bed, Command::new(program(name)).arg("1").env("GOTRACEBACK", "crash"));
        let found = names(&go.stack);
        assert!(found.iter().any(|name| name == "main.readHere"), "{name}: {go:?}");
        assert!(found.contains(&"runtime.main".to_owned()), "{name}: {found:?}");
    }
    let vdso = crash(&bed, Command::new(program("names")).arg("vdso"));
    let found = names(&vdso.stack);
    assert!(found[..2].iter().any(|name| name.ends_with("clock_gettime")), "{vdso:?}");
    assert!(found.contains(&"main".to_owned()), "{found:?}");
}

#[test]
fn other_threads_have_names_and_crashes_without_a_core_too_but_duplicates_have_none() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=1\nStormStacks=0\n");
    let daemon = bed.daemon();
    let first = crash(&bed, Command::new(program("names")).arg("threads"));
    let waiting = first.other_threads.iter().find(|threads| threads.count == 2).unwrap();
    let found = names(&waiting.frames);
    assert!(
        found.starts_with(&["pause".to_owned(), "static_wait".to_owned(), "waiting_thread".to_owned()]),
        "{found:?}"
    );
    let mut last = None;
    for _ in 0..6 {
        last = Some(crash(&bed, Command::new(program("names")).arg("threads")));
    }
    let last = last.unwrap();
    assert!(matches!(last.core.outcome, CoreOutcome::None(_)) && last.stack.is_empty(), "{last:?}");
    bed.configure("[Coreward]\nStorage=none\n");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_notification("READY=1");
    let none = crash(&bed, Command::new(program("names-static")).arg("static"));
    assert!(matches!(none.core.outcome, CoreOutcome::None(_)), "{none:?}");
    assert_eq!(names(&none.stack)[..4], STATIC, "{none:?}");
}

#[test]
fn a_crash_from_the_spool_is_named_by_the_files_of_this_machine() {
    let bed = TestBed::new();
    // Where a disk is nearly full, only the beginning of a core is saved.
    let _volume = Volume::in_memory(&bed, "256M");
    assert!(Command::new(program("names")).arg("static").run_to_end().core_dumped());
    eventually(Duration::from_secs(10), || bed.kmsg().contains("saved as"));
    let _daemon = bed.daemon();
    let record = bed.wait_for(1).pop().unwrap().record;
    assert_eq!(
        (record.origin, &names(&record.stack)[..4]),
        (Origin::Spool, &STATIC.map(str::to_owned)[..]),
        "{record:?}"
    );
}

#[test]
fn a_library_that_nobody_serves_any_more_costs_its_names_and_no_time() {
    let (bed, _daemon) = started();
    let (below, mount) = (bed.path("below"), bed.path("mount"));
    for dir in [&below, &mount] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::copy(program("names-library.so"), below.join("library.so")).unwrap();
    let mut server = Command::new("bindfs")
        .arg("-f")
        .args([&below, &mount])
        .stdin(Stdio::null())
        .spawn()
        .expect("bindfs is installed");
    let pid = Pid::from_raw(server.id().cast_signed());
    eventually(Duration::from_secs(5), || mount.join("library.so").exists());
    // It asks for more of the library than it has read, when the server answers no more.
    let path = mount.join("library.so");
    let mut process = Command::new(program("names"))
        .arg("library")
        .arg(&path)
        .args(["library_entry", "wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 1];
    let _ = std::io::Read::read(process.stdout.as_mut().unwrap(), &mut line);
    kill(pid, Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    drop(process.stdin.take());
    let limit = Duration::from_secs(8);
    let ended = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break Some(status);
        }
        if begun.elapsed() > limit {
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let crashes = if ended.is_some() { bed.wait_for(1) } else { Vec::new() };
    kill(pid, Signal::SIGCONT).unwrap();
    run_tool("umount", &["--lazy", mount.to_str().unwrap()]);
    let _ = server.wait();
    assert!(ended.is_some_and(|status| CoreDumped::core_dumped(&status)), "{ended:?} after {:?}", begun.elapsed());
    let record = &crashes[0].record;
    let found = names(&record.stack);
    assert!(found.contains(&"call_library".to_owned()) && found.contains(&"main".to_owned()), "{record:?}");
}
