//! Root directories with interpreters of other versions than this machine's, and a PHP that is built for threads.

use super::programs::source;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root directory of a release of Debian, or `php-zts`, where there is a PHP that is built for threads. `scripts/install-deps check` makes all of
/// them.
pub(crate) fn interpreter_root(suite: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let root = cache.join("coreward/interpreters").join(suite);
    assert!(root.join("usr").exists(), "{} is missing: run scripts/install-deps check", root.display());
    root
}

/// Compiles parser.c, an extension for the Ruby in the root directory of Debian 13, to `path`.
pub(crate) fn compile_ruby_extension(path: &Path) {
    let root = interpreter_root("trixie");
    let headers = root.join("usr/include/ruby-3.3.0");
    let machine = root.join("usr/include/x86_64-linux-gnu/ruby-3.3.0");
    let mut compiler = Command::new("gcc");
    compiler.args(["-shared", "-fPIC", "-O1", "-g", "-I"]).arg(headers).arg("-I").arg(machine).arg("-o").arg(path);
    assert!(compiler.arg(source("parser.c")).status().expect("gcc").success());
}

/// Compiles a program or an extension, with these arguments of the compiler, for the PHP that is built for threads.
pub(crate) fn compile_for_php(name: &str, arguments: &[&str], path: &Path) {
    let usr = interpreter_root("php-zts").join("usr");
    let mut compiler = Command::new("gcc");
    compiler.args(["-O1", "-g", "-D_GNU_SOURCE", "-o"]).arg(path).arg(source(name)).args(arguments);
    for headers in ["", "main", "TSRM", "Zend"] {
        compiler.arg("-I").arg(usr.join("include/php").join(headers));
    }
    let library = usr.join("lib");
    compiler.arg("-L").arg(&library).arg(format!("-Wl,-rpath,{}", library.display()));
    assert!(compiler.status().expect("gcc").success());
}
