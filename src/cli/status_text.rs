//! The text that `coreward status` prints.

use super::status_report::StatusReport;
use super::{human, time, units};
use crate::crash::text::printable;
use std::io::{self, Write};

/// Writes one line per fact, and at the end whether crashes are being collected and what to do if not.
pub(super) fn write(status: &StatusReport, out: &mut dyn Write) -> io::Result<()> {
    let lines = lines(status);
    let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    for (label, text) in &lines {
        writeln!(out, "{label:>width$}: {text}")?;
    }
    match (status.collecting, status.advice.as_slice()) {
        (true, []) => writeln!(out, "\nCrashes are being collected."),
        (false, _) if status.daemon_restarts => writeln!(
            out,
            "\nCrashes are NOT being collected: the daemon ends again and again, and they wait in the spool. What to do: {}",
            status.advice.join("; ")
        ),
        (true, advice) => writeln!(out, "\nCrashes are being collected, but: {}", advice.join("; ")),
        (false, advice) => writeln!(out, "\nCrashes are NOT being collected. What to do: {}", advice.join("; ")),
    }
}

fn lines(status: &StatusReport) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut line = |label: &str, text: String| lines.push((label.to_owned(), text));
    line("Kernel", format!("{} (core_pattern \"{}\")", receiver(status), printable(&status.core_pattern)));
    line("Pipe limit", pipe_limit(status));
    line("Privileged", privileged(status));
    let socket = printable(&status.socket.display().to_string());
    line("Socket", if status.socket_exists { socket } else { format!("{socket} does not exist") });
    for unit in status.units.iter().flatten() {
        let text = if unit.text.is_empty() { String::new() } else { format!(": {}", unit.text) };
        let again = match unit.restarts {
            0 => String::new(),
            1 => ", restarted once".to_owned(),
            times => format!(", restarted {times} times"),
        };
        let disabled =
            if unit.name == units::REGISTER && unit.enabled == "disabled" { ", not at the next boot" } else { "" };
        line(&unit.name, format!("{} ({}{again}{disabled}){text}", unit.active, unit.sub));
    }
    if status.units.is_none() {
        line("Daemon", daemon(status).to_owned());
    }
    line("Test crash", test_crash(status));
    line("Crashes", crashes(status));
    let (used, max_use) = (human::size(status.stored_bytes), limit(status.max_use));
    line("Cores", format!("{}, {used} of {max_use} (MaxUse=)", status.stored_cores));
    line("Disk", format!("{} free, {} kept free (KeepFree=)", human::size(status.free_bytes), limit(status.keep_free)));
    for limitation in &status.state_directory_limitations {
        line("State directory", printable(limitation));
    }
    line("Spool", spool(status));
    for problem in &status.configuration_problems {
        line("Configuration", printable(problem));
    }
    if status.configuration_problems.is_empty() {
        line("Configuration", "no problems".to_owned());
    }
    lines
}

/// The program that receives the crashes.
pub(super) fn receiver(status: &StatusReport) -> String {
    let pattern = &status.core_pattern;
    let program = pattern.strip_prefix('|').map(|command| command.split(' ').next().unwrap_or_default());
    let name = program.and_then(|program| program.rsplit('/').next());
    match (name, program) {
        _ if status.core_pattern_is_ours => match &status.shim_problem {
            None => "crashes go to Coreward".to_owned(),
            Some(problem) => format!("crashes go to Coreward's shim, BUT {}", printable(problem)),
        },
        (Some("coreward-shim"), _) => "crashes go to a Coreward with another --root".to_owned(),
        (Some(name @ ("systemd-coredump" | "apport" | "abrt-hook-ccpp")), _) => format!("crashes go to {name}"),
        (_, Some(program)) => format!("crashes go to {}", printable(program)),
        (_, None) if pattern.starts_with('@') => "crashes go to a socket".to_owned(),
        (_, None) => "the kernel writes cores as files".to_owned(),
    }
}

