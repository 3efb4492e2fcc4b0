//! The names of functions that `coreward info` shows are those that gdb shows for the same core: real crashes of programs in several
//! languages, built in the ways that compilers and distributions build them.

use crate::testbed::{RunToEnd, TestBed, coreward, eventually, text};
use coreward::store::Listed;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How each program is built, by a shell, in a directory of its own: `$out` from the sources in `$src`.
const PROGRAMS: &[(&str, &str)] = &[
    ("c-O0", "gcc -g -O0 -pthread $src/traced.c -o $out"),
    ("c-O1", "gcc -g -O1 -pthread $src/traced.c -o $out"),
    ("c-O2", "gcc -g -O2 -pthread $src/traced.c -o $out"),
    ("c-O3", "gcc -g -O3 -pthread $src/traced.c -o $out"),
    ("c-Os", "gcc -g -Os -pthread $src/traced.c -o $out"),
    ("c-dwarf4", "gcc -g -gdwarf-4 -O2 -pthread $src/traced.c -o $out"),
    ("c-dwarf5", "gcc -g -gdwarf-5 -O2 -pthread $src/traced.c -o $out"),
    ("c-g1", "gcc -g1 -O2 -pthread $src/traced.c -o $out"),
    // Without -Wl,--eh-frame-hdr a static program has no table that the unwinder finds in memory.
    // Split DWARF is not followed: nothing says that a file belongs to the build. Without its file gdb has no more than we have.
    ("c-split", "gcc -g -gdwarf-4 -gsplit-dwarf -O1 -pthread $src/traced.c -o $out && rm -f *.dwo"),
    ("c-zlib", "gcc -g -O2 -gz=zlib -pthread $src/traced.c -o $out"),
    ("c-zstd", "gcc -g -O2 -pthread $src/traced.c -o $out && objcopy --compress-debug-sections=zstd $out"),
    ("c-lto", "gcc -g -O2 -flto -pthread $src/traced.c -o $out"),
    ("c-static", "gcc -g -O2 -static -Wl,--eh-frame-hdr -pthread $src/traced.c -o $out"),
    ("c-static-pie", "gcc -g -O1 -static-pie -pthread $src/traced.c -o $out"),
    ("c-no-pie", "gcc -g -O1 -no-pie -pthread $src/traced.c -o $out"),
    ("c-frame-pointers", "gcc -g -O2 -fno-omit-frame-pointer -pthread $src/traced.c -o $out"),
    ("c-sections", "gcc -g -O2 -ffunction-sections -Wl,--gc-sections -pthread $src/traced.c -o $out"),
    ("c-no-debug", "gcc -O2 -pthread $src/traced.c -o $out"),
    ("c-stripped", "gcc -O2 -pthread -s $src/traced.c -o $out"),
    ("c-musl", "musl-gcc -g -O1 -Wl,--eh-frame-hdr,--build-id $src/traced.c -o $out"),
    ("c-dwz", "gcc -g -O2 -pthread $src/traced.c -o $out && dwz $out"),
    (
        "c-dwz-shared",
        "gcc -g -O2 -pthread $src/traced.c -o $out && g++ -g -O2 $src/traced.cc -o other &&
            gcc -g -O0 -pthread $src/traced.c -o third && dwz -m shared.debug $out other third && readelf -SW $out | grep -q gnu_debugaltlink",
    ),
    (
        "c-debug-link",
        "gcc -g -O2 -pthread $src/traced.c -o $out && objcopy --only-keep-debug $out $out.debug && strip $out &&
            objcopy --add-gnu-debuglink=$out.debug $out",
    ),
    (
        "c-debug-link-dwz",
        "gcc -g -O2 -pthread $src/traced.c -o $out && g++ -g -O2 $src/traced.cc -o other && mkdir -p .debug &&
            for file in $out other; do objcopy --only-keep-debug $file .debug/${file##*/}.debug && strip $file &&
            objcopy --add-gnu-debuglink=.debug/${file##*/}.debug $file; done && cd .debug && dwz -m shared.debug -r *.debug",
    ),
    (
        "c-mini",
        "gcc -g -O2 -pthread $src/traced.c -o $out && nm $out --format=posix --defined-only | awk '$2 ~ /[Tt]/ { print $1 }' >keep &&
            objcopy --only-keep-debug $out debug && objcopy -S --remove-section .comment --keep-symbols=keep debug mini && strip $out &&
            xz -f mini && objcopy --add-section .gnu_debugdata=mini.xz $out",
    ),
    ("library.so", "gcc -g -O2 -shared -fPIC $src/traced-library.c -o $out"),
    ("c++-O0", "g++ -g -O0 -pthread $src/traced.cc -o $out"),
    ("c++-O2", "g++ -g -O2 -pthread $src/traced.cc -o $out"),
    ("c++-O3-lto", "g++ -g -O3 -flto -pthread $src/traced.cc -o $out"),
    ("c++-dwarf4-static", "g++ -g -gdwarf-4 -O2 -static -Wl,--eh-frame-hdr -pthread $src/traced.cc -o $out"),
    ("c++-no-debug", "g++ -O2 -pthread $src/traced.cc -o $out"),
    ("c++-types", "g++ -g -O1 -fdebug-types-section -pthread $src/traced.cc -o $out"),
    ("rust-debug", "rustc --edition=2024 -g -Cpanic=abort $src/traced.rs -o $out"),
    ("rust-O", "rustc --edition=2024 -g -O -Cpanic=abort $src/traced.rs -o $out"),
    ("rust-no-debug", "rustc --edition=2024 -O -Cpanic=abort -Csymbol-mangling-version=v0 $src/traced.rs -o $out"),
    ("go", "GO111MODULE=off GOCACHE=$PWD/cache GOFLAGS= go build -o $out $src/traced.go"),
];

/// Which program crashes with which bugs.
const CRASHES: &[(&str, &[u32])] = &[
    ("c-O0", &[1, 2, 4, 8, 14]),
    ("c-O1", &[1, 2, 5, 6]),
    ("c-O2", &[1, 2, 3, 4, 7, 8, 9, 10, 12, 13]),
    ("c-O3", &[1, 2, 3]),
    ("c-Os", &[1, 4]),
    ("c-dwarf4", &[1, 3, 7]),
    ("c-dwarf5", &[1, 5]),
    ("c-g1", &[1, 2]),
    ("c-split", &[1, 2]),
    ("c-zlib", &[1]),
    ("c-zstd", &[1]),
    ("c-lto", &[1, 2, 3]),
    ("c-static", &[1, 4, 10]),
    ("c-static-pie", &[2, 8]),
    ("c-no-pie", &[1, 4]),
    ("c-frame-pointers", &[2, 3]),
    ("c-sections", &[1, 13]),
    ("c-no-debug", &[2, 4, 13]),
    ("c-stripped", &[2, 10]),
    ("c-musl", &[1, 8]),
    ("c-dwz", &[1, 7]),
    ("c-dwz-shared", &[1, 2]),
    ("c-debug-link", &[1, 4]),
    ("c-debug-link-dwz", &[1]),
    ("c-mini", &[1, 2]),
    ("c++-O0", &[1, 2, 3, 4, 5, 6, 8]),
    ("c++-O2", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
    ("c++-O3-lto", &[1, 8, 10]),
    ("c++-dwarf4-static", &[5, 6]),
    ("c++-no-debug", &[1, 2, 6]),
    ("c++-types", &[3, 9, 12]),
    ("rust-debug", &[1, 2, 3, 4, 5, 6]),
    ("rust-O", &[1, 2, 3, 5, 6]),
    ("rust-no-debug", &[2, 4]),
    ("go", &[1, 2, 3, 4]),
];

/// Programs of the distribution, stripped. They wait, and are killed.
const WAITING: &[&[&str]] = &[
    &["/usr/bin/sleep", "100"],
    &["/usr/bin/cat"],
    &["/usr/bin/tail", "-f", "/dev/null"],
    &["/usr/bin/bash", "-c", "read word"],
    &["/usr/bin/perl", "-e", "sleep 100"],
    &["/usr/bin/python3", "-c", "import time; time.sleep(100)"],
    &["/usr/bin/sort"],
    &["/usr/bin/xz", "-c"],
];

/// A crash, and how to see it in gdb.
struct Crash {
    name: String,
    pid: u32,
    exe: PathBuf,
}

/// Builds all programs, as many at a time as there are processors.
fn build(dir: &Path) -> HashMap<&'static str, PathBuf> {
    let next = AtomicUsize::new(0);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let build = || {
        while let Some((name, script)) = PROGRAMS.get(next.fetch_add(1, Ordering::SeqCst)) {
            let dir = dir.join(name);
            fs::create_dir_all(&dir).unwrap();
            let mut shell = Command::new("sh");
            shell.args(["-ec", script]).current_dir(&dir).env("src", &sources).env("out", dir.join("program"));
            let output = shell.output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(build);
        }
    });
    PROGRAMS.iter().map(|(name, _)| (*name, dir.join(name).join("program"))).collect()
}

/// Crashes everything once.
fn crash(programs: &HashMap<&str, PathBuf>) -> Vec<Crash> {
    let mut crashes = Vec::new();
    for (name, bugs) in CRASHES {
        for bug in *bugs {
            let exe = programs[name].clone();
            let mut command = Command::new(&exe);
            command.arg(bug.to_string()).env("GOTRACEBACK", "crash").quiet();
            let mut child = command.spawn().unwrap();
            child.wait().unwrap();
            crashes.push(Crash { name: format!("{name} {bug}"), pid: child.id(), exe });
        }
    }
    let exe = programs["c-O2"].clone();
    let mut child = Command::new(&exe).arg("11").arg(&programs["library.so"]).quiet().spawn().unwrap();
    child.wait().unwrap();
    crashes.push(Crash { name: "c-O2 with a library that it opened".to_owned(), pid: child.id(), exe });
    let mut waiting: Vec<_> = WAITING
        .iter()
        .map(|arguments| {
            let mut command = Command::new(arguments[0]);
            let child = command.args(&arguments[1..]).quiet().stdin(Stdio::piped()).spawn().unwrap();
            (arguments, child)
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    for (arguments, child) in &mut waiting {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSEGV).unwrap();
        child.wait().unwrap();
        let exe = fs::canonicalize(arguments[0]).unwrap();
        crashes.push(Crash { name: arguments.join(" "), pid: child.id(), exe });
    }
    crashes
}

/// The functions of the crashed thread in gdb, the innermost first; `None` for a frame that it cannot name.
fn names_in_gdb(exe: &Path, core: &Path) -> Vec<Option<String>> {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-iex", "set debuginfod enabled off", "-ex", "set width 0"]);
    // With the frames below main, as in `info`.
    gdb.args(["-ex", "set backtrace past-main on", "-ex", "set print frame-arguments presence"]);
    gdb.args(["-ex", "echo BACKTRACE\\n", "-ex", "bt 100"]);
    let output = gdb.arg(exe).arg(core).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, trace) = shown.split_once("BACKTRACE\n").unwrap_or_else(|| panic!("{output:?}"));
    trace.lines().filter_map(name_in_gdb).map(known).collect()
}

/// What gdb shows in place of the name of a function.
const UNNAMED: &str = "??";

/// `None` for a function that has no name.
fn known(name: String) -> Option<String> {
    Some(name).filter(|name| name != UNNAMED)
}

/// `#1  0x000055 in NAME (...) at FILE:LINE`, with `()` for a function without arguments. `None` if the line is no function's.
fn name_in_gdb(line: &str) -> Option<String> {
    let (_, frame) = line.strip_prefix('#')?.split_once(' ')?;
    let frame = frame.trim_start();
    let frame = match frame.strip_prefix("0x") {
        Some(rest) => rest.split_once(" in ")?.1,
        None => frame,
    };
    let ends = [" (...)", " ()"].map(|arguments| frame.rfind(arguments));
    let name = &frame[..ends.into_iter().flatten().max()?];
    Some(name.to_owned())
}

/// The functions of the crashed thread in the output of `info`, with the handler of its signal, the innermost first; `None` for a
/// frame that has no name. Those of one frame are together.
fn names_in_info(info: &str) -> Vec<Vec<Option<String>>> {
    let mut stacks = Vec::new();
    for block in info.split("\n\n") {
        let title = block.trim_start().lines().next().unwrap_or_default();
        let lines: Vec<&str> = block.lines().filter(|line| line.starts_with('#')).collect();
        let of_one_frame = |left: &&str, right: &&str| left.split(' ').next() == right.split(' ').next();
        let frames = lines.chunk_by(of_one_frame);
        let names: Vec<Vec<Option<String>>> =
            frames.map(|lines| lines.iter().filter_map(|line| name_in_info(line)).map(known).collect()).collect();
        if title.starts_with("The handler of the signal") {
            stacks.insert(0, names);
        } else if title.starts_with("Stack trace of") && stacks.is_empty() {
            stacks.push(names);
        }
    }
    stacks.concat()
}

/// `#1  0x000055 NAME (FILE:LINE) inlined in MODULE+OFFSET (a guess)`; a frame without a name is only a module. `None` if the line is no
/// frame's.
fn name_in_info(line: &str) -> Option<String> {
    let (_, frame) = line.strip_prefix('#')?.split_once(" 0x")?;
    let (_, frame) = frame.split_once(' ')?;
    let frame = frame.strip_suffix(" (a guess)").unwrap_or(frame);
    let Some((frame, _)) = frame.rsplit_once(" in ") else { return Some(UNNAMED.to_owned()) };
    let frame = [" inlined", " tail call"].iter().find_map(|how| frame.strip_suffix(how)).unwrap_or(frame);
    let name = match frame.rsplit_once(" (") {
        Some((name, source)) if source.ends_with(')') && source.contains(':') && !source.contains("::") => name,
        _ => frame,
    };
    Some(name.to_owned())
}

/// What makes no difference: spaces in templates, the version of a symbol, parameters, which gdb shows where there is no DWARF, and the
/// notations of Rust's compiler for closures and for methods of traits, which gdb takes from other fields than the symbol. Of Rust's paths
/// the last parts are compared.
fn normal(name: &str, is_rust: bool) -> String {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    if !is_rust {
        let name = name.strip_suffix(".cold").or_else(|| name.strip_suffix("[cold]")).unwrap_or(name);
        let name = without_parameters(name).replace(' ', "");
        // gdb leaves out in which function a lambda is.
        return if name.ends_with("{lambda}::operator()") { "operator()".to_owned() } else { name };
    }
    let mut plain = String::new();
    let mut depth = 0;
    for character in name.chars() {
        match character {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ if depth == 0 => plain.push(character),
            _ => {}
        }
    }
    let plain = plain.replace("{{vtable.shim}}", "");
    let is_closure = |part: &str| part.contains("closure");
    let parts: Vec<&str> = plain.split("::").filter(|part| !part.is_empty()).collect();
    let last = parts.last().copied().unwrap_or_default();
    match last {
        _ if is_closure(last) => "closure".to_owned(),
        // The symbol of the function that the attribute panic_handler marks.
        "panic_handler" => "rust_begin_unwind".to_owned(),
        _ => last.to_owned(),
    }
}

/// `RESULT NAME(PARAMETERS) const [clone .part.0]` without all but the name.
fn without_parameters(name: &str) -> &str {
    let name = name.split_once(" [clone ").map_or(name, |(name, _)| name);
    let end = name.strip_suffix(" const").unwrap_or(name);
    if !end.ends_with(')') || end.ends_with("operator()") {
        return name;
    }
    let mut depth = 0;
    let begin = end.bytes().enumerate().rev().find_map(|(at, byte)| {
        depth += i32::from(byte == b')') - i32::from(byte == b'(');
        (depth == 0).then_some(at)
    });
    let name = &end[..begin.unwrap_or(end.len())];
    // Only a template has its result before it.
    let mut depth = 0;
    let result = name.bytes().enumerate().rev().find(|(_, byte)| {
        depth += i32::from(*byte == b'>') - i32::from(*byte == b'<');
        *byte == b' ' && depth == 0
    });
    match result {
        Some((at, _)) if name.ends_with('>') => &name[at + 1..],
        _ => name,
    }
}

/// The names that only one of two stacks has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Differences {
    /// Those that gdb has.
    missing: Vec<String>,
    /// Those that `info` has, where gdb has another frame, or none.
    extra: Vec<String>,
}

