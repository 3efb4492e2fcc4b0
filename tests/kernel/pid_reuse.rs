//! A process is killed while its core is written, and another one gets its PID before the shim has opened anything.

use crate::testbed::{RunToEnd, TestBed, eventually, program};
use coreward::store::Listed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const USER: u32 = 1234;
const TRIES: usize = 100;
const WITHIN: Duration = Duration::from_secs(10);
/// The whole test takes a tenth of this on an idle machine.
const LIMIT: Duration = Duration::from_secs(240);

/// The file of the next held-back shim, which holds the PID of its crash.
fn held_back(bed: &TestBed, pid: Pid) -> PathBuf {
    let mut found = None;
    eventually(WITHIN, || {
        let names = bed.names("late").into_iter().filter(|name| !name.contains('.'));
        let mut files = names.map(|name| bed.path("late").join(name));
        found = files.find(|file| std::fs::read_to_string(file).is_ok_and(|text| text == pid.to_string()));
        found.is_some()
    });
    found.unwrap()
}

fn let_go(held_back: &PathBuf) {
    std::fs::write(held_back.with_extension("go"), "").unwrap();
    // Another crash may have the same PID.
    std::fs::remove_file(held_back).unwrap();
}

/// Whether the stored core contains `text`.
fn contains(bed: &TestBed, listed: &Listed, text: &[u8]) -> bool {
    let Some(_) = &listed.core_file else { return false };
    let core = bed.core(listed);
    let bytes = std::fs::read(&core).unwrap();
    std::fs::remove_file(core).unwrap();
    bytes.windows(text.len()).any(|window| window == text)
}

fn race(bed: &TestBed) {
    let _daemon = bed.daemon();
    std::fs::create_dir(bed.path("late")).unwrap();
    let reuse = bed.path("reuse");
    std::fs::copy(program("reuse"), &reuse).unwrap();
    let begun = Instant::now();
    let mut others = Vec::new();
    for number in 0..TRIES {
        assert!(begun.elapsed() < LIMIT, "only {number} of {TRIES} tries in {} s", LIMIT.as_secs());
        let mut victim = Command::new("setpriv");
        let ids = [format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()];
        let mut victim = victim.args(ids).arg(&reuse).arg("victim").quiet().spawn().unwrap();
        let pid = Pid::from_raw(victim.id().cast_signed());
        let shim = held_back(bed, pid);
        victim.kill().unwrap();
        victim.wait().unwrap();
        // Every second time the new process is being dumped as well.
        let is_crash = number % 2 == 1;
        let mode = if is_crash { "crash" } else { "live" };
        let mut parent = Command::new(&reuse).args([&pid.to_string(), mode]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        parent.stdout.take().unwrap().read_exact(&mut ready).unwrap();
        if is_crash {
            let start = Command::new("sh").arg("-c").arg(format!("cut -d' ' -f22 /proc/{pid}/stat")).output().unwrap();
            others.push((pid, String::from_utf8(start.stdout).unwrap().trim().parse::<u64>().unwrap()));
            eventually(WITHIN, || bed.names("late").iter().filter(|name| !name.contains('.')).count() == 2);
            let_go(&shim);
            let_go(&held_back(bed, pid));
        } else {
            let_go(&shim);
            eventually(WITHIN, || bed.crashes().len() == number + 1 + others.len());
            kill(pid, Signal::SIGKILL).unwrap();
        }
        parent.wait().unwrap();
        eventually(WITHIN, || bed.crashes().len() == number + 1 + others.len());
    }

    let crashes = bed.wait_for(TRIES + others.len());
    let (victims, roots): (Vec<_>, Vec<_>) =
        crashes.iter().partition(|listed| listed.record.uid == Some(Uid::from_raw(USER)));
    assert_eq!((victims.len(), roots.len()), (TRIES, others.len()));
    for listed in victims {
        let record = &listed.record;
        assert!(
            record.warnings.iter().any(|warning| warning.contains("ended while its core")),
            "{:?}",
            record.warnings
        );
        assert_eq!((record.exe.as_str(), record.cmdline.as_str(), record.status.as_str()), ("", "", ""));
        assert!(!contains(bed, listed, b"SECRET"), "{record:?}");
        if let Some(core) = &listed.core_file {
            let as_user = ["--reuid=1234", "--regid=1234", "--clear-groups", "head", "-c1"];
            assert!(!Command::new("setpriv").args(as_user).arg(core).run_to_end().success());
        }
    }
    for listed in roots {
        let record = &listed.record;
        assert!(others.contains(&(record.key.pid, record.key.start_time)), "{record:?}");
        assert_eq!(record.warnings, [] as [String; 0]);
    }
}

#[test]
fn a_reused_pid_gives_nothing_of_its_new_owner_with_the_kernels_pidfd() {
    race(&TestBed::with_late_shim("late"));
}

#[test]
fn a_reused_pid_gives_nothing_of_its_new_owner_without_the_kernels_pidfd() {
    race(&TestBed::with_late_shim("old"));
}
