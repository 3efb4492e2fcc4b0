//! A reader ends with the process that it copies.

use coreward_sys::pidfd;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Kills a reader as soon as the process that it copies has ended, whatever it does at that moment.
///
/// Each read of `/proc/PID/mem` keeps the memory of a process that was killed (`mem_rw`, fs/proc/base.c), and reads that overlap keep it
/// until all is copied. What they allocate meanwhile is charged to its cgroup, where the kernel then looks for another process to kill.
#[derive(Debug)]
pub(super) struct DeathWatch(JoinHandle<()>);

impl DeathWatch {
    /// Watches `process` until this is dropped. Both are pidfds.
    ///
    /// # Errors
    /// There is no runtime, or no memory.
    pub(super) fn start(process: OwnedFd, reader: Arc<OwnedFd>) -> io::Result<Self> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let _entered = runtime.enter();
        // It is readable when the process has ended (pidfd_open(2)).
        #[expect(
            deprecated,
            reason = "what follows it is unsafe for types that change their descriptor, which an OwnedFd does not"
        )]
        let process = AsyncFd::with_interest(process, Interest::READABLE)?;
        let watch = async move {
            if process.readable().await.is_ok() {
                let _ = pidfd::kill(reader.as_fd());
            }
        };
        Ok(Self(runtime.spawn(watch)))
    }
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[tokio::test]
    async fn a_reader_ends_with_its_process_and_not_before() {
        let sleep = || Command::new("sleep").arg("60").spawn().unwrap();
        let open = |pid: u32| pidfd::open(pid.cast_signed()).unwrap();
        let (mut process, mut reader) = (sleep(), sleep());
        let pidfd = Arc::new(open(reader.id()));
        drop(DeathWatch::start(open(process.id()), Arc::clone(&pidfd)).unwrap());
        let watch = DeathWatch::start(open(process.id()), Arc::clone(&pidfd)).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(pidfd::is_alive(pidfd.as_fd()));
        process.kill().unwrap();
        let killed = Instant::now();
        while pidfd::is_alive(pidfd.as_fd()) && killed.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!pidfd::is_alive(pidfd.as_fd()));
        drop(watch);
        process.wait().unwrap();
        reader.wait().unwrap();
    }
}