pub(super) fn pipe_limit(status: &StatusReport) -> String {
    let limit = printable(&status.core_pipe_limit);
    match status.core_pipe_limit.parse::<u32>() {
        _ if !status.core_pattern_is_ours => limit,
        Ok(0) => {
            format!("{limit}: small processes are gone before they can be inspected")
        }
        Ok(few) if few < 1000 => {
            format!("{limit}: of more simultaneous crashes the kernel skips some")
        }
        _ => "no crash is skipped".to_owned(),
    }
}

/// Programs that changed their privileges.
pub(super) fn privileged(status: &StatusReport) -> String {
    let value = printable(&status.suid_dumpable);
    match value.as_str() {
        _ if !status.core_pattern_is_ours => format!("fs.suid_dumpable={value}"),
        "2" => "programs that changed their user or are set-uid are dumped".to_owned(),
        "0" => "fs.suid_dumpable=0: programs that changed their user or are set-uid are NOT dumped, and not counted"
            .to_owned(),
        _ => format!("fs.suid_dumpable={value}: the kernel does not protect the cores of set-uid programs"),
    }
}

fn test_crash(status: &StatusReport) -> String {
    match (&status.test_crash_problem, status.test_crash) {
        (None, _) => "arrived; it is not recorded".to_owned(),
        (Some(why), "failed") => format!("LOST: {}", printable(why)),
        (Some(why), _) => format!("not tried: {}", printable(why)),
    }
}

fn daemon(status: &StatusReport) -> &'static str {
    match status.daemon_running {
        Some(true) => "running",
        Some(false) => "not running: the socket starts it at the next crash",
        None => "unknown (permission denied)",
    }
}

pub(super) fn crashes(status: &StatusReport) -> String {
    if let Some(problem) = &status.catalog_problem {
        return printable(problem);
    }
    let count = status.crashes.unwrap_or_default();
    match (&status.newest_id, status.newest_time_us) {
        (Some(id), Some(time_us)) => {
            let program = printable(status.newest_program.as_deref().unwrap_or_default());
            format!("{count}, the newest {id}: {program}, {}", time::long(time_us))
        }
        _ => format!("{count}"),
    }
}

pub(super) fn spool(status: &StatusReport) -> String {
    match (status.spooled, status.quarantined) {
        (None, _) | (_, None) => "only root and group coreward may read it".to_owned(),
        (Some(0), Some(0)) => "empty".to_owned(),
        (Some(waiting), Some(0)) => format!("{waiting} crashes wait for the daemon"),
        (Some(waiting), Some(bad)) => {
            format!(
                "{waiting} crashes wait for the daemon, {bad} are quarantined because no daemon could read them (*.bad)"
            )
        }
    }
}