/// Compares the stacks function by function, in the way that leaves the fewest names over. Any names of a frame are right that gdb cannot name.
fn differences(gdb: &[Option<String>], shown: &[Vec<Option<String>>], is_rust: bool) -> Differences {
    let flat: Vec<&Option<String>> = shown.iter().flatten().collect();
    // Behind the last function of the frame that each function is in.
    let ends: Vec<usize> = shown
        .iter()
        .scan(0, |end, names| {
            *end += names.len();
            Some(vec![*end; names.len()])
        })
        .flatten()
        .collect();
    let normalize = |name: &Option<String>| name.as_ref().map(|name| normal(name, is_rust));
    let left: Vec<Option<String>> = gdb.iter().map(normalize).collect();
    let right: Vec<Option<String>> = flat.iter().map(|name| normalize(name)).collect();
    // What follows functions that are the same.
    let pair = |at: usize, to: usize| match (left.get(at)?, right.get(to)?) {
        (None, _) => Some((at + 1, ends[to])),
        (Some(name), Some(other)) if name == other => Some((at + 1, to + 1)),
        _ => None,
    };
    let named = |name: &Option<String>| usize::from(name.is_some());
    // How many names are left over from these functions on.
    let mut costs = vec![vec![0; right.len() + 1]; left.len() + 1];
    for at in (0..=left.len()).rev() {
        for to in (0..=right.len()).rev() {
            let skip_left = left.get(at).map(|name| costs[at + 1][to] + named(name));
            let skip_right = right.get(to).map(|name| costs[at][to + 1] + named(name));
            let paired = pair(at, to).map(|(at, to)| costs[at][to]);
            costs[at][to] = [skip_left, skip_right, paired].into_iter().flatten().min().unwrap_or(0);
        }
    }
    let mut differences = Differences::default();
    let (mut at, mut to) = (0, 0);
    while at < left.len() || to < right.len() {
        let cost = costs[at][to];
        if let Some(next) = pair(at, to).filter(|(at, to)| costs[*at][*to] == cost) {
            (at, to) = next;
        } else if at < left.len() && cost == costs[at + 1][to] + named(&left[at]) {
            differences.missing.extend(gdb[at].clone());
            at += 1;
        } else {
            differences.extra.extend(flat[to].clone());
            to += 1;
        }
    }
    differences
}

