//! Messages between shim and daemon, and journal entries: no bytes make a reader panic, and what a reader accepts arrives
//! unchanged when it is sent again.
#![no_main]

use coreward_wire::journal::{MAX_ENTRY, fields, is_about_a_crash, push_field};
use coreward_wire::{DaemonMessage, Details, HEADER_LEN, Header, Kind, MAX_PAYLOAD, Offer, Reply, take_message};

/// Kinds of message that the daemon sends, and one that it never does.
const DAEMON_KINDS: [Kind; 8] =
    [Kind::Taken, Kind::Busy, Kind::Request, Kind::Release, Kind::Done, Kind::Rejected, Kind::Unavailable, Kind::Offer];

/// The header and payload of one encoded message.
fn split(mut message: Vec<u8>) -> (Header, Vec<u8>) {
    let taken = take_message(&mut message).expect("a valid header").expect("a complete message");
    assert!(message.is_empty());
    taken
}

fn check_offer(payload: &[u8]) {
    if let Ok((offer, fds)) = Offer::decode(payload) {
        let (header, payload) = split(offer.encode(&fds));
        assert_eq!((header.kind, header.fds), (Kind::Offer, fds.len()));
        assert_eq!(Offer::decode(&payload), Ok((offer, fds)));
    }
}

fn check_daemon_message(kind: Kind, payload: &[u8]) {
    if let Ok(message) = DaemonMessage::decode(kind, payload) {
        let (header, payload) = split(message.encode());
        assert_eq!(header.kind, kind);
        if let DaemonMessage::Done { journal, .. } = &message {
            check_journal_entry(journal);
        }
        assert_eq!(DaemonMessage::decode(kind, &payload), Ok(message));
    }
}

fn check_reply(payload: &[u8]) {
    if let Ok(reply) = Reply::decode(payload) {
        check_details(&reply.data);
        let (header, payload) = split(reply.encode(reply.fds.len()));
        assert_eq!((header.kind, header.fds), (Kind::Reply, reply.fds.len()));
        assert_eq!(Reply::decode(&payload), Ok(reply));
    }
}

fn check_details(data: &[u8]) {
    if let Ok((details, warnings)) = Details::decode(data) {
        assert_eq!(Details::decode(&details.encode(&warnings)), Ok((details, warnings)));
    }
}

fn check_journal_entry(entry: &[u8]) {
    let accepted = is_about_a_crash(entry);
    assert!(!accepted || entry.len() <= MAX_ENTRY);
    let Some(read) = fields(entry).collect::<Option<Vec<_>>>() else {
        assert!(!accepted, "a malformed entry was accepted");
        return;
    };
    if accepted {
        let mut again = Vec::new();
        for (name, value) in &read {
            push_field(&mut again, std::str::from_utf8(name).expect("an accepted name is ASCII"), value);
        }
        assert!(is_about_a_crash(&again));
        assert_eq!(fields(&again).collect::<Option<Vec<_>>>(), Some(read));
    }
}

fn check(kind: Kind, payload: &[u8]) {
    match kind {
        Kind::Offer => check_offer(payload),
        Kind::Reply => check_reply(payload),
        kind => check_daemon_message(kind, payload),
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // A payload that leaves room for the fields that an encoder adds to those that were received.
    if bytes.len() > MAX_PAYLOAD - 1024 {
        return;
    }
    // As a stream of messages.
    let mut received = bytes.to_vec();
    while let Ok(Some((header, payload))) = take_message(&mut received) {
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        assert_eq!(header.payload_len, payload.len());
        check(header.kind, &payload);
    }
    // As a payload of every kind, which needs no valid header.
    let payload = bytes.get(HEADER_LEN..).unwrap_or(bytes);
    for payload in [bytes, payload] {
        check_offer(payload);
        check_reply(payload);
        DAEMON_KINDS.iter().for_each(|kind| check_daemon_message(*kind, payload));
        check_details(payload);
        check_journal_entry(payload);
    }
});