pub(super) fn limit(bytes: u64) -> String {
    if bytes == u64::MAX { "infinity".to_owned() } else { human::size(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::json;
    use crate::cli::units::Unit;

    #[test]
    fn the_receiver_of_crashes_is_named() {
        for (pattern, ours, expected) in [
            ("|/usr/libexec/coreward/coreward-shim %P", true, "crashes go to Coreward"),
            (
                "|/usr/libexec/coreward/coreward-shim --root /t %P",
                false,
                "crashes go to a Coreward with another --root",
            ),
            ("|/lib/systemd/systemd-coredump %P", false, "crashes go to systemd-coredump"),
            ("|/opt/x %P", false, "crashes go to /opt/x"),
            ("@@/run/x", false, "crashes go to a socket"),
            ("core.%p", false, "the kernel writes cores as files"),
        ] {
            let status = StatusReport {
                core_pattern: pattern.into(),
                core_pattern_is_ours: ours,
                shim_exists: ours,
                ..StatusReport::default()
            };
            assert_eq!(receiver(&status), expected, "{pattern}");
        }
    }

    #[test]
    fn the_last_line_says_what_to_do() {
        let mut status = StatusReport { advice: vec!["do this".to_owned()], ..StatusReport::default() };
        let text = |status: &StatusReport| {
            let mut out = Vec::new();
            write(status, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(text(&status).ends_with("\n\nCrashes are NOT being collected. What to do: do this\n"));
        status.collecting = true;
        status.advice.clear();
        status.newest_program = Some("/a\nb".to_owned());
        (status.newest_id, status.newest_time_us) = (Some("12".to_owned()), Some(0));
        let shown = text(&status);
        assert!(shown.ends_with("\n\nCrashes are being collected.\n") && shown.contains(r"/a\nb"), "{shown}");
    }

    fn assert_status(name: &str, status: &StatusReport) {
        let mut out = Vec::new();
        write(status, &mut out).unwrap();
        json::write(&mut out, status).unwrap();
        let text = String::from_utf8(out).unwrap();
        let mut settings = insta::Settings::new();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.set_snapshot_path("../../tests/output/snapshots");
        settings.bind(|| insta::assert_snapshot!(name, text));
    }

    #[test]
    fn every_state_as_text_and_json() {
        let unit = |name: &str, active: &str, sub: &str, text: &str| Unit {
            name: name.to_owned(),
            load: "loaded".to_owned(),
            active: active.to_owned(),
            sub: sub.to_owned(),
            enabled: "enabled".to_owned(),
            text: text.to_owned(),
            restarts: 0,
        };
        let running = StatusReport {
            collecting: true,
            core_pattern: "|/usr/libexec/coreward/coreward-shim %P %I %u %g %s %t %c %d %h %F".to_owned(),
            core_pattern_is_ours: true,
            core_pipe_limit: "2147483647".to_owned(),
            suid_dumpable: "2".to_owned(),
            test_crash: "passed",
            shim: Some("/usr/libexec/coreward/coreward-shim".into()),
            shim_exists: true,
            socket: "/run/coreward/intake.sock".into(),
            socket_exists: true,
            units: Some(vec![
                unit("coreward.service", "active", "running", "3 crashes since the start"),
                unit("coreward.socket", "active", "running", ""),
                unit("coreward-register.service", "active", "exited", ""),
            ]),
            daemon_running: Some(true),
            crashes: Some(3),
            stored_cores: 2,
            stored_bytes: 3 << 20,
            free_bytes: 20 << 30,
            max_use: 4 << 30,
            keep_free: u64::MAX,
            spooled: Some(0),
            quarantined: Some(0),
            configuration_files: vec!["/etc/coreward/coreward.conf".into()],
            ..StatusReport::default()
        };
        assert_status("status_collecting", &running);
        let failed = StatusReport {
            advice: vec!["systemctl status coreward.service".to_owned()],
            core_pipe_limit: "16".to_owned(),
            suid_dumpable: "0".to_owned(),
            test_crash: "failed",
            test_crash_problem: Some("the daemon did not answer within 10 s".to_owned()),
            collecting: false,
            daemon_restarts: true,
            units: Some(vec![Unit { restarts: 12, ..unit("coreward.service", "failed", "failed", "") }]),
            spooled: Some(2),
            quarantined: Some(1),
            configuration_problems: vec!["/etc/coreward/coreward.conf:2: unknown key X=, ignored".to_owned()],
            ..running.clone()
        };
        assert_status("status_failed_unit", &failed);
        let foreign = StatusReport {
            collecting: false,
            advice: vec!["systemctl enable --now coreward-register.service".to_owned()],
            core_pattern: "|/lib/systemd/systemd-coredump %P".to_owned(),
            core_pattern_is_ours: false,
            test_crash: "not-tried",
            test_crash_problem: Some("it could not arrive".to_owned()),
            core_pipe_limit: "16".to_owned(),
            shim: None,
            shim_exists: false,
            units: None,
            daemon_running: Some(false),
            crashes: None,
            catalog_problem: Some("only root and group adm may count them".to_owned()),
            spooled: None,
            quarantined: None,
            ..running.clone()
        };
        assert_status("status_foreign_pattern", &foreign);
        let missing = StatusReport {
            collecting: false,
            advice: vec!["start corewardd on its socket".to_owned(), "install Coreward's shim again".to_owned()],
            core_pipe_limit: "0".to_owned(),
            shim_exists: false,
            shim_problem: Some("/usr/libexec/coreward/coreward-shim does not exist".to_owned()),
            suid_dumpable: "1".to_owned(),
            test_crash: "not-tried",
            test_crash_problem: Some("it could not arrive".to_owned()),
            socket_exists: false,
            units: None,
            daemon_running: None,
            crashes: Some(0),
            spooled: Some(2),
            ..running
        };
        assert_status("status_missing_shim_and_socket", &missing);
    }
}
