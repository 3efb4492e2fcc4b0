//! Tests in processes of their own: what they give up is gone for good.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

const IN_CHILD: &str = "COREWARD_TEST_CONFINED";

/// Whether this is the process that [`run_in_child`] started.
pub(super) fn in_child() -> bool {
    std::env::var_os(IN_CHILD).is_some()
}

/// Runs one test in a process of its own, in which it must succeed.
#[track_caller]
pub(super) fn run_in_child(test: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args([test, "--exact", "--nocapture"]).env(IN_CHILD, "1").output().unwrap();
    let ran = String::from_utf8_lossy(&output.stdout).contains(CONFINED);
    assert!(output.status.success() && ran, "signal {:?}: {output:?}", output.status.signal());
}

/// What the process prints when it gets to the end.
const CONFINED: &str = "confined to the end";

/// Ends the process, with success. The test harness would need more than is left.
pub(super) fn succeed() -> ! {
    println!("{CONFINED}");
    std::process::exit(0)
}
