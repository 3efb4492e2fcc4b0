//! Bytes and descriptors over a Unix stream socket (`SCM_RIGHTS`, unix(7)).

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::close;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Most descriptors in one message (`SCM_MAX_FD`, include/net/scm.h).
pub const SCM_MAX_FD: usize = 253;

/// Makes room for so many descriptors. The kernel enlarges the table of a process that has threads only after all processors have passed
/// a quiescent state (`expand_fdtable`, fs/file.c), which may take more than ten milliseconds: to be called before there are threads. `open` is any
/// open file. Where it fails, room is made when it is needed.
pub fn reserve_descriptors(open: BorrowedFd<'_>, count: RawFd) {
    if let Ok(last) = fcntl(open, FcntlArg::F_DUPFD_CLOEXEC(count.saturating_sub(1))) {
        let _ = close(last);
    }
}

/// Sends as many of `bytes` as the socket takes, and all of `fds` with the first of them. Returns how many bytes were sent.
///
/// # Errors
/// The error of sendmsg(2); `WouldBlock` if the socket is non-blocking and its peer does not read.
pub fn send_with_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let iov = [IoSlice::new(bytes)];
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    Ok(sendmsg::<()>(socket.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives bytes into `buffer`, and the descriptors that were sent with them, which are close-on-exec. Returns the number of
/// bytes, 0 if the peer closed the connection.
///
/// # Errors
/// `InvalidData` if the kernel dropped descriptors (`MSG_CTRUNC`), as it does where this process may not have as many: a message
/// without all of its descriptors must not be acted on, and those that arrived are closed. Otherwise the error of recvmsg(2).
pub fn recv_with_fds(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    /// Room for one header (`struct cmsghdr`, 16 bytes) and [`SCM_MAX_FD`] descriptors. Words, for the header's alignment.
    const WORDS: usize = 2 + (SCM_MAX_FD * size_of::<RawFd>()).div_ceil(size_of::<u64>());
    receive(socket, buffer, &mut [0; WORDS])
}

/// nix's recvmsg(2) gives the descriptors of a truncated message to nobody, so they would stay open for good.
#[allow(clippy::useless_conversion, reason = "with musl this length has 32 bits")]
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], control: &mut [u64]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a msghdr consists of numbers and pointers, for which zeros are valid. (With musl it has private padding.)
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(control).try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `message` describes `buffer` and `control`, both of which are borrowed mutably for longer than the call.
    let count = Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) })?;
    // SAFETY: the kernel has just filled in `message` and the control messages that it points to.
    let fds = unsafe { take_rights(&message) };
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors were lost in transit (MSG_CTRUNC)"));
    }
    Ok((count.unsigned_abs(), fds))
}

/// The descriptors in the control messages of a message (cmsg(3)).
///
/// # Safety
/// recvmsg(2) has just filled in `message`, its control messages are still there, and nobody else takes their descriptors.
#[allow(clippy::useless_conversion, reason = "with musl these lengths have 32 bits")]
unsafe fn take_rights(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the caller vouches for the message and for what its pointer and length span.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null, or the address of a whole header in the control messages.
    while let Some(control) = unsafe { header.as_ref() } {
        if control.cmsg_level == libc::SOL_SOCKET && control.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: arithmetic only.
            let header_len = unsafe { libc::CMSG_LEN(0) };
            let length =
                usize::try_from(control.cmsg_len).unwrap_or(0).saturating_sub(header_len.try_into().unwrap_or(0));
            for index in 0..length / size_of::<RawFd>() {
                // SAFETY: the data of the control message has `length` bytes, and these four are among them.
                let bytes =
                    unsafe { libc::CMSG_DATA(control).add(index * size_of::<RawFd>()).cast::<[u8; 4]>().read() };
                // SAFETY: the kernel has just created this descriptor in this process, and nothing else owns it.
                fds.push(unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(bytes)) });
            }
        }
        // SAFETY: `control` is one of the headers in the control messages of `message`.
        header = unsafe { libc::CMSG_NXTHDR(message, control) };
    }
    fds
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    /// How many descriptors of this process are open for the memfd of this name.
    fn open_as(name: &str) -> usize {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|it| it.path().read_link().ok());
        links.filter(|link| link.to_string_lossy().contains(name)).count()
    }

    #[test]
    fn descriptors_arrive_close_on_exec_and_those_of_a_truncated_message_are_closed() {
        let (one, other) = UnixStream::pair().unwrap();
        let file = memfd_create("coreward-test-rights", MFdFlags::MFD_CLOEXEC).unwrap();
        let mut buffer = [0; 16];
        send_with_fds(one.as_fd(), b"three", &[file.as_raw_fd(); 3]).unwrap();
        let (count, fds) = recv_with_fds(other.as_fd(), &mut buffer).unwrap();
        assert_eq!((count, fds.len(), open_as("coreward-test-rights")), (5, 3, 4));
        for fd in fds {
            let flags = fcntl(&fd, FcntlArg::F_GETFD).unwrap();
            assert_eq!(flags, libc::FD_CLOEXEC);
        }
        // Room for two, or rather for what fits into whole words.
        send_with_fds(one.as_fd(), b"many", &[file.as_raw_fd(); 9]).unwrap();
        let error = receive(other.as_fd(), &mut buffer, &mut [0; 3]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(open_as("coreward-test-rights"), 1, "none is left open");
        send_with_fds(one.as_fd(), b"most", &[file.as_raw_fd(); SCM_MAX_FD]).unwrap();
        assert_eq!(recv_with_fds(other.as_fd(), &mut buffer).unwrap().1.len(), SCM_MAX_FD);
        drop(one);
        assert_eq!(recv_with_fds(other.as_fd(), &mut buffer).unwrap().0, 0);
    }
}
