//! `coreward status` in lines.

use super::status::Status;
use super::{human, time};
use crate::crash::text::printable;
use std::io::{self, Write};

pub(super) fn show(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let lines = lines(status);
    let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    for (label, text) in &lines {
        writeln!(out, "{label:>width$}: {text}")?;
    }
    match (status.collecting, status.advice.as_slice()) {
        (true, []) => writeln!(out, "\nCrashes are being collected."),
        (true, advice) => writeln!(out, "\nCrashes are being collected, but look: {}", advice.join("; ")),
        (false, advice) => writeln!(out, "\nCrashes are NOT being collected. What to do: {}", advice.join("; ")),
    }
}

fn lines(status: &Status) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut line = |label: &str, text: String| lines.push((label.to_owned(), text));
    line("Kernel", format!("{} (core_pattern \"{}\")", whose(status), printable(&status.core_pattern)));
    line("Pipe limit", pipe_limit(status));
    let socket = printable(&status.socket.display().to_string());
    line("Socket", if status.socket_exists { socket } else { format!("{socket} is not there") });
    for unit in status.units.iter().flatten() {
        let text = if unit.text.is_empty() { String::new() } else { format!(": {}", unit.text) };
        line(&unit.name, format!("{} ({}){text}", unit.active, unit.sub));
    }
    if status.units.is_none() {
        line("Daemon", daemon(status).to_owned());
    }
    line("Crashes", crashes(status));
    let (used, max_use) = (human::size(status.stored_bytes), limit(status.max_use));
    line("Cores", format!("{}, {used} of {max_use} (MaxUse=)", status.stored_cores));
    line("Disk", format!("{} free, {} kept free (KeepFree=)", human::size(status.free_bytes), limit(status.keep_free)));
    line("Spool", spool(status));
    for problem in &status.configuration_problems {
        line("Configuration", printable(problem));
    }
    if status.configuration_problems.is_empty() {
        line("Configuration", "no problems".to_owned());
    }
    lines
}

/// Who gets the crashes.
fn whose(status: &Status) -> String {
    let pattern = &status.core_pattern;
    let program = pattern.strip_prefix('|').map(|command| command.split(' ').next().unwrap_or_default());
    let name = program.and_then(|program| program.rsplit('/').next());
    match (name, program) {
        _ if status.core_pattern_is_ours && status.shim_exists => "crashes go to Coreward".to_owned(),
        _ if status.core_pattern_is_ours => "crashes go to Coreward's shim, WHICH IS NOT THERE".to_owned(),
        (Some("coreward-shim"), _) => "crashes go to a Coreward with another --root".to_owned(),
        (Some(name @ ("systemd-coredump" | "apport" | "abrt-hook-ccpp")), _) => format!("crashes go to {name}"),
        (_, Some(program)) => format!("crashes go to {}", printable(program)),
        (_, None) if pattern.starts_with('@') => "crashes go to a socket".to_owned(),
        (_, None) => "the kernel writes cores as files".to_owned(),
    }
}

fn pipe_limit(status: &Status) -> String {
    let limit = printable(&status.core_pipe_limit);
    match status.core_pipe_limit.parse::<u32>() {
        _ if !status.core_pattern_is_ours => limit,
        Ok(0) => {
            format!("{limit}: small processes are gone before they can be looked at; `coreward register` sets it right")
        }
        Ok(few) if few < 1000 => {
            format!(
                "{limit}: of more crashes at once than this the kernel skips some; `coreward register` sets it right"
            )
        }
        _ => "no crash is skipped".to_owned(),
    }
}

fn daemon(status: &Status) -> &'static str {
    match status.daemon_at_work {
        Some(true) => "at work",
        Some(false) => "not running: the socket starts it at the next crash",
        None => "not to be told (permission denied)",
    }
}

fn crashes(status: &Status) -> String {
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

fn spool(status: &Status) -> String {
    match (status.spooled, status.put_aside) {
        (None, _) | (_, None) => "only root and group coreward may look".to_owned(),
        (Some(0), Some(0)) => "empty".to_owned(),
        (Some(waiting), Some(0)) => format!("{waiting} crashes wait for the daemon"),
        (Some(waiting), Some(aside)) => {
            format!("{waiting} crashes wait for the daemon, {aside} are put aside that no daemon could take in (*.bad)")
        }
    }
}

fn limit(bytes: u64) -> String {
    if bytes == u64::MAX { "infinity".to_owned() } else { human::size(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_the_crashes() {
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
            let status = Status {
                core_pattern: pattern.into(),
                core_pattern_is_ours: ours,
                shim_exists: ours,
                ..Status::default()
            };
            assert_eq!(whose(&status), expected, "{pattern}");
        }
    }

    #[test]
    fn the_last_line_says_what_to_do() {
        let mut status = Status { advice: vec!["do this".to_owned()], ..Status::default() };
        let text = |status: &Status| {
            let mut out = Vec::new();
            show(status, &mut out).unwrap();
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
}
