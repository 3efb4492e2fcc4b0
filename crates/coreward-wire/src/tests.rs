//! Messages arrive as they were sent, and no bytes make a reader panic.

use super::journal::{MAX_ENTRY, is_about_a_crash, push_field};
use super::*;
use nix::unistd::{Gid, Pid, Uid};
use proptest::prelude::*;
use std::time::Duration;

fn payload(message: &[u8]) -> (Header, &[u8]) {
    let header = Header::decode(message.first_chunk().unwrap()).unwrap();
    assert_eq!(message.len(), HEADER_LEN + header.payload_len);
    (header, &message[HEADER_LEN..])
}

fn credentials() -> impl Strategy<Value = Credentials> {
    (any::<[u32; 4]>(), any::<[u32; 4]>(), any::<u64>()).prop_map(|(uids, gids, capabilities)| Credentials {
        uids: uids.map(Uid::from_raw),
        gids: gids.map(Gid::from_raw),
        capabilities,
    })
}

fn offers() -> impl Strategy<Value = Offer> {
    let text = || prop::collection::vec(any::<u8>(), 0..200);
    let numbers =
        (any::<u32>(), prop::option::of(0..=i32::MAX), prop::option::of(any::<u32>()), any::<u64>(), any::<u64>());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let numbers = (numbers, prop::collection::vec(credentials(), 0..=2));
    (numbers, flags, "[0-9a-f]{32}", text(), text(), text(), text(), text(), prop::collection::vec("\\PC{0,40}", 0..5))
        .prop_map(
            |(
                ((attempt, pid, signal, time, start_time), credentials),
                (released, cut, pid_ns, user_ns, opens_written_files),
                boot_id,
                hostname,
                exe,
                cgroup,
                cwd,
                limits,
                warnings,
            )| Offer {
                attempt,
                released,
                cut,
                started: Duration::from_nanos(time),
                boot_id,
                pid: pid.map(Pid::from_raw),
                signal,
                time,
                start_time,
                hostname,
                exe,
                cgroup,
                credentials,
                opens_written_files,
                namespaces: Namespaces { pid: pid_ns, user: user_ns, ..Namespaces::default() },
                details: Details { cwd, limits, ..Details::default() },
                warnings,
                dump: cut.then(|| b"a reason".to_vec()),
                ..Offer::default()
            },
        )
}

proptest! {
    #[test]
    fn an_offer_arrives_as_it_was_sent(offer in offers()) {
        let kinds = [FdKind::Mem, FdKind::Pidfd];
        let message = offer.encode(&kinds);
        let (header, payload) = payload(&message);
        prop_assert_eq!((header.kind, header.fds), (Kind::Offer, 2));
        prop_assert_eq!(Offer::decode(payload), Ok((offer, kinds.to_vec())));
    }

    #[test]
    fn an_entry_for_the_journal_is_told_from_a_forged_one(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..99), 1..9)) {
        let mut entry = Vec::new();
        push_field(&mut entry, "MESSAGE_ID", journal::MESSAGE_ID.as_bytes());
        for value in &values {
            push_field(&mut entry, "COREDUMP_COMM", value);
        }
        prop_assert!(is_about_a_crash(&entry));
        for (name, value) in [("OBJECT_PID", "1"), ("SYSLOG_IDENTIFIER", "sshd"), ("PRIORITY", "0"), ("MESSAGE_ID", "x")] {
            let mut forged = entry.clone();
            push_field(&mut forged, name, value.as_bytes());
            prop_assert!(!is_about_a_crash(&forged));
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..300_usize, byte: u8) {
        let _ = Offer::decode(&bytes);
        let _ = Reply::decode(&bytes);
        let _ = Details::decode(&bytes);
        let _ = DaemonMessage::decode(Kind::Request, &bytes);
        let _ = is_about_a_crash(&bytes);
        if let Some(header) = bytes.first_chunk() {
            let _ = Header::decode(header);
        }
        // And a valid message with one byte changed.
        let offer = Offer { boot_id: "0".repeat(32), exe: b"/usr/bin/x".to_vec(), ..Offer::default() };
        let mut message = offer.encode(&[]);
        let at = at % message.len();
        message[at] = byte;
        let _ = Header::decode(message.first_chunk().unwrap());
        let _ = Offer::decode(&message[HEADER_LEN..]);
    }
}

