//! One crash from the fault to the record: counted, stored, in the journal, readable with gdb.

use crate::testbed::{Cgroup, RunToEnd, TestBed, coreward, eventually, gdb, has_details, program, text};
use coreward::crash::{CoreOutcome, Level, Origin, Principal};
use coreward::policy::evict::Attribution;
use coreward::store::CoreState;
use coreward_wire::journal::{fields, is_about_a_crash};
use nix::unistd::Uid;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

#[test]
fn a_record_says_what_only_the_held_process_tells() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nEnvironment=LANG COREWARD_TEST\n");
    let _daemon = bed.daemon();
    let named = program("named");
    Command::new(&named)
        .arg("COREWARD_TEST=of the arguments")
        .env_clear()
        .envs([("LANG", "C"), ("TOKEN", "secret"), ("COREWARD_TEST", "two\nlines")])
        .run_to_end();
    let record = &bed.wait_for(1)[0].record;
    assert_eq!(record.warnings, [] as [String; 0]);
    assert_eq!((record.comm.as_str(), record.thread_name.as_str()), ("named", "crasher <1>"));
    assert!(record.tid.is_some_and(|tid| tid != record.key.pid));
    assert!(record.pidfd.is_some());
    assert_eq!(record.dumpable, Some(1));
    let mut variables: Vec<&str> = record.environ.lines().collect();
    variables.sort_unstable();
    assert_eq!(variables, ["COREWARD_TEST=two\\nlines", "LANG=C"]);
    assert!(record.maps.contains(named.to_str().unwrap()), "{}", record.maps);
    assert!(record.mountinfo.contains(" / / ") && record.mountinfo.ends_with('\n'), "{}", record.mountinfo);

    let entry = &bed.journal()[0];
    assert!(is_about_a_crash(entry));
    let field = |wanted: &str| {
        let mut all = fields(entry).map(Option::unwrap);
        let (_, value) = all.find(|(name, _)| *name == wanted.as_bytes()).unwrap_or_else(|| panic!("no {wanted}"));
        value.to_vec()
    };
    assert_eq!(field("COREDUMP_THREAD_NAME"), b"crasher <1>");
    assert_eq!(field("COREDUMP_CODE"), b"1", "SEGV_MAPERR");
    assert_eq!(field("COREDUMP_PACKAGE_NAME"), b"named");
    assert_eq!(field("COREDUMP_PACKAGE_VERSION"), b"1.2-3");
    // AT_SYSINFO_EHDR comes first on x86-64 and arm64 (getauxval(3)).
    assert_eq!(field("COREDUMP_PROC_AUXV")[..8], 33_u64.to_le_bytes());
    let message = String::from_utf8(field("MESSAGE")).unwrap();
    let stack = format!("\n\nStack trace of thread {}:\n#0  0x0000", record.tid.unwrap());
    assert!(message.contains(&stack) && message.contains(&format!(" run ({} + 0x", named.display())), "{message}");

    let shown = text(&coreward(&bed, &["info"]));
    for line in [format!("TID: {} (crasher <1>)", record.tid.unwrap()), "Package: named 1.2-3".to_owned()] {
        assert!(shown.contains(&line), "{line} in {shown}");
    }
}

