//! Titles of real crashes: they name the bug, and neither the machinery of a language nor a handler. And signatures by their earlier names.

use crate::testbed::{Daemon, RunToEnd, TestBed, coreward, program, run_tool, text};
use coreward::crash::{Frame, Module, Record, Symbol};
use object::{Object, ObjectSymbol};
use std::collections::BTreeSet;
use std::process::Command;

/// A test bed whose daemon stores every core.
fn started() -> (TestBed, Daemon) {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nUnitBurst=0\nTotalBurst=0\n");
    let daemon = bed.daemon();
    (bed, daemon)
}

/// The record of the crash that a command ends in. Frames without a name get that of the symbol tables in their files.
fn crash(bed: &TestBed, command: &mut Command) -> Record {
    let before = bed.crashes().len();
    command.env("GOTRACEBACK", "crash").run_to_end();
    let mut record = bed.wait_for(before + 1).pop().unwrap().record;
    let Record { stack, modules, .. } = &mut record;
    for frame in stack.iter_mut().filter(|frame| frame.symbol.is_none()) {
        let module = frame.module.map(|number| &modules[number as usize]);
        frame.symbol = module.and_then(|module| symbol(module, frame));
    }
    record
}

fn symbol(module: &Module, frame: &Frame) -> Option<Symbol> {
    let bytes = std::fs::read(&module.path).ok()?;
    let file = object::File::parse(bytes.as_slice()).ok()?;
    let symbols = file.symbols().chain(file.dynamic_symbols());
    let holds =
        |symbol: &object::Symbol<'_, '_>| (symbol.address()..symbol.address() + symbol.size()).contains(&frame.offset);
    let found = symbols.into_iter().find(|symbol| symbol.kind() == object::SymbolKind::Text && holds(symbol))?;
    Some(Symbol::new(found.name_bytes().ok()?, frame.offset - found.address()))
}

/// Asserts the title of a crash, and returns the names of the functions of its stack.
#[track_caller]
fn assert_titled(bed: &TestBed, command: &mut Command, title: &str) -> BTreeSet<String> {
    let record = crash(bed, command);
    let names: Vec<&str> =
        record.stack.iter().map(|frame| frame.symbol.as_ref().map_or("-", |symbol| symbol.name.as_str())).collect();
    assert_eq!(record.title(), title, "{names:?}");
    names.into_iter().map(str::to_owned).collect()
}

fn bug(name: &str, number: &str) -> Command {
    let mut command = Command::new(program(name));
    command.arg(number);
    command
}

#[test]
fn a_static_c_program_is_titled_by_what_called_the_library() {
    let (bed, _daemon) = started();
    // The C library is in the program here, so that its functions are told by their names only.
    for (number, title, plumbing) in [
        ("1", "SIGSEGV in read_one <- first_caller", "_start"),
        ("5", "SIGABRT in abort_here <- main", "abort"),
        ("7", "SIGABRT in assert_here <- main", "__assert_fail"),
        ("9", "SIGFPE in divide <- main", "_start"),
        ("10", "SIGILL in illegal <- main", "_start"),
        ("13", "SIGABRT in free_twice <- main", "malloc_printerr"),
        ("18", "SIGSEGV in read_one <- handled", "_start"),
    ] {
        let names = assert_titled(&bed, &mut bug("bugs-static", number), title);
        assert!(names.contains(plumbing), "{number}: {names:?}");
    }
}

#[test]
fn an_exception_and_a_panic_are_titled_by_who_raised_them() {
    let (bed, _daemon) = started();
    for (name, number, title) in [
        ("bugs-c++", "1", "SIGABRT in thrown_here <- main"),
        ("bugs-c++", "3", "SIGABRT in out_of_range <- main"),
        ("bugs-c++", "5", "SIGABRT in main <- "),
        ("bugs-rust", "1", "SIGABRT in bugs::index_here <- bugs::main"),
        ("bugs-rust", "3", "SIGABRT in bugs::unwrap_here <- bugs::main"),
        ("bugs-rust", "6", "SIGABRT in bugs::explicit <- bugs::main"),
        ("bugs-go", "1", "SIGABRT in main.readHere <- main.main"),
        ("bugs-go", "3", "SIGABRT in main.panicHere <- main.main"),
    ] {
        let record = crash(&bed, &mut bug(name, number));
        // Compilers may put a caller into its callers.
        let (found, expected) = (record.title(), title.split_once(" <- ").unwrap().0);
        assert!(found.starts_with(expected), "{name} {number}: {found:?}, expected {title:?}");
        let caller = found.split_once(" <- ").map_or("", |(_, caller)| caller);
        assert!(
            !["_start", "std::", "runtime.", "core::", "__"].iter().any(|plumbing| caller.starts_with(plumbing)),
            "{found}"
        );
    }
}

#[test]
fn an_interpreter_that_reports_a_fault_is_titled_by_the_extension() {
    let (bed, _daemon) = started();
    let library = program("bugs-ruby.so");
    let dir = library.with_extension("titles");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy(&library, dir.join("bugs.so")).unwrap();
    let mut ruby = Command::new("ruby");
    ruby.arg("-I").arg(&dir).args(["-rbugs", "-e", "Bugs.here()"]);
    let record = crash(&bed, &mut ruby);
    assert!(record.title().starts_with("SIGSEGV in here"), "{}", record.title());
    assert!(record.failure.is_some());
    // Python ends itself here, which no extension does.
    let mut python = Command::new("/usr/bin/python3");
    let record = crash(&bed, python.args(["-c", "import os; os.abort()"]));
    assert!(record.title().starts_with("SIGABRT in ") && !record.title().contains("abort"), "{}", record.title());
}