/// A spooled crash has both in one message, so no field of one may have the tag of another's.
#[test]
fn an_offer_and_its_details_have_no_tag_in_common() {
    let text = |text: &str| text.as_bytes().to_vec();
    let details = Details {
        cwd: text("cwd"),
        status: text("status"),
        limits: text("limits"),
        open_fds: text("open_fds"),
        parent: text("parent"),
        maps: text("maps"),
        mountinfo: text("mountinfo"),
        failed_thread: text("failed_thread"),
    };
    let plain = Offer { boot_id: "0".repeat(32), details, ..Offer::default() };
    for dump in [None, Some(text("reason"))] {
        let offer = Offer { dump, opens_written_files: true, thread_name: text("name"), ..plain.clone() };
        assert_eq!(Offer::decode(payload(&offer.encode(&[])).1).unwrap().0, offer);
    }
}

#[test]
fn the_largest_offer_is_within_the_limit() {
    let text = vec![b'x'; 100_000];
    let offer = Offer {
        boot_id: "0".repeat(32),
        hostname: text.clone(),
        comm: text.clone(),
        exe: text.clone(),
        root: text.clone(),
        cgroup: text.clone(),
        details: Details {
            cwd: text.clone(),
            status: text.clone(),
            limits: text.clone(),
            open_fds: text.clone(),
            parent: text.clone(),
            maps: text.clone(),
            mountinfo: text.clone(),
            failed_thread: text.clone(),
        },
        thread_name: text.clone(),
        dump: Some(text),
        warnings: vec!["é".repeat(10_000); 100],
        ..Offer::default()
    };
    let message = offer.encode(&[FdKind::Mem; 7]);
    assert!(message.len() <= MAX_PAYLOAD - MAX_CHECKPOINT, "{}", message.len());
    let (_, payload) = payload(&message);
    assert_eq!(Offer::decode(payload).unwrap().0.exe.len(), MAX_TEXT);
}

#[test]
fn daemon_messages_and_replies_arrive_as_they_were_sent() {
    for sent in [
        DaemonMessage::Taken,
        DaemonMessage::Busy,
        DaemonMessage::Request(Request::Core),
        DaemonMessage::Request(Request::Details { holes: false, thread: 0 }),
        DaemonMessage::Request(Request::Details { holes: true, thread: 77 }),
        DaemonMessage::Request(Request::Head(123_456)),
        DaemonMessage::Request(Request::Modules(vec![0x5555_0000_0000, 0x7fff_f000_0000])),
        DaemonMessage::Request(Request::Modules(Vec::new())),
        DaemonMessage::Request(Request::WrittenFile(vec![b"/tmp/perf-7.map".to_vec(), b"report.*.json".to_vec()])),
        DaemonMessage::Request(Request::WrittenFile(vec![vec![b'x'; MAX_TEXT]; MAX_PATHS])),
        DaemonMessage::Release { checkpoint: Vec::new(), fds: Vec::new(), needs_ack: false },
        DaemonMessage::Release {
            checkpoint: vec![7; MAX_CHECKPOINT],
            fds: vec![FdKind::CheckpointFile, FdKind::CheckpointMemory],
            needs_ack: true,
        },
        DaemonMessage::Done { journal: vec![1, 2, 3], user: None },
        DaemonMessage::Done { journal: Vec::new(), user: Some(Uid::from_raw(1000)) },
        DaemonMessage::Rejected { reason: "because".to_owned() },
        DaemonMessage::Unavailable { reason: "because".to_owned() },
    ] {
        let message = sent.encode();
        let (header, payload) = payload(&message);
        assert_eq!(DaemonMessage::decode(header.kind, payload), Ok(sent));
    }
    let details = Details { cwd: b"/".to_vec(), open_fds: b"3 -> pipe:[1]\n".to_vec(), ..Details::default() };
    let warnings = vec!["limits can't be read".to_owned()];
    let reply = Reply { errno: 13, data: details.encode(&warnings), fds: vec![FdKind::Maps, FdKind::Pagemap] };
    assert_eq!(Reply::decode(payload(&reply.encode(2)).1), Ok(reply.clone()));
    assert_eq!(Details::decode(&reply.data), Ok((details, warnings)));
}