#[test]
fn a_segfault_is_counted_stored_and_logged() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let segv = program("segv");
    let status = Command::new(&segv).arg("an argument").run_to_end();
    assert!(status.core_dumped(), "the parent sees the same wait status as without Coreward: {status}");

    let crashes = bed.wait_for(1);
    let (listed, record) = (&crashes[0], &crashes[0].record);
    assert_eq!((record.signal_name.as_str(), record.signal), ("SEGV", Some(11)));
    assert_eq!(record.exe, segv.to_str().unwrap());
    assert_eq!((record.comm.as_str(), record.uid, record.attempt), ("segv", Some(Uid::from_raw(0)), 1));
    assert_eq!(record.cmdline, format!("{} 'an argument'", segv.display()));
    assert_eq!(record.arguments.first, [segv.to_str().unwrap(), "an argument"]);
    assert_eq!(record.hostname, nix::unistd::gethostname().unwrap().to_str().unwrap());
    assert!(has_details(record), "{record:?}");
    assert_eq!(record.warnings, [] as [String; 0]);
    assert!(record.exe_build_id.as_ref().is_some_and(|id| id.len() == 40), "{:?}", record.exe_build_id);
    assert_eq!(record.core.outcome, CoreOutcome::Stored);
    assert_eq!((record.core.truncated, record.core.bytes), (None, record.core.expected));
    assert_eq!(listed.core_state, CoreState::Stored);
    let file = listed.core_file.as_ref().unwrap().metadata().unwrap();
    assert_eq!((file.permissions().mode() & 0o777, file.len()), (0o640, record.core.stored));

    let trace = gdb(&segv, &bed.core(listed), &["bt"]);
    for function in ["innermost", "middle", "outermost", "main"] {
        assert!(trace.contains(&format!(" {function} (")), "{function} is missing in:\n{trace}");
    }
    assert!(!trace.contains("warning: core file may not match"), "{trace}");

    let labels =
        format!("core_exists=\"true\",hostname=\"{}\",program=\"{}\",signal=\"SEGV\"", record.hostname, record.exe);
    assert_eq!(daemon.metric("coredump_process_count", &labels), 1.0);
    assert_eq!(daemon.metric("coreward_stored_cores", ""), 1.0);
    assert_eq!(daemon.metric("coreward_stored_class_cores", "class=\"root\""), 1.0);
    assert!(daemon.metric("coreward_stored_class_bytes", "class=\"root\"") > 0.0);
    assert_eq!(daemon.metric("coreward_held_seconds_count", ""), 1.0);
    assert_eq!(daemon.metric("coreward_capture_seconds_count", ""), 1.0);
    assert_eq!(daemon.metric("coreward_inflight_oldest_seconds", ""), 0.0);

    let entries: Vec<String> = bed.journal().iter().map(|entry| String::from_utf8_lossy(entry).into_owned()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    for field in [
        "MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1\n".to_owned(),
        format!("COREDUMP_PID={}\n", record.key.pid),
        "COREDUMP_UID=0\n".to_owned(),
        "COREDUMP_GID=0\n".to_owned(),
        "COREDUMP_SIGNAL=11\n".to_owned(),
        "COREDUMP_COMM=segv\n".to_owned(),
        format!("COREDUMP_EXE={}\n", segv.display()),
        format!("COREDUMP_FILENAME={}\n", listed.core_file.as_ref().unwrap().display()),
    ] {
        assert!(entries[0].contains(&field), "{field} is missing in {}", entries[0]);
    }
    assert_eq!(bed.kmsg(), "", "the shim wrote nothing to the kernel's log");
}

#[test]
fn all_of_300_threads_are_in_the_core_and_in_the_record() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let threads = program("threads");
    Command::new(&threads).arg("300").run_to_end();
    let crashes = bed.wait_for(1);
    let core = bed.core(&crashes[0]);
    let trace = gdb(&threads, &core, &["thread apply all bt"]);
    assert_eq!(trace.matches("wait_for_ever (").count(), 300, "299 threads and main");
    assert!(trace.contains("crash_here ("), "{trace}");
    // In the record, the 299 with the same stack are one group.
    let record = &crashes[0].record;
    let counts: Vec<u32> = record.other_threads.iter().map(|threads| threads.count).collect();
    assert_eq!(counts, [299, 1], "{:?}", record.warnings);
    assert_eq!(record.other_threads[1].tids, [record.key.pid.as_raw().unsigned_abs()]);
    for threads in &record.other_threads {
        let shown: Vec<String> = threads.frames.iter().map(|frame| format!("{:#018x}", frame.address)).collect();
        let frame = |number: usize| format!("#{number}  {}", shown[number]);
        assert!(shown.len() > 2 && trace.matches(&frame(0)).count() >= threads.count as usize, "{shown:?}\n{trace}");
        assert!(trace.matches(&frame(1)).count() >= threads.count as usize, "{shown:?}\n{trace}");
    }
    let info = text(&coreward(&bed, &["info"]));
    assert!(info.contains("Stack trace of 299 threads ("), "{info}");
    assert_eq!(info.matches(" wait_for_ever (").count(), 2, "{info}");
}

#[test]
fn of_3000_threads_those_without_a_stack_are_reported() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    Command::new(program("threads")).arg("3000").run_to_end();
    let record = &bed.wait_for(1)[0].record;
    let recorded: u32 = record.other_threads.iter().map(|threads| threads.count).sum();
    let missing = format!(
        "the stacks of {} of 3000 other threads are missing: the limits on time or size were reached",
        3000 - recorded
    );
    assert!(recorded == 3000 || record.warnings.contains(&missing), "{recorded}: {:?}", record.warnings);
    assert!(recorded > 0 && record.signature.as_ref().unwrap().level == Level::Stack);
}

#[test]
fn stored_memory_is_readable_with_gdb() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    Command::new(program("memory")).arg("64").run_to_end();
    let crashes = bed.wait_for(1);
    let record = &crashes[0].record;
    assert!(record.core.bytes > 64 << 20 && record.core.stored < record.core.bytes / 2, "{:?}", record.core);
    let core = bed.core(&crashes[0]);
    assert_eq!(core.metadata().unwrap().len(), record.core.bytes);
    // The program fills each structured page with its own offset plus multiples of eight.
    let trace = gdb(&program("memory"), &core, &["frame 0", "p ((unsigned long*)memory)[512 * 5 + 1] == 4096 * 5 + 8"]);
    assert!(trace.contains("$1 = 1"), "{trace}");
}

