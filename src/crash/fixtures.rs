//! The record of an ordinary crash, which tests modify as they need.

use super::cgroup::CgroupInfo;
use super::{ArgumentList, CoreOutcome, CoreReport, CrashKey, Decision, Module, Origin, Record};
use nix::unistd::{Gid, Pid, Uid};

/// A file of this name that is mapped nowhere.
pub(crate) fn module(path: &str) -> Module {
    Module { path: path.to_owned(), build_id: None, package: None, owner: None, bias: 0, start: 0, end: 0 }
}

/// The record of a crash of process `pid`, with a stored core.
pub(crate) fn record(pid: u32) -> Record {
    let key = CrashKey { boot_id: "0".repeat(32), pid: Pid::from_raw(pid.cast_signed()), start_time: 1 };
    Record {
        format: Record::FORMAT,
        id: key.id(),
        key,
        time_us: 1_767_348_000_000_000,
        tid: Some(Pid::from_raw(pid.cast_signed())),
        uid: Some(Uid::from_raw(0)),
        gid: Some(Gid::from_raw(0)),
        login_uid: None,
        subuid_owner: None,
        signal: Some(11),
        signal_name: "SEGV".to_owned(),
        comm: "segv".to_owned(),
        thread_name: String::new(),
        pidfd: None,
        dumpable: None,
        exe: "/usr/bin/segv".to_owned(),
        exe_deleted: None,
        exe_build_id: None,
        cmdline: "segv -x".to_owned(),
        arguments: ArgumentList::default(),
        cwd: "/".to_owned(),
        root: "/".to_owned(),
        hostname: "here".to_owned(),
        cgroup: CgroupInfo { unit: Some("a.service".to_owned()), ..CgroupInfo::default() },
        namespaces: Vec::new(),
        parent_cmdline: String::new(),
        in_namespace: false,
        privileged: false,
        core_limit: u64::MAX,
        status: String::new(),
        limits: String::new(),
        open_fds: String::new(),
        auxv: String::new(),
        maps: String::new(),
        mountinfo: String::new(),
        environ: String::new(),
        kernel: "6.12.0".to_owned(),
        machine: "x86_64".to_owned(),
        machine_id: None,
        origin: Origin::Live,
        dump: None,
        attempt: 1,
        held_us: 1500,
        signature: None,
        stack: Vec::new(),
        other_threads: Vec::new(),
        interpreter: None,
        runtime_report: None,
        modules: Vec::new(),
        siginfo: None,
        failure: None,
        fault: None,
        decision: Decision::default(),
        core: CoreReport { outcome: CoreOutcome::Stored, bytes: 8192, expected: 8192, stored: 2048, truncated: None },
        warnings: Vec::new(),
    }
}
