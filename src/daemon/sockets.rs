//! The sockets that systemd hands over, found by name.

use listenfd::ListenFd;
use nix::sys::socket::{getsockopt, sockopt};
use std::io;
use std::net::TcpListener;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use thiserror::Error;

/// `FileDescriptorName=` of coreward.socket.
const INTAKE: &str = "intake";
/// `FileDescriptorName=` of coreward-metrics.socket.
const METRICS: &str = "metrics";

/// `FileDescriptorName=` of coreward-delete.socket.
const DELETION: &str = "delete";

/// Why the inherited sockets can't be used.
#[derive(Debug, Error)]
pub(super) enum SocketError {
    #[error(
        "no socket named \"{INTAKE}\" was handed over: start the daemon through systemd (systemctl start coreward.socket), \
        or through systemd-socket-activate --fdname={INTAKE}:{METRICS}"
    )]
    NoIntake,
    #[error("the socket named \"{0}\" is not a listening socket of its kind: {1}")]
    WrongKind(&'static str, io::Error),
    #[error("the inherited sockets cannot be read: {0}")]
    Protocol(io::Error),
}

pub(super) struct Sockets {
    intake: UnixListener,
    metrics: Option<TcpListener>,
    deletion: Option<UnixListener>,
}

/// The sockets for tokio.
pub(super) struct TokioSockets {
    pub(super) intake: tokio::net::UnixListener,
    pub(super) deletion: Option<tokio::net::UnixListener>,
}

impl Sockets {
    /// Takes them over. Before any thread is started: listenfd removes the variables from the environment.
    pub(super) fn inherit() -> Result<Self, SocketError> {
        let names: Vec<String> =
            sd_notify::listen_fds_with_names().map_err(SocketError::Protocol)?.map(|(_, name)| name).collect();
        let mut fds = ListenFd::from_env();
        let place = |wanted: &str| names.iter().position(|name| name == wanted);
        let intake = place(INTAKE).ok_or(SocketError::NoIntake)?;
        let intake = fds.take_unix_listener(intake).transpose().ok_or(SocketError::NoIntake)?;
        let intake = intake.map_err(|error| SocketError::WrongKind(INTAKE, error))?;
        listening(std::os::fd::AsFd::as_fd(&intake)).map_err(|error| SocketError::WrongKind(INTAKE, error))?;
        let metrics = match place(METRICS).map(|place| fds.take_tcp_listener(place)) {
            Some(taken) => taken.map_err(|error| SocketError::WrongKind(METRICS, error))?,
            None => None,
        };
        match &metrics {
            Some(metrics) => {
                listening(std::os::fd::AsFd::as_fd(metrics)).map_err(|error| SocketError::WrongKind(METRICS, error))?;
            }
            None => tracing::warn!("no socket named \"{METRICS}\" was inherited: there are no metrics"),
        }
        let deletion = match place(DELETION).map(|place| fds.take_unix_listener(place)) {
            Some(taken) => taken.map_err(|error| SocketError::WrongKind(DELETION, error))?,
            None => None,
        };
        match &deletion {
            Some(deletion) => {
                listening(std::os::fd::AsFd::as_fd(deletion))
                    .map_err(|error| SocketError::WrongKind(DELETION, error))?;
            }
            None => tracing::info!("no socket named \"{DELETION}\" was inherited: users cannot delete their cores"),
        }
        Ok(Self { intake, metrics, deletion })
    }

    /// The socket that scrapers connect to, for a runtime of its own.
    pub(super) fn take_metrics(&mut self) -> Option<TcpListener> {
        self.metrics.take()
    }

    /// The other sockets for tokio; inside of its runtime.
    pub(super) fn into_tokio(self) -> io::Result<TokioSockets> {
        Ok(TokioSockets {
            intake: tokio::net::UnixListener::from_std(self.intake)?,
            deletion: self.deletion.map(tokio::net::UnixListener::from_std).transpose()?,
        })
    }
}

/// Checks that a socket accepts connections, and makes it one that never blocks: tokio takes that for granted.
fn listening(socket: BorrowedFd<'_>) -> io::Result<()> {
    if !getsockopt(&socket, sockopt::AcceptConn)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
    }
    let flags = nix::fcntl::OFlag::from_bits_retain(nix::fcntl::fcntl(socket, nix::fcntl::FcntlArg::F_GETFL)?);
    nix::fcntl::fcntl(socket, nix::fcntl::FcntlArg::F_SETFL(flags | nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok(())
}
