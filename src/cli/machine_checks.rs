//! What `coreward doctor` looks at beside Coreward itself: who else wants the crashes, the daemon's confinement, the journal, the clock,
//! and the tools that read a core.

use super::finding::{Finding, State};
use super::remedy::{Remedy, shell_word};
use super::{hooks, human, metrics_client, units};
use crate::crash::text::status_field;
use crate::registration::{SysctlKey, is_ours, sysctl_file, wanted};
use coreward_wire::paths::Root;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// All checks of the machine.
pub(super) fn all(root: &Root) -> Vec<Finding> {
    let mut findings = other_handlers(root);
    findings.extend(sandbox(root));
    findings.extend(metrics(root));
    findings.extend(event_programs(root));
    findings.push(journal(root));
    if root.is_system() {
        findings.push(clock());
    }
    findings.push(gdb());
    findings.push(debuginfod());
    findings
}

/// Services that set core_pattern when they start.
const OTHER_HANDLERS: [&str; 2] = ["apport.service", "abrt-ccpp.service"];

/// Who would take the crashes away.
fn other_handlers(root: &Root) -> Vec<Finding> {
    let mut findings = Vec::new();
    for unit in units::query(root, &OTHER_HANDLERS).unwrap_or_default() {
        let is_enabled = matches!(unit.enabled.as_str(), "enabled" | "enabled-runtime");
        if unit.load == "loaded" && (is_enabled || unit.active == "active") {
            let text = format!("{} sets core_pattern for itself when it starts", unit.name);
            // It may put back what it found when it stops.
            let command = format!("systemctl disable --now {} && systemctl reload {}", unit.name, units::REGISTER);
            findings.push(Finding::warning("other handlers", text, &Remedy::new(command)));
        }
    }
    for Override { file, line, key } in sysctl_overrides(root) {
        let text = match key {
            Some(key) => format!("{}:{line} sets {} after Coreward's file", file.display(), key.dotted()),
            None => format!("{} hides Coreward's file of the same name in /run/sysctl.d", file.display()),
        };
        findings.push(Finding::warning("other handlers", text, &remove_override(&file, key)));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("other handlers", "nobody else sets the kernel's settings after Coreward"));
    }
    findings
}

/// The command that keeps a file of sysctl.d(5) from setting `key`, or from hiding another.
fn remove_override(file: &Path, key: Option<SysctlKey>) -> Remedy {
    let word = shell_word(file);
    match key {
        None => Remedy::new(format!("rm {word}")),
        Some(key) => {
            // The names may be written with dots or slashes, and with a hyphen in front.
            let pattern = key.path().replace('/', "[./]");
            Remedy::new(format!("sed -i -E 's@^[[:space:]]*-?{pattern}[[:space:]]*=@#&@' {word}"))
        }
    }
}

/// A line that sets a setting of ours to something else, or (without a key) a file that hides ours.
#[derive(Debug, PartialEq, Eq)]
struct Override {
    file: PathBuf,
    line: usize,
    key: Option<SysctlKey>,
}

/// Where files of sysctl.d(5) are, the most important first: of several with one name only the first counts.
const SYSCTL_DIRS: [&str; 5] =
    ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"];

/// What is applied after the file with our settings, or instead of it.
fn sysctl_overrides(root: &Root) -> Vec<Override> {
    let ours = sysctl_file(root);
    let Some(our_name) = ours.file_name().map(OsString::from) else { return Vec::new() };
    let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for dir in SYSCTL_DIRS {
        for entry in fs::read_dir(root.join(dir)).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "conf") {
                files.entry(entry.file_name()).or_insert_with(|| entry.path());
            }
        }
    }
    let mut found = Vec::new();
    match files.remove(&our_name) {
        Some(file) if file != ours => found.push(Override { file, line: 0, key: None }),
        _ => {}
    }
    // `sysctl --system` reads this one last.
    let last = root.join("/etc/sysctl.conf");
    let later = files.split_off(&our_name).into_values().chain([last]);
    for file in later {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let lines = text.lines().zip(1..).filter_map(|(line, number)| {
            let (name, value) = line.trim_start().trim_start_matches('-').split_once('=')?;
            let name = name.trim().replace('/', ".");
            let key = SysctlKey::ALL.into_iter().find(|key| key.dotted() == name)?;
            let is_same = match key {
                SysctlKey::CorePattern => is_ours(value.trim(), root),
                _ => value.trim() == wanted(key),
            };
            (!is_same).then(|| Override { file: file.clone(), line: number, key: Some(key) })
        });
        found.extend(lines);
    }
    found
}

