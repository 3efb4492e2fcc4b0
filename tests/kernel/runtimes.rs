//! Runtimes that report crashes themselves, and compile code: the report is kept with the core, as far as the process wrote it, and frames say whose
//! code they are in.

use crate::testbed::{RunToEnd, Served, TestBed, coreward, eventually, run_tool, source, text};
use coreward::crash::{Frame, Record, RuntimeReport};
use coreward::store::Listed;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// The user whose processes crash.
const USER: u32 = 65_002;

/// A test bed with a directory of the user's.
struct Runtimes {
    bed: TestBed,
    home: PathBuf,
    _daemon: crate::testbed::Daemon,
}

impl Runtimes {
    fn new() -> Self {
        Self::with("")
    }

    fn with(configuration: &str) -> Self {
        let bed = TestBed::new();
        bed.configure(&format!("[Coreward]\nUnitBurst=0\nUserBurst=0\nTotalBurst=0\n{configuration}"));
        let home = bed.path("home/user");
        fs::create_dir_all(&home).unwrap();
        chown(&home, Some(USER), Some(USER)).unwrap();
        let daemon = bed.daemon();
        Self { bed, home, _daemon: daemon }
    }

    /// A command of the user's in the directory.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", "--", program]);
        command
            .args(arguments)
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .stdout(Stdio::null());
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &self.home);
        command
    }

    /// Node.js without memory left, with these options.
    fn node(&self, options: &[&str]) -> Command {
        let code = "const all = []; for (;;) all.push({ more: [1, 2, 3] });";
        self.command("node", &[&["--max-old-space-size=20"], options, &["-e", code]].concat())
    }

    /// A Java program that writes to an address that is not mapped, with these options.
    fn java(&self, options: &[&str]) -> Command {
        let program = source("Crash.java");
        let common = ["-XX:+UseSerialGC", "-Xmx64m"];
        self.command("java", &[&common[..], options, &[program.to_str().unwrap()]].concat())
    }

    fn crash(&self, mut command: Command) -> Listed {
        let before = self.bed.crashes().len();
        assert!(!command.run_to_end().success(), "{command:?}");
        self.bed.wait_for(before + 1).pop().expect("a crash")
    }

    /// A process of the user's with the name of Node.js that is killed by SIGSEGV once `plant` has put something into its directory, and knows its PID.
    fn crash_of_a_pretender(&self, plant: impl FnOnce(u32)) -> Listed {
        let program = self.home.join("node");
        let _ = fs::remove_file(&program);
        fs::copy("/bin/sleep", &program).unwrap();
        let before = self.bed.crashes().len();
        let mut child = self.command(program.to_str().unwrap(), &["60"]).spawn().unwrap();
        let exe = format!("/proc/{}/exe", child.id());
        eventually(Duration::from_secs(10), || fs::read_link(&exe).is_ok_and(|found| found == program));
        plant(child.id());
        run_tool("kill", &["-SEGV", &child.id().to_string()]);
        child.wait().unwrap();
        self.bed.wait_for(before + 1).pop().expect("a crash")
    }

    fn exported(&self, record: &Record) -> Vec<u8> {
        let output = coreward(&self.bed, &["export", "--runtime-report", record.id.as_str()]);
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }
}

#[track_caller]
fn report(record: &Record) -> &RuntimeReport {
    record.runtime_report.as_ref().unwrap_or_else(|| panic!("no report: {:?}", record.warnings))
}