#[test]
fn an_abort_and_a_python_crash_are_recorded_by_name() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    Command::new(program("abrt")).run_to_end();
    Command::new("python3").args(["-c", "import ctypes; ctypes.string_at(0)"]).run_to_end();
    let crashes = bed.wait_for(2);
    assert_eq!(crashes[0].record.signal_name, "ABRT");
    assert_eq!(crashes[1].record.signal_name, "SEGV");
    assert!(crashes[1].record.program().contains("python3"), "{}", crashes[1].record.program());
    assert_eq!(daemon.metric("coredump_process_count", "signal=\"ABRT\""), 1.0);
}

#[test]
fn counters_survive_a_restart() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    for _ in 0..3 {
        Command::new(program("segv")).run_to_end();
    }
    bed.wait_for(3);
    let before = daemon.metric("coredump_process_count", "signal=\"SEGV\"");
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.wait_for_notification("STOPPING=1");
    daemon.wait_for_notification("READY=1");
    assert_eq!(before, 3.0);
    assert_eq!(daemon.metric("coredump_process_count", "signal=\"SEGV\""), 3.0);
    Command::new(program("segv")).run_to_end();
    bed.wait_for(4);
    assert_eq!(daemon.metric("coredump_process_count", "signal=\"SEGV\""), 4.0);
}

#[test]
fn every_log_line_about_a_crash_has_its_id_and_pid() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nKeepFree=1000T\n");
    Command::new(program("segv")).run_to_end();
    eventually(Duration::from_secs(10), || bed.kmsg().contains("saved as"));
    let _daemon = bed.daemon();
    bed.wait_for(1);
    Command::new(program("segv")).run_to_end();
    let crashes = bed.wait_for(2);
    let origins = crashes.iter().map(|listed| listed.record.origin);
    assert!(origins.eq([Origin::Spool, Origin::Live]));
    for listed in crashes {
        let pid = listed.record.key.pid;
        let fields = format!("COREWARD_ID={} COREWARD_PID={pid}", listed.id());
        let log = bed.log_with(&fields);
        let about: Vec<&str> = log.lines().filter(|line| line.contains(&format!("process {pid} "))).collect();
        assert!(!about.is_empty() && about.iter().all(|line| line.ends_with(&fields)), "{log}");
    }
}

#[test]
fn a_unit_in_a_container_is_not_the_hosts_unit_of_that_name() {
    let bed = TestBed::new();
    bed.configure("[Unit sshd.service]\nStorage=none\n");
    let _daemon = bed.daemon();
    let container = "lxc.payload.coreward-test";
    let unit = Cgroup::new(&bed, &format!("{container}/system.slice/sshd.service"));
    unit.command(&program("segv")).run_to_end();
    let record = bed.wait_for(1).remove(0).record;
    assert_eq!(record.cgroup.path, format!("/{container}/system.slice/sshd.service"));
    assert_eq!((record.cgroup.unit.as_deref(), record.cgroup.container.as_deref()), (None, Some("coreward-test")));
    assert_eq!(record.cgroup.container_unit.as_deref(), Some("sshd.service"));
    assert!(record.core.is_stored(), "settings of the host's unit: {:?}", record.core);
    let entry = String::from_utf8_lossy(&bed.journal()[0]).into_owned();
    assert!(!entry.contains("COREDUMP_UNIT") && entry.contains("COREWARD_CONTAINER_UNIT=sshd.service\n"), "{entry}");
}

#[test]
fn a_job_of_cron_is_charged_to_its_user_and_not_to_whom_a_service_names() {
    const USER: u32 = 1234;
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let unit = Cgroup::new(&bed, "system.slice/coreward-test-cron.service");
    let principals = [(USER, USER), (USER + 1, USER), (0, 0)].map(|(uid, login)| {
        // pam_loginuid(8), and what a service may do as well.
        let job = bed.path(&format!("job-{uid}"));
        let setpriv = format!("setpriv --reuid={uid} --regid={uid} --clear-groups {}", program("segv").display());
        std::fs::write(&job, format!("#!/bin/sh\necho {login} > /proc/self/loginuid\nexec {setpriv}\n")).unwrap();
        std::fs::set_permissions(&job, PermissionsExt::from_mode(0o755)).unwrap();
        unit.command(&job).run_to_end();
        let of_uid = |uid| bed.crashes().into_iter().find(|listed| listed.record.uid == Some(Uid::from_raw(uid)));
        eventually(Duration::from_secs(10), || of_uid(uid).is_some());
        let record = of_uid(uid).unwrap().record;
        assert_eq!(record.login_uid, Some(Uid::from_raw(login)));
        Attribution::of_record(&record).principal
    });
    let cron = Principal::Unit("coreward-test-cron.service".to_owned());
    assert_eq!(principals, [Principal::User(Uid::from_raw(USER)), cron.clone(), cron]);
}
