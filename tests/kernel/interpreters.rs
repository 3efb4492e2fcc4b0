//! Stacks of interpreted programs: what the record has is what the interpreter itself says, for several versions of each, in roots of other
//! releases than this machine's as well.

use crate::testbed::{
    Daemon, TestBed, compile_for_php, compile_ruby_extension, coreward, interpreter_root, source, text,
};
use coreward::crash::{InterpreterFrame, InterpreterStack, Record};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Releases of Debian with other versions than this machine's, and the versions of Python, Ruby and PHP in them.
const SUITES: [(&str, [&str; 3]); 3] = [
    ("bullseye", ["3.9", "2.7.4", "7.4.33"]),
    ("bookworm", ["3.11.2", "3.1.2", "8.2."]),
    ("trixie", ["3.13.5", "3.3.", "8.4."]),
];

/// A test bed whose daemon stores every core.
fn started() -> (TestBed, Daemon) {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nUnitBurst=0\nTotalBurst=0\n");
    let daemon = bed.daemon();
    (bed, daemon)
}

/// A directory of the test's own below a root, which the processes there see as `/tmp/NAME`.
struct Workplace {
    outside: tempfile::TempDir,
    inside: PathBuf,
    root: PathBuf,
}

impl Workplace {
    fn new(root: &Path) -> Self {
        let outside = tempfile::tempdir_in(root.join("tmp")).expect("a directory");
        let inside = Path::new("/tmp").join(outside.path().file_name().expect("a name"));
        Self { outside, inside, root: root.to_owned() }
    }

    /// The command that runs `interpreter` on a copy of the program `name`.
    fn command(&self, interpreter: &str, name: &str, arguments: &[&str]) -> Command {
        fs::copy(source(name), self.outside.path().join(name)).expect("a copy");
        let mut command = Command::new("/usr/sbin/chroot");
        command.arg(&self.root).arg(interpreter).arg(self.inside.join(name)).args(arguments);
        // Modules of this machine would be of another version.
        command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
        command
    }
}

/// Runs a command that crashes, and returns its record and what it wrote to standard error.
fn crash(bed: &TestBed, mut command: Command) -> (Record, String) {
    let before = bed.crashes().len();
    let output = command.stdin(Stdio::null()).output().expect("the command");
    let written = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{command:?} ended well: {written}");
    let record = bed.wait_for(before + 1).pop().expect("a crash").record;
    (record, written)
}

#[track_caller]
fn stack(record: &Record) -> &InterpreterStack {
    let stack = record.interpreter.as_ref().unwrap_or_else(|| panic!("no interpreter: {:?}", record.warnings));
    assert_eq!(stack.incomplete, None);
    stack
}

/// Function, file and line.
type Place = (String, String, Option<u32>);

fn places(frames: &[InterpreterFrame], function: impl Fn(&str) -> String) -> Vec<Place> {
    frames.iter().map(|frame| (function(&frame.function), frame.file.clone(), frame.line)).collect()
}

/// The frames that faulthandler wrote, which gives names without classes.
fn python_places(written: &str) -> Vec<Place> {
    let line = |line: &str| {
        let (file, rest) = line.trim().strip_prefix("File \"")?.split_once("\", line ")?;
        let (line, function) = rest.split_once(" in ")?;
        Some((function.to_owned(), file.to_owned(), line.parse().ok()))
    };
    written.lines().filter_map(line).collect()
}

/// The name without what it is in: faulthandler escapes what is not ASCII, as these programs have none in names of functions.
fn without_class(function: &str) -> String {
    function.rsplit('.').next().unwrap_or(function).to_owned()
}

/// The frames of the part "Ruby level backtrace information" of Ruby's report, which has the innermost last.
fn ruby_places(written: &str) -> Vec<Place> {
    let (_, section) = written.split_once("-- Ruby level backtrace information").expect("Ruby's report");
    let line = |line: &str| {
        let (place, function) = line.split_once(":in ")?;
        let (file, line) = place.rsplit_once(':')?;
        let function = function.trim_matches(['`', '\'']);
        Some((function.to_owned(), file.to_owned(), Some(line.parse().ok()?)))
    };
    let mut places: Vec<Place> = section.lines().skip(1).map_while(line).collect();
    places.reverse();
    places
}

/// `block in show` of `block in Web::TopicController#show`: before 3.4 Ruby does not say whose method it is.
fn without_owner(function: &str) -> String {
    let (before, name) = function.rsplit_once(' ').map_or(("", function), |(before, name)| (before, name));
    let name = name.rsplit(['#', '.']).next().unwrap_or(name);
    if before.is_empty() { name.to_owned() } else { format!("{before} {name}") }
}

/// The frames that `interpreted.php` wrote. debug_backtrace() has the place of the call in the frame of the function that was called.
fn php_places(written: &str) -> Vec<Place> {
    let line = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        Some((fields.next()?, fields.next()?, fields.next()?.parse().ok()))
    };
    written.lines().filter_map(line).collect()
}