/// The only file in a directory whose name begins and ends so.
#[track_caller]
fn file_in(dir: &Path, start: &str, end: &str) -> PathBuf {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found: Vec<String> = names.filter(|name| name.starts_with(start) && name.ends_with(end)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    dir.join(&found[0])
}

#[test]
fn the_report_of_hotspot_is_kept_with_the_core() {
    let at = Runtimes::new();
    let listed = at.crash(at.java(&[]));
    let (record, file) = (&listed.record, file_in(&at.home, "hs_err_pid", ".log"));
    let written = fs::read(&file).unwrap();
    let length = written.len() as u64;
    let path = file.display().to_string();
    assert_eq!(
        report(record),
        &RuntimeReport { runtime: "hotspot".to_owned(), path: path.clone(), bytes: length, kept: length }
    );
    fs::remove_file(&file).unwrap();
    assert_eq!(at.exported(record), written);
    // The fault is what the report is about, and not the abort that followed.
    let failure = record.failure.as_ref().expect("a fault");
    assert_eq!((failure.signal_name.as_str(), failure.address), ("SEGV", Some(8)));
    assert!(record.title().starts_with("SIGSEGV in code compiled by HotSpot"), "{}", record.title());
    // What is charged to the quota is the whole file.
    assert_eq!(listed.core_file.as_ref().unwrap().metadata().unwrap().size(), record.core.stored);
    run_tool("zstd", &["-tq", listed.core_file.as_ref().unwrap().to_str().unwrap()]);
    let info = text(&coreward(&at.bed, &["info", record.id.as_str()]));
    let expected = format!("show it with: coreward export --runtime-report {}", record.id);
    assert!(
        info.contains(&format!("Runtime Report: {path}, written by HotSpot (")) && info.contains(&expected),
        "{info}"
    );
    let json = text(&coreward(&at.bed, &["info", "--json", record.id.as_str()]));
    assert!(json.contains("\"runtime_report\"") && json.contains("\"hotspot\""), "{json}");
    // As a file, and from a bundle, with tar and in another catalog.
    let (to, bundle) = (at.bed.path("report.log"), at.bed.path("bundle.tar"));
    let id = record.id.as_str();
    text(&coreward(&at.bed, &["export", "--runtime-report", "-o", to.to_str().unwrap(), id]));
    assert_eq!(fs::read(&to).unwrap(), written);
    text(&coreward(&at.bed, &["export", "--bundle", bundle.to_str().unwrap(), id]));
    let member = format!("crash-{id}/runtime-report.txt");
    let unpacked = Command::new("tar").arg("-xOf").arg(&bundle).arg(member).output().unwrap();
    assert_eq!(unpacked.stdout, written);
    text(&coreward(&at.bed, &["rm", id]));
    assert!(!coreward(&at.bed, &["export", "--runtime-report", id]).status.success(), "it is gone with its core");
    let kept = fs::read(&bundle).unwrap();
    drop(at);
    let elsewhere = TestBed::new();
    let _daemon = elsewhere.daemon();
    let copy = elsewhere.path("copy.tar");
    fs::write(&copy, kept).unwrap();
    text(&coreward(&elsewhere, &["import", copy.to_str().unwrap()]));
    elsewhere.wait_for(1);
    assert_eq!(coreward(&elsewhere, &["export", "--runtime-report", id]).stdout, written);
}

#[test]
fn a_report_is_found_where_options_say_or_its_runtime_fell_back_to() {
    let at = Runtimes::new();
    fs::create_dir(at.home.join("logs")).unwrap();
    chown(at.home.join("logs"), Some(USER), Some(USER)).unwrap();
    let expected = |record: &Record, path: &Path| {
        let report = report(record);
        assert_eq!(report.path, path.display().to_string());
        assert_eq!(report.kept, report.bytes);
        assert_eq!(at.exported(record), fs::read(path).unwrap());
        fs::remove_file(path).unwrap();
    };
    let record = at.crash(at.java(&["-XX:ErrorFile=logs/java-%p.log"])).record;
    expected(&record, &at.home.join(format!("logs/java-{}.log", record.key.pid)));
    let mut by_environment = at.java(&[]);
    let logs = at.home.join("logs");
    by_environment.env("JAVA_TOOL_OPTIONS", format!("-Dx=y -XX:ErrorFile={}/crash", logs.display()));
    expected(&at.crash(by_environment).record, &logs.join("crash"));
    // A directory where the user may not write.
    let mut elsewhere = at.java(&[]);
    elsewhere.current_dir("/");
    let record = at.crash(elsewhere).record;
    expected(&record, &Path::new("/tmp").join(format!("hs_err_pid{}.log", record.key.pid)));
    // In a PID namespace of its own the process has another PID. Not 1, with which it could not abort.
    let mut inside = Command::new("unshare");
    let script = format!("java -XX:+UseSerialGC -Xmx64m {}; exit 1", source("Crash.java").display());
    inside.args(["--fork", "--pid", "--kill-child", "sh", "-c", &script]).current_dir(&at.home);
    expected(&at.crash(inside).record, &at.home.join("hs_err_pid2.log"));
}

#[test]
fn the_report_of_node_is_kept_with_the_core() {
    let at = Runtimes::new();
    let record = at.crash(at.node(&["--report-on-fatalerror"])).record;
    let file = file_in(&at.home, "report.", ".json");
    let written = fs::read(&file).unwrap();
    assert_eq!((report(&record).runtime.as_str(), &report(&record).path), ("node", &file.display().to_string()));
    assert_eq!(at.exported(&record), written);
    let json: serde_json::Value = serde_json::from_slice(&at.exported(&record)).unwrap();
    assert_eq!(json["header"]["processId"], record.key.pid.as_raw());
    let mut by_environment = at.node(&[]);
    by_environment.env("NODE_OPTIONS", "--report-on-fatalerror --report-filename=crash.json --report-directory=.");
    let record = at.crash(by_environment).record;
    assert_eq!(report(&record).path, at.home.join("crash.json").display().to_string());
    assert_eq!(at.exported(&record), fs::read(at.home.join("crash.json")).unwrap());
    // Without the option there is none: that of the crash before is not taken for it.
    let record = at.crash(at.node(&[])).record;
    assert_eq!(record.runtime_report, None);
    let output = coreward(&at.bed, &["export", "--runtime-report", record.id.as_str()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no report of a runtime is kept"), "{output:?}");
}

#[test]
fn a_duplicate_in_a_storm_and_a_crash_without_a_core_have_no_report() {
    let at = Runtimes::with("StormBurst=1\nStormStacks=0\n");
    let crash = || {
        at.crash_of_a_pretender(|pid| {
            let path = at.home.join(format!("report.20260101.000000.{pid}.0.001.json"));
            fs::write(&path, "own").unwrap();
            chown(path, Some(USER), Some(USER)).unwrap();
        })
        .record
    };
    let (first, second) = (crash(), crash());
    assert_eq!(report(&first).kept, 3);
    assert!(!second.core.is_stored() && second.runtime_report.is_none(), "{:?}", second.core);
    assert_eq!(first.signature, second.signature);
}

#[test]
fn only_a_file_that_the_process_wrote_is_taken_for_its_report() {
    let at = Runtimes::new();
    let name = |pid: u32| at.home.join(format!("report.20260101.000000.{pid}.0.001.json"));
    let write = |path: &Path, content: &str, user: u32| {
        fs::write(path, content).unwrap();
        chown(path, Some(user), Some(user)).unwrap();
    };
    let plain = at.crash_of_a_pretender(|pid| write(&name(pid), "own", USER)).record;
    assert_eq!(at.exported(&plain), b"own");
    let secret = at.bed.path("secret");
    write(&secret, "secret", 0);
    let plants: [(&str, &dyn Fn(u32)); 8] = [
        ("a link", &|pid| symlink(&secret, name(pid)).unwrap()),
        ("a link to a file of the user's", &|pid| {
            write(&at.home.join("own"), "own", USER);
            symlink("own", name(pid)).unwrap();
        }),
        ("a FIFO", &|pid| {
            run_tool("mkfifo", &[name(pid).to_str().unwrap()]);
            chown(name(pid), Some(USER), Some(USER)).unwrap();
        }),
        ("a hard link to a file of another user", &|pid| fs::hard_link(&secret, name(pid)).unwrap()),
        ("a file of the user's with a second name", &|pid| {
            write(&at.home.join("twice"), "own", USER);
            fs::hard_link(at.home.join("twice"), name(pid)).unwrap();
        }),
        ("a file of another user", &|pid| write(&name(pid), "secret", USER + 1)),
        ("a file that is older than the process", &|pid| {
            write(&name(pid), "of an earlier process", USER);
            let before = SystemTime::now() - Duration::from_secs(3600);
            fs::File::options().write(true).open(name(pid)).unwrap().set_modified(before).unwrap();
        }),
        ("a device", &|pid| {
            run_tool("mknod", &[name(pid).to_str().unwrap(), "c", "1", "5"]);
            chown(name(pid), Some(USER), Some(USER)).unwrap();
        }),
    ];
    for (what, plant) in plants {
        let record = at.crash_of_a_pretender(plant).record;
        assert!(record.core.is_stored() && record.runtime_report.is_none(), "{what}: {:?}", record.runtime_report);
        assert!(record.held_us < 2_000_000, "{what}: held for {} us", record.held_us);
    }
}

#[test]
fn of_a_long_report_the_beginning_is_kept() {
    let at = Runtimes::new();
    let record = at
        .crash_of_a_pretender(|pid| {
            let path = at.home.join(format!("report.20260101.000000.{pid}.0.001.json"));
            fs::write(&path, "begins").unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_len(10 << 30).unwrap();
            chown(path, Some(USER), Some(USER)).unwrap();
        })
        .record;
    assert_eq!((report(&record).bytes, report(&record).kept), (10 << 30, RuntimeReport::MAX_KEPT));
    let kept = at.exported(&record);
    assert!(kept.starts_with(b"begins\0") && kept.len() as u64 == RuntimeReport::MAX_KEPT);
    let info = text(&coreward(&at.bed, &["info", record.id.as_str()]));
    assert!(info.contains("written by Node.js (10.0G; the first 1.0M are kept; show it with: "), "{info}");
}

#[test]
fn no_report_is_looked_for_where_a_user_serves_the_files() {
    let at = Runtimes::new();
    let files = at.bed.path("files");
    fs::create_dir(&files).unwrap();
    chown(&files, Some(USER), Some(USER)).unwrap();
    let served = Served::new(&files, &at.home.join("served"));
    let program = at.home.join("node");
    fs::copy("/bin/sleep", &program).unwrap();
    let options = format!("--report-directory={}", served.path.display());
    for (directory, options) in [(&served.path, None), (&at.home, Some(&options))] {
        let before = at.bed.crashes().len();
        let mut command = at.command(program.to_str().unwrap(), &["60"]);
        command.current_dir(directory);
        if let Some(options) = options {
            command.env("NODE_OPTIONS", options);
        }
        let mut child = command.spawn().unwrap();
        let exe = format!("/proc/{}/exe", child.id());
        eventually(Duration::from_secs(10), || fs::read_link(&exe).is_ok_and(|found| found == program));
        let report = files.join(format!("report.20260101.000000.{}.0.001.json", child.id()));
        fs::write(&report, "own").unwrap();
        chown(&report, Some(USER), Some(USER)).unwrap();
        served.stop();
        run_tool("kill", &["-SEGV", &child.id().to_string()]);
        child.wait().unwrap();
        eventually(Duration::from_secs(30), || at.bed.crashes().len() > before);
        served.go_on();
        let record = at.bed.wait_for(before + 1).pop().unwrap().record;
        assert!(record.core.is_stored() && record.runtime_report.is_none(), "{:?}", record.runtime_report);
        assert!(record.held_us < 2_000_000, "held for {} us", record.held_us);
    }
}

/// The frames of the thread that failed which are in code of this compiler.
fn compiled<'a>(record: &'a Record, compiler: &str) -> Vec<&'a Frame> {
    let frames: Vec<&Frame> = record.stack.iter().filter(|frame| frame.compiler.as_deref() == Some(compiler)).collect();
    assert!(!frames.is_empty(), "no frame of {compiler}: {:#?}", record.stack);
    assert!(frames.iter().all(|frame| frame.module.is_none()));
    frames
}

/// The entry in the journal for the last crash.
fn message(at: &Runtimes) -> String {
    let entries = at.bed.journal();
    String::from_utf8_lossy(entries.last().expect("an entry")).into_owned()
}

#[test]
fn frames_in_compiled_code_say_whose_it_is() {
    let at = Runtimes::new();
    let cases = [
        ("HotSpot", at.java(&[])),
        ("LuaJIT", at.command("luajit", &[source("crash.lua").to_str().unwrap()])),
        ("V8", at.command("node", &["--no-turbo-inlining", source("crash.js").to_str().unwrap()])),
    ];
    for (compiler, command) in cases {
        let record = at.crash(command).record;
        compiled(&record, compiler);
        let shown = format!("(compiled at run time: {compiler})");
        let info = text(&coreward(&at.bed, &["info", record.id.as_str()]));
        assert!(info.contains(&shown), "{info}");
        let message = message(&at);
        assert!(message.contains(&shown), "{message}");
        // V8's is called by its own, which is in a file.
        let title = record.title();
        assert!(title.contains(&format!("code compiled by {compiler}")) || compiler == "V8", "{title}");
    }
}

#[test]
fn compiled_functions_have_the_names_of_the_map_that_their_process_wrote() {
    let at = Runtimes::new();
    let program = source("crash.js");
    let arguments = ["--perf-basic-prof", "--no-turbo-inlining", program.to_str().unwrap()];
    let record = at.crash(at.command("node", &arguments)).record;
    let map = Path::new("/tmp").join(format!("perf-{}.map", record.key.pid));
    let frames = compiled(&record, "V8");
    let names: Vec<&str> = frames.iter().filter_map(|frame| Some(frame.symbol.as_ref()?.name.as_str())).collect();
    for function in ["crashHere", "callsIt"] {
        assert!(names.iter().any(|name| name.contains(function)), "{function}: {names:#?}\n{:#?}", record.stack);
    }
    for shown in [text(&coreward(&at.bed, &["info", record.id.as_str()])), message(&at)] {
        assert!(shown.contains("crashHere") && shown.contains("callsIt"), "{shown}");
    }
    // Another user's map is none.
    fs::remove_file(&map).unwrap();
    let mut child = at.command("luajit", &["-e", "while true do end"]).spawn().unwrap();
    let planted = Path::new("/tmp").join(format!("perf-{}.map", child.id()));
    fs::write(&planted, "0 ffffffffffffffff planted\n").unwrap();
    chown(&planted, Some(USER + 1), Some(USER + 1)).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    run_tool("kill", &["-SEGV", &child.id().to_string()]);
    child.wait().unwrap();
    let record = at.bed.wait_for(2).pop().unwrap().record;
    fs::remove_file(&planted).unwrap();
    assert!(compiled(&record, "LuaJIT").iter().all(|frame| frame.symbol.is_none()), "{:#?}", record.stack);
}
