//! Wrong arguments, malformed messages and streams, misbehaving clients: each gives a clear error and a metric, and no crash
//! goes uncounted.

use crate::testbed::{Daemon, RunToEnd, TestBed, eventually, program, shim, unsupervised};
use coreward::crash::{CoreOutcome, NoCore, Truncation};
use coreward_sys::fdpass;
use coreward_wire::{DaemonMessage, HEADER_LEN, Header, Offer, Reply, Request};
use nix::errno::Errno;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

fn connect(bed: &TestBed) -> UnixStream {
    let stream = UnixStream::connect(bed.root.intake_socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// The daemon's next message; `None` if it closed the connection or sent nothing for ten seconds.
fn answer(stream: &mut UnixStream) -> Option<DaemonMessage> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).ok()?;
    let header = Header::decode(&header).unwrap();
    let mut payload = vec![0; header.payload_len];
    stream.read_exact(&mut payload).ok()?;
    Some(DaemonMessage::decode(header.kind, &payload).unwrap())
}

/// A valid offer of a crash that did not happen.
fn offer() -> Offer {
    Offer { attempt: 1, boot_id: "0".repeat(32), signal: Some(11), comm: b"made-up".to_vec(), ..Offer::default() }
}

/// Asserts that the daemon rejects `message` with a reason that contains `why`, and counts it.
fn rejected(bed: &TestBed, daemon: &Daemon, message: &[u8], why: &str) {
    let before = daemon.metric("coreward_errors_total", "kind=\"message\"");
    let mut stream = connect(bed);
    stream.write_all(message).unwrap();
    match answer(&mut stream) {
        Some(DaemonMessage::Rejected { reason }) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?} instead of a rejection because of {why}"),
    }
    assert_eq!(daemon.metric("coreward_errors_total", "kind=\"message\""), before + 1.0, "{why}");
}

#[test]
fn malformed_messages_are_rejected_with_a_reason_and_counted() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let good = offer().encode(&[]);
    let with = |at: usize, bytes: &[u8]| {
        let mut message = good.clone();
        message[at..at + bytes.len()].copy_from_slice(bytes);
        message
    };
    rejected(&bed, &daemon, b"GET / HTTP/1.1\r\n", "wrong magic");
    rejected(&bed, &daemon, &with(4, &[9, 0]), "version 9");
    rejected(&bed, &daemon, &with(6, &[99, 0]), "unknown message kind 99");
    rejected(&bed, &daemon, &with(8, &[0xff, 0xff, 0xff, 0x7f]), "payload has 2147483647 bytes");
    rejected(&bed, &daemon, &with(12, &[3, 0]), "3 were announced");
    rejected(&bed, &daemon, &with(12, &[99, 0]), "99 were announced");
    let payload = u32::try_from(good.len() - HEADER_LEN).unwrap();
    rejected(&bed, &daemon, &with(8, &(payload - 1).to_le_bytes())[..good.len() - 1], "in the middle of a field");
    rejected(&bed, &daemon, &DaemonMessage::Taken.encode(), "unexpected message");
    rejected(&bed, &daemon, &Offer { boot_id: "x".into(), ..offer() }.encode(&[]), "is missing");
    // Clients that disconnect, send nothing, or send a part of a message do not disturb a real crash. The first are no error: so it is asked whether
    // the daemon is there.
    drop(connect(&bed));
    let silent = connect(&bed);
    connect(&bed).write_all(&good[..20]).unwrap();
    Command::new(program("segv")).run_to_end();
    bed.wait_for(1);
    eventually(Duration::from_secs(10), || daemon.metric("coreward_errors_total", "kind=\"connection\"") >= 2.0);
    drop(silent);
}

#[test]
fn unannounced_descriptors_are_rejected() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let mut stream = connect(&bed);
    let null = std::fs::File::open("/dev/null").unwrap();
    fdpass::send_with_fds(stream.as_fd(), &offer().encode(&[]), &[null.as_raw_fd(); 3]).unwrap();
    assert!(
        matches!(answer(&mut stream), Some(DaemonMessage::Rejected { reason }) if reason.contains("3 descriptors arrived"))
    );
    assert_eq!(daemon.metric("coreward_errors_total", "kind=\"message\""), 1.0);
}

/// Plays the shim: offers a crash with these bytes as its core, and answers the daemon's requests until it is done.
fn offer_stream(bed: &TestBed, offer: &Offer, bytes: &[u8]) {
    let (core, mut into): (std::io::PipeReader, std::io::PipeWriter) = std::io::pipe().unwrap();
    let mut stream = connect(bed);
    stream.write_all(&offer.encode(&[])).unwrap();
    into.write_all(bytes).unwrap();
    drop(into);
    loop {
        match answer(&mut stream).expect("an answer") {
            DaemonMessage::Done { .. } => return,
            DaemonMessage::Request(Request::Core) => {
                fdpass::send_with_fds(stream.as_fd(), &Reply::default().encode(1), &[core.as_raw_fd()])
                    .map(drop)
                    .unwrap();
            }
            DaemonMessage::Request(Request::Exe) => {
                let reply = Reply { errno: (Errno::EREMOTE as i32).cast_unsigned(), ..Reply::default() };
                stream.write_all(&reply.encode(0)).unwrap();
            }
            DaemonMessage::Request(_) => stream.write_all(&Reply { errno: 2, ..Reply::default() }.encode(0)).unwrap(),
            DaemonMessage::Release { .. } => stream.write_all(&coreward_wire::released_message()).unwrap(),
            DaemonMessage::Taken | DaemonMessage::Busy => {}
            DaemonMessage::Rejected { reason } | DaemonMessage::Unavailable { reason } => panic!("{reason}"),
        }
    }
}

