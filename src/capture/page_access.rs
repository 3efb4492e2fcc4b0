//! Which pages of a parked process can be read without waiting for somebody who may never answer.
//!
//! A page of a file that is not in the page table is read from its file system, and any user can be the server of one (FUSE). A
//! read through `/proc/PID/mem` then waits with the lock on the process' memory held, cannot be killed, and keeps the process from
//! ending. Such pages are left out: in the core they are zeros, like all pages that cannot be read.

use coreward_sys::mounts::TrustedFileSystems;
use coreward_sys::pagemap::PAGE;
use coreward_sys::procmap::{self, Mapping};
use coreward_sys::sparse_io;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Longest `/proc/PID/maps` that is read, in bytes: that of vm.max_map_count mappings is shorter.
const MAPS_MAX: usize = 16 << 20;
/// Longest `/proc/PID/mountinfo` that is read, in bytes. The root is in the first lines; what the rest names is not trusted.
const MAX_MOUNTINFO: usize = 64 << 10;

/// Which pages of a mapping answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadablePages {
    /// All: absent ones come from this machine's memory or disks.
    All,
    /// Those in the page table: the files are another machine's.
    Present,
    /// None: nothing is mapped, and the kernel would first look for a stack that can grow to there; or it is the memory of a device,
    /// whose driver would be asked.
    Nothing,
    /// Those that are no longer pages of the file, since the process wrote to its private copy. The server of the file system can take
    /// others out of the page table at any time.
    Anonymous,
}

/// What the process sees mounted. Read only if it has mapped a file that is not on a block device.
#[derive(Debug, Default)]
pub struct MountLists {
    /// `/proc/PID/mountinfo`.
    pub of_process: Option<File>,
    /// That of the host, where the process has another root directory: its own leaves out what is mounted outside of that.
    pub of_host: Option<File>,
    /// Whether mounts that the process sees may be those of a user namespace.
    pub in_user_namespace: bool,
}

impl MountLists {
    /// The file systems whose files can be waited for. None without the lists.
    fn trusted(&self) -> TrustedFileSystems {
        let mut trusted = TrustedFileSystems::default();
        for (list, in_user_namespace) in [(&self.of_process, self.in_user_namespace), (&self.of_host, false)] {
            if let Some(text) = list.as_ref().and_then(|list| read_text(list, MAX_MOUNTINFO)) {
                trusted.add(&text, in_user_namespace);
            }
        }
        trusted
    }
}

/// Tells which pages of a process answer.
#[derive(Debug)]
pub(super) struct PageAccess {
    maps: File,
    mounts: MountLists,
    /// What the lists say, once somebody had to know.
    trusted: OnceLock<TrustedFileSystems>,
    /// The mappings, where the kernel cannot be asked for a single one.
    parsed: OnceLock<Vec<Mapping>>,
    /// What was found out, by the first address of each mapping.
    known: Mutex<BTreeMap<u64, (u64, ReadablePages)>>,
}

impl PageAccess {
    /// For the process whose `/proc/PID/maps` this is.
    #[must_use]
    pub(super) fn new(maps: File, mounts: MountLists) -> Self {
        Self { maps, mounts, trusted: OnceLock::new(), parsed: OnceLock::new(), known: Mutex::default() }
    }