/// Keys of a unit that weaken the daemon's confinement where a drop-in changes them.
const CONFINING: [&str; 8] = [
    "User=",
    "DynamicUser=",
    "NoNewPrivileges=",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "SystemCallFilter=",
    "Private",
    "Protect",
];

/// Whether the running daemon has given up what it should have.
fn sandbox(root: &Root) -> Option<Finding> {
    let pid: u32 = units::property(root, units::DAEMON, "MainPID")?.parse().ok()?;
    if pid == 0 {
        return Some(Finding::skipped("sandbox", "the daemon is not running"));
    }
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return Some(Finding::skipped("sandbox", "only root can look at the daemon's process"));
    };
    let mut faults = weaknesses(&status);
    for (namespace, fault) in [("mnt", "it has the mounts of the host"), ("net", "it has the network of the host")] {
        let link = |process: &str| fs::read_link(format!("/proc/{process}/ns/{namespace}")).ok();
        let daemons = link(&pid.to_string());
        if daemons.is_some() && daemons == link("1") {
            faults.push(fault);
        }
    }
    if faults.is_empty() {
        return Some(Finding::ok(
            "sandbox",
            "the daemon has no privileges, no capabilities, and its system calls are filtered",
        ));
    }
    let dropins = units::property(root, units::DAEMON, "DropInPaths").unwrap_or_default();
    let weakening: Vec<&str> = dropins.split_whitespace().filter(|path| is_weakening(Path::new(path))).collect();
    let restart = "systemctl restart coreward.service";
    let (named, remedy) = if weakening.is_empty() {
        (String::new(), Remedy::new(restart))
    } else {
        let moves: Vec<String> =
            weakening.iter().map(|path| format!("mv {0} {0}.off", shell_word(Path::new(path)))).collect();
        let command = format!("{} && systemctl daemon-reload && {restart}", moves.join(" && "));
        (format!(" (see {})", weakening.join(", ")), Remedy::new(command))
    };
    Some(Finding::failed("sandbox", format!("the daemon is not confined: {}{named}", faults.join(", ")), &remedy))
}

fn is_weakening(dropin: &Path) -> bool {
    let text = fs::read_to_string(dropin).unwrap_or_default();
    (dropin.starts_with("/etc") || dropin.starts_with("/run"))
        && text.lines().any(|line| CONFINING.iter().any(|key| line.trim_start().starts_with(key)))
}

/// What `/proc/PID/status` says of a daemon that should have nothing (proc_pid_status(5)).
fn weaknesses(status: &str) -> Vec<&'static str> {
    let field =
        |name: &str| status_field(status, name).unwrap_or_default().split_whitespace().next().unwrap_or_default();
    let is_zero = |number: &str| !number.is_empty() && number.bytes().all(|digit| digit == b'0');
    let faults = [
        (is_zero(field("Uid")), "it runs as root"),
        (!is_zero(field("CapEff")) || !is_zero(field("CapPrm")), "it has capabilities"),
        (field("NoNewPrivs") != "1", "it may gain privileges"),
        // SECCOMP_MODE_FILTER (seccomp(2)).
        (field("Seccomp") != "2", "its system calls are not filtered"),
    ];
    faults.into_iter().filter(|(is_fault, _)| *is_fault).map(|(_, fault)| fault).collect()
}

/// Whether Prometheus would get an answer.
fn metrics(root: &Root) -> Option<Finding> {
    let address = metrics_client::address(root)?;
    // Its unit is checked with the others; connecting to it would only say the same.
    if units::property(root, metrics_client::SOCKET, "ActiveState")? != "active" {
        return None;
    }
    let log = Remedy::to("see what the daemon does", "journalctl -e -u coreward.service");
    Some(match metrics_client::scrape(&address) {
        Err(error) => Finding::failed("metrics", format!("http://{address}/metrics: {error}"), &log),
        Ok(text) if metrics_client::sum(&text, "coreward_catalog_up", &[]) == 0 => {
            Finding::failed("metrics", "the daemon cannot write its catalog", &log)
        }
        Ok(_) => Finding::ok("metrics", format!("http://{address}/metrics answers")),
    })
}

