//! An alert, and the way from it to the bug: a C extension faults below a request handler of a Ruby server in a container, the container is
//! gone when somebody asks, and the stack has its names nevertheless. The same for other programs whose files are gone.

use crate::testbed::{
    Container, RunToEnd, TestBed, compile_ruby_extension, coreward, eventually, interpreter_root, program, run_tool,
    source, text,
};
use coreward::crash::{Frame, Record};
use coreward::store::module_file_name;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const HOSTNAME: &str = "app-web-1";
const BACKTRACE: [&str; 4] = ["--", "-batch", "-ex", "bt"];

/// The names of the functions, the innermost first.
fn names<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> Vec<&'a str> {
    frames.into_iter().filter_map(|frame| Some(frame.symbol.as_ref()?.name.as_str())).collect()
}

/// All that a record names of the thread that failed: the functions of its handler and those below.
fn native_names(record: &Record) -> Vec<&str> {
    let handler = record.failure.iter().flat_map(|failure| &failure.handler);
    names(handler.chain(&record.stack))
}

/// The functions of gdb's `bt`.
fn functions(trace: &str) -> Vec<&str> {
    let frames = trace.rfind("\n#0 ").map_or("", |begin| &trace[begin..]);
    frames.lines().filter_map(function).collect()
}

/// The function in a line such as `#1  0x00005581f1d1d16b in middle (value=2) at segv.c:7`, which has no address where it is that of the line.
fn function(line: &str) -> Option<&str> {
    let (_, frame) = line.strip_prefix('#')?.split_once(' ')?;
    let frame = frame.trim_start();
    let frame = if frame.starts_with("0x") { frame.split_once(" in ")?.1 } else { frame };
    Some(frame.split_once(" (")?.0)
}

/// Asserts that gdb shows all these functions in this order.
#[track_caller]
fn assert_traced(trace: &str, names: &[&str]) {
    let mut shown = functions(trace).into_iter();
    for name in names {
        assert!(shown.any(|function| function == *name), "{name} of {names:?} is missing in {trace}");
    }
}

/// Waits until the files of a crash are in the module store.
fn wait_for_modules(bed: &TestBed, record: &Record) {
    let files = record.modules.iter().filter(|module| !module.path.starts_with('['));
    let names: Vec<_> = files.filter_map(|module| module_file_name(module.build_id.as_deref()?)).collect();
    assert!(!names.is_empty(), "{:?}", record.modules);
    let dir = bed.path("var/lib/coreward/modules");
    eventually(Duration::from_secs(30), || names.iter().all(|name| dir.join(name).exists()));
}

/// Runs the server of topics in a container and sends it a request, which it does not survive.
fn request(bed: &TestBed, container: &Container) -> Record {
    let srv = container.root().join("srv");
    compile_ruby_extension(&srv.join("parser.so"));
    fs::copy(source("topics.rb"), srv.join("topics.rb")).unwrap();
    let arguments = ["ruby", "-I", "/srv", "/srv/topics.rb", "/tmp/app.sock"];
    let mut server = container
        .command(1000, &arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let socket = container.root().join("tmp/app.sock");
    let mut connection = None;
    eventually(Duration::from_secs(20), || {
        connection = UnixStream::connect(&socket).ok();
        connection.is_some() || server.try_wait().unwrap().is_some()
    });
    if let Some(connection) = &mut connection {
        connection.write_all(b"GET /topics/42 HTTP/1.0\r\n\r\n").unwrap();
    }
    let ended = server.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("[BUG] Segmentation fault at 0x"), "{said}");
    let mut answer = String::new();
    let _ = connection.unwrap().read_to_string(&mut answer);
    assert_eq!(answer, "");
    bed.wait_for(1).remove(0).record
}

