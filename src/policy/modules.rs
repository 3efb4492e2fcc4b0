//! Which mapped files of a crashed process the module store keeps, and which of them go when there is no room.

use crate::crash::{Principal, Record};
use std::collections::{BTreeSet, HashMap};

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

/// Default of `MaxModulesUse=`: a twentieth of the volume, at most 2 GiB.
#[must_use]
pub fn default_max_modules_use(volume: u64) -> u64 {
    (volume / 20).min(2 << 30)
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
    pub principals: BTreeSet<String>,
    /// A pinned core refers to it, or the crash that needs the room.
    pub pinned: bool,
}

/// The modules to evict so that `bytes` more of `principal` fit, the first to go first, until `missing` bytes are freed: those that no
/// stored core refers to, then the principal's own, then those of a principal that takes more than it would itself, as cores are evicted;
/// of these the ones that were used longest ago. `None` if that would not free enough: then nothing is evicted.
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
        if let Some(principal) = module.principals.first().filter(|_| module.principals.len() == 1) {
            *used.entry(principal).or_default() += module.bytes;
        }
    }
    let of = |principal: &str| used.get(principal).copied().unwrap_or(0);
    let own_use = of(&own).saturating_add(bytes);
    let mut order: Vec<(u8, u64, &ModuleCandidate<'a>)> = Vec::new();
    for module in modules.iter().filter(|module| !module.pinned) {
        let rank = match module.principals.first().filter(|_| module.principals.len() == 1) {
            None if module.principals.is_empty() => 0,
            Some(principal) if *principal == own => 1,
            Some(principal) if of(principal) > own_use => 2,
            _ => continue,
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

    fn module<'a>(build_id: &'a str, last_use_us: u64, principals: &[&str]) -> ModuleCandidate<'a> {
        let principals = principals.iter().map(|unit| Principal::Unit((*unit).to_owned()).to_string()).collect();
        ModuleCandidate { build_id, bytes: 10, last_use_us, principals, pinned: false }
    }

    #[test]
    fn what_no_core_refers_to_goes_first_and_the_others_by_their_last_use() {
        let modules =
            [module("a", 1, &["u"]), module("b", 9, &[]), module("c", 5, &["u"]), module("d", 2, &["u", "v"])];
        let unit = |name: &str| Principal::Unit(name.to_owned());
        let choose = |principal: &str, missing| choose_modules(&modules, &unit(principal), 10, missing);
        assert_eq!(choose("u", 1).unwrap(), ["b"]);
        assert_eq!(choose("u", 25).unwrap(), ["b", "a", "c"]);
        assert_eq!(
            choose("u", 31),
            None,
            "nothing goes for what does not fit all the same, and what two refer to stays"
        );
        assert_eq!(choose("w", 15).unwrap(), ["b", "a"], "u has twenty bytes, and w would have ten");
        let mut pinned = modules.clone();
        pinned[1].pinned = true;
        assert_eq!(choose_modules(&pinned, &unit("u"), 10, 1).unwrap(), ["a"]);
    }

    #[test]
    fn nobody_takes_from_those_who_have_less() {
        let modules = [module("a", 1, &["small"]), module("b", 2, &["large"]), module("c", 3, &["large"])];
        let of = |name: &str, bytes| choose_modules(&modules, &Principal::Unit(name.to_owned()), bytes, 10);
        assert_eq!(of("new", 10).unwrap(), ["b"]);
        assert_eq!(of("new", 20), None);
    }
}
