//! Messages with descriptors between the daemon and a reader: JSON, and bytes for which JSON is no form.

use coreward_sys::fdpass;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::time::timeout_at;

/// Lengths of the two parts, and the number of descriptors.
const HEADER: usize = 12;
/// Longest message to a reader, in bytes: headers.
const MAX_REQUEST: usize = 80 << 20;
/// Longest message from a reader, in bytes: the plan of a core with a million mappings. A reader of hostile bytes may send any.
const MAX_ANSWER: usize = 8 << 20;
/// Descriptors that wait for their message, on the reader's side: those of a process, or some of its mapped files.
pub(super) const MAX_REQUEST_FDS: usize = 16;
/// On the daemon's side: a pidfd.
const MAX_ANSWER_FDS: usize = 1;
/// Bytes up to this length are copied, so that the message is sent by one call.
const COPIED: usize = 64 << 10;
/// Bytes for which there is room at once.
const USUAL_PART: usize = 8 << 10;
/// Bytes that are received at a time, at least and at most.
const RECEIVE: usize = 8 << 10;
const RECEIVE_MAX: usize = 256 << 10;
/// Longest wait of a sender: the other side reads at once, or hangs.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Channel {
    socket: UnixStream,
    /// The same one, as soon as somebody waits for it without a thread.
    registered: Option<tokio::net::UnixStream>,
    incoming: Incoming,
}

/// What has arrived of messages that nobody has taken yet.
#[derive(Debug)]
struct Incoming {
    /// Where bytes arrive. It stays: filling it with zeros each time would take longer than most messages.
    buffer: Vec<u8>,
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    max_len: usize,
    max_fds: usize,
}

/// A message as it arrived.
pub(super) struct Received<T> {
    pub(super) message: T,
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// Messages that are sent together, so that the other side wakes up once.
#[derive(Default)]
pub(super) struct Outgoing<'a> {
    parts: Vec<Cow<'a, [u8]>>,
    fds: Vec<BorrowedFd<'a>>,
}

impl<'a> Outgoing<'a> {
    /// Adds a message.
    ///
    /// # Errors
    /// The message cannot be written as JSON.
    pub(super) fn add(&mut self, message: &impl Serialize, bytes: &'a [u8], fds: &[BorrowedFd<'a>]) -> io::Result<()> {
        if !matches!(self.parts.last(), Some(Cow::Owned(_))) {
            self.parts.push(Cow::Owned(Vec::with_capacity(USUAL_PART)));
        }
        let Some(Cow::Owned(part)) = self.parts.last_mut() else { return Ok(()) };
        let begin = part.len();
        part.extend_from_slice(&[0; HEADER]);
        serde_json::to_writer(&mut *part, message)?;
        let (header, json) = part.split_at_mut(begin).1.split_at_mut(HEADER);
        for (place, length) in header.chunks_exact_mut(4).zip([json.len(), bytes.len(), fds.len()]) {
            let length = u32::try_from(length).map_err(|_| ErrorKind::InvalidInput)?;
            place.copy_from_slice(&length.to_le_bytes());
        }
        if bytes.len() <= COPIED {
            part.extend_from_slice(bytes);
        } else {
            self.parts.push(Cow::Borrowed(bytes));
        }
        self.fds.extend_from_slice(fds);
        Ok(())
    }
}

