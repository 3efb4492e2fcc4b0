//! Sending one datagram to a Unix socket without blocking on its reader (unix(7)).

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendto, socket};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Sends `datagram` to the socket at `path`. While the socket's queue is full, tries again until `timeout` has passed.
///
/// # Errors
/// `WouldBlock` if the queue is still full after `timeout`, otherwise the error of socket(2) or sendto(2).
pub fn send_with_retry(path: &Path, datagram: &[u8], timeout: Duration) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(50);
    let begun = Instant::now();
    loop {
        match send(path, datagram) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < timeout => sleep(PAUSE),
            sent => return sent,
        }
    }
}

fn send(path: &Path, datagram: &[u8]) -> io::Result<()> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let address = UnixAddr::new(path)?;
    sendto(socket.as_raw_fd(), datagram, &address, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}