    /// The pages that answer in the mapping that has `address`, and up to where that holds.
    ///
    /// # Errors
    /// The mappings cannot be read.
    pub(super) fn at(&self, address: u64) -> nix::Result<(u64, ReadablePages)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = known.range(..=address).next_back().filter(|(_, (end, _))| address < *end) {
            return Ok(*found);
        }
        let mapping = match procmap::mapping_at(&self.maps, address) {
            Err(Errno::ENOTTY) => self.find_in_text(address),
            mapping => mapping?,
        };
        let Some(mapping) = mapping else {
            return Ok(((address & !(PAGE - 1)).saturating_add(PAGE), ReadablePages::Nothing));
        };
        let found = (mapping.range.end, self.pages_of(&mapping));
        known.insert(mapping.range.start, found);
        Ok(found)
    }

    fn find_in_text(&self, address: u64) -> Option<Mapping> {
        let parse = || self.text().unwrap_or_default().lines().filter_map(procmap::parse).collect();
        let mappings = self.parsed.get_or_init(parse);
        let next = mappings.partition_point(|mapping| mapping.range.end <= address);
        mappings.get(next).filter(|mapping| mapping.range.contains(&address)).cloned()
    }

    /// Whether no page of any mapping depends on the server of a file system that may be any user.
    pub(super) fn is_all_readable(&self) -> bool {
        let text = self.text().unwrap_or_default();
        let mut mappings = text.lines().filter_map(procmap::parse);
        mappings.all(|mapping| self.pages_of(&mapping) != ReadablePages::Anonymous)
    }

    /// Calls `found` with each line of `/proc/PID/maps`, however many there are.
    pub(super) fn for_each_line(&self, mut found: impl FnMut(&str)) {
        let mut buffer = vec![0; 64 << 10];
        let (mut position, mut kept) = (0, 0);
        loop {
            match self.maps.read_at(&mut buffer[kept..], position) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    position += count as u64;
                    kept += count;
                }
            }
            // A name has at most a page, so a buffer without the end of a line is not the kernel's.
            let Some(end) = buffer[..kept].iter().rposition(|byte| *byte == b'\n') else { return };
            buffer[..end].split(|byte| *byte == b'\n').for_each(|line| found(&String::from_utf8_lossy(line)));
            buffer.copy_within(end + 1..kept, 0);
            kept -= end + 1;
        }
    }

    /// The text of `/proc/PID/maps`.
    pub(super) fn text(&self) -> Option<String> {
        read_text(&self.maps, MAPS_MAX).map(|text| String::from_utf8_lossy(&text).into_owned())
    }

    fn pages_of(&self, mapping: &Mapping) -> ReadablePages {
        match kind_of(mapping) {
            MappingKind::Device => return ReadablePages::Nothing,
            MappingKind::KernelBuffer => return ReadablePages::All,
            MappingKind::Memory => {}
        }
        let minor = &mapping.minor;
        if mapping.has_no_file() || mapping.major != 0 || kernel_internal().contains(minor) {
            return ReadablePages::All;
        }
        let trusted = self.trusted.get_or_init(|| self.mounts.trusted());
        if trusted.local.contains(minor) {
            ReadablePages::All
        } else if trusted.remote.contains(minor) {
            ReadablePages::Present
        } else {
            ReadablePages::Anonymous
        }
    }
}

/// The text of a file in `/proc` from its beginning, up to `limit` bytes: the descriptor shares its position with the shim's, and with
/// those of earlier daemons. `None` if it cannot be read.
fn read_text(file: &File, limit: usize) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while text.len() < limit {
        match file.read_at(&mut buffer, text.len() as u64) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(buffer.get(..count)?),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(text)
}

/// The kind of a mapping, as its name tells.
enum MappingKind {
    /// Anonymous memory, or the file of a file system.
    Memory,
    /// Memory of the kernel that it shares with the process: rings of io_uring and of packet sockets.
    KernelBuffer,
    /// Registers or memory of a device, or pages that the kernel makes up (`[vvar]`). The kernel itself leaves them out (VM_IO).
    Device,
}

/// Only device nodes and the kernel's own objects have these names; a path that is no device only looks like one costs itself.
fn kind_of(mapping: &Mapping) -> MappingKind {
    /// What is below `/dev` without being a device, and `/dev/zero`, which is anonymous memory.
    const MEMORY: [&str; 4] = ["/dev/shm/", "/dev/hugepages/", "/dev/mqueue/", "/dev/zero"];
    let name = mapping.name.as_str();
    let has_device = name.starts_with("/dev/") && !MEMORY.iter().any(|dir| name.starts_with(dir));
    if has_device || name.starts_with("[vvar") {
        MappingKind::Device
    } else if name.starts_with("anon_inode:[io_uring]") || name.starts_with("socket:[") {
        MappingKind::KernelBuffer
    } else if name.starts_with("anon_inode:") {
        MappingKind::Device
    } else {
        MappingKind::Memory
    }
}

