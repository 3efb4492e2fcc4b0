//! Which pages of a parked process can be read without waiting for somebody who may never answer.
//!
//! A page of a file that is not in the page table is read from its file system, and any user can be the server of one (FUSE). A
//! read through `/proc/PID/mem` then waits with the lock on the process' memory held, cannot be killed, and keeps the process from
//! ending. Such pages are left out: in the core they are zeros, like all pages that cannot be read.

use coreward_sys::mounts::TrustedFileSystems;
use coreward_sys::procmap::{self, Mapping};
use coreward_sys::sparse_io;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Longest `mountinfo` that is read, in bytes. The root is in the first lines; what the rest names is not trusted.
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
            if let Some(text) = list.as_ref().and_then(read_mountinfo) {
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
    /// What the lists say. Read when it is first needed.
    trusted: OnceLock<TrustedFileSystems>,
    /// The mappings, where the kernel cannot be asked for a single one.
    parsed: OnceLock<Vec<Mapping>>,
    /// What was found out, by the first address of each mapping.
    known: Mutex<BTreeMap<u64, KnownMapping>>,
}

/// What is known of the mapping that an address is in, or of the gap between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KnownMapping {
    /// The first address after it.
    pub(super) end: u64,
    /// Its pages that answer.
    pub(super) pages: ReadablePages,
    /// It is private memory without a file: a page that is absent was never touched. (Other private memory without a file is the kernel's,
    /// `[vdso]` for one, whose pages the page map does not show.)
    pub(super) is_anonymous: bool,
}

impl PageAccess {
    /// For the process whose `/proc/PID/maps` this is.
    #[must_use]
    pub(super) fn new(maps: File, mounts: MountLists) -> Self {
        Self { maps, mounts, trusted: OnceLock::new(), parsed: OnceLock::new(), known: Mutex::default() }
    }

    /// What is known of the mapping that has `address`.
    ///
    /// # Errors
    /// The mappings cannot be read.
    pub(super) fn at(&self, address: u64) -> nix::Result<KnownMapping> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = known.range(..=address).next_back().filter(|(_, found)| address < found.end) {
            return Ok(*found);
        }
        let mapping = match procmap::mapping_from(&self.maps, address) {
            Err(Errno::ENOTTY) => self.find_in_text(address),
            mapping => mapping?,
        };
        let gap_end = mapping.as_ref().map_or(u64::MAX, |next| next.range.start);
        let Some(mapping) = mapping.filter(|mapping| mapping.range.contains(&address)) else {
            return Ok(KnownMapping { end: gap_end, pages: ReadablePages::Nothing, is_anonymous: false });
        };
        let pages = self.pages_of(&mapping);
        let found = KnownMapping { end: mapping.range.end, pages, is_anonymous: is_anonymous(&mapping) };
        known.insert(mapping.range.start, found);
        Ok(found)
    }

    /// The mapping that has `address`, or else the next one.
    fn find_in_text(&self, address: u64) -> Option<Mapping> {
        let mappings = self.parsed.get_or_init(|| {
            let mut mappings = Vec::new();
            self.for_each_line(|line| mappings.extend(procmap::parse(line)));
            mappings
        });
        mappings.get(mappings.partition_point(|mapping| mapping.range.end <= address)).cloned()
    }

    /// Whether no page of any mapping depends on the server of a file system that may be any user.
    pub(super) fn is_all_readable(&self) -> bool {
        let answers = |mapping: &Mapping| self.pages_of(mapping) != ReadablePages::Anonymous;
        let (mut all, mut address) = (true, 0);
        loop {
            // Memory without a file answers.
            match procmap::next_file_mapping(&self.maps, address) {
                Ok(Some(mapping)) if answers(&mapping) => address = mapping.range.end,
                Ok(next) => return next.is_none(),
                Err(_) => break,
            }
        }
        self.for_each_line(|line| all &= procmap::parse(line).is_none_or(|mapping| answers(&mapping)));
        all
    }

    /// Calls `found` with each line of `/proc/PID/maps`, however many there are. The descriptor shares its position with the shim's, and with
    /// those of earlier daemons, so the text is read from its beginning.
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

/// The text of a `mountinfo` from its beginning: the descriptor shares its position with the shim's, and with those of earlier daemons.
/// `None` if it cannot be read.
fn read_mountinfo(file: &File) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while text.len() < MAX_MOUNTINFO {
        match file.read_at(&mut buffer, text.len() as u64) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(buffer.get(..count)?),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(text)
}

/// Whether a mapping is private memory without a file. Without a name, or with one that the process gave it (`[anon:...]`), it is the
/// process' own.
fn is_anonymous(mapping: &Mapping) -> bool {
    let name = mapping.name.as_str();
    let is_own = name.is_empty() || name == "[heap]" || name == "[stack]" || name.starts_with("[anon");
    mapping.has_no_file() && !mapping.is_shared && is_own
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
        let (is_shared, is_writable) = (false, true);
        Mapping { range: 0..4096, major, minor, inode, offset: 0, is_shared, is_writable, name: String::new() }
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
    fn only_private_memory_without_a_file_is_anonymous() {
        let anonymous = |line: &str| is_anonymous(&procmap::parse(line).unwrap());
        for line in [
            "10000000-14000000 rw-p 00000000 00:00 0 ",
            "10000000-14000000 ---p 00000000 00:00 0 [anon:a name]",
            "7ffc0000000-7ffc4000000 rw-p 00000000 00:00 0 [stack]",
        ] {
            assert!(anonymous(line), "{line}");
        }
        for line in [
            "20000000-24000000 rw-s 00000000 00:01 77 /dev/zero (deleted)",
            "30000000-34000000 rw-p 00000000 fe:00 99 /srv/a file with\\040a name",
            "7ffc4000000-7ffc4002000 r-xp 00000000 00:00 0 [vdso]",
        ] {
            assert!(!anonymous(line), "{line}");
        }
    }

    #[test]
    fn the_text_tells_the_same_as_the_kernel() {
        let access = PageAccess::new(File::open("/proc/self/maps").unwrap(), MountLists::default());
        let here = std::ptr::from_ref(&access).addr() as u64;
        let found = access.at(here).unwrap();
        assert_eq!((found.pages, found.is_anonymous), (ReadablePages::All, true));
        assert!(access.find_in_text(here).unwrap().range.contains(&here));
        let gap = access.at(5).unwrap();
        assert_eq!((gap.pages, gap.is_anonymous), (ReadablePages::Nothing, false));
        assert_eq!(access.find_in_text(5).unwrap().range.start, gap.end);
    }
}
