//! Which crash it is that a shim offers, when it was, and who answers for it, by the offer alone; and the machine that it is on.

use super::subordinate_ids::SubordinateIds;
use crate::crash::text::from_bytes;
use crate::crash::{AccountFacts, CrashId, CrashKey, Origin, Principal, cgroup};
use coreward_wire::Offer;
use coreward_wire::paths::Root;
use libsystemd::id128::{self, Id128};
use nix::unistd::Pid;
use std::time::Duration;

/// What every record says of this machine.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// Release of the kernel.
    pub(super) kernel: String,
    /// Architecture, as uname(2) names it.
    pub(super) machine: String,
    /// The machine's id, hashed for Coreward alone.
    pub(super) machine_id: Option<String>,
    /// Whose subordinate uids are whose.
    pub(super) subordinate_ids: SubordinateIds,
}

/// Identifies Coreward to sd_id128_get_machine_app_specific(3). Never changed: records of one machine would have two ids.
const APPLICATION: Id128 =
    Id128::from_bytes([0x9b, 0x35, 0xf0, 0x12, 0x76, 0xc5, 0x1d, 0xfd, 0x81, 0x82, 0x1f, 0xf3, 0x5d, 0x95, 0xe4, 0xb4]);

impl Host {
    /// This machine.
    pub(super) fn read(root: &Root) -> Self {
        let subordinate_ids = SubordinateIds::new(root);
        let Ok(names) = nix::sys::utsname::uname() else { return Self { subordinate_ids, ..Self::default() } };
        let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
        let machine_id = id128::get_machine_app_specific(&APPLICATION).ok().map(|id| id.lower_hex());
        Self { kernel: text(names.release()), machine: text(names.machine()), machine_id, subordinate_ids }
    }
}

/// Which crash it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CrashIdentity {
    pub(super) key: CrashKey,
    /// The hash of the key.
    pub(super) id: CrashId,
}

/// The crash that is offered. Where the start of the process is not known, the start of its shim stands in for it.
pub(super) fn identify(offer: &Offer) -> CrashIdentity {
    let shim_started = u64::try_from(offer.started.as_nanos()).unwrap_or(u64::MAX);
    let key = CrashKey {
        boot_id: offer.boot_id.clone(),
        pid: offer.pid.unwrap_or(Pid::from_raw(0)),
        start_time: if offer.start_time > 0 { offer.start_time } else { shim_started },
    };
    let id = if offer.dump.is_some() { key.dump_id(offer.started) } else { key.id() };
    CrashIdentity { id, key }
}

/// Who answers for the crash that is offered.
pub(super) fn principal_of(offer: &Offer, host: &Host) -> Principal {
    let cgroup = cgroup::parse(&from_bytes(&offer.cgroup));
    let facts = AccountFacts {
        cgroup: &cgroup.path,
        unit: cgroup.unit.as_deref(),
        in_container: cgroup.container.is_some(),
        in_namespace: offer.namespaces.pid || offer.namespaces.user,
        // This makes a difference for the party only.
        privileged: false,
        uid: offer.uid,
        login_uid: offer.login_uid,
        subuid_owner: offer.uid.and_then(|uid| host.subordinate_ids.owner_of(uid)),
    };
    Principal::answering(&facts).0
}

/// When the dump began, since 1970. `%t` of core_pattern has whole seconds: for a live crash, the age of its shim is more
/// exact. `now` is the time since 1970, `uptime` the time since boot.
pub(super) fn crash_time(offer: &Offer, origin: Origin, now: Duration, uptime: Duration) -> Duration {
    match origin {
        Origin::Live => now.saturating_sub(uptime.saturating_sub(offer.started)),
        Origin::Spool | Origin::Import if offer.time > 0 => Duration::from_secs(offer.time),
        Origin::Spool | Origin::Import => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_crash_is_dated_by_the_age_of_its_shim_and_a_spooled_one_by_the_kernel() {
        let seconds = Duration::from_secs;
        let offer = Offer { started: seconds(90), time: 7, ..Offer::default() };
        assert_eq!(crash_time(&offer, Origin::Live, seconds(1000), seconds(100)), seconds(990));
        assert_eq!(crash_time(&offer, Origin::Spool, seconds(1000), seconds(100)), seconds(7));
        let unknown = Offer { time: 0, ..offer };
        assert_eq!(crash_time(&unknown, Origin::Spool, seconds(1000), seconds(100)), seconds(1000));
    }
}
