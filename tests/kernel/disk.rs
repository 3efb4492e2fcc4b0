//! The disk never fills: quotas, a full volume, a read-only one.

use crate::testbed::{Ended, TestBed, eventually, has_texts, program};
use coreward::crash::{CoreOutcome, NoCore, Truncation};
use coreward::store::CoreState;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A small ext4 of its own in place of the state directory.
pub struct Volume {
    mounted: PathBuf,
}

fn run(command: &str, arguments: &[&str]) {
    let output = Command::new(command).args(arguments).output().unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Volume {
    pub fn new(bed: &TestBed, size: &str) -> Self {
        Self::make(bed, size, &["mkfs.ext4", "-q", "-m", "0"])
    }

    /// A btrfs with more room than its quota lets anybody use, root included.
    fn with_quota(bed: &TestBed, limit: &str) -> Self {
        let volume = Self::make(bed, "512M", &["mkfs.btrfs", "-q"]);
        let mounted = volume.mounted.to_str().unwrap();
        run("btrfs", &["quota", "enable", mounted]);
        run("btrfs", &["qgroup", "limit", limit, mounted]);
        volume
    }

    fn make(bed: &TestBed, size: &str, mkfs: &[&str]) -> Self {
        let image = bed.path("volume");
        let image = image.to_str().unwrap();
        run("truncate", &["-s", size, image]);
        run(mkfs[0], &[&mkfs[1..], &[image]].concat());
        let volume = Self::mount(bed);
        for dir in ["cores", "spool"] {
            std::fs::create_dir_all(volume.mounted.join(dir)).unwrap();
        }
        volume
    }

    /// Mounts the volume that is there.
    fn mount(bed: &TestBed) -> Self {
        let (image, mounted) = (bed.path("volume"), bed.root.state_dir());
        run("mount", &["-o", "loop", image.to_str().unwrap(), mounted.to_str().unwrap()]);
        Self { mounted }
    }

    pub fn freeze(&self, frozen: bool) {
        run("fsfreeze", &[if frozen { "-f" } else { "-u" }, self.mounted.to_str().unwrap()]);
    }

    fn remount(&self, mode: &str) {
        run("mount", &["-o", &format!("remount,{mode}"), self.mounted.to_str().unwrap()]);
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.mounted).quiet().status();
        // Lazily: a daemon of a failed test may still be on it.
        run("umount", &["-l", self.mounted.to_str().unwrap()]);
    }
}

#[test]
fn max_use_evicts_what_tells_least_and_its_record_stays() {
    let Some(bed) = TestBed::new() else { return };
    bed.configure(
        "[Coreward]\nMaxUse=17M\nMaxUsePerUnit=infinity\nMaxUsePerExecutable=infinity\nMaxUsePerSignature=infinity\n\
         KeepFree=0\nStormBurst=0\n",
    );
    let daemon = bed.daemon();
    // The only core of its bug, and the oldest of all.
    Command::new(program("abrt")).end();
    bed.wait_for(1);
    for _ in 0..6 {
        Command::new(program("memory")).arg("16").end();
    }
    bed.wait_for(7);
    // Each of the six takes 5 MB.
    let states = || bed.crashes().iter().map(|listed| listed.core_state).collect::<Vec<_>>();
    eventually(Duration::from_secs(5), || states().iter().filter(|state| **state == CoreState::Evicted).count() == 3);
    use CoreState::{Evicted, Stored};
    assert_eq!(states(), [Stored, Stored, Evicted, Evicted, Evicted, Stored, Stored], "the first and the newest stay");
    let total = total(&bed);
    assert!(total <= 17 << 20, "{total}");
    assert_eq!(daemon.metric("coreward_stored_bytes", ""), total as f64);
    assert_eq!(daemon.metric("coredump_process_count", "core_exists=\"true\""), 7.0, "evicting takes no count back");
}

