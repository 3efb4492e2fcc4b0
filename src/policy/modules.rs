//! Which mapped files of a crashed process the module store keeps, and which of them go when there is no room.

use crate::crash::{Principal, Record};
use std::collections::HashMap;
use std::sync::Arc;

/// `Modules=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModulePolicy {
    /// Those that may be gone when somebody reads the core: of containers and other root directories, deleted and replaced files, and
    /// files that no package of this host has.
    #[default]
    Containers,
    /// All.
    All,
    /// None.
    None,
}

impl ModulePolicy {
    /// Whether files of this process are left out that a package of the host has.
    #[must_use]
    pub fn spares_packages(self, record: &Record) -> bool {
        self == Self::Containers && record.cgroup.container.is_none() && !record.in_namespace && record.root == "/"
    }
}

/// Whether the process saw the files of this host: only then is a file of root's one that root of this host wrote. Root in a container, or
/// somebody with a root directory or mounts of their own, may call anything so.
#[must_use]
pub fn saw_host_files(record: &Record) -> bool {
    let has_own_mounts = record.namespaces.iter().any(|name| name == "mnt" || name == "unknown");
    record.cgroup.container.is_none() && !record.in_namespace && record.root == "/" && !has_own_mounts
}

/// Default of `MaxModulesUse=`: a twentieth of the volume, at most 2 GiB.
#[must_use]
pub fn default_max_modules_use(volume: u64) -> u64 {
    (volume / 20).min(2 << 30)
}

/// Whose stored cores refer to a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ModuleHolders {
    /// No core does.
    #[default]
    Nobody,
    /// Cores of this principal, by its text.
    One(Arc<str>),
    /// Cores of several principals.
    Several,
}

impl ModuleHolders {
    /// Adds a principal.
    pub fn add(&mut self, principal: &Arc<str>) {
        match self {
            Self::Nobody => *self = Self::One(Arc::clone(principal)),
            Self::One(holder) if holder == principal => {}
            _ => *self = Self::Several,
        }
    }
}

/// A stored module that may be evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleCandidate<'a> {
    /// Its build-id.
    pub build_id: &'a str,
    /// Bytes of its file.
    pub bytes: u64,
    /// When a core that refers to it was last stored, or somebody read it, in microseconds since 1970.
    pub last_use_us: u64,
    /// Whose stored cores refer to it.
    pub holders: ModuleHolders,
    /// A pinned core refers to it, or the crash that needs the room.
    pub pinned: bool,
}

/// The modules to evict so that `bytes` more of `principal` fit, the first to go first, until `missing` bytes are freed: those that no
/// stored core refers to, then the principal's own, then those of a principal that takes more than it would itself, as cores are evicted,
/// and at last those that several refer to; of each of these the ones that were used longest ago. `None` if that would not free enough: then
/// nothing is evicted.
#[must_use]
pub fn choose_modules<'a>(
    modules: &[ModuleCandidate<'a>],
    principal: &Principal,
    bytes: u64,
    missing: u64,
) -> Option<Vec<&'a str>> {
    let own = principal.to_string();
    let mut used: HashMap<&str, u64> = HashMap::new();
    for module in modules {
        if let ModuleHolders::One(holder) = &module.holders {
            *used.entry(holder).or_default() += module.bytes;
        }
    }
    let of = |principal: &str| used.get(principal).copied().unwrap_or(0);
    let own_use = of(&own).saturating_add(bytes);
    let mut order: Vec<(u8, u64, &ModuleCandidate<'a>)> = Vec::new();
    for module in modules.iter().filter(|module| !module.pinned) {
        let rank = match &module.holders {
            ModuleHolders::Nobody => 0,
            ModuleHolders::One(holder) if **holder == *own => 1,
            ModuleHolders::One(holder) if of(holder) > own_use => 2,
            ModuleHolders::One(_) => continue,
            ModuleHolders::Several => 3,
        };
        order.push((rank, module.last_use_us, module));
    }
    order.sort_unstable_by_key(|(rank, last_use_us, module)| (*rank, *last_use_us, module.build_id));
    let mut freed: u64 = 0;
    let mut chosen = Vec::new();
    for (_, _, module) in order {
        if freed >= missing {
            break;
        }
        freed = freed.saturating_add(module.bytes);
        chosen.push(module.build_id);
    }
    (freed >= missing).then_some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module<'a>(build_id: &'a str, last_use_us: u64, holders: &[&str]) -> ModuleCandidate<'a> {
        let mut of = ModuleHolders::Nobody;
        for unit in holders {
            of.add(&Principal::Unit((*unit).to_owned()).to_string().into());
        }
        ModuleCandidate { build_id, bytes: 10, last_use_us, holders: of, pinned: false }
    }

    #[test]
    fn what_no_core_refers_to_goes_first_and_the_others_by_their_last_use() {
        let modules =
            [module("a", 1, &["u"]), module("b", 9, &[]), module("c", 5, &["u"]), module("d", 2, &["u", "v"])];
        let unit = |name: &str| Principal::Unit(name.to_owned());
        let choose = |principal: &str, missing| choose_modules(&modules, &unit(principal), 10, missing);
        assert_eq!(choose("u", 1).unwrap(), ["b"]);
        assert_eq!(choose("u", 25).unwrap(), ["b", "a", "c"]);
        assert_eq!(choose("u", 31).unwrap(), ["b", "a", "c", "d"], "what two refer to is the last to go");
        assert_eq!(choose("u", 41), None, "nothing goes for what does not fit all the same");
        assert_eq!(choose("w", 15).unwrap(), ["b", "a"], "u has twenty bytes, and w would have ten");
        let mut pinned = modules.clone();
        pinned[1].pinned = true;
        assert_eq!(choose_modules(&pinned, &unit("u"), 10, 1).unwrap(), ["a"]);
        let shared = [module("a", 5, &["u", "v"]), module("b", 3, &["u", "v", "w"]), module("c", 1, &["u", "u"])];
        assert_eq!(choose_modules(&shared, &unit("x"), 10, 1).unwrap(), ["b"], "u has no more than x would have");
    }

    #[test]
    fn a_process_of_the_host_saw_its_files_and_one_in_a_container_did_not() {
        let on_host = Record { root: "/".to_owned(), ..crate::crash::fixtures::record(1) };
        assert!(saw_host_files(&on_host));
        let own_mounts = Record { namespaces: vec!["mnt".to_owned()], ..on_host.clone() };
        let unknown = Record { namespaces: vec!["unknown".to_owned()], ..on_host.clone() };
        let in_namespace = Record { in_namespace: true, ..on_host.clone() };
        let in_chroot = Record { root: "/srv/chroot".to_owned(), ..on_host.clone() };
        let mut in_container = on_host;
        in_container.cgroup.container = Some("0123456789ab".to_owned());
        for other in [own_mounts, unknown, in_namespace, in_chroot, in_container] {
            assert!(!saw_host_files(&other), "{other:?}");
        }
    }

    #[test]
    fn nobody_takes_from_those_who_have_less() {
        let modules = [module("a", 1, &["small"]), module("b", 2, &["large"]), module("c", 3, &["large"])];
        let of = |name: &str, bytes| choose_modules(&modules, &Principal::Unit(name.to_owned()), bytes, 10);
        assert_eq!(of("new", 10).unwrap(), ["b"]);
        assert_eq!(of("new", 20), None);
    }
}
