//! Writes the seeds of the target `wire`: `cargo run --example seed_wire corpus/wire`.

use coreward_wire::journal::{IDENTIFIER, MESSAGE_ID, PRIORITY, push_field};
use coreward_wire::{DaemonMessage, Details, FdKind, Namespaces, Offer, Reply, Request, released_message};
use std::path::Path;
use std::time::Duration;

fn main() {
    let dir = std::env::args().nth(1).expect("usage: seed_wire DIR");
    std::fs::create_dir_all(&dir).expect("the directory");
    let details = Details {
        cwd: b"/srv".to_vec(),
        status: b"Name:\tweb\nUmask:\t0022\nThreads:\t3\n".to_vec(),
        limits: b"Max core file size        0                    unlimited            bytes\n".to_vec(),
        open_fds: b"0 -> /dev/null\n3 -> socket:[1234]\n".to_vec(),
        parent: b"/usr/sbin/web\0-d\0".to_vec(),
        failed_thread: b"worker 3".to_vec(),
        ..Details::default()
    };
    let offer = Offer {
        attempt: 2,
        started: Duration::from_millis(123_456),
        boot_id: "0123456789abcdef".repeat(2),
        pid: Some(nix::unistd::Pid::from_raw(4242)),
        tid: Some(nix::unistd::Pid::from_raw(4243)),
        uid: Some(nix::unistd::Uid::from_raw(1000)),
        gid: Some(nix::unistd::Gid::from_raw(1001)),
        signal: Some(11),
        time: 1_700_000_000,
        core_limit: u64::MAX,
        dumpable: Some(1),
        exe_deleted: Some(false),
        start_time: 98_765,
        hostname: b"web-1".to_vec(),
        comm: b"web".to_vec(),
        exe: b"/usr/bin/web (deleted)".to_vec(),
        root: b"/".to_vec(),
        cgroup: b"0::/system.slice/web.service\n".to_vec(),
        namespaces: Namespaces { mount: true, ..Namespaces::default() },
        warnings: vec!["cannot open auxv: EACCES: Permission denied".to_owned()],
        details: details.clone(),
        checkpoint: b"{}".to_vec(),
        ..Offer::default()
    };
    let minimal = Offer { boot_id: "0".repeat(32), ..Offer::default() };
    let mut entry = Vec::new();
    push_field(&mut entry, "MESSAGE_ID", MESSAGE_ID.as_bytes());
    push_field(&mut entry, "PRIORITY", PRIORITY.as_bytes());
    push_field(&mut entry, "SYSLOG_IDENTIFIER", IDENTIFIER.as_bytes());
    push_field(&mut entry, "MESSAGE", b"Process 4242 (web) of user 1000 dumped core.\n\nStack trace of thread 4243");
    push_field(&mut entry, "COREDUMP_PID", b"4242");
    push_field(&mut entry, "COREWARD_ID", b"s1-00000000000000000000");
    let release = DaemonMessage::Release {
        checkpoint: b"{\"record\":{}}".to_vec(),
        fds: vec![FdKind::CheckpointFile, FdKind::CheckpointMemory, FdKind::CheckpointSpill],
        needs_ack: true,
    };
    let whole_session = [
        DaemonMessage::Taken,
        DaemonMessage::Request(Request::Core),
        DaemonMessage::Request(Request::Head(1 << 20)),
        DaemonMessage::Request(Request::Details { holes: true, thread: 77 }),
        DaemonMessage::Request(Request::Exe),
        DaemonMessage::Request(Request::Modules(vec![0x5555_0000_0000, 0x7fff_f000_0000])),
        DaemonMessage::Busy,
        release.clone(),
        DaemonMessage::Done { journal: entry.clone(), user: Some(nix::unistd::Uid::from_raw(1000)) },
    ];
    let reply = Reply {
        data: details.encode(&["cannot read limits: ESRCH: No such process".to_owned()]),
        fds: vec![FdKind::Maps, FdKind::Pagemap],
        ..Reply::default()
    };
    let mut forged = entry.clone();
    push_field(&mut forged, "OBJECT_PID", b"1");
    let seeds = [
        ("offer", offer.encode(&[FdKind::Mem, FdKind::Auxv, FdKind::Cmdline, FdKind::Pidfd, FdKind::Head])),
        ("offer-minimal", minimal.encode(&[])),
        ("details", details.encode(&offer.warnings)),
        ("reply", reply.encode(2)),
        ("reply-modules", Reply::of_modules(&[0x5555_0000_0000]).encode(1)),
        ("reply-errno", Reply { errno: 3, ..Reply::default() }.encode(0)),
        ("released", released_message()),
        ("release", release.encode()),
        ("rejected", DaemonMessage::Rejected { reason: "field 6 is missing".to_owned() }.encode()),
        ("unavailable", DaemonMessage::Unavailable { reason: "the catalog is closed".to_owned() }.encode()),
        ("session", whole_session.iter().flat_map(DaemonMessage::encode).collect()),
        ("entry", entry),
        ("entry-forged", forged),
    ];
    for (name, bytes) in seeds {
        std::fs::write(Path::new(&dir).join(name), bytes).expect("a seed");
    }
}