/// The operator's programs that are told about new signatures.
fn event_programs(root: &Root) -> Vec<Finding> {
    const CHECK: &str = "event.d";
    let dir = root.hooks_dir();
    let programs = match hooks::hooks(root) {
        Ok(programs) => programs,
        Err(error) => return vec![Finding::new(CHECK, State::Warning, error.to_string(), None)],
    };
    let mut findings = Vec::new();
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let (path, Ok(file)) = (entry.path(), fs::metadata(entry.path())) else { continue };
        let word = shell_word(&path);
        let is_script =
            || fs::read(&path).is_ok_and(|content| content.starts_with(b"#!") || content.starts_with(b"\x7fELF"));
        if file.is_file() && file.permissions().mode() & 0o111 == 0 && is_script() {
            let text = format!("{} is not executable, so it is not run", path.display());
            findings.push(Finding::warning(CHECK, text, &Remedy::new(format!("chmod 755 {word}"))));
        } else if programs.contains(&path) && (file.uid() != 0 || file.mode() & 0o022 != 0) {
            let text = format!("users other than root may change {}", path.display());
            let command = format!("chown root:root {word} && chmod go-w {word}");
            findings.push(Finding::warning(CHECK, text, &Remedy::new(command)));
        }
    }
    let failed =
        units::systemctl(root, &["list-units", "--state=failed", "--no-legend", "--plain", "coreward-event@*"]);
    let failed = failed.map_or(0, |units| units.lines().filter(|line| !line.trim().is_empty()).count());
    if failed > 0 {
        let purpose = "see why (journalctl -e -u 'coreward-event@*'), then";
        let remedy = Remedy::to(purpose, "systemctl reset-failed 'coreward-event@*'");
        let text = format!("a program failed for {}", human::count(failed as u64, "crash"));
        findings.push(Finding::warning(CHECK, text, &remedy));
    }
    if findings.is_empty() {
        let text = match programs.len() as u64 {
            0 => format!("no program in {} is told about new signatures", dir.display()),
            count => format!("{} in {}", human::count(count, "program"), dir.display()),
        };
        findings.push(Finding::ok(CHECK, text));
    }
    findings
}

/// Whether entries about crashes are still there tomorrow.
fn journal(root: &Root) -> Finding {
    const CHECK: &str = "journal";
    let socket = root.journal_socket();
    if root.is_system() && !libsystemd::daemon::booted() {
        return Finding::skipped(CHECK, "systemd does not run here");
    }
    if !socket.exists() {
        let text = format!("nobody listens on {}: crashes have no journal entries", socket.display());
        return Finding::warning(
            CHECK,
            text,
            &Remedy::new("systemctl start systemd-journald.socket systemd-journald.service"),
        );
    }
    if !root.is_system() {
        return Finding::ok(CHECK, format!("entries are sent to {}", socket.display()));
    }
    let settings = output("systemd-analyze", &["cat-config", "systemd/journald.conf"]).unwrap_or_default();
    let storage =
        settings.lines().filter_map(|line| line.trim().strip_prefix("Storage=")).next_back().unwrap_or("auto");
    let has_directory = Path::new("/var/log/journal").is_dir();
    let text = match storage {
        "none" => "journald keeps nothing (Storage=none): crashes have no entries",
        "persistent" => return Finding::ok(CHECK, "entries are kept on disk"),
        "auto" if has_directory => return Finding::ok(CHECK, "entries are kept on disk"),
        _ => "journald keeps entries in memory: those of crashes are gone after a reboot (the catalog is not)",
    };
    let drop_in = "/etc/systemd/journald.conf.d/zz-persistent.conf";
    let command = format!(
        "mkdir -p /etc/systemd/journald.conf.d && printf '[Journal]\\nStorage=persistent\\n' >{drop_in} && \
         systemctl restart systemd-journald.service"
    );
    Finding::warning(CHECK, text, &Remedy::new(command))
}

/// Crashes are put in order by their times, and compared with logs of other hosts.
fn clock() -> Finding {
    const CHECK: &str = "clock";
    let Some(shown) = output("timedatectl", &["show"]) else {
        return Finding::skipped(CHECK, "timedatectl does not tell whether it is synchronised");
    };
    let is = |property: &str| shown.lines().any(|line| line.strip_prefix(property) == Some("=yes"));
    if is("NTPSynchronized") {
        return Finding::ok(CHECK, "synchronised");
    }
    let (text, remedy) = match (is("CanNTP"), is("NTP")) {
        (false, _) => ("not synchronised, and there is no NTP service", Remedy::new("apt install systemd-timesyncd")),
        (true, false) => ("not synchronised: NTP is off", Remedy::new("timedatectl set-ntp true")),
        (true, true) => (
            "not synchronised: the NTP service reaches no server",
            Remedy::to("see why", "timedatectl timesync-status"),
        ),
    };
    Finding::warning(CHECK, text, &remedy)
}

