//! The disk never fills up: quotas, full and read-only file systems, and a lost catalog.

use crate::testbed::{RunToEnd, TestBed, Volume, coreward as run_coreward, eventually, has_texts, program, run_tool};
use coreward::crash::{CoreOutcome, NoCore, Truncation};
use coreward::store::CoreState;
use std::process::Command;
use std::time::Duration;

#[test]
fn max_use_evicts_redundant_cores_first_and_keeps_their_records() {
    let bed = TestBed::new();
    bed.configure(
        "[Coreward]\nMaxUse=17M\nMaxUsePerUnit=infinity\nMaxUsePerExecutable=infinity\nMaxUsePerSignature=infinity\n\
         KeepFree=0\nStormBurst=0\n",
    );
    let daemon = bed.daemon();
    // The only core of its bug, and the oldest of all cores.
    Command::new(program("abrt")).run_to_end();
    bed.wait_for(1);
    // One after the other: which core is the newest depends on what has been stored when room is needed.
    for count in 2..=7 {
        Command::new(program("memory")).arg("16").run_to_end();
        bed.wait_for(count);
    }
    // Each of the six cores takes 5 MB.
    use CoreState::{Evicted, Stored};
    let states = || bed.crashes().iter().map(|listed| listed.core_state).collect::<Vec<_>>();
    eventually(Duration::from_secs(5), || states().iter().filter(|state| **state == Evicted).count() == 3);
    assert_eq!(states(), [Stored, Stored, Evicted, Evicted, Evicted, Stored, Stored], "the first and the newest stay");
    let total = total(&bed);
    assert!(total <= 17 << 20, "{total}");
    assert_eq!(daemon.count("coreward_stored_bytes", ""), total);
    assert_eq!(
        daemon.metric("coredump_process_count", "core_exists=\"true\""),
        7.0,
        "eviction does not change the counter"
    );
}

#[test]
fn an_executable_over_its_quota_evicts_its_own_cores() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nMaxUse=400M\nMaxUsePerExecutable=12M\nKeepFree=0\nStormBurst=0\n");
    let _daemon = bed.daemon();
    for _ in 0..4 {
        Command::new(program("segv")).run_to_end();
    }
    for _ in 0..4 {
        Command::new(program("memory")).arg("16").run_to_end();
    }
    let crashes = bed.wait_for(8);
    let of = |name: &str| {
        crashes
            .iter()
            .filter(|listed| listed.record.exe.ends_with(name))
            .map(|listed| listed.id().clone())
            .collect::<Vec<_>>()
    };
    let there = |ids: &[coreward::crash::CrashId]| {
        let cores = bed.names("var/lib/coreward/cores");
        ids.iter().filter(|id| cores.contains(&format!("{id}.core.zst"))).count()
    };
    assert_eq!((there(&of("/segv")), there(&of("/memory"))), (4, 2));
}

/// Bytes of all core files.
fn total(bed: &TestBed) -> u64 {
    let names = bed.names("var/lib/coreward/cores");
    names.iter().map(|name| bed.path("var/lib/coreward/cores").join(name).metadata().unwrap().len()).sum()
}

