//! The programs that crash, compiled from tests/programs when a test first needs them, and the shim.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, OnceLock};

static BUILT: LazyLock<Mutex<HashMap<String, PathBuf>>> = LazyLock::new(Mutex::default);

/// The path of the program `name`, which is compiled if this is the first use of it.
///
/// # Panics
/// The compiler is missing or fails. `scripts/install-deps check` installs all of them.
pub(crate) fn program(name: &str) -> PathBuf {
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

/// The source of a program.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

/// The command that compiles the program `name` to `path`. A name that ends in `-i386` is that of a 32-bit program.
fn compiler(name: &str, path: &Path) -> Command {
    let compile = |program: &str, flags: &[&str], name: &str| {
        let mut compiler = Command::new(program);
        compiler.args(flags).arg("-o").arg(path).arg(source(name));
        compiler
    };
    match name {
        "bugs" => compile("gcc", &["-g", "-O2", "-pthread"], "bugs.c"),
        "bugs-stripped" => compile("gcc", &["-s", "-O2", "-pthread"], "bugs.c"),
        "bugs-static" => compile("gcc", &["-O2", "-pthread", "-static-pie"], "bugs.c"),
        "bugs-musl" => compile("musl-gcc", &["-O2", "-pthread", "-Wl,--eh-frame-hdr"], "bugs.c"),
        "bugs-c++" => compile("g++", &["-O2"], "bugs.cc"),
        "bugs-rust" => compile("rustc", &["-Cpanic=abort", "-O", "--edition=2024"], "bugs.rs"),
        "bugs-go" => go(path, &[]),
        "bugs-go-stripped" => go(path, &["-ldflags=-s -w"]),
        "bugs-go-pie-stripped" => go(path, &["-ldflags=-s -w", "-buildmode=pie"]),
        "living-static" => compile("gcc", &["-g", "-O1", "-pthread", "-static-pie"], "living.c"),
        "names-unstripped" => compile("gcc", &["-O1", "-pthread", "-rdynamic"], "names.c"),
        "names-stripped" => compile("gcc", &["-s", "-O1", "-pthread", "-rdynamic"], "names.c"),
        "names-static" => compile("gcc", &["-O1", "-pthread", "-static-pie"], "names.c"),
        "names-library.so" => compile("gcc", &["-shared", "-fPIC", "-O1"], "names-library.c"),
        "names-other.so" => compile("gcc", &["-shared", "-fPIC", "-O0", "-DOTHER"], "names-library.c"),
        "bugs-python.so" => compile("gcc", &["-shared", "-fPIC", "-O2", &include(PYTHON_INCLUDE)], "bugs-python.c"),
        "bugs-ruby.so" => {
            let (headers, machine) = (include(RUBY_INCLUDE), include(RUBY_MACHINE_INCLUDE));
            compile("gcc", &["-shared", "-fPIC", "-O2", &headers, &machine], "bugs-ruby.c")
        }
        "guest" => compile("aarch64-linux-gnu-gcc", &["-O1", "-static"], "guest.c"),
        "guest-other" => compile("aarch64-linux-gnu-gcc", &["-O2", "-static"], "guest.c"),
        "guest-dynamic" => compile("aarch64-linux-gnu-gcc", &["-O1"], "guest.c"),
        "bugs-i386" => compile("i686-linux-gnu-gcc", &["-g", "-O2", "-pthread"], "bugs.c"),
        "bugs-i386-stripped" => compile("i686-linux-gnu-gcc", &["-s", "-O2", "-pthread"], "bugs.c"),
        "bugs-i386-static" => compile("i686-linux-gnu-gcc", &["-O2", "-pthread", "-static-pie"], "bugs.c"),
        _ => {
            let flags = ["-g", "-O1", "-pthread", "-Wall"];
            match name.strip_suffix("-i386") {
                Some(name) => compile("i686-linux-gnu-gcc", &flags, &format!("{name}.c")),
                None => compile("gcc", &flags, &format!("{name}.c")),
            }
        }
    }
}

/// The command that compiles the Go program.
fn go(path: &Path, flags: &[&str]) -> Command {
    let mut go = Command::new("go");
    go.arg("build").args(flags).arg("-o").arg(path).arg(source("bugs.go"));
    go.env("GO111MODULE", "off").env("GOCACHE", path.with_file_name("go.cache")).env("GOFLAGS", "");
    go
}

const PYTHON_INCLUDE: &[&str] =
    &["/usr/bin/python3", "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"];
const RUBY_INCLUDE: &[&str] = &["ruby", "-rrbconfig", "-e", "puts RbConfig::CONFIG['rubyhdrdir']"];
const RUBY_MACHINE_INCLUDE: &[&str] = &["ruby", "-rrbconfig", "-e", "puts RbConfig::CONFIG['rubyarchhdrdir']"];

/// The compiler's option for the directory of an interpreter's headers, which `query` prints.
fn include(query: &[&str]) -> String {
    let output =
        Command::new(query[0]).args(&query[1..]).output().unwrap_or_else(|error| panic!("{}: {error}", query[0]));
    assert!(output.status.success(), "{query:?}: {}", String::from_utf8_lossy(&output.stderr));
    format!("-I{}", String::from_utf8_lossy(&output.stdout).trim())
}

/// The path of the shim, built with the profile of the tests. It belongs to another package, whose programs cargo does not
/// build for these tests.
pub(crate) fn shim() -> &'static Path {
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
