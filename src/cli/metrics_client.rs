//! Reading the daemon's metrics, as Prometheus does.

use super::units;
use coreward_wire::paths::Root;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// The socket of the metrics.
pub(super) const SOCKET: &str = "coreward-metrics.socket";
/// How long the daemon may take. systemd may have to start it first.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most that is read, in bytes: far more than the label sets that the daemon allows itself.
const MAX_ANSWER: u64 = 64 << 20;

/// The address on which systemd listens for the daemon; `None` if systemd does not, or not on TCP.
pub(super) fn address(root: &Root) -> Option<String> {
    // Such as `127.0.0.1:19930 (Stream)`.
    reachable(&units::property(root, SOCKET, "Listen")?)
}

/// An address to connect to for one to listen on.
fn reachable(listen: &str) -> Option<String> {
    let address = listen.split_whitespace().next()?;
    let (host, port) = address.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok())?;
    Some(match host {
        "0.0.0.0" => format!("127.0.0.1:{port}"),
        "[::]" => format!("[::1]:{port}"),
        _ => address.to_owned(),
    })
}

/// The text of the metrics.
///
/// # Errors
/// Nobody answers in time, or what answers does not serve metrics.
pub(super) fn scrape(address: &str) -> io::Result<String> {
    let resolved = address.to_socket_addrs()?.next().ok_or(ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect_timeout(&resolved, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::InvalidData)?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
    }
    Ok(body.to_owned())
}

/// The sum of the samples of a metric of whole numbers whose labels contain all of `labels`, each written as `name="value"`.
pub(super) fn sum(metrics: &str, name: &str, labels: &[String]) -> u64 {
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (found, value) = rest.rsplit_once(' ')?;
        let is_whole_name = found.is_empty() || found.starts_with('{');
        let has_labels = || labels.iter().all(|label| found.contains(label.as_str()));
        (is_whole_name && has_labels()).then(|| value.parse::<u64>().ok())?
    });
    samples.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_selected_by_name_and_labels() {
        let metrics = "# HELP a x\na{p=\"/x\",s=\"SEGV\"} 2\na{p=\"/x\",s=\"ABRT\"} 3\na_b{p=\"/x\"} 5\nc 7\n";
        assert_eq!(sum(metrics, "a", &[]), 5);
        assert_eq!(sum(metrics, "a", &["p=\"/x\"".to_owned(), "s=\"ABRT\"".to_owned()]), 3);
        assert_eq!((sum(metrics, "c", &[]), sum(metrics, "d", &[])), (7, 0));
    }

    #[test]
    fn an_address_to_listen_on_becomes_one_to_connect_to() {
        for (listen, expected) in [
            ("127.0.0.1:19930 (Stream)", Some("127.0.0.1:19930")),
            ("0.0.0.0:1 (Stream)", Some("127.0.0.1:1")),
            ("[::]:9 (Stream)", Some("[::1]:9")),
            ("/run/x.sock (Stream)", None),
            ("", None),
        ] {
            assert_eq!(reachable(listen).as_deref(), expected, "{listen}");
        }
    }
}