#[test]
fn streams_that_are_not_cores_are_recorded_with_the_reason() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let at = |second| Offer { started: Duration::from_secs(second), ..offer() };
    offer_stream(&bed, &at(1), b"");
    offer_stream(&bed, &at(2), &[0x41; 9000]);
    offer_stream(&bed, &at(3), b"\x7fELF");
    let outcomes: Vec<CoreOutcome> = bed.wait_for(3).iter().map(|listed| listed.record.core.outcome).collect();
    for reason in [NoCore::Empty, NoCore::NotElf] {
        assert!(outcomes.contains(&CoreOutcome::None(reason)), "{outcomes:?}");
    }
    assert_eq!(daemon.metric("coreward_errors_total", "kind=\"not_a_core\""), 3.0);
    assert_eq!(bed.names("var/lib/coreward/cores"), [] as [String; 0]);

    // At the third attempt the core is not parsed any more: it is stored as it is.
    offer_stream(&bed, &Offer { attempt: 3, ..at(4) }, &[0x41; 9000]);
    let crashes = bed.wait_for(4);
    let unparsed = crashes.iter().find(|listed| listed.record.attempt == 3).unwrap();
    assert!(unparsed.record.core.is_stored());
    let warnings = &unparsed.record.warnings;
    assert!(warnings.iter().any(|warning| warning.contains("executable is on FUSE")), "{warnings:?}");
    assert_eq!(std::fs::read(bed.core(unparsed)).unwrap(), [0x41; 9000]);

    // A crash that is offered again is not counted again.
    offer_stream(&bed, &Offer { attempt: 2, released: true, ..at(4) }, b"");
    bed.wait_for(4);
    assert_eq!(daemon.metric("coredump_process_count", ""), 4.0);
}

#[test]
fn connections_from_other_users_are_refused() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    std::fs::set_permissions(bed.root.intake_socket(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let socket = bed.root.intake_socket();
    let script = format!(
        "import socket; s=socket.socket(socket.AF_UNIX); s.connect('{}'); s.send(b'x'*16); s.recv(1)",
        socket.display()
    );
    Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", &script])
        .run_to_end();
    assert_eq!(daemon.metric("coreward_errors_total", "kind=\"peer\""), 1.0);
}

#[test]
fn a_process_killed_during_the_dump_is_counted_and_its_core_marked() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let mut child = Command::new(program("memory")).arg("1500").quiet().spawn().unwrap();
    eventually(Duration::from_secs(30), || daemon.metric("coreward_inflight_crashes", "") == 1.0);
    // 1.5 GiB cannot be stored in this time.
    std::thread::sleep(Duration::from_millis(50));
    assert!(daemon.metric("coreward_held_oldest_seconds", "") > 0.04, "it is being held");
    child.kill().unwrap();
    child.wait().unwrap();
    let record = bed.wait_for(1)[0].record.clone();
    assert_eq!(record.core.truncated, Some(Truncation::EndedEarly), "{:?}", record.core);
    assert!(record.core.bytes < record.core.expected);
}

#[test]
fn a_wrong_core_pattern_is_reported_and_the_crash_counted() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let segv = program("segv");
    for (arguments, count) in [("%P", 1), ("", 2), ("%P %P %P %h %h %h %h %h %h %h", 3)] {
        let shim = bed.path("shim");
        let pattern = format!("|{} --root {} {arguments}", shim.display(), bed.root.path().display());
        std::fs::write("/proc/sys/kernel/core_pattern", pattern.trim_end()).unwrap();
        Command::new(&segv).run_to_end();
        let crashes = bed.wait_for(count);
        let record = &crashes.iter().find(|listed| !listed.record.warnings.is_empty()).unwrap().record;
        assert!(record.warnings[0].contains("argument"), "{:?}", record.warnings);
    }
    assert!(bed.kmsg().contains("core_pattern is wrong: 1 arguments, expected 10"), "{}", bed.kmsg());
    assert_eq!(daemon.metric("coreward_errors_total", "kind=\"shim_arguments\""), 2.0);
    // The core's notes tell what the arguments did not.
    assert_eq!(daemon.metric("coredump_process_count", "program=\"[segv]\",signal=\"SEGV\""), 2.0);
}

#[test]
fn the_shim_run_by_hand_prints_its_usage() {
    let output = Command::new(shim()).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: coreward-shim"));
}

#[test]
fn a_second_daemon_and_one_without_sockets_explain_why_they_exit() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let intake = UnixListener::bind(bed.path("other.sock")).unwrap();
    let output = unsupervised(&bed.root, &intake).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("another corewardd already runs on") && message.contains("systemctl stop"), "{message}");

    let output = Command::new(bed.root.daemon_exe()).arg("--root").arg(bed.root.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("systemctl start coreward.socket"));
}
