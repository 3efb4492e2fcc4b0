//! One datagram to a Unix socket, never waiting for its reader.

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendto, socket};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// As [`send_to`], again and again while the reader is behind, `patience` at most.
///
/// # Errors
/// As [`send_to`].
pub fn send_patiently(path: &Path, datagram: &[u8], patience: Duration) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(50);
    let begun = Instant::now();
    loop {
        match send_to(path, datagram) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < patience => sleep(PAUSE),
            sent => return sent,
        }
    }
}

/// Sends `datagram` to the socket at `path`.
///
/// # Errors
/// `WouldBlock` where the reader is behind and its queue is full, otherwise what socket(2) or sendto(2) say.
fn send_to(path: &Path, datagram: &[u8]) -> io::Result<()> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let address = UnixAddr::new(path)?;
    sendto(socket.as_raw_fd(), datagram, &address, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}
