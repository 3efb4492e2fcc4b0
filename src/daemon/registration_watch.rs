//! Watches the kernel's settings: when somebody else changes them, crashes go elsewhere and nobody else would say so.
//!
//! The kernel announces changes of few settings to poll(2) (`proc_sys_poll_notify`, for the host and domain name only), and
//! inotify(7) does not work in /proc, so they are read again and again.

use super::blocking::run_blocking;
use super::shared::Shared;
use crate::crash::text::printable;
use crate::registration::{KernelSettings, Sysctl, SysctlKey, sysctl_file};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::time::{MissedTickBehavior, interval};

/// How often the settings are read: a few microseconds each.
const INTERVAL: Duration = Duration::from_secs(2);
/// How often they are read while the kernel logs a warning each time. A new registration is noticed as before.
const QUIET_INTERVAL: Duration = Duration::from_secs(60);
/// coreward-reregister.path starts coreward-reregister.service when this file in the state directory is written.
const REQUEST: &str = "reregister";

/// Watches the settings until the daemon stops.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = RegistrationWatch::default();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.shutdown.stopped() => return,
        }
        let sharing = Arc::clone(&shared);
        let looked = run_blocking(move || {
            watch.look(&sharing);
            watch
        });
        // After a panic the next look starts anew.
        watch = looked.await.unwrap_or_default();
    }
}

/// What was seen last.
#[derive(Debug, Default)]
struct RegistrationWatch {
    /// The values that are not ours, by setting.
    foreign: BTreeMap<&'static str, String>,
    /// The settings could not be read.
    is_blind: bool,
    /// The settings have been read before.
    has_looked: bool,
    /// The file that each registration writes anew.
    registration: Option<(u64, i64)>,
    /// Until then the settings are only read after a new registration.
    quiet_until: Option<Instant>,
}

impl RegistrationWatch {
    fn look(&mut self, shared: &Shared) {
        let file = std::fs::metadata(sysctl_file(&shared.root));
        let registered_at = file.as_ref().ok().and_then(|metadata| metadata.modified().ok());
        let registration = file.ok().map(|metadata| (metadata.ino(), metadata.mtime_nsec()));
        let is_quiet = self.quiet_until.is_some_and(|until| Instant::now() < until);
        if std::mem::replace(&mut self.registration, registration) == registration && is_quiet {
            return;
        }
        let settings = match KernelSettings::read(&Sysctl::kernel()) {
            Ok(settings) => settings,
            Err(error) => {
                if !std::mem::replace(&mut self.is_blind, true) {
                    tracing::warn!("the settings of the kernel are not watched: {error}");
                }
                return;
            }
        };
        self.is_blind = false;
        self.quiet_until = kernel_complains(&settings).then(|| Instant::now() + QUIET_INTERVAL);
        let mut has_changed = false;
        for key in SysctlKey::ALL {
            let is_ours = settings.is_ours(key, &shared.root);
            shared.metrics.set_registered(key.name(), is_ours);
            if let Some(at) = self.changed_at(key, is_ours, settings.get(key), registered_at) {
                shared.metrics.set_registered_changed(key.name(), at);
            }
            has_changed |= self.note(key, is_ours, settings.get(key));
        }
        self.has_looked = true;
        if has_changed && !self.foreign.is_empty() && shared.takes_registration_back() {
            request_registration(shared);
        }
    }

    /// When the setting got this value, if that is news: at the registration, for all that is known at the start, and now for all that
    /// changes later.
    fn changed_at(
        &self,
        key: SysctlKey,
        is_ours: bool,
        value: &str,
        registered_at: Option<SystemTime>,
    ) -> Option<SystemTime> {
        let known = self.foreign.get(key.name()).map(String::as_str);
        let has_changed = known != Some(value).filter(|_| !is_ours);
        match (self.has_looked, is_ours) {
            (false, true) => Some(registered_at.unwrap_or_else(SystemTime::now)),
            (false, false) => Some(SystemTime::now()),
            (true, _) => has_changed.then(SystemTime::now),
        }
    }

    /// Logs what changed of a setting, once. Returns whether somebody else has set it since the last look.
    fn note(&mut self, key: SysctlKey, is_ours: bool, value: &str) -> bool {
        if is_ours {
            if self.foreign.remove(key.name()).is_some() {
                tracing::info!("{} is Coreward's again", key.dotted());
            }
            return false;
        }
        if self.foreign.get(key.name()).is_some_and(|known| known == value) {
            return false;
        }
        let effect = match key {
            SysctlKey::CorePattern => "crashes do NOT go to Coreward",
            SysctlKey::CorePipeLimit => "crashes may be lost",
            SysctlKey::SuidDumpable => "programs that changed their user, and set-uid programs, may not be dumped",
        };
        tracing::error!("{} is \"{}\": {effect}; `coreward status` says what to do", key.dotted(), printable(value));
        self.foreign.insert(key.name(), value.to_owned());
        true
    }
}

/// Whether the kernel logs a warning each time that these settings are read: some versions do, of a pattern without a program or
/// path while processes that changed their privileges are dumped (`validate_coredump_safety`, fs/coredump.c).
fn kernel_complains(settings: &KernelSettings) -> bool {
    settings.suid_dumpable == "2" && !settings.core_pattern.starts_with(['|', '/', '@'])
}

/// Asks systemd, by a file, to register again: the daemon itself may not change the settings.
fn request_registration(shared: &Shared) {
    let path: PathBuf = shared.root.state_dir().join(REQUEST);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o640).custom_flags(nix::libc::O_NOFOLLOW);
    match options.open(&path).and_then(|mut file| file.write_all(b"KeepRegistered=yes\n")) {
        Ok(()) => {
            tracing::info!("KeepRegistered=yes: coreward-reregister.service sets the settings of the kernel again");
        }
        Err(error) => tracing::error!("{}: {error}: the settings of the kernel are not set again", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_change_is_that_of_the_registration_until_there_is_one() {
        let mut watch = RegistrationWatch::default();
        let registered = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let mut look = |is_ours, value| {
            let at = watch.changed_at(SysctlKey::CorePattern, is_ours, value, Some(registered));
            watch.note(SysctlKey::CorePattern, is_ours, value);
            watch.has_looked = true;
            at.map(|at| at == registered)
        };
        assert_eq!(look(true, "|ours"), Some(true));
        assert_eq!(look(true, "|ours"), None);
        assert_eq!((look(false, "core"), look(false, "core")), (Some(false), None));
        assert_eq!(look(false, "|/bin/other"), Some(false));
        assert_eq!(look(true, "|ours"), Some(false));
    }

    #[test]
    fn a_change_is_noted_once_and_again_after_another_one() {
        let mut watch = RegistrationWatch::default();
        let mut note = |is_ours, value| watch.note(SysctlKey::CorePattern, is_ours, value);
        assert!(!note(true, "|ours"));
        assert!(note(false, "core") && !note(false, "core"));
        assert!(note(false, "|/bin/other"));
        assert!(!note(true, "|ours"));
        assert!(note(false, "core"), "taken away again");
    }
}
