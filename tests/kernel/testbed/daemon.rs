//! The daemon under a small service manager: it holds the sockets, hands them over as systemd does, and starts the next
//! daemon when one ends.

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

pub struct Daemon {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
    metrics: SocketAddr,
    words: Mutex<Receiver<String>>,
}

struct Shared {
    child: Mutex<Child>,
    stopping: AtomicBool,
}

struct Starter {
    root: Root,
    intake: UnixListener,
    metrics: TcpListener,
}

impl Starter {
    fn start(&self) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.root.join("log")).expect("a log");
        // The shell knows the PID that LISTEN_PID must name before the daemon runs under it; the sockets arrive as its
        // standard input and output and move to where the protocol wants them.
        Command::new("sh")
            .args(["-c", "LISTEN_PID=$$ exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"])
            .arg(self.root.daemon_exe())
            .arg("--root")
            .arg(self.root.path())
            .env("LISTEN_FDS", "2")
            .env("LISTEN_FDNAMES", "intake:metrics")
            .env("NOTIFY_SOCKET", self.root.join("notify"))
            .env("WATCHDOG_USEC", "2000000")
            .stdin(OwnedFd::from(self.intake.try_clone().expect("a socket")))
            .stdout(OwnedFd::from(self.metrics.try_clone().expect("a socket")))
            .stderr(log)
            .spawn()
            .expect("the daemon")
    }
}

impl Daemon {
    pub fn start(root: &Root) -> Self {
        let notify = UnixDatagram::bind(root.join("notify")).expect("a notify socket");
        let (said, words) = channel();
        std::thread::spawn(move || {
            // Always listening, as systemd is; until the test is over.
            let mut buffer = [0; 4096];
            while let Ok(count) = notify.recv(&mut buffer) {
                if said.send(String::from_utf8_lossy(&buffer[..count]).into_owned()).is_err() {
                    return;
                }
            }
        });
        let intake = UnixListener::bind(root.intake_socket()).expect("the intake socket");
        let metrics = TcpListener::bind("127.0.0.1:0").expect("the metrics socket");
        let address = metrics.local_addr().expect("an address");
        let starter = Starter { root: root.clone(), intake, metrics };
        let shared = Arc::new(Shared { child: Mutex::new(starter.start()), stopping: AtomicBool::new(false) });
        let kept = Arc::clone(&shared);
        let keeper = std::thread::spawn(move || {
            while !kept.stopping.load(Ordering::SeqCst) {
                let ended = kept.child.lock().expect("the child").try_wait().expect("a child").is_some();
                if ended && !kept.stopping.load(Ordering::SeqCst) {
                    *kept.child.lock().expect("the child") = starter.start();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let daemon = Self { shared, keeper: Some(keeper), metrics: address, words: Mutex::new(words) };
        daemon.wait_for_word("READY=1");
        daemon
    }

    /// Waits until the daemon says something to its manager.
    #[track_caller]
    pub fn wait_for_word(&self, word: &str) -> String {
        let words = self.words.lock().expect("the words");
        let begun = Instant::now();
        while let Some(left) = Duration::from_secs(20).checked_sub(begun.elapsed()) {
            match words.recv_timeout(left) {
                Ok(said) if said.contains(word) => return said,
                _ => {}
            }
        }
        panic!("the daemon never said {word}");
    }

    /// What the daemon says within `time`, from now on.
    pub fn words(&self, time: Duration) -> Vec<String> {
        let words = self.words.lock().expect("the words");
        words.try_iter().for_each(drop);
        std::thread::sleep(time);
        words.try_iter().collect()
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.shared.child.lock().expect("the child").id()).expect("a PID")
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).expect("kill");
    }

    /// Ends the daemon for good, gracefully; returns its exit status.
    pub fn stop(mut self) -> Option<i32> {
        self.end()
    }

    fn end(&mut self) -> Option<i32> {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.keeper.take()?.join().expect("the keeper");
        let mut child = self.shared.child.lock().expect("the child");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a PID"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        child.wait().expect("the child").code()
    }

    /// A request to the metrics socket, and the answer.
    pub fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics).expect("the metrics socket");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    pub fn scrape(&self) -> String {
        self.http("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    }

    /// The sum of all samples of a metric whose line contains `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.scrape();
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
        });
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// A daemon that is not kept: for tests of how it ends.
pub fn once(root: &Root, intake: &UnixListener) -> Command {
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
