//! The operator's programs in `/etc/coreward/event.d`. coreward-event.service runs `coreward dispatch-events`, which starts
//! coreward-event@ID.service for each new signature; that runs `coreward run-hooks`, as a user of its own.

use super::error::{CliError, HookError};
use super::json;
use super::message::print_message;
use crate::crash::text::printable;
use crate::crash::{CrashId, Record};
use clap::Args;
use coreward_sys::openat;
use coreward_wire::paths::{EVENT_SUFFIX, EVENTS, Root};
use nix::fcntl::renameat;
use nix::sys::stat::fstat;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// Options of `dispatch-events`.
#[derive(Args, Debug)]
pub(super) struct DispatchOptions {}

/// Options of `run-hooks`.
#[derive(Args, Debug)]
pub(super) struct HookOptions {
    /// How long each program may run, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    timeout: u64,
}

/// The longest event in bytes. A record is far shorter.
const MAX_EVENT: u64 = 1 << 20;
/// Where coreward-event@.service finds its standard input (RuntimeDirectory= of coreward-event.service).
const PASSED: &str = "/run/coreward-event";
const INTERVAL: Duration = Duration::from_millis(20);

/// Starts a unit for each event that waits, one after the other.
pub(super) fn dispatch(root: &Root, _: &DispatchOptions) -> Result<ExitCode, CliError> {
    let path = root.state_dir().join(EVENTS);
    let failed = |error| CliError::File { path: path.clone(), error };
    let dir = match openat::open_dir(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(ExitCode::SUCCESS),
        opened => opened.map_err(failed)?,
    };
    let has_hooks = !hooks(root)?.is_empty();
    let mut failure = None;
    for name in waiting(&path).map_err(failed)? {
        let id = name.to_str().and_then(|name| CrashId::parse(name.strip_suffix(EVENT_SUFFIX)?));
        match id {
            Some(id) if has_hooks => {
                // Its own unit has failed then, and that is enough.
                if let Err(error) = pass_on(root, dir.as_fd(), Path::new(&name), &id) {
                    print_message(&format!("coreward: event {id}: {error}"));
                }
            }
            Some(_) => {}
            None => print_message(&format!("coreward: {}: no event, deleted", printable(&name.to_string_lossy()))),
        }
        // Whatever became of it: what stays would start this again at once. A directory that is not empty gets a name that does not.
        let removed = unlinkat(&dir, name.as_os_str(), UnlinkatFlags::NoRemoveDir)
            .or_else(|_| unlinkat(&dir, name.as_os_str(), UnlinkatFlags::RemoveDir))
            .or_else(|_| renameat(&dir, name.as_os_str(), &dir, hidden_name().as_str()));
        if let Err(error) = removed {
            failure.get_or_insert(CliError::File { path: path.join(&name), error: error.into() });
        }
    }
    failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// A name that nothing has yet, and that systemd does not count among those in a directory.
fn hidden_name() -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!(".not-an-event-{}", now.as_nanos())
}