#[test]
fn pinned_cores_are_not_evicted_and_removed_cores_are_noticed() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nMaxCores=3\n");
    let daemon = bed.daemon();
    let coreward = |arguments: &[&str]| {
        let run = run_coreward(&bed, arguments);
        (
            run.status.success(),
            String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr),
        )
    };
    let mut ids = Vec::new();
    for count in 1..=2 {
        Command::new(program("segv")).run_to_end();
        ids.push(bed.wait_for(count)[count - 1].id().to_string());
    }
    assert!(coreward(&["pin", &ids[1]]).0);
    for count in 3..=6 {
        Command::new(program("segv")).run_to_end();
        ids.push(bed.wait_for(count)[count - 1].id().to_string());
    }
    let there =
        || ids.iter().map(|id| bed.path(&format!("var/lib/coreward/cores/{id}.core.zst")).exists()).collect::<Vec<_>>();
    eventually(Duration::from_secs(5), || there().iter().filter(|there| **there).count() == 3);
    assert_eq!(there(), [true, true, false, false, false, true], "the first, the pinned and the newest");
    let (_, usage) = coreward(&["usage"]);
    assert!(usage.contains("in 3 cores") && usage.contains("user 0"), "{usage}");
    let (done, output) = coreward(&["rm", &ids[1]]);
    assert!(!done && output.contains("is pinned: coreward unpin"), "{output}");
    assert!(coreward(&["rm", "--force", &ids[1]]).0);
    eventually(Duration::from_secs(5), || daemon.metric("coreward_stored_cores", "") == 2.0);
    eventually(Duration::from_secs(5), || bed.crashes()[1].core_state == CoreState::Removed);
    let (done, output) = coreward(&["vacuum", "--max-cores", "1"]);
    assert!(done && output.starts_with("Deleted 1 core,"), "{output}");
    assert_eq!(there(), [false, false, false, false, false, true], "the newest is deleted last");
    eventually(Duration::from_secs(5), || daemon.metric("coreward_stored_cores", "") == 1.0);
    // The row in the catalog is updated shortly after the metric.
    eventually(Duration::from_secs(5), || bed.crashes()[0].core_state == CoreState::Removed);
    let (_, groups) = coreward(&["groups"]);
    let row = groups.lines().nth(1).unwrap_or_default();
    assert!(
        row.starts_with("6      1      ") && row.contains("s2-") && row.contains("SIGSEGV in innermost <- middle"),
        "{groups}"
    );
}

#[test]
fn process_size_max_and_external_size_max_truncate_and_are_reported() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nProcessSizeMax=5M\n");
    let daemon = bed.daemon();
    Command::new(program("memory")).arg("16").run_to_end();
    let record = bed.wait_for(1)[0].record.clone();
    assert_eq!(record.core.truncated, Some(Truncation::ProcessSizeMax));
    assert!((4 << 20..=5 << 20).contains(&record.core.bytes), "{:?}", record.core);
    bed.configure("[Coreward]\nExternalSizeMax=4M\n");
    daemon.reload();
    Command::new(program("memory")).arg("16").run_to_end();
    let record = bed.wait_for(2)[1].record.clone();
    assert_eq!(record.core.truncated, Some(Truncation::ExternalSizeMax));
    assert!(record.core.stored <= 4 << 20, "{:?}", record.core);
    assert_eq!(daemon.metric("coreward_truncated_total", ""), 2.0);
    assert!(String::from_utf8_lossy(&bed.journal()[1]).contains("COREDUMP_TRUNCATED=1\n"));
}

#[test]
fn storage_none_stores_only_a_record() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStorage=none\n");
    let _daemon = bed.daemon();
    Command::new(program("memory")).arg("200").run_to_end();
    let record = bed.wait_for(1)[0].record.clone();
    assert_eq!(record.core.outcome, CoreOutcome::None(NoCore::Configured));
}

#[test]
fn a_full_disk_is_recorded_as_the_reason() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nMaxUse=infinity\nKeepFree=0\nStormBurst=0\n");
    let _volume = Volume::new(&bed, "32M");
    let daemon = bed.daemon();
    // Another program fills the disk up to the last 6 MiB.
    let free = nix::sys::statvfs::statvfs(&bed.root.state_dir()).unwrap();
    let free = free.blocks_available() * free.fragment_size();
    let ballast = bed.path("var/lib/coreward/ballast");
    run_tool("fallocate", &["-l", &(free - (6 << 20)).to_string(), ballast.to_str().unwrap()]);
    for _ in 0..3 {
        Command::new(program("memory")).arg("48").run_to_end();
    }
    let crashes = bed.wait_for(3);
    for listed in &crashes {
        let core = &listed.record.core;
        let reported = core.truncated.is_some_and(|cut| matches!(cut, Truncation::DiskFull | Truncation::Quota))
            || matches!(core.outcome, CoreOutcome::None(NoCore::DiskFull | NoCore::Quota));
        assert!(reported, "{core:?}");
    }
    assert_eq!(daemon.metric("coredump_process_count", ""), 3.0);
    assert_eq!(bed.crashes().len(), 3);
}

