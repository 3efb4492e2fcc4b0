//! One datagram to a Unix socket, never waiting for its reader.

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendto, socket};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Sends `datagram` to the socket at `path`.
///
/// # Errors
/// `WouldBlock` where the reader is behind and its queue is full, otherwise what socket(2) or sendto(2) say.
pub fn send_to(path: &Path, datagram: &[u8]) -> io::Result<()> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let address = UnixAddr::new(path)?;
    sendto(socket.as_raw_fd(), datagram, &address, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}