/// What the stacks of a crash differ by, and why. What is listed here and is not so any more is a failure as well.
fn expected_differences(gdb: &[Option<String>]) -> Differences {
    // Of a function that is missing on the stack because of a tail call, gdb shows only what was inlined into it last.
    let has_inlined = gdb.iter().flatten().any(|name| name == "__pthread_kill_internal");
    let extra = if has_inlined { vec!["__GI___pthread_kill".to_owned()] } else { Vec::new() };
    Differences { missing: Vec::new(), extra }
}

/// The functions of the goroutines that crash, of which gdb shows none: it does not find the way from the handler of a signal to what the signal
/// interrupted.
fn goroutine(crash: &str) -> Option<&'static [&'static str]> {
    Some(match crash {
        "go 1" => &["main.(*counter).inlined", "main.(*counter).read", "main.main", "runtime.main"],
        "go 2" => &["main.main.func1", "main.apply", "main.main", "runtime.main"],
        "go 3" => &["runtime.gopanic", "main.fail", "main.main", "runtime.main"],
        "go 4" => &["main.(*counter).inlined", "main.(*counter).read", "main.main.func2"],
        _ => return None,
    })
}

#[test]
fn names_are_those_of_gdb() {
    let bed = TestBed::new();
    let unlimited =
        ["MaxUse=32G", "KeepFree=0", "StormBurst=0", "StormStacks=0", "UnitBurst=0", "UserBurst=0", "TotalBurst=0"];
    bed.configure(&format!("[Coreward]\n{}\n", unlimited.join("\n")));
    let programs = build(&bed.path("programs"));
    let daemon = bed.daemon();
    let crashes = crash(&programs);
    assert!(crashes.len() >= 40);
    let recorded = |crash: &Crash| {
        bed.crashes().into_iter().find(|listed| listed.record.key.pid.as_raw().unsigned_abs() == crash.pid)
    };
    bed.wait_for(crashes.len());
    eventually(Duration::from_secs(60), || bed.crashes().iter().all(|listed| listed.core_file.is_some()));
    let listed: Vec<Listed> =
        crashes.iter().map(|crash| recorded(crash).unwrap_or_else(|| panic!("{}", crash.name))).collect();
    assert_eq!(daemon.stop(), Some(0));
    let pairs: Vec<(&Crash, &Listed)> = crashes.iter().zip(&listed).collect();
    let failures = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let compare = || {
        while let Some((crash, listed)) = pairs.get(next.fetch_add(1, Ordering::SeqCst)) {
            let core = bed.core(listed);
            let gdb = names_in_gdb(&crash.exe, &core);
            fs::remove_file(core).unwrap();
            let info = text(&coreward(&bed, &["info", listed.id().as_str()]));
            let shown = names_in_info(&info);
            let mut compared = shown.as_slice();
            let mut is_whole = true;
            if let Some(goroutine) = goroutine(&crash.name) {
                let handled = shown.iter().position(|names| names.contains(&Some("runtime.sigtramp".to_owned())));
                let (handler, rest) = shown.split_at(handled.map_or(0, |last| last + 1));
                let rest: Vec<&str> = rest.iter().flatten().flatten().map(String::as_str).collect();
                is_whole = rest.windows(goroutine.len()).any(|names| names == goroutine);
                compared = handler;
            }
            let found = differences(&gdb, compared, crash.name.starts_with("rust"));
            if gdb.is_empty() || !is_whole || found != expected_differences(&gdb) {
                let (_, stacks) = info.split_once("\n\n").unwrap_or(("", &info));
                let failure = format!("== {}: {found:?}\ngdb: {gdb:#?}\ninfo: {stacks}", crash.name);
                failures.lock().unwrap().push(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(compare);
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} crashes\n{}", failures.len(), crashes.len(), failures.join("\n"));
}

#[test]
fn lines_of_both_are_read() {
    let gdb = |frame: &str| name_in_gdb(frame).unwrap();
    assert_eq!(gdb("#1  0x0000 in (anonymous namespace)::f (...) at x.cc:3"), "(anonymous namespace)::f");
    assert_eq!(gdb("#0  main () at x.c:3"), "main");
    assert_eq!(gdb("#0  0x00 in ?? ()"), UNNAMED);
    assert_eq!(name_in_gdb("#0  <signal handler called>"), None);
    let line = |text: &str| name_in_info(&format!("#1  0x0000000000000001 {text}")).unwrap();
    assert_eq!(line("f (x.c:3) inlined in p+0x3"), "f");
    assert_eq!(line("f (x.c:3) tail call in p+0x3"), "f");
    assert_eq!(line("(anonymous namespace)::f in p+0x3 (a guess)"), "(anonymous namespace)::f");
    assert_eq!(line("p+0x3"), UNNAMED);
    assert_eq!(name_in_info("Stack trace of thread 7"), None);
    assert_eq!(
        without_parameters("int apply<main::{lambda(int)#1}>(main::{lambda(int)#1})"),
        "apply<main::{lambda(int)#1}>"
    );
    assert_eq!(without_parameters("a::B<c, 4>::find(c) const [clone .isra.0]"), "a::B<c, 4>::find");
    assert_eq!(normal("a::handler() [clone .cold]", false), "a::handler");
    assert_eq!(normal("main::{lambda}::operator()", false), "operator()");
    assert_eq!(without_parameters("operator new(unsigned long)"), "operator new");
}

#[test]
fn differences_are_found_in_both_directions() {
    let names = |text: &str| -> Vec<Option<String>> {
        text.split_whitespace().map(|name| known(name.replace('?', UNNAMED))).collect()
    };
    let compare = |gdb: &str, shown: &str| {
        let frames: Vec<_> = shown.split('|').map(names).collect();
        let Differences { missing, extra } = differences(&names(gdb), &frames, false);
        (missing.join(" "), extra.join(" "))
    };
    let found = |missing: &str, extra: &str| (missing.to_owned(), extra.to_owned());
    assert_eq!(compare("a b c", "a | b | c"), found("", ""));
    assert_eq!(compare("a b c", "a b | c"), found("", ""));
    assert_eq!(compare("a b c", "a | c"), found("b", ""));
    assert_eq!(compare("a b c", "a | ? | c"), found("b", ""));
    assert_eq!(compare("a c", "a | b c"), found("", "b"));
    assert_eq!(compare("a c", "a | ? | c"), found("", ""));
    assert_eq!(compare("a b c", "a | x | c"), found("b", "x"));
    assert_eq!(compare("a ? c", "a | x y | c"), found("", ""));
    assert_eq!(compare("a ? c", "a | x | y | c"), found("", "y"));
    assert_eq!(compare("a a b", "a | b"), found("a", ""));
}