#[test]
fn a_unit_that_has_its_share_pays_itself() {
    let Some(bed) = TestBed::new() else { return };
    bed.configure("[Coreward]\nMaxUse=400M\nMaxUsePerExecutable=12M\nKeepFree=0\nStormBurst=0\n");
    let _daemon = bed.daemon();
    for _ in 0..4 {
        Command::new(program("segv")).end();
    }
    for _ in 0..4 {
        Command::new(program("memory")).arg("16").end();
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
fn pinned_cores_stay_and_removed_ones_are_noticed_at_once() {
    let Some(bed) = TestBed::new() else { return };
    bed.configure("[Coreward]\nStormBurst=0\nMaxCores=3\n");
    let daemon = bed.daemon();
    let coreward = |arguments: &[&str]| {
        let run = crate::cli::coreward(&bed, arguments);
        (
            run.status.success(),
            String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr),
        )
    };
    let mut ids = Vec::new();
    for count in 1..=2 {
        Command::new(program("segv")).end();
        ids.push(bed.wait_for(count)[count - 1].id().to_string());
    }
    assert!(coreward(&["pin", &ids[1]]).0);
    for count in 3..=6 {
        Command::new(program("segv")).end();
        ids.push(bed.wait_for(count)[count - 1].id().to_string());
    }
    let there =
        || ids.iter().map(|id| bed.path(&format!("var/lib/coreward/cores/{id}.core.zst")).exists()).collect::<Vec<_>>();
    eventually(Duration::from_secs(5), || there().iter().filter(|there| **there).count() == 3);
    assert_eq!(there(), [true, true, false, false, false, true], "the first, the pinned and the newest");
    let (_, usage) = coreward(&["usage"]);
    assert!(usage.contains("in 3 cores") && usage.contains("user 0"), "{usage}");
    let (done, said) = coreward(&["rm", &ids[1]]);
    assert!(!done && said.contains("is pinned: coreward unpin"), "{said}");
    assert!(coreward(&["rm", "--force", &ids[1]]).0);
    eventually(Duration::from_secs(5), || daemon.metric("coreward_stored_cores", "") == 2.0);
    eventually(Duration::from_secs(5), || bed.crashes()[1].core_state == CoreState::Removed);
    let (done, said) = coreward(&["vacuum", "--max-cores", "1"]);
    assert!(done && said.starts_with("Deleted 1 cores"), "{said}");
    assert_eq!(there(), [false, false, false, false, false, true], "the newest goes last");
    eventually(Duration::from_secs(5), || daemon.metric("coreward_stored_cores", "") == 1.0);
    // The row is marked a moment after the books.
    eventually(Duration::from_secs(5), || bed.crashes()[0].core_state == CoreState::Removed);
    let (_, groups) = coreward(&["groups"]);
    let row = groups.lines().nth(1).unwrap_or_default();
    assert!(
        row.starts_with("6      1      ") && row.contains("s1-") && row.contains("SIGSEGV in innermost (segv.c:"),
        "{groups}"
    );
}

#[test]
fn sizes_cut_a_core_and_say_so() {
    let Some(bed) = TestBed::new() else { return };
    bed.configure("[Coreward]\nProcessSizeMax=5M\n");
    let daemon = bed.daemon();
    Command::new(program("memory")).arg("16").end();
    let record = bed.wait_for(1)[0].record.clone();
    assert_eq!(record.core.truncated, Some(Truncation::ProcessSizeMax));
    assert!((4 << 20..=5 << 20).contains(&record.core.bytes), "{:?}", record.core);
    bed.configure("[Coreward]\nExternalSizeMax=4M\n");
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.wait_for_word("RELOADING=1");
    daemon.wait_for_word("READY=1");
    Command::new(program("memory")).arg("16").end();
    let record = bed.wait_for(2)[1].record.clone();
    assert_eq!(record.core.truncated, Some(Truncation::ExternalSizeMax));
    assert!(record.core.stored <= 4 << 20, "{:?}", record.core);
    assert_eq!(daemon.metric("coreward_truncated_total", ""), 2.0);
    assert!(String::from_utf8_lossy(&bed.journal()[1]).contains("COREDUMP_TRUNCATED=1\n"));
}

#[test]
fn storage_none_records_and_lets_go() {
    let Some(bed) = TestBed::new() else { return };
    bed.configure("[Coreward]\nStorage=none\n");
    let _daemon = bed.daemon();
    Command::new(program("memory")).arg("200").end();
    let record = bed.wait_for(1)[0].record.clone();
    assert_eq!(record.core.outcome, CoreOutcome::None(NoCore::Configured));
}

#[test]
fn a_full_disk_is_an_ordinary_outcome() {
    let Some(bed) = TestBed::new() else { return };
    bed.configure("[Coreward]\nMaxUse=infinity\nKeepFree=0\nStormBurst=0\n");
    let _volume = Volume::new(&bed, "32M");
    let daemon = bed.daemon();
    // Somebody else fills the disk, all but a few MiB.
    let free = nix::sys::statvfs::statvfs(&bed.root.state_dir()).unwrap();
    let free = free.blocks_available() as u64 * free.fragment_size() as u64;
    let ballast = bed.path("var/lib/coreward/ballast");
    run("fallocate", &["-l", &(free - (6 << 20)).to_string(), ballast.to_str().unwrap()]);
    for _ in 0..3 {
        Command::new(program("memory")).arg("48").end();
    }
    let crashes = bed.wait_for(3);
    for listed in &crashes {
        let core = &listed.record.core;
        let said = core.truncated.is_some_and(|cut| matches!(cut, Truncation::DiskFull | Truncation::Quota))
            || matches!(core.outcome, CoreOutcome::None(NoCore::DiskFull | NoCore::Quota));
        assert!(said, "{core:?}");
    }
    assert_eq!(daemon.metric("coredump_process_count", ""), 3.0);
    assert_eq!(bed.crashes().len(), 3);
}

#[test]
fn a_quota_of_the_kernel_is_a_full_disk_and_no_crash_is_lost() {
    let Some(bed) = TestBed::new() else { return };
    bed.configure(
        "[Coreward]\nMaxUse=infinity\nMaxUsePerUnit=infinity\nMaxUsePerExecutable=infinity\n\
         MaxUsePerSignature=infinity\nKeepFree=0\nStormBurst=0\n",
    );
    let volume = Volume::with_quota(&bed, "64M");
    let daemon = bed.daemon();
    for count in 1..=3 {
        Command::new(program("memory")).arg("16").end();
        bed.wait_for(count);
    }
    // A core that is larger than what is left of the quota, though of the disk there is plenty.
    Command::new(program("memory")).arg("400").end();
    let crashes = bed.wait_for(4);
    let core = &crashes[3].record.core;
    let said = core.truncated == Some(Truncation::DiskFull) || core.outcome == CoreOutcome::None(NoCore::DiskFull);
    assert!(said, "{core:?} {:?}", crashes[3].record.warnings);
    // Somebody else takes the rest of it.
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
        Command::new(program("memory")).arg("16").end();
    }
    // What could not be written waits in the spool, and is there when there is room again. (SQLite maps a file of the volume, and
    // btrfs answers a page that can't be copied with SIGBUS: then the daemon itself is a crash more, and its successor goes on.)
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
fn a_disk_that_turns_read_only_loses_no_count() {
    let Some(bed) = TestBed::new() else { return };
    let volume = Volume::new(&bed, "32M");
    let daemon = bed.daemon();
    Command::new(program("segv")).end();
    bed.wait_for(1);
    // As ext4 does by itself when it meets an error.
    volume.remount("abort");
    Command::new(program("segv")).end();
    eventually(Duration::from_secs(20), || bed.names("run/coreward/spool").len() == 1);
    assert!(daemon.metric("coreward_errors_total", "kind=\"catalog\"") >= 1.0);
    assert!(bed.kmsg().contains("without its core"), "{}", bed.kmsg());
    daemon.stop();
    drop(volume);
    let volume = Volume::mount(&bed);
    bed.clear_sockets();

    // And a daemon that finds it read-only collects, and needs no restart when it is writable again.
    volume.remount("ro");
    let daemon = bed.daemon();
    Command::new(program("segv")).end();
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
    let Some(bed) = TestBed::new() else { return };
    for damage in ["lost", "garbage", "cut"] {
        let daemon = bed.daemon();
        let before = bed.crashes().len();
        Command::new(program("segv")).end();
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
        assert_eq!(daemon.metric("coredump_process_count", "core_exists=\"true\""), (before + 1) as f64, "{damage}");
        daemon.stop();
        bed.clear_sockets();
    }
}
