//! Threads that the process cannot work without.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::abort;
use std::thread::{Builder, JoinHandle};

/// Runs `work` in a thread called `name` (at most 15 bytes are shown, pthread_setname_np(3)). If it panics, the process
/// aborts.
///
/// Without this, a panic ends the thread alone and leaves a process that looks alive but no longer does its work. The panic
/// hook writes the message to standard error first; SIGABRT then lets the service manager start a successor. Returning from
/// `work` is an ordinary end of the thread.
///
/// # Errors
/// The thread cannot be created (pthread_create(3)).
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(|| {
        // Nothing is observed after the panic: the process ends.
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            abort();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::sync::mpsc::channel;

    #[test]
    fn a_thread_that_returns_leaves_the_process_alone() {
        let (sender, receiver) = channel();
        let name = || std::thread::current().name().map(str::to_owned);
        spawn("essential", move || sender.send(name()).unwrap()).unwrap().join().unwrap();
        assert_eq!(receiver.recv().unwrap().as_deref(), Some("essential"));
    }

    #[test]
    fn a_panic_aborts_the_process_with_its_message_on_standard_error() {
        const TEST: &str = "essential::tests::a_panic_aborts_the_process_with_its_message_on_standard_error";
        const IN_CHILD: &str = "COREWARD_TEST_PANIC";
        if std::env::var_os(IN_CHILD).is_some() {
            // This crash is not one for the machine's crash handler.
            nix::sys::prctl::set_dumpable(false).unwrap();
            let _ = spawn("essential", || panic!("out of luck")).unwrap().join();
            return;
        }
        let child = Command::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env(IN_CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{child:?}");
        assert!(String::from_utf8_lossy(&child.stderr).contains("out of luck"), "{child:?}");
    }
}