#[test]
fn an_alert_leads_to_the_bug_in_a_container_that_is_gone() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let container = Container::of_image(&bed, HOSTNAME, &interpreter_root("trixie"));
    let record = request(&bed, &container);

    // What Prometheus has of it.
    let labels = format!("hostname=\"{HOSTNAME}\",program=\"{}\",signal=\"SEGV\"", record.exe);
    assert_eq!(daemon.count("coredump_process_count", &labels), 1, "{}", daemon.scrape());
    assert_eq!(record.exe, "/usr/bin/ruby3.3");
    assert_eq!(record.cgroup.container.as_deref(), Some(container.id.as_str()), "{:?}", record.cgroup);

    // Ruby's handler ends the process by abort(3). The first process of a PID namespace ignores SIGABRT, and abort(3) then halts, which no program
    // may: the kernel's signal is that of this fault.
    let failure = record.failure.as_ref().expect("a handler");
    println!("FAILURE {failure:?} {:?}", record.siginfo);
    assert_eq!((failure.signal_name.as_str(), record.signal_name.as_str()), ("SEGV", "SEGV"));
    assert_eq!((failure.code, failure.address), (Some(1), Some(0x7 + r#"{:topic=>"42"}"#.len() as u64)));
    assert_eq!(record.title(), "SIGSEGV in hash_key <- parse <- FastParser.calc_hash_key (topics.rb:11)");
    assert_eq!(names(&record.stack)[0], "hash_key");
    let entry = String::from_utf8_lossy(&bed.journal()[0]).into_owned();
    println!("ENTRY {entry}");
    wait_for_modules(&bed, &record);
    assert!(!container.exists());
    container.delete();

    let id = record.id.as_str();
    println!("{}", text(&coreward(&bed, &["info", id])));
    println!("{}", text(&coreward(&bed, &["groups"])));
    println!("{}", text(&coreward(&bed, &["list"])));
    println!("NAMES {:?}", native_names(&record));
    let debugged = coreward(&bed, &[&["debug", id], &BACKTRACE[..]].concat());
    println!("{}", String::from_utf8_lossy(&debugged.stderr));
    println!("{}", String::from_utf8_lossy(&debugged.stdout));
    assert_traced(&text(&debugged), &native_names(&record));

    let bundle = bed.path("crash.tar");
    text(&coreward(&bed, &["export", id, "--bundle", bundle.to_str().unwrap()]));
    fs::set_permissions(&bundle, fs::Permissions::from_mode(0o644)).unwrap();
    let debugged = open_elsewhere(&bed, &bundle);
    println!("{debugged}");
    assert_traced(&debugged, &native_names(&record));
}

/// Opens a bundle in a container that has gdb and the command, and nothing of the crash.
fn open_elsewhere(bed: &TestBed, bundle: &Path) -> String {
    let mut container = Container::new(bed, "laptop");
    let root = container.root();
    for dir in ["usr", "tmp", "var/tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for dir in ["tmp", "var/tmp"] {
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(0o1777)).unwrap();
    }
    for dir in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{dir}"), root.join(dir)).unwrap();
    }
    container.share(Path::new("/usr"), "/usr");
    container.share(Path::new(env!("CARGO_BIN_EXE_coreward")), "/opt/coreward");
    container.share(bundle, "/tmp/crash.tar");
    let output = container
        .command(4321, &[&["/opt/coreward", "debug", "/tmp/crash.tar"], &BACKTRACE[..]].concat())
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stderr));
    text(&output)
}

/// The frames from the fault in names.c up to main.
const STATIC: [&str; 4] = ["static_fault", "static_caller", "exported_caller", "main"];
const LIBRARY: [&str; 4] = ["library_fault", "library_entry", "call_library", "main"];

#[test]
fn programs_and_libraries_that_are_gone_have_their_names_in_the_debugger() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nUnitBurst=0\nTotalBurst=0\n");
    let _daemon = bed.daemon();
    let dir = bed.path("programs");
    let install = |name: &str, to: &str| {
        let path = dir.join(to);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        run_tool("cp", &[program(name).to_str().unwrap(), path.to_str().unwrap()]);
        path
    };
    let run = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(install(name, name));
        command.args(arguments);
        command
    };
    let library = dir.join("library.so");
    let library = library.to_str().unwrap();
    let mut in_root = Command::new("chroot");
    in_root.arg(dir.join("root")).args(["/program", "static"]);
    for (what, mut command, expected) in [
        ("a program that is deleted later", run("names", &["static"]), STATIC),
        ("a static program", run("names-static", &["static"]), STATIC),
        ("a static program in a root directory of its own", in_root, STATIC),
        ("a program in memory", run("names", &["memfd", "static"]), STATIC),
        ("a library that is deleted later", run("names", &["library", library, "library_entry"]), LIBRARY),
        ("a library that was deleted", run("names", &["library", library, "library_entry", "delete"]), LIBRARY),
        ("a library that was upgraded", run("names", &["library", library, "library_entry", "replace"]), LIBRARY),
    ] {
        for (name, to) in [
            ("names", "names"),
            ("names-static", "names-static"),
            ("names-static", "root/program"),
            ("names-library.so", "library.so"),
            ("names-other.so", "library.so.new"),
        ] {
            install(name, to);
        }
        let before = bed.crashes().len();
        command.run_to_end();
        let record = bed.wait_for(before + 1).pop().unwrap().record;
        assert_eq!(names(&record.stack)[..4], expected, "{what}: {record:?}");
        wait_for_modules(&bed, &record);
        fs::remove_dir_all(&dir).unwrap();
        let debugged = coreward(&bed, &[&["debug", record.id.as_str()], &BACKTRACE[..]].concat());
        println!("{what} {}", String::from_utf8_lossy(&debugged.stderr));
        assert_traced(&text(&debugged), &expected);
    }
}