/// The names in the directory of events, the oldest file first. Those that begin with a dot are still being written.
fn waiting(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            let modified = entry.metadata().and_then(|file| file.modified()).ok();
            found.push((modified, entry.file_name()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// Gives a copy of the event to its unit, and waits for the unit's end. The daemon can write into the directory of events, so systemd, which
/// opens the standard input of units as root, must not open files there.
fn pass_on(root: &Root, dir: BorrowedFd<'_>, name: &Path, id: &CrashId) -> Result<(), HookError> {
    let event = read_event(dir, name).map_err(HookError::Event)?;
    let copy = root.join(PASSED).join(format!("{id}{EVENT_SUFFIX}"));
    let written = File::options().write(true).create(true).truncate(true).mode(0o600).open(&copy);
    written.and_then(|mut file| file.write_all(&event)).map_err(|error| HookError::Copy(copy.clone(), error))?;
    let unit = format!("coreward-event@{id}.service");
    let status = Command::new("systemctl").args(["start", "--quiet", &unit]).stdin(Stdio::null()).status();
    let _ = fs::remove_file(&copy);
    match status.map_err(HookError::Systemctl)? {
        status if status.success() => Ok(()),
        _ => Err(HookError::Unit(unit)),
    }
}

fn read_event(dir: BorrowedFd<'_>, name: &Path) -> io::Result<Vec<u8>> {
    let file = File::from(openat::open_file_below(dir, name)?);
    if fstat(&file)?.st_size.unsigned_abs() > MAX_EVENT {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let mut event = Vec::new();
    file.take(MAX_EVENT).read_to_end(&mut event)?;
    Ok(event)
}

/// Runs each program in `event.d`, in the order of their names, with the event on its standard input.
pub(super) fn run(root: &Root, options: &HookOptions) -> Result<ExitCode, CliError> {
    let mut event = Vec::new();
    io::stdin().lock().take(MAX_EVENT).read_to_end(&mut event).map_err(HookError::Event)?;
    let (event, id) = with_title(&event).map_err(HookError::Event)?;
    let mut code = ExitCode::SUCCESS;
    for hook in hooks(root)? {
        if let Err(why) = run_one(&hook, &event, &id, Duration::from_secs(options.timeout)) {
            print_message(&format!("coreward: {}: {why}", hook.display()));
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// The record with its title (`SIGSEGV in cache_get`), as `coreward info --json` has it, and the ID.
///
/// # Errors
/// The event is no record.
fn with_title(event: &[u8]) -> io::Result<(Vec<u8>, CrashId)> {
    #[derive(serde::Serialize)]
    struct Event<'a> {
        #[serde(flatten)]
        record: &'a Record,
        title: String,
    }
    let record: Record = serde_json::from_slice(event)?;
    let mut titled = Vec::new();
    json::write(&mut titled, &Event { title: record.title(), record: &record })?;
    Ok((titled, record.id))
}

/// The programs, by name. As run-parts(8) does, it leaves out what editors and dpkg leave behind.
pub(super) fn hooks(root: &Root) -> Result<Vec<PathBuf>, CliError> {
    let dir = root.hooks_dir();
    let failed = |error| CliError::File { path: dir.clone(), error };
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut hooks = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let is_program = fs::metadata(&path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        if is_program && path.file_name().is_some_and(|name| is_hook_name(&name.to_string_lossy())) {
            hooks.push(path);
        }
    }
    hooks.sort();
    Ok(hooks)
}

fn is_hook_name(name: &str) -> bool {
    const LEFT_BEHIND: [&str; 5] = [".dpkg-old", ".dpkg-dist", ".dpkg-new", ".dpkg-tmp", ".bak"];
    !name.starts_with('.')
        && !LEFT_BEHIND.iter().any(|suffix| name.ends_with(suffix))
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// Runs one program.
///
/// # Errors
/// It could not be started, did not end in time, or failed.
fn run_one(hook: &Path, event: &[u8], id: &CrashId, limit: Duration) -> Result<(), HookError> {
    let mut child =
        Command::new(hook).env("COREWARD_ID", id.as_str()).stdin(Stdio::piped()).spawn().map_err(HookError::Start)?;
    let mut stdin = child.stdin.take();
    let event = event.to_vec();
    // A program that does not read must not hold this. The thread ends with it.
    let writer = std::thread::spawn(move || stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(&event)));
    let status = wait(&mut child, limit);
    drop(writer);
    match status? {
        status if status.success() => Ok(()),
        status => Err(match (status.code(), status.signal()) {
            (Some(code), _) => HookError::Exit(code),
            (None, signal) => HookError::Signal(signal.unwrap_or_default()),
        }),
    }
}

fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus, HookError> {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => sleep(INTERVAL),
            Err(error) => return Err(HookError::Start(error)),
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(HookError::Hangs(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> CrashId {
        CrashId::parse("0123456789abcdef").unwrap()
    }

    fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    /// What becomes of a program. A test beside this one may have a copy of the descriptor through which it was written.
    fn run_script(dir: &Path, text: &str, event: &[u8], limit: Duration) -> Result<(), HookError> {
        let hook = script(dir, "hook", text);
        loop {
            match run_one(&hook, event, &id(), limit) {
                Err(HookError::Start(error)) if error.kind() == ErrorKind::ExecutableFileBusy => sleep(INTERVAL),
                ended => return ended,
            }
        }
    }

    #[test]
    fn a_program_gets_the_event_and_the_id_and_its_failure_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let event = vec![b'x'; 200_000];
        let limit = Duration::from_secs(20);
        let run = |text: &str, event: &[u8]| run_script(dir.path(), text, event, limit);
        run(&format!("(echo $COREWARD_ID; wc -c) >{}", out.display()), &event).unwrap();
        assert_eq!(fs::read_to_string(&out).unwrap(), "0123456789abcdef\n200000\n");
        run("exit 0", &event).expect("it need not read the event");
        assert!(matches!(run("exit 3", b""), Err(HookError::Exit(3))));
        assert!(matches!(run("kill -9 $$", b""), Err(HookError::Signal(9))));
        assert!(matches!(
            run_script(dir.path(), "exec sleep 30", &event, Duration::from_millis(300)),
            Err(HookError::Hangs(_))
        ));
    }

    #[test]
    fn an_event_is_the_record_with_its_title() {
        let record = crate::crash::fixtures::record(7);
        let (event, id) = with_title(&serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(id, record.id);
        let mut event: serde_json::Value = serde_json::from_slice(&event).unwrap();
        let title = event.as_object_mut().unwrap().remove("title").unwrap();
        assert_eq!(title, serde_json::json!(record.title()));
        assert_eq!(event, serde_json::to_value(&record).unwrap());
        for event in [b"".as_slice(), b"{}", b"{\"id\": \"0123456789abcdef\"}", b"[]"] {
            assert!(with_title(event).is_err());
        }
    }

    #[test]
    fn programs_run_in_the_order_of_their_names_and_leftovers_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(hooks(&root).unwrap(), [] as [PathBuf; 0], "no directory");
        let to = root.hooks_dir();
        fs::create_dir_all(&to).unwrap();
        for name in ["20-mail", "10-chat.sh", "30-x~", ".hidden", "40-y.dpkg-old"] {
            script(&to, name, "");
        }
        fs::write(to.join("README"), "not executable").unwrap();
        assert_eq!(hooks(&root).unwrap(), [to.join("10-chat.sh"), to.join("20-mail")]);
    }

    #[test]
    fn without_a_program_events_are_deleted_and_so_is_what_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let events = root.state_dir().join(EVENTS);
        dispatch(&root, &DispatchOptions {}).unwrap();
        fs::create_dir_all(events.join("a-directory.json")).unwrap();
        fs::create_dir_all(events.join("0-not-empty.json/within")).unwrap();
        fs::write(events.join("0123456789abcdef.json"), "{}").unwrap();
        fs::write(events.join(".unfinished"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", events.join("fedcba9876543210.json")).unwrap();
        dispatch(&root, &DispatchOptions {}).unwrap();
        let left: Vec<_> = fs::read_dir(&events).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left.iter().all(|name| name.as_encoded_bytes().starts_with(b".")), "{left:?}");
        dispatch(&root, &DispatchOptions {}).unwrap();
        assert!(Path::new("/etc/passwd").exists());
    }

    #[test]
    fn a_link_in_place_of_an_event_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        fs::write(dir.path().join("file"), "{}").unwrap();
        let opened = openat::open_dir(dir.path()).unwrap();
        assert!(read_event(opened.as_fd(), Path::new("link")).is_err());
        assert_eq!(read_event(opened.as_fd(), Path::new("file")).unwrap(), b"{}");
    }
}
