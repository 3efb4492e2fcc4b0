//! Sending one datagram to a Unix socket without blocking on its reader (unix(7)).

use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, sendmsg, socket,
};
use nix::unistd::{Gid, Uid, getpid};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Sends `datagram` to the socket at `path`. While the socket's queue is full, tries again until `timeout` has passed.
///
/// # Errors
/// `WouldBlock` if the queue is still full after `timeout`, otherwise the error of socket(2) or sendto(2).
pub fn send_with_retry(path: &Path, datagram: &[u8], timeout: Duration) -> io::Result<()> {
    send_as(path, datagram, timeout, None)
}

/// Like [`send_with_retry`], under the name of this user and group (`SCM_CREDENTIALS`, unix(7)), which needs CAP_SETUID and
/// CAP_SETGID.
///
/// # Errors
/// Like those of [`send_with_retry`], and EPERM.
pub fn send_as(path: &Path, datagram: &[u8], timeout: Duration, user: Option<(Uid, Gid)>) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(50);
    let begun = Instant::now();
    loop {
        match send(path, datagram, user) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < timeout => sleep(PAUSE),
            sent => return sent,
        }
    }
}

fn send(path: &Path, datagram: &[u8], user: Option<(Uid, Gid)>) -> io::Result<()> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let address = UnixAddr::new(path)?;
    let credentials = user.map(|(uid, gid)| {
        UnixCredentials::from(libc::ucred { pid: getpid().as_raw(), uid: uid.as_raw(), gid: gid.as_raw() })
    });
    let control = credentials.as_ref().map(ControlMessage::ScmCredentials);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(datagram)], control.as_slice(), flags, Some(&address))?;
    Ok(())
}