/// The same of a stack without its innermost function, which debug_backtrace() cannot have.
fn as_debug_backtrace(frames: &[InterpreterFrame]) -> Vec<Place> {
    let called = frames.iter().skip(1);
    let callers = frames.iter().skip(2);
    called.zip(callers).map(|(called, at)| (called.function.clone(), at.file.clone(), at.line)).collect()
}

/// Asserts that there is a frame of the interpreter's loop for each run of frames.
#[track_caller]
fn assert_placed(stack: &InterpreterStack) {
    let runs = stack.frames.iter().filter(|frame| frame.entry).count();
    assert_eq!(stack.loops.len(), runs, "{stack:#?}");
    assert!(stack.frames.last().is_some_and(|frame| frame.entry), "{stack:#?}");
    assert_eq!(stack.lines_apart(), [""; 0]);
}

/// Asserts that `info` and the journal show a line for each frame.
fn assert_shown(bed: &TestBed, record: &Record) {
    let stack = stack(record);
    let info = text(&coreward(bed, &["info", record.id.as_str()]));
    let entries = bed.journal();
    let entry = entries.last().expect("an entry");
    let entry = String::from_utf8_lossy(entry);
    for frame in &stack.frames {
        let shown = format!(" {:<18} {}", stack.runtime, frame.function);
        assert!(info.contains(&shown), "{shown:?} in {info}");
        assert!(entry.contains(&shown), "{shown:?} in {entry}");
    }
    assert!(info.contains(&format!(" Interpreter: {} {}\n", stack.title(), stack.version)), "{info}");
}

#[test]
fn python_frames_are_those_of_faulthandler() {
    let (bed, _daemon) = started();
    for (suite, [version, ..]) in SUITES {
        let place = Workplace::new(&interpreter_root(suite));
        for arguments in [&[][..], &["thread"]] {
            let (record, written) = crash(&bed, place.command("python3", "interpreted.py", arguments));
            let stack = stack(&record);
            assert_eq!((stack.runtime.as_str(), stack.version.as_str()), ("python", version), "{suite}");
            let expected = python_places(&written);
            assert!(expected.len() > 8, "{written}");
            assert_eq!(places(&stack.frames, without_class), expected, "{suite} {arguments:?}");
            assert_placed(stack);
            assert_shown(&bed, &record);
        }
    }
}

#[test]
fn ruby_frames_are_those_of_rubys_own_report() {
    let (bed, _daemon) = started();
    for (suite, [_, version, _]) in SUITES {
        let place = Workplace::new(&interpreter_root(suite));
        for arguments in [&[][..], &["thread"]] {
            let (record, written) = crash(&bed, place.command("ruby", "interpreted.rb", arguments));
            let stack = stack(&record);
            assert!(stack.runtime == "ruby" && stack.version.starts_with(version), "{suite}: {}", stack.version);
            let expected = ruby_places(&written);
            assert!(expected.len() > 8, "{written}");
            assert_eq!(places(&stack.frames, without_owner), expected, "{suite} {arguments:?}");
            let named: Vec<&str> = stack.frames.iter().map(|frame| frame.function.as_str()).collect();
            for name in ["Web::TopicController#fault", "block in Web::TopicController#show", "Object#handle_request"] {
                assert!(named.contains(&name), "{suite}: {named:?}");
            }
            assert!(named.contains(&"Web::TopicController.handle"), "{suite}: {named:?}");
            assert_placed(stack);
            assert_shown(&bed, &record);
        }
    }
}

#[test]
fn php_frames_are_those_of_debug_backtrace() {
    let (bed, _daemon) = started();
    for (suite, [.., version]) in SUITES {
        let place = Workplace::new(&interpreter_root(suite));
        let (record, written) = crash(&bed, place.command("php", "interpreted.php", &[]));
        let stack = stack(&record);
        assert!(stack.runtime == "php" && stack.version.starts_with(version), "{suite}: {}", stack.version);
        let expected = php_places(&written);
        assert!(expected.len() > 7, "{written}");
        assert_eq!(as_debug_backtrace(&stack.frames), expected, "{suite}");
        let last = stack.frames.last().expect("a frame");
        assert_eq!((last.function.as_str(), last.entry), ("{main}", true), "{suite}");
        assert_placed(stack);
        assert_shown(&bed, &record);
    }
}

/// Asserts that the stack is that of interpreted.php, with `innermost` in C, and what debug_backtrace() wrote there.
#[track_caller]
fn assert_php(record: &Record, written: &str, innermost: &str) {
    let stack = stack(record);
    let mut php = Command::new(interpreter_root("php-zts").join("usr/bin/php"));
    let version = php.args(["-n", "-r", "echo PHP_VERSION, PHP_ZTS;"]).output().expect("PHP").stdout;
    assert_eq!((stack.runtime.as_str(), format!("{}1", stack.version).as_bytes()), ("php", version.as_slice()));
    let expected = php_places(written);
    assert!(expected.len() > 7, "{written}");
    assert_eq!(as_debug_backtrace(&stack.frames), expected);
    assert_eq!(stack.frames.first().map(|frame| frame.function.as_str()), Some(innermost));
    assert_eq!(stack.frames.last().map(|frame| (frame.function.as_str(), frame.entry)), Some(("{main}", true)));
    assert_placed(stack);
}