#[test]
fn a_file_system_quota_counts_as_a_full_disk_and_loses_no_crash() {
    let bed = TestBed::new();
    bed.configure(
        "[Coreward]\nMaxUse=infinity\nMaxUsePerUnit=infinity\nMaxUsePerExecutable=infinity\n\
         MaxUsePerSignature=infinity\nKeepFree=0\nStormBurst=0\n",
    );
    let volume = Volume::with_quota(&bed, "64M");
    let daemon = bed.daemon();
    for count in 1..=3 {
        Command::new(program("memory")).arg("16").run_to_end();
        bed.wait_for(count);
    }
    // A core that is larger than the rest of the quota, although the disk has room.
    Command::new(program("memory")).arg("400").run_to_end();
    let crashes = bed.wait_for(4);
    let core = &crashes[3].record.core;
    let reported = core.truncated == Some(Truncation::DiskFull) || core.outcome == CoreOutcome::None(NoCore::DiskFull);
    assert!(reported, "{core:?} {:?}", crashes[3].record.warnings);
    // Another program uses up the quota.
    let ballast = volume.mounted.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    let block = vec![b'b'; 64 << 10];
    let full = loop {
        if let Err(error) = std::io::Write::write_all(&mut file, &block).and_then(|()| file.sync_data()) {
            break error;
        }
    };
    assert_eq!(full.raw_os_error(), Some(nix::errno::Errno::EDQUOT as i32));
    drop(file);
    for _ in 0..5 {
        Command::new(program("memory")).arg("16").run_to_end();
    }
    // Crashes that could not be recorded wait in the spool until there is room again. (SQLite maps a file of the volume, and
    // btrfs raises SIGBUS for a page that it cannot copy. That crashes the daemon, which is recorded too, and the next one
    // continues.)
    std::fs::remove_file(&ballast).unwrap();
    let ours = || bed.crashes().into_iter().filter(|listed| listed.record.exe.ends_with("/memory")).collect::<Vec<_>>();
    eventually(Duration::from_secs(60), || ours().len() == 9);
    for listed in ours() {
        let outcome = listed.record.core.outcome;
        assert!(
            matches!(outcome, CoreOutcome::Stored | CoreOutcome::None(NoCore::DiskFull | NoCore::Gone)),
            "{outcome:?} {:?}",
            listed.record.warnings
        );
    }
    eventually(Duration::from_secs(20), || daemon.metric("coredump_process_count", "/memory") == 9.0);
    eventually(Duration::from_secs(20), || daemon.metric("coreward_catalog_up", "") == 1.0);
    assert!(!std::fs::read_to_string(bed.path("log")).unwrap_or_default().contains("panicked"));
}

#[test]
fn a_read_only_file_system_loses_no_crash() {
    let bed = TestBed::new();
    let volume = Volume::new(&bed, "32M");
    let daemon = bed.daemon();
    Command::new(program("segv")).run_to_end();
    bed.wait_for(1);
    // As ext4 does with errors=remount-ro.
    volume.remount("abort");
    Command::new(program("segv")).run_to_end();
    eventually(Duration::from_secs(20), || bed.names("run/coreward/spool").len() == 1);
    assert!(daemon.metric("coreward_errors_total", "kind=\"catalog\"") >= 1.0);
    assert!(bed.kmsg().contains("without its core"), "{}", bed.kmsg());
    daemon.stop();
    drop(volume);
    let volume = Volume::mount(&bed);
    bed.clear_sockets();

    // A daemon that starts on a read-only file system collects crashes, and needs no restart when it becomes writable.
    volume.remount("ro");
    let daemon = bed.daemon();
    Command::new(program("segv")).run_to_end();
    eventually(Duration::from_secs(20), || bed.names("run/coreward/spool").len() == 2);
    assert_eq!(daemon.metric("coreward_catalog_up", ""), 0.0);
    volume.remount("rw");
    let crashes = bed.wait_for(3);
    for listed in &crashes {
        assert!(has_texts(&listed.record), "{:?}", listed.record);
    }
    assert_eq!(
        crashes.iter().filter(|listed| listed.record.core.outcome == CoreOutcome::None(NoCore::Gone)).count(),
        2
    );
    eventually(Duration::from_secs(5), || bed.names("run/coreward/spool").is_empty());
    assert_eq!(daemon.metric("coredump_process_count", ""), 3.0);
    eventually(Duration::from_secs(10), || daemon.metric("coreward_catalog_up", "") == 1.0);
    daemon.stop();
}

