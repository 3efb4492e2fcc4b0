//! Programs that crash, built from tests/programs when they are first needed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex};
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
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/programs/{name}.c"));
    let path = dir.join(name);
    let status = Command::new("gcc")
        .args(["-g", "-O1", "-pthread", "-Wall", "-o"])
        .arg(&path)
        .arg(source)
        .status()
        .expect("gcc");
    assert!(status.success(), "gcc {name}.c");
    built.insert(name.to_owned(), path.clone());
    path
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