#[test]
fn what_can_no_longer_be_read_stays_as_it_was() {
    let text = |text: &str| text.as_bytes().to_vec();
    let mut details = Details { cwd: text("/old"), status: text("old"), ..Details::default() };
    details.update(Details { cwd: text("/new"), limits: text("new"), ..Details::default() });
    assert_eq!(details, Details { cwd: text("/new"), status: text("old"), limits: text("new"), ..Details::default() });
}

#[test]
fn fields_of_a_newer_version_are_skipped_and_a_newer_layout_is_refused() {
    let mut message = Offer { boot_id: "0".repeat(32), pid: Some(Pid::from_raw(7)), ..Offer::default() }.encode(&[]);
    message.extend_from_slice(&[0xff, 0x7f, 2, 0, 0, 0, 1, 2]);
    assert_eq!(Offer::decode(&message[HEADER_LEN..]).unwrap().0.pid, Some(Pid::from_raw(7)));
    message[4] = 2;
    assert_eq!(Header::decode(message.first_chunk().unwrap()), Err(WireError::Version(2)));
}

#[test]
fn an_entry_that_is_too_long_or_cut_is_none() {
    let mut entry = Vec::new();
    push_field(&mut entry, "MESSAGE", &vec![b'x'; MAX_ENTRY]);
    assert!(!is_about_a_crash(&entry));
    let mut entry = Vec::new();
    push_field(&mut entry, "MESSAGE_ID", journal::MESSAGE_ID.as_bytes());
    let first = entry.len();
    push_field(&mut entry, "COREDUMP_CMDLINE", b"a\nb");
    assert!(is_about_a_crash(&entry));
    assert!(!is_about_a_crash(&entry[first..]), "without a kind");
    for end in first + 1..entry.len() {
        assert!(!is_about_a_crash(&entry[..end]), "{end}");
    }
}

#[test]
fn a_release_without_the_field_needs_an_acknowledgement_and_quiet_means_none() {
    const QUIET: [u8; 14] = [9, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    let needs_ack = |payload: &[u8]| match DaemonMessage::decode(Kind::Release, payload) {
        Ok(DaemonMessage::Release { needs_ack, .. }) => needs_ack,
        other => panic!("{other:?}"),
    };
    assert!(needs_ack(&[]));
    assert!(!needs_ack(&QUIET));
}

#[test]
fn texts_over_the_limit_are_truncated_by_the_reader_too() {
    let long = Offer { boot_id: "0".repeat(32), exe: vec![b'x'; MAX_TEXT], ..Offer::default() };
    let mut message = long.encode(&[]);
    // A second executable, longer than any writer of ours makes it.
    message.extend_from_slice(&[18, 0]);
    message.extend_from_slice(&u32::try_from(MAX_TEXT + 1).unwrap().to_le_bytes());
    message.extend_from_slice(&vec![b'y'; MAX_TEXT + 1]);
    assert_eq!(Offer::decode(&message[HEADER_LEN..]).unwrap().0.exe, vec![b'y'; MAX_TEXT]);
}

#[test]
fn fields_of_an_entry_are_read_as_they_were_pushed() {
    let pushed = [("MESSAGE", &b"one line"[..]), ("COREDUMP_CMDLINE", b"two\nlines"), ("COREDUMP_COMM", b"a=b")];
    let mut entry = Vec::new();
    for (name, value) in pushed {
        push_field(&mut entry, name, value);
    }
    let read: Vec<_> = journal::fields(&entry).map(Option::unwrap).collect();
    assert_eq!(read, pushed.map(|(name, value)| (name.as_bytes(), value)));
    assert!(journal::fields(&entry[..entry.len() - 1]).any(|field| field.is_none()));
}