fn gdb() -> Finding {
    match in_path("gdb") {
        Some(path) => Finding::ok("gdb", path.display().to_string()),
        None => Finding::warning("gdb", "not installed: `coreward debug` needs it", &Remedy::new("apt install gdb")),
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let is_program = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0);
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(is_program)
}

/// No fault: the servers learn which programs crash here.
fn debuginfod() -> Finding {
    let is_configured = std::env::var_os("DEBUGINFOD_URLS").is_some_and(|urls| !urls.is_empty())
        || fs::read_dir("/etc/debuginfod").is_ok_and(|mut files| {
            files
                .any(|file| file.is_ok_and(|file| file.path().extension().is_some_and(|extension| extension == "urls")))
        });
    let text = if is_configured {
        "configured"
    } else {
        "not configured (DEBUGINFOD_URLS): gdb finds symbols only in debug packages"
    };
    Finding::ok("debuginfod", text)
}

/// What a program prints, if it succeeds.
pub(super) fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::new(dir.path());
        (dir, root)
    }

    #[test]
    fn only_what_is_applied_after_our_file_overrides_it() {
        let ours = "/run/sysctl.d/99-zz-coreward.conf";
        let (_dir, root) = tree(&[
            (ours, "kernel.core_pattern=|/x"),
            ("/usr/lib/sysctl.d/50-coredump.conf", "kernel.core_pattern=|/lib/systemd/systemd-coredump"),
            (
                "/etc/sysctl.d/99-zzz.conf",
                "# kernel.core_pattern=a\n; fs.suid_dumpable=0\n\n -kernel/core_pattern = core\nfs.suid_dumpable = 2\n",
            ),
            ("/etc/sysctl.d/99-zzz.txt", "kernel.core_pattern=core"),
            ("/etc/sysctl.conf", "fs.suid_dumpable=0\n"),
        ]);
        let found = sysctl_overrides(&root);
        let expected = [
            ("/etc/sysctl.d/99-zzz.conf", 4, SysctlKey::CorePattern),
            ("/etc/sysctl.conf", 1, SysctlKey::SuidDumpable),
        ];
        let expected = expected.map(|(file, line, key)| Override { file: root.join(file), line, key: Some(key) });
        assert_eq!(found, expected);
        // The remedies work as they are typed.
        for Override { file, key, .. } in &found {
            let status = Command::new("sh").args(["-c", remove_override(file, *key).command()]).status().unwrap();
            assert!(status.success());
        }
        assert_eq!(sysctl_overrides(&root), []);
        let text = fs::read_to_string(root.join("/etc/sysctl.d/99-zzz.conf")).unwrap();
        assert!(text.contains("# -kernel/core_pattern = core\nfs.suid_dumpable = 2\n"), "{text}");
    }

    #[test]
    fn a_file_that_hides_ours_is_found() {
        let hides = "/etc/sysctl.d/99-zz-coreward.conf";
        let (_dir, root) = tree(&[("/run/sysctl.d/99-zz-coreward.conf", "kernel.core_pattern=|/x"), (hides, "")]);
        assert_eq!(sysctl_overrides(&root), [Override { file: root.join(hides), line: 0, key: None }]);
    }

    #[test]
    fn a_daemon_with_anything_left_is_not_confined() {
        let confined = "Name:\tcorewardd\nUid:\t998\t998\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t9\n";
        assert_eq!(weaknesses(confined), [""; 0]);
        for (from, to, fault) in [
            ("Uid:\t998", "Uid:\t0", "it runs as root"),
            ("CapEff:\t0000000000000000", "CapEff:\t0000000000000400", "it has capabilities"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "it may gain privileges"),
            ("Seccomp:\t2", "Seccomp:\t0", "its system calls are not filtered"),
        ] {
            assert_eq!(weaknesses(&confined.replace(from, to)), [fault]);
        }
        assert_eq!(weaknesses("").len(), 3, "what is not known is not trusted");
    }

    #[test]
    fn programs_in_event_d_that_are_not_run_are_named() {
        let (_dir, root) =
            tree(&[("/etc/coreward/event.d/10-mail", "#!/bin/sh\n"), ("/etc/coreward/event.d/README", "text")]);
        let findings = event_programs(&root);
        assert_eq!(findings.len(), 1);
        let program = root.hooks_dir().join("10-mail");
        assert_eq!(findings[0].remedy, Some(format!("chmod 755 {}", program.display())));
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let states: Vec<State> = event_programs(&root).iter().map(|finding| finding.state).collect();
        // The file belongs to whoever runs the test.
        let is_roots = fs::metadata(&program).unwrap().uid() == 0;
        assert_eq!(states, [if is_roots { State::Ok } else { State::Warning }]);
    }
}