#[test]
fn a_lost_or_damaged_catalog_is_rebuilt_from_the_cores() {
    let bed = TestBed::new();
    for damage in ["lost", "garbage", "cut"] {
        let daemon = bed.daemon();
        let before = bed.crashes().len();
        Command::new(program("segv")).run_to_end();
        bed.wait_for(before + 1);
        daemon.stop();
        let catalog = bed.path("var/lib/coreward/catalog.db");
        for journal in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{journal}", catalog.display()));
        }
        match damage {
            "lost" => std::fs::remove_file(&catalog).unwrap(),
            "garbage" => std::fs::write(&catalog, vec![0x41; 20000]).unwrap(),
            _ => {
                let bytes = std::fs::read(&catalog).unwrap();
                std::fs::write(&catalog, &bytes[..bytes.len() / 2 + 100]).unwrap();
            }
        }
        bed.clear_sockets();
        let daemon = bed.daemon();
        let crashes = bed.wait_for(before + 1);
        assert!(crashes.iter().all(|listed| listed.core_state == CoreState::Stored), "{damage}");
        assert_eq!(daemon.count("coredump_process_count", "core_exists=\"true\""), before as u64 + 1, "{damage}");
        daemon.stop();
        bed.clear_sockets();
    }
}

#[test]
fn ten_thousand_records_of_the_largest_kind_are_no_obstacle_to_a_start() {
    const ROWS: usize = 9_999;
    let bed = TestBed::new();
    bed.configure("[Coreward]\nMaxUse=4G\nKeepFree=0\n");
    let daemon = bed.daemon();
    Command::new(program("segv")).run_to_end();
    let crash = bed.wait_for(1).remove(0);
    assert_eq!(daemon.stop(), Some(0));
    bed.clear_sockets();
    // As an earlier version inserted them, which charged nobody: 600 MB of records, each with a core.
    let mut db = rusqlite::Connection::open(bed.path("var/lib/coreward/catalog.db")).unwrap();
    let mut record = crash.record.clone();
    record.cmdline = "\u{1}".repeat(10_000);
    let cores = bed.path("var/lib/coreward/cores");
    let first = cores.join(format!("{}.core.zst", crash.id()));
    let adding = db.transaction().unwrap();
    let columns = "time_us, pid, uid, signal, signal_name, program, comm, unit, user_unit, hostname, container, pod, signature, keep, \
                   reason, core, no_core, truncated, stored, held_us";
    for number in 0..ROWS {
        let id = format!("{number:016x}");
        adding
            .prepare_cached(&format!(
                "INSERT INTO crashes (id, {columns}) SELECT ?1, {columns} FROM crashes WHERE id = ?2"
            ))
            .unwrap()
            .execute([&id, &crash.id().to_string()])
            .unwrap();
        record.id = coreward::crash::CrashId::parse(&id).unwrap();
        adding
            .prepare_cached("INSERT INTO records (seq, record) VALUES (?1, ?2)")
            .unwrap()
            .execute(rusqlite::params![adding.last_insert_rowid(), serde_json::to_string(&record).unwrap()])
            .unwrap();
        // A file may have some thousand names; ext4 allows 65,000.
        std::fs::hard_link(&first, cores.join(format!("{id}.core.zst"))).unwrap();
    }
    adding.commit().unwrap();
    drop(db);
    std::fs::remove_file(&first).unwrap();
    let begun = std::time::Instant::now();
    let daemon = bed.daemon();
    let took = begun.elapsed();
    eventually(Duration::from_secs(10), || daemon.count("coreward_stored_cores", "") == ROWS as u64);
    let size = crate::storm::largest_size(daemon.pid());
    println!("start after {} ms, largest resident size {size} KiB", took.as_millis());
    assert!(size < 64 << 10, "{size} KiB");
    assert!(took < Duration::from_secs(if cfg!(debug_assertions) { 6 } else { 2 }), "{} ms", took.as_millis());
    // It goes on recording.
    Command::new(program("abrt")).run_to_end();
    eventually(Duration::from_secs(20), || daemon.count("coredump_process_count", "") == 2);
    assert_eq!(daemon.stop(), Some(0));
}
