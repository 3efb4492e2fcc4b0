//! The shim as a program, with the test in place of the daemon.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

use coreward_wire::paths::{Root, SPOOL};
use coreward_wire::{DaemonMessage, HEADER_LEN, Header, Kind, Offer};
use std::fs;
use std::io::{PipeWriter, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A root directory with the intake socket, a kernel log, and parents for the spool.
struct FakeSystem {
    dir: TempDir,
    intake: UnixListener,
}

impl FakeSystem {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for path in [root.run_dir(), root.state_dir(), root.join("/dev")] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(root.join("/dev/kmsg"), "").unwrap();
        let intake = UnixListener::bind(root.intake_socket()).unwrap();
        Self { dir, intake }
    }

    /// Starts the shim as the kernel does, for a process that is gone already.
    fn start_shim(&self) -> (Child, PipeWriter) {
        const ABOVE_PID_MAX: &str = "4194305";
        let (core, writer) = std::io::pipe().unwrap();
        let shim = Command::new(env!("CARGO_BIN_EXE_coreward-shim"))
            .arg("--root")
            .arg(self.dir.path())
            .args([ABOVE_PID_MAX, ABOVE_PID_MAX, "1000", "1001", "11", "1700000000", "0", "1", "host", ""])
            .stdin(core)
            .spawn()
            .unwrap();
        (shim, writer)
    }

    /// Starts a shim, answers its offer with `reply`, and waits until the shim ends. Returns what it logged.
    fn reply_to_offer(&self, reply: &DaemonMessage) -> String {
        let (mut shim, mut core) = self.start_shim();
        core.write_all(b"a core").unwrap();
        drop(core);
        let (mut stream, _) = self.intake.accept().unwrap();
        let mut header = [0; HEADER_LEN];
        stream.read_exact(&mut header).unwrap();
        let header = Header::decode(&header).unwrap();
        assert_eq!(header.kind, Kind::Offer);
        let mut payload = vec![0; header.payload_len];
        stream.read_exact(&mut payload).unwrap();
        let (offer, _) = Offer::decode(&payload).unwrap();
        assert_eq!(offer.attempt, 1);
        assert_eq!(
            offer.warnings,
            ["the process ended while its core was being written: it was killed, or something interrupted the kernel"]
        );
        stream.write_all(&reply.encode()).unwrap();
        assert_eq!(shim.wait().unwrap().code(), Some(1), "the crash is in the spool");
        let spool = Root::new(self.dir.path()).state_dir().join(SPOOL);
        assert_eq!(fs::read_dir(spool).unwrap().count(), 1);
        fs::read_to_string(self.dir.path().join("dev/kmsg")).unwrap()
    }
}

#[test]
fn the_log_tells_an_offer_that_cannot_be_read_from_one_that_cannot_be_recorded() {
    let rejected = DaemonMessage::Rejected { reason: "field 6 is missing".to_owned() };
    let log = FakeSystem::new().reply_to_offer(&rejected);
    assert!(log.contains("the daemon cannot read the offer: field 6 is missing; saved as "), "{log}");

    let unavailable = DaemonMessage::Unavailable { reason: "the catalog is closed".to_owned() };
    let log = FakeSystem::new().reply_to_offer(&unavailable);
    assert!(log.contains("the daemon cannot record it now: the catalog is closed; saved as "), "{log}");
    assert!(!log.contains("cannot read the offer"), "{log}");
}

#[test]
fn started_by_hand_it_says_how_the_kernel_starts_it() {
    let system = FakeSystem::new();
    let shim = Command::new(env!("CARGO_BIN_EXE_coreward-shim"))
        .arg("--root")
        .arg(system.dir.path())
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!((shim.status.code(), shim.stdout.as_slice()), (Some(2), [].as_slice()));
    // Beside the snapshots of all other output.
    let mut settings = insta::Settings::new();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_snapshot_path("../../../tests/output/snapshots");
    settings.bind(|| insta::assert_snapshot!("usage_shim", String::from_utf8(shim.stderr).unwrap()));
}

/// As systemd does during a shutdown, when the daemon has ended and its socket has not.
#[test]
fn connections_that_are_closed_before_the_offer_is_taken_are_no_attempts() {
    let system = FakeSystem::new();
    let (mut shim, core) = system.start_shim();
    drop(core);
    let intake = system.intake.try_clone().unwrap();
    std::thread::spawn(move || while intake.accept().is_ok() {});
    assert_eq!(shim.wait().unwrap().code(), Some(1), "the crash is in the spool");
    let spool = Root::new(system.dir.path()).state_dir().join(SPOOL);
    let saved = fs::read_dir(spool).unwrap().next().unwrap().unwrap().path();
    let saved = fs::read(saved).unwrap();
    let header = Header::decode(saved.first_chunk::<HEADER_LEN>().unwrap()).unwrap();
    let (offer, _) = Offer::decode(&saved[HEADER_LEN..HEADER_LEN + header.payload_len]).unwrap();
    assert_eq!(offer.attempt, 1, "so its core is parsed when it is imported");
    let log = fs::read_to_string(system.dir.path().join("dev/kmsg")).unwrap();
    assert!(log.contains("no daemon at ") && !log.contains("took it"), "{log}");
}
