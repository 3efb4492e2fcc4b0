//! Running commands to their end.

use super::TestBed;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest time that [`RunToEnd::run_to_end`] waits.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) trait RunToEnd {
    /// Connects standard input, output and error to /dev/null.
    fn quiet(&mut self) -> &mut Self;
    /// Runs the command quietly and returns its exit status. After a minute the process is killed and the test fails.
    fn run_to_end(&mut self) -> ExitStatus;
}

impl RunToEnd for Command {
    fn quiet(&mut self) -> &mut Self {
        self.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
    }

    fn run_to_end(&mut self) -> ExitStatus {
        let child = self.quiet().spawn().unwrap_or_else(|error| panic!("{self:?}: {error}"));
        wait(child)
    }
}

#[track_caller]
fn wait(mut child: Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        if begun.elapsed() > LIMIT {
            let _ = child.kill();
            panic!("process {} did not end within {} s", child.id(), LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a tool that must be installed and must succeed.
#[track_caller]
pub(crate) fn run_tool(tool: &str, arguments: &[&str]) {
    let output = Command::new(tool).args(arguments).output().unwrap_or_else(|error| panic!("{tool}: {error}"));
    assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs the `coreward` command on the tree of the test.
pub(crate) fn coreward(bed: &TestBed, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coreward")).arg("--root").arg(bed.root.path()).args(arguments).output().unwrap()
}

/// The standard output of a command that must have succeeded.
#[track_caller]
pub(crate) fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
