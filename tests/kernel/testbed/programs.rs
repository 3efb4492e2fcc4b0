//! Programs that crash, built from tests/programs when they are first needed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, OnceLock};
use std::time::{Duration, Instant};

static BUILT: LazyLock<Mutex<HashMap<String, PathBuf>>> = LazyLock::new(Mutex::default);

/// The program of this name.
pub fn program(name: &str) -> PathBuf {
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(path) = built.get(name) {
        return path.clone();
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    std::fs::create_dir_all(&dir).expect("a directory");
    let path = dir.join(name);
    let mut compiler = compiler(name, &path);
    let status = compiler.status().unwrap_or_else(|error| panic!("{compiler:?}: {error}"));
    assert!(status.success(), "{compiler:?}");
    built.insert(name.to_owned(), path.clone());
    path
}

/// What builds the program `name` as `path`.
fn compiler(name: &str, path: &Path) -> Command {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let made = |program: &str, flags: &[&str], source: &str| {
        let mut compiler = Command::new(program);
        compiler.args(flags).arg("-o").arg(path).arg(sources.join(source));
        compiler
    };
    match name {
        "bugs" => made("gcc", &["-g", "-O2", "-pthread"], "bugs.c"),
        "bugs-stripped" => made("gcc", &["-s", "-O2", "-pthread"], "bugs.c"),
        "bugs-static" => made("gcc", &["-O2", "-pthread", "-static-pie"], "bugs.c"),
        "bugs-musl" => made("musl-gcc", &["-O2", "-pthread", "-Wl,--eh-frame-hdr"], "bugs.c"),
        "bugs-c++" => made("g++", &["-O2"], "bugs.cc"),
        "bugs-rust" => made("rustc", &["-Cpanic=abort", "-O", "--edition=2024"], "bugs.rs"),
        "bugs-go" => {
            let mut go = made("go", &["build"], "bugs.go");
            go.env("GO111MODULE", "off").env("GOCACHE", path.with_extension("cache")).env("GOFLAGS", "");
            go
        }
        "bugs-python.so" => made("gcc", &["-shared", "-fPIC", "-O2", &include(PYTHON_INCLUDE)], "bugs-python.c"),
        "bugs-ruby.so" => {
            let (headers, machine) = (include(RUBY_INCLUDE), include(RUBY_MACHINE_INCLUDE));
            made("gcc", &["-shared", "-fPIC", "-O2", &headers, &machine], "bugs-ruby.c")
        }
        _ => made("gcc", &["-g", "-O1", "-pthread", "-Wall"], &format!("{name}.c")),
    }
}

const PYTHON_INCLUDE: &[&str] =
    &["/usr/bin/python3", "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"];
const RUBY_INCLUDE: &[&str] = &["ruby", "-rrbconfig", "-e", "puts RbConfig::CONFIG['rubyhdrdir']"];
const RUBY_MACHINE_INCLUDE: &[&str] = &["ruby", "-rrbconfig", "-e", "puts RbConfig::CONFIG['rubyarchhdrdir']"];

/// The option that names the directory which an interpreter says its headers are in.
fn include(asked: &[&str]) -> String {
    let said =
        Command::new(asked[0]).args(&asked[1..]).output().unwrap_or_else(|error| panic!("{}: {error}", asked[0]));
    format!("-I{}", String::from_utf8_lossy(&said.stdout).trim())
}

/// Runs commands to their end, with a limit.
pub trait Ended {
    fn quiet(&mut self) -> &mut Self;
    /// The exit status; the process is killed, and the test fails, after half a minute.
    fn end(&mut self) -> ExitStatus;
}

impl Ended for Command {
    fn quiet(&mut self) -> &mut Self {
        self.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
    }

    fn end(&mut self) -> ExitStatus {
        let child = self.quiet().spawn().expect("a program");
        wait(child, Duration::from_secs(60))
    }
}

#[track_caller]
fn wait(mut child: Child, limit: Duration) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        if begun.elapsed() > limit {
            let _ = child.kill();
            panic!("process {} did not end within {} s", child.id(), limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The shim, built as the tests are. It is a package of its own, which cargo does not build for the tests of another.
pub fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_corewardd")).with_file_name("coreward-shim");
        let (profile, target) = (built.parent().expect("target/PROFILE"), built.ancestors().nth(2).expect("target"));
        let profile = match profile.file_name().and_then(|name| name.to_str()).expect("a profile") {
            "debug" => "dev",
            other => other,
        };
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--package", "coreward-shim", "--profile", profile, "--target-dir"])
            .arg(target)
            .status()
            .expect("cargo");
        assert!(status.success(), "cargo build --package coreward-shim");
        built
    })
}