impl Channel {
    /// The reader's end.
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket, registered: None, incoming: Incoming::new(MAX_REQUEST, MAX_REQUEST_FDS) }
    }

    /// The daemon's end: a reader that hangs does not read either.
    ///
    /// # Errors
    /// The error of fcntl(2).
    pub(super) fn for_daemon(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { incoming: Incoming::new(MAX_ANSWER, MAX_ANSWER_FDS), ..Self::new(socket) })
    }

    /// Sends messages.
    ///
    /// # Errors
    /// The other side is gone, or does not read.
    pub(super) fn send(&self, outgoing: &Outgoing<'_>) -> io::Result<()> {
        let deadline = Instant::now() + SEND_TIMEOUT;
        let mut unsent = Unsent::new(outgoing);
        while !unsent.is_sent() {
            match unsent.send(self.socket.as_fd()) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait_ready(self.socket.as_fd(), PollFlags::POLLOUT, deadline)?;
                }
                sent => sent?,
            }
        }
        Ok(())
    }

    /// Sends messages to a reader and receives as many answers, without blocking.
    ///
    /// # Errors
    /// The reader is gone, or has not answered by the deadline, or what it sent is no answer.
    pub(super) async fn exchange<T: DeserializeOwned>(
        &mut self,
        outgoing: &Outgoing<'_>,
        answers: usize,
        deadline: Instant,
    ) -> io::Result<Vec<Received<T>>> {
        let Self { socket, registered, incoming } = self;
        let stream = match registered {
            Some(stream) => stream,
            None => registered.insert(tokio::net::UnixStream::from_std(socket.try_clone()?)?),
        };
        let exchange = async {
            let mut unsent = Unsent::new(outgoing);
            while !unsent.is_sent() {
                stream.async_io(Interest::WRITABLE, || unsent.send(socket.as_fd())).await?;
            }
            let mut received = Vec::with_capacity(answers);
            while received.len() < answers {
                match incoming.take_message()? {
                    Some(message) => received.push(message),
                    None => stream.async_io(Interest::READABLE, || incoming.fill(socket.as_fd())).await?,
                }
            }
            Ok(received)
        };
        timeout_at(deadline.into(), exchange).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    /// Sends one message.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(super) fn send_one<'a>(
        &self,
        message: &impl Serialize,
        bytes: &'a [u8],
        fds: &[BorrowedFd<'a>],
    ) -> io::Result<()> {
        let mut outgoing = Outgoing::default();
        outgoing.add(message, bytes, fds)?;
        self.send(&outgoing)
    }

    /// Receives the next message, by the deadline if there is one.
    ///
    /// # Errors
    /// The other side is gone (`UnexpectedEof`) or late (`TimedOut`), or what it sent is not such a message (`InvalidData`).
    pub(super) fn receive<T: DeserializeOwned>(&mut self, deadline: Option<Instant>) -> io::Result<Received<T>> {
        loop {
            if let Some(message) = self.incoming.take_message()? {
                return Ok(message);
            }
            if let Some(deadline) = deadline {
                wait_ready(self.socket.as_fd(), PollFlags::POLLIN, deadline)?;
            }
            self.incoming.fill(self.socket.as_fd())?;
        }
    }

    /// Whether a whole message waits already.
    pub(super) fn has_message(&self) -> bool {
        self.incoming.has_message()
    }
}

impl Incoming {
    fn new(max_len: usize, max_fds: usize) -> Self {
        Self { buffer: vec![0; RECEIVE], bytes: Vec::new(), fds: VecDeque::new(), max_len, max_fds }
    }

    /// Receives what has arrived.
    fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let missing = self.missing()?.min(RECEIVE_MAX);
        if missing > self.buffer.len() {
            self.buffer.resize(missing, 0);
        }
        let received = fdpass::recv_with_fds(socket, &mut self.buffer);
        self.bytes.extend_from_slice(&self.buffer[..received.as_ref().map_or(0, |(count, _)| *count)]);
        match received {
            Ok((0, _)) => Err(ErrorKind::UnexpectedEof.into()),
            Ok((_, fds)) if self.fds.len() + fds.len() > self.max_fds => Err(ErrorKind::InvalidData.into()),
            Ok((_, fds)) => {
                self.fds.extend(fds);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lengths of the parts of the message that is being received, and the number of its descriptors; `None`: not even they are there.
    fn lengths(&self) -> io::Result<Option<[usize; 3]>> {
        let Some(header) = self.bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = *header;
        let lengths = [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3]]
            .map(|bytes| usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX));
        if lengths[0].max(lengths[1]) > self.max_len {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(Some(lengths))
    }

    /// How many bytes of a message are missing.
    fn missing(&self) -> io::Result<usize> {
        let length = self.lengths()?.map_or(0, |[json, bytes, _]| HEADER + json + bytes);
        Ok(length.saturating_sub(self.bytes.len()))
    }

    fn has_message(&self) -> bool {
        matches!(self.lengths(), Ok(Some([json, bytes, _])) if self.bytes.len() >= HEADER + json + bytes)
    }

    /// Takes a whole message out of what was received.
    fn take_message<T: DeserializeOwned>(&mut self) -> io::Result<Option<Received<T>>> {
        let Some([json, bytes, fds]) = self.lengths()? else { return Ok(None) };
        if self.bytes.len() < HEADER + json + bytes {
            return Ok(None);
        }
        // Descriptors arrive with the first byte of what they were sent with, so those of this message are there.
        if self.fds.len() < fds {
            return Err(ErrorKind::InvalidData.into());
        }
        let rest = self.bytes.split_off(HEADER + json + bytes);
        let mut message = std::mem::replace(&mut self.bytes, rest);
        let bytes = message.split_off(HEADER + json);
        let message = serde_json::from_slice(&message[HEADER..])?;
        Ok(Some(Received { message, bytes, fds: self.fds.drain(..fds).collect() }))
    }
}

/// What of some messages is still to be sent.
struct Unsent<'a> {
    parts: VecDeque<&'a [u8]>,
    fds: Vec<RawFd>,
}