/// The minor numbers of the file systems that the kernel mounts for itself: shared memory, memfds, huge pages. The first call makes a
/// memfd of each kind, which a confined reader may not.
pub fn kernel_internal() -> &'static [u32] {
    static MINORS: OnceLock<Vec<u32>> = OnceLock::new();
    MINORS.get_or_init(|| sparse_io::memfd_devices().iter().map(|(_, minor)| *minor).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(major: u32, minor: u32, inode: u64) -> Mapping {
        Mapping { range: 0..4096, major, minor, inode, offset: 0, name: String::new() }
    }

    fn access(maps: &str, mountinfo: &str) -> PageAccess {
        let file = |text: &str| {
            let file = sparse_io::create_memfd("test").unwrap();
            file.write_all_at(text.as_bytes(), 0).unwrap();
            file
        };
        PageAccess::new(file(maps), MountLists { of_process: Some(file(mountinfo)), ..MountLists::default() })
    }

    #[test]
    fn a_file_system_that_nobody_vouches_for_is_not_waited_for() {
        let access =
            access("", "26 25 0:500 / /run rw - tmpfs tmpfs rw\n28 25 0:501 / /home rw - nfs4 server:/export rw\n");
        let pages = |major, minor, inode| access.pages_of(&mapping(major, minor, inode));
        assert_eq!(pages(0, 502, 9), ReadablePages::Anonymous);
        assert_eq!(pages(0, 502, 0), ReadablePages::Anonymous, "a server may number its files from 0");
        assert_eq!(pages(0, 500, 9), ReadablePages::All);
        assert_eq!(pages(0, 501, 9), ReadablePages::Present);
        assert_eq!(pages(8, 502, 9), ReadablePages::All, "a block device");
        assert_eq!(pages(0, 0, 0), ReadablePages::All, "no file");
        let unknown = PageAccess::new(File::open("/proc/self/maps").unwrap(), MountLists::default());
        assert_eq!(unknown.pages_of(&mapping(0, 500, 9)), ReadablePages::Anonymous, "without a list none is trusted");
    }

    #[test]
    fn the_host_vouches_for_what_is_mounted_outside_of_the_root_directory() {
        let list = || File::open("/proc/self/mountinfo").ok();
        let lists = MountLists { of_process: None, of_host: list(), in_user_namespace: true };
        assert_eq!(lists.trusted(), MountLists { of_process: list(), ..MountLists::default() }.trusted());
    }

    #[test]
    fn no_driver_is_asked_for_the_memory_of_its_device() {
        let access = access("", "26 25 0:6 / / rw - tmpfs tmpfs rw\n");
        let pages = |name: &str| access.pages_of(&Mapping { name: name.to_owned(), ..mapping(0, 6, 9) });
        for name in [
            "/dev/mem",
            "/dev/dri/card0",
            "[vvar]",
            "[vvar_vclock]",
            "anon_inode:[vfio-device]",
            "anon_inode:[perf_event]",
        ] {
            assert_eq!(pages(name), ReadablePages::Nothing, "{name}");
        }
        for name in [
            "/dev/shm/x",
            "/dev/zero",
            "/memfd:a",
            "anon_inode:[io_uring]",
            "socket:[77]",
            "[heap]",
            "[vdso]",
            "/bin/a",
        ] {
            assert_eq!(pages(name), ReadablePages::All, "{name}");
        }
    }

    #[test]
    fn shared_memory_and_memfds_are_the_kernels_own() {
        use std::os::unix::fs::MetadataExt;
        let memfd = sparse_io::create_memfd("test").unwrap();
        let (major, minor) = (
            nix::sys::stat::major(memfd.metadata().unwrap().dev()),
            nix::sys::stat::minor(memfd.metadata().unwrap().dev()),
        );
        assert_eq!(major, 0);
        let minor = u32::try_from(minor).unwrap();
        assert_eq!(access("", "").pages_of(&mapping(0, minor, 9)), ReadablePages::All);
    }

    #[test]
    fn one_mapping_that_a_user_serves_is_enough_to_keep_the_kernel_from_it() {
        const MAPS: &str =
            "00400000-00401000 r-xp 00000000 fe:00 77 /bin/a\n7f0000000000-7f0000001000 rw-p 00000000 00:63 9 /mnt/b\n";
        let with = |mountinfo| access(MAPS, mountinfo).is_all_readable();
        assert!(!with(""));
        assert!(!with("26 25 0:99 / /mnt rw - fuse.sshfs host: rw\n"));
        assert!(with("26 25 0:99 / /mnt rw - tmpfs tmpfs rw\n"));
        assert!(with("26 25 0:99 / /mnt rw - nfs server:/ rw\n"));
    }

    #[test]
    fn the_text_tells_the_same_as_the_kernel() {
        let access = PageAccess::new(File::open("/proc/self/maps").unwrap(), MountLists::default());
        let here = std::ptr::from_ref(&access).addr() as u64;
        assert_eq!(access.at(here).unwrap().1, ReadablePages::All);
        assert!(access.find_in_text(here).unwrap().range.contains(&here));
        assert_eq!(access.at(5).unwrap(), (PAGE, ReadablePages::Nothing));
    }
}
