//! The daemon under a small service manager, which does what systemd does for coreward.service: it creates the sockets,
//! passes them to the daemon, receives its notifications, and starts the next daemon when one ends.

use coreward_wire::paths::Root;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running daemon and its manager; dropping it stops both.
pub(crate) struct Daemon {
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
    metrics: SocketAddr,
    notifications: Mutex<Receiver<String>>,
}

struct Shared {
    child: Mutex<Child>,
    stopping: AtomicBool,
}

struct Starter {
    root: Root,
    intake: UnixListener,
    metrics: TcpListener,
    deletion: UnixListener,
}

impl Starter {
    fn start(&self) -> Child {
        // LISTEN_PID must be the daemon's own PID: the shell knows it, and keeps it when it executes the daemon. The sockets
        // are passed as the shell's standard input, output and error and moved to descriptors 3 to 5, where sd_listen_fds(3)
        // expects them.
        Command::new("sh")
            .args(["-c", "LISTEN_PID=$$ exec \"$@\" 3<&0 4>&1 5>&2 </dev/null >/dev/null 2>>\"$0\""])
            .arg(self.root.join("log"))
            .arg(self.root.daemon_exe())
            .arg("--root")
            .arg(self.root.path())
            .env("LISTEN_FDS", "3")
            .env("LISTEN_FDNAMES", "intake:metrics:delete")
            .env("NOTIFY_SOCKET", self.root.join("notify"))
            .env("WATCHDOG_USEC", "2000000")
            .stdin(OwnedFd::from(self.intake.try_clone().expect("a socket")))
            .stdout(OwnedFd::from(self.metrics.try_clone().expect("a socket")))
            .stderr(OwnedFd::from(self.deletion.try_clone().expect("a socket")))
            .spawn()
            .expect("the daemon")
    }
}

impl Daemon {
    pub(crate) fn start(root: &Root) -> Self {
        let notify = UnixDatagram::bind(root.join("notify")).expect("a notify socket");
        let (sender, notifications) = channel();
        std::thread::spawn(move || {
            // Receives all the time, as systemd does, so that the daemon never blocks on its notifications.
            let mut buffer = [0; 4096];
            while let Ok(count) = notify.recv(&mut buffer) {
                if sender.send(String::from_utf8_lossy(&buffer[..count]).into_owned()).is_err() {
                    return;
                }
            }
        });
        let intake = UnixListener::bind(root.intake_socket()).expect("the intake socket");
        let metrics = TcpListener::bind("127.0.0.1:0").expect("the metrics socket");
        let address = metrics.local_addr().expect("an address");
        let deletion = UnixListener::bind(root.deletion_socket()).expect("the socket for deletions");
        let starter = Starter { root: root.clone(), intake, metrics, deletion };
        let shared = Arc::new(Shared { child: Mutex::new(starter.start()), stopping: AtomicBool::new(false) });
        let supervised = Arc::clone(&shared);
        let supervisor = std::thread::spawn(move || {
            while !supervised.stopping.load(Ordering::SeqCst) {
                let ended = supervised.child.lock().expect("the child").try_wait().expect("a child").is_some();
                if ended && !supervised.stopping.load(Ordering::SeqCst) {
                    *supervised.child.lock().expect("the child") = starter.start();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let daemon =
            Self { shared, supervisor: Some(supervisor), metrics: address, notifications: Mutex::new(notifications) };
        daemon.wait_for_notification("READY=1");
        daemon
    }

    /// Waits until the daemon sends its manager a notification that contains `text`; returns the whole notification.
    #[track_caller]
    pub(crate) fn wait_for_notification(&self, text: &str) -> String {
        let notifications = self.notifications.lock().expect("the notifications");
        let begun = Instant::now();
        while let Some(left) = Duration::from_secs(20).checked_sub(begun.elapsed()) {
            match notifications.recv_timeout(left) {
                Ok(received) if received.contains(text) => return received,
                _ => {}
            }
        }
        panic!("the daemon sent no notification with {text}");
    }

    /// The notifications that the daemon sends within `time` from now on.
    pub(crate) fn notifications_within(&self, time: Duration) -> Vec<String> {
        let notifications = self.notifications.lock().expect("the notifications");
        notifications.try_iter().for_each(drop);
        std::thread::sleep(time);
        notifications.try_iter().collect()
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.shared.child.lock().expect("the child").id()).expect("a PID")
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).expect("kill");
    }

    /// Has it read its configuration, and waits until it has.
    pub(crate) fn reload(&self) {
        self.signal(nix::sys::signal::Signal::SIGHUP);
        self.wait_for_notification("RELOADING=1");
        self.wait_for_notification("READY=1");
    }

    /// Stops the daemon with SIGTERM and starts no other; returns its exit status.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.terminate()
    }

    fn terminate(&mut self) -> Option<i32> {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.supervisor.take()?.join().expect("the supervisor");
        let mut child = self.shared.child.lock().expect("the child");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a PID"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        child.wait().expect("the child").code()
    }

    /// The address of the metrics socket.
    pub(crate) fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// Sends a request to the metrics socket and returns the response.
    pub(crate) fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics).expect("the metrics socket");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response");
        response
    }

    /// The text of /metrics, with the response's header.
    pub(crate) fn scrape(&self) -> String {
        self.http("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    }

    /// The sum of the samples of a metric whose lines contain `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        self.samples(name, labels).iter().filter_map(|sample| sample.parse::<f64>().ok()).sum()
    }

    /// The same for a metric of whole numbers.
    pub(crate) fn count(&self, name: &str, labels: &str) -> u64 {
        self.samples(name, labels).iter().filter_map(|sample| sample.parse::<u64>().ok()).sum()
    }

    /// The values of the samples of a metric whose lines contain `labels`.
    pub(crate) fn samples(&self, name: &str, labels: &str) -> Vec<String> {
        let text = self.scrape();
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
        });
        lines.filter_map(|line| Some(line.rsplit_once(' ')?.1.to_owned())).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.terminate();
    }
}

/// The command of a daemon that is not restarted, for tests of how it exits.
pub(crate) fn unsupervised(root: &Root, intake: &UnixListener) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "LISTEN_PID=$$ exec \"$@\" 3<&0 </dev/null", "sh"])
        .arg(root.daemon_exe())
        .arg("--root")
        .arg(root.path())
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "intake")
        .stdin(OwnedFd::from(intake.try_clone().expect("a socket")))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}