#[test]
fn php_that_is_built_for_threads_has_the_frames_of_debug_backtrace() {
    let (bed, _daemon) = started();
    let place = tempfile::tempdir().expect("a directory");
    let extension = place.path().join("topics.so");
    compile_for_php("topics.c", &["-shared", "-fPIC"], &extension);
    let php = interpreter_root("php-zts").join("usr/bin/php");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&php);
        command.arg("-n").args(arguments).arg(source("interpreted.php"));
        command
    };
    let (record, written) = crash(&bed, command(&[]));
    assert_php(&record, &written, "posix_kill");
    assert_shown(&bed, &record);
    let (record, written) = crash(&bed, command(&["-d", &format!("extension={}", extension.display())]));
    assert_php(&record, &written, "crash_in_extension");
    // The fault is in the extension.
    let first = record.stack.first().and_then(|frame| frame.module).expect("a module");
    assert_eq!(record.modules[first as usize].path, extension.display().to_string());
    assert_shown(&bed, &record);
}

#[test]
fn of_two_threads_that_run_php_the_one_that_crashed_is_shown() {
    let (bed, _daemon) = started();
    let place = tempfile::tempdir().expect("a directory");
    let program = place.path().join("php-threads");
    compile_for_php("php-threads.c", &["-lphp", "-pthread"], &program);
    for (scripts, is_main) in [(["waiting.php", "interpreted.php"], false), (["interpreted.php", "waiting.php"], true)]
    {
        let mut command = Command::new(&program);
        command.args(scripts.map(source)).env("PHPRC", place.path()).env("PHP_INI_SCAN_DIR", "");
        let (record, written) = crash(&bed, command);
        assert_eq!(record.tid == Some(record.key.pid), is_main, "{scripts:?}");
        assert_php(&record, &written, "crash_in_extension");
        let files: Vec<&str> = stack(&record).frames.iter().map(|frame| frame.file.as_str()).collect();
        assert!(!files.iter().any(|file| file.contains("waiting.php")), "{files:?}");
        assert_shown(&bed, &record);
    }
    // A thread that runs no PHP, in a process that does.
    let mut command = Command::new(&program);
    command.arg(source("waiting.php"));
    let (record, written) = crash(&bed, command);
    assert_eq!(record.interpreter, None, "{written}");
    assert!(record.tid != Some(record.key.pid) && !record.stack.is_empty());
}

#[test]
fn a_bug_in_an_extension_is_shown_with_the_methods_that_led_to_it() {
    let (bed, _daemon) = started();
    let place = Workplace::new(&interpreter_root("trixie"));
    compile_ruby_extension(&place.outside.path().join("parser.so"));
    let mut command = place.command("ruby", "request.rb", &[]);
    command.env("RUBYLIB", &place.inside);
    let (record, _) = crash(&bed, command);
    let stack = stack(&record);
    let file = |name: &str| place.inside.join(name).display().to_string();
    let at = |function: &str, line: u32| (function.to_owned(), file("request.rb"), Some(line));
    let expected = [
        at("FastParser.calc_hash_key", 10),
        at("FastParser.parse", 10),
        at("TopicController#render", 10),
        at("TopicController#show", 6),
        at("Object#handle_request", 15),
        at("<main>", 18),
    ];
    assert_eq!(places(&stack.frames, str::to_owned), expected);
    // The fault is in the extension, and the methods are where the loop is, some frames below.
    let first = record.stack.first().and_then(|frame| frame.module).expect("a module");
    assert_eq!(record.modules[first as usize].path, file("parser.so"));
    let info = text(&coreward(&bed, &["info", record.id.as_str()]));
    let (above, _) = info.split_once("TopicController#render").expect("a method");
    assert!(above.contains("\n#0  ") && above.contains("parser.so"), "{info}");
}

#[test]
fn threads_that_run_no_interpreted_code_have_no_such_stack() {
    let (bed, _daemon) = started();
    let place = Workplace::new(&interpreter_root("bookworm"));
    let script = place.outside.path().join("native.py");
    // A thread that Python does not know.
    let code = "import ctypes, time\nlibc = ctypes.CDLL(None)\nthread = ctypes.c_ulong()\n\
                libc.pthread_create(ctypes.byref(thread), None, libc.strlen, ctypes.c_void_p(8))\ntime.sleep(60)\n";
    fs::write(&script, code).expect("a script");
    let mut command = Command::new("/usr/sbin/chroot");
    command.arg(&place.root).args(["python3"]).arg(place.inside.join("native.py")).env_clear().env("PATH", "/usr/bin");
    let (record, written) = crash(&bed, command);
    assert_eq!(record.interpreter, None, "{written}");
    assert!(!record.stack.is_empty());
}
