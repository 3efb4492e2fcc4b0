//! How much memory the daemon may use: that of the machine, or what its control group is limited to (`MemoryMax=` of its unit).

use nix::sys::sysinfo::sysinfo;
use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups of version 2 are, and the memory controller of version 1 (cgroups(7)), with the file that has the limit.
const HIERARCHIES: [(&str, &str); 3] = [
    ("/sys/fs/cgroup", "memory.max"),
    ("/sys/fs/cgroup/unified", "memory.max"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
];
/// The daemon's control group, if systemd runs it.
const UNIT: &str = "system.slice/coreward.service";

/// The bytes of memory that this process may use.
#[must_use]
pub fn memory_of_this_process() -> u64 {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // 0::/system.slice/coreward.service, or with version 1: 4:memory:/system.slice/coreward.service
    let paths = cgroups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let has_memory = controllers.is_empty() || controllers.split(',').any(|name| name == "memory");
        has_memory.then(|| PathBuf::from(path.trim_start_matches('/')))
    });
    paths.map(|path| limit_of(&path)).fold(memory_of_the_machine(), u64::min)
}

/// The bytes of memory that the daemon's unit may use.
#[must_use]
pub fn memory_of_the_unit() -> u64 {
    memory_of_the_machine().min(limit_of(Path::new(UNIT)))
}

fn memory_of_the_machine() -> u64 {
    sysinfo().map_or(u64::MAX, |info| info.ram_total())
}

/// The smallest limit of a control group and those that it is in.
fn limit_of(cgroup: &Path) -> u64 {
    let limits = cgroup.ancestors().flat_map(|dir| {
        HIERARCHIES.iter().filter_map(move |(top, file)| {
            let text = fs::read_to_string(Path::new(top).join(dir).join(file)).ok()?;
            // "max" is no limit.
            text.trim_end().parse::<u64>().ok()
        })
    });
    limits.min().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_may_use_more_than_there_is() {
        let machine = memory_of_the_machine();
        assert!(machine > 1 << 20 && machine < 1 << 50);
        assert!((1..=machine).contains(&memory_of_this_process()));
        assert!((1..=machine).contains(&memory_of_the_unit()));
    }
}