#[test]
fn the_command_shows_the_title_where_crashes_are_shown() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=1\nStormStacks=0\nUnitBurst=0\nTotalBurst=0\n");
    let _daemon = bed.daemon();
    for _ in 0..3 {
        bug("bugs", "9").run_to_end();
    }
    let crashes = bed.wait_for(3);
    assert!(crashes[2].record.stack.is_empty(), "a duplicate");
    let title = crashes[0].record.title();
    assert!(title.starts_with("SIGFPE in "), "{title}");
    let json: serde_json::Value = serde_json::from_str(&text(&coreward(&bed, &["list", "--json"]))).unwrap();
    for crash in json.as_array().unwrap() {
        assert_eq!(crash["title"], title.as_str());
    }
    for crash in &crashes {
        let info = text(&coreward(&bed, &["info", crash.id().as_str()]));
        assert!(info.starts_with(&format!("{title}\n\n")), "{info}");
    }
    assert!(text(&coreward(&bed, &["groups"])).contains(&title));
    let entry = String::from_utf8_lossy(&coreward::report::entry(&crashes[0].record, None)).into_owned();
    assert!(
        entry.contains(&format!(" dumped core: {title}\n")) && entry.contains(&format!("COREWARD_TITLE={title}\n")),
        "{entry}"
    );
}

#[test]
fn nobody_names_the_functions_in_the_crashes_of_somebody_else() {
    let (bed, daemon) = started();
    // One build: the same build ID, and the same signature.
    let (stripped, forged) = (bed.path("service"), bed.path("forged"));
    let plain = program("segv");
    let at = |path: &std::path::Path| path.display().to_string();
    run_tool("strip", &["-o", &at(&stripped), &at(&plain)]);
    let names = ["innermost=all_is_well", "middle=known_harmless", "outermost=known_harmless_too"];
    let renamed: Vec<String> =
        names.iter().flat_map(|name| ["--redefine-sym".to_owned(), (*name).to_owned()]).collect();
    let mut arguments: Vec<&str> = renamed.iter().map(String::as_str).collect();
    let (from, to) = (at(&plain), at(&forged));
    arguments.extend([from.as_str(), to.as_str()]);
    run_tool("objcopy", &arguments);
    let as_user = |path: &std::path::Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65001", "--regid=65001", "--clear-groups"]).arg(path);
        command.run_to_end();
    };
    as_user(&forged);
    assert!(bed.wait_for(1)[0].record.functions().contains("all_is_well"));
    crash(&bed, &mut Command::new(&stripped));
    // Without a stack of its own: its title is that of a crash of the same bug.
    bed.configure("[Coreward]\nStormBurst=1\nStormStacks=0\n");
    daemon.reload();
    for _ in 0..3 {
        crash(&bed, &mut Command::new(&stripped));
    }
    as_user(&forged);
    let crashes = bed.wait_for(6);
    let signature = |number: usize| crashes[number].record.signature.as_ref().map(|signature| signature.id.clone());
    assert!((1..6).all(|number| signature(number) == signature(0)), "{crashes:?}");
    assert!(crashes[4].record.stack.is_empty(), "a duplicate");
    let shown = text(&coreward(&bed, &["list", "-o", "uid,function,title"]));
    let (of_user, of_root): (Vec<&str>, Vec<&str>) =
        shown.lines().skip(1).partition(|line| line.trim_start().starts_with("65001"));
    assert_eq!((of_user.len(), of_root.len()), (2, 4), "{shown}");
    assert!(of_user.iter().all(|line| line.contains("all_is_well")), "{shown}");
    assert!(of_root.iter().all(|line| line.contains("service+0x") && !line.contains("_well")), "{shown}");
    let json = text(&coreward(&bed, &["list", "--json"]));
    let groups = text(&coreward(&bed, &["groups"]));
    assert!(groups.contains("service+0x") && !groups.contains("all_is_well"), "{groups}");
    let titles: Vec<&str> = json.split("\"title\":").skip(1).collect();
    assert_eq!(titles.iter().filter(|title| title.starts_with("\"SIGSEGV in all_is_well")).count(), 2, "{json}");
}

#[test]
fn a_name_of_version_1_leads_to_the_groups_of_version_2() {
    let (bed, _daemon) = started();
    for bug in ["null", "other"] {
        Command::new(program("handled")).args(["kill", "-", "wait", bug, "wait"]).run_to_end();
    }
    let crashes = bed.wait_for(2);
    let names = |index: usize| {
        let signature = crashes[index].record.signature.clone().unwrap();
        (signature.id, signature.previous.unwrap())
    };
    let ((null, before), (other, also_before)) = (names(0), names(1));
    assert!(before == also_before && before.starts_with("s1-") && null != other, "version 1 took them for one bug");
    let groups = text(&coreward(&bed, &["groups", &before]));
    assert!(groups.contains(&null) && groups.contains(&other), "{groups}");
    for arguments in [["list", "--signature", &before[..10]], ["list", "--no-legend", &before]] {
        let list = text(&coreward(&bed, &arguments));
        assert!(crashes.iter().all(|crash| list.contains(crash.id().as_str())), "{arguments:?}: {list}");
    }
    let plain = crash(&bed, &mut bug("bugs", "9"));
    let before = plain.signature.as_ref().unwrap().previous.clone().unwrap();
    let group = text(&coreward(&bed, &["groups", &before]));
    assert!(group.starts_with("SIGFPE in ") && group.contains("1 crash"), "{group}");
    assert!(!coreward(&bed, &["groups", "s1-00000000000000000000"]).status.success());
}