impl<'a> Unsent<'a> {
    fn new(outgoing: &'a Outgoing<'_>) -> Self {
        let fds = outgoing.fds.iter().map(AsRawFd::as_raw_fd).collect();
        Self { parts: outgoing.parts.iter().map(|part| &part[..]).filter(|part| !part.is_empty()).collect(), fds }
    }

    fn is_sent(&self) -> bool {
        self.parts.is_empty()
    }

    /// Sends as much of the next part as the socket takes, the descriptors with the first byte.
    fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let Some(part) = self.parts.front_mut() else { return Ok(()) };
        match fdpass::send_with_fds(socket, part, &self.fds) {
            Ok(sent) => {
                self.fds.clear();
                *part = &part[sent..];
                if part.is_empty() {
                    self.parts.pop_front();
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Waits until there is something to read or room to write, or the other side is gone.
fn wait_ready(socket: BorrowedFd<'_>, what: PollFlags, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // Whatever has arrived: one byte after the other may do so for ever.
            return Err(ErrorKind::TimedOut.into());
        }
        // Rounded up, so that the last fraction of a millisecond is not spent in a loop.
        let limit = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket, what)], limit) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            ready => return Ok(ready.map(drop)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one), Channel::new(other))
    }

    #[test]
    fn messages_that_are_sent_together_arrive_with_their_own_descriptors() {
        let (one, mut other) = pair();
        let mut files: Vec<std::fs::File> =
            (0..3).map(|_| coreward_sys::sparse_io::create_memfd("test").unwrap()).collect();
        for (number, file) in (b'0'..).zip(&mut files) {
            file.write_all(&[number]).unwrap();
            file.rewind().unwrap();
        }
        let mut outgoing = Outgoing::default();
        outgoing.add(&"first", b"bytes", &[files[0].as_fd()]).unwrap();
        outgoing.add(&7, &[9; 200_000], &[]).unwrap();
        outgoing.add(&"third", b"", &[files[1].as_fd(), files[2].as_fd()]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| one.send(&outgoing).unwrap());
            receive_all(&mut other);
        });
        drop(one);
        assert_eq!(other.receive::<u32>(None).err().unwrap().kind(), ErrorKind::UnexpectedEof);
    }

    fn receive_all(other: &mut Channel) {
        let read = |fd: OwnedFd| {
            let mut text = String::new();
            std::fs::File::from(fd).read_to_string(&mut text).unwrap();
            text
        };
        let first = other.receive::<String>(None).unwrap();
        assert_eq!((first.message.as_str(), &first.bytes[..], first.fds.len()), ("first", &b"bytes"[..], 1));
        assert_eq!(first.fds.into_iter().map(read).collect::<Vec<_>>(), ["0"]);
        let second = other.receive::<u32>(None).unwrap();
        assert_eq!((second.message, second.bytes.len(), second.fds.len()), (7, 200_000, 0));
        let third = other.receive::<String>(None).unwrap();
        assert_eq!(third.fds.into_iter().map(read).collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn a_late_or_garbled_message_is_an_error() {
        let (one, mut other) = pair();
        let begun = Instant::now();
        let late = other.receive::<u32>(Some(begun + Duration::from_millis(30)));
        assert_eq!(late.err().unwrap().kind(), ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(1));
        (&one.socket).write_all(&[0xff; 20]).unwrap();
        assert_eq!(other.receive::<u32>(None).err().unwrap().kind(), ErrorKind::InvalidData);
    }
}
