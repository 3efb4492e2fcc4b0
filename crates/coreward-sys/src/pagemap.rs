//! Which pages of a process have contents: the `PAGEMAP_SCAN` ioctl (Linux 6.7), or the entries of `/proc/PID/pagemap` on older
//! kernels. Both are documented in Documentation/admin-guide/mm/pagemap.rst.

use nix::errno::Errno;
use nix::unistd::{SysconfVar, sysconf};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

/// The smallest page of both supported architectures, in bytes. Ranges of cores begin and end with one, whatever [`page_size`] is: larger
/// pages are multiples of it.
pub const PAGE: u64 = 4096;

/// The size of this machine's pages, in bytes: on aarch64 the kernel may have been built for 16 KiB or 64 KiB.
#[must_use]
pub fn page_size() -> u64 {
    static SIZE: OnceLock<u64> = OnceLock::new();
    // The kernel tells every process at its start (AT_PAGESZ, getauxval(3)).
    let ask = || sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok());
    *SIZE.get_or_init(|| ask().filter(|size| size.is_power_of_two()).unwrap_or(PAGE))
}

/// The addresses of the pages that `range` has a part of.
#[must_use]
pub fn pages_of(range: &Range<u64>) -> Range<u64> {
    let size = page_size();
    range.start & !(size - 1)..range.end.checked_next_multiple_of(size).unwrap_or(range.end)
}

/// Reads what the page map says of the page at `address`: bit 63, it is present; bit 62, it is swapped; bit 58, it is guarded
/// (Documentation/admin-guide/mm/pagemap.rst).
///
/// # Errors
/// The error of pread(2); `UnexpectedEof` if the process has no memory any more.
pub fn entry(pagemap: &File, address: u64) -> io::Result<u64> {
    let mut entry = [0; 8];
    pagemap.read_exact_at(&mut entry, address / page_size() * 8)?;
    Ok(u64::from_le_bytes(entry))
}

const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
/// A page in swap has contents too: a read brings it back.
const PRESENT_OR_SWAPPED: u64 = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;

/// Which pages are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Those with contents: in the page table or in swap, and not the kernel's zero page.
    Populated,
    /// Those of them that are not pages of a file or of shared memory.
    Anonymous,
}

const PAGE_IS_FILE: u64 = 1 << 2;

impl PageKind {
    /// Categories of PAGEMAP_SCAN that a page must not have.
    fn excluded(self) -> u64 {
        match self {
            Self::Populated => PAGE_IS_PFNZERO,
            Self::Anonymous => PAGE_IS_PFNZERO | PAGE_IS_FILE,
        }
    }

    /// Whether an entry of the page map is of this kind.
    fn has(self, entry: u64) -> bool {
        // Bit 63: present. Bit 62: swapped. Bit 61: a page of a file, or shared.
        entry >> 62 != 0 && (self == Self::Populated || entry >> 61 & 1 == 0)
    }
}

/// `struct page_region` (include/uapi/linux/fs.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` (include/uapi/linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct PmScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

mod ioctl {
    nix::ioctl_readwrite!(pagemap_scan, b'f', 16, super::PmScanArg);
}

/// Calls `on_run` for each run of pages of this kind in `range`, in order. Ranges are addresses of whole pages. Pages that were
/// never touched and pages that map the kernel's zero page are not populated: they read as zeros.
///
/// # Errors
/// The error of ioctl(2) or pread(2); `UnexpectedEof` if the process has no memory any more.
pub fn for_each_run(
    pagemap: &File,
    range: Range<u64>,
    kind: PageKind,
    on_run: impl FnMut(Range<u64>),
) -> io::Result<()> {
    scan(pagemap, range, kind, on_run)?;
    // The ioctl reports neither pages nor an error for a process whose memory is gone.
    check_memory(pagemap)
}

/// As [`for_each_run`], for whoever looks at many ranges and calls [`check_memory`] in the end.
///
/// # Errors
/// The error of ioctl(2) or pread(2).
pub fn scan(pagemap: &File, range: Range<u64>, kind: PageKind, mut on_run: impl FnMut(Range<u64>)) -> io::Result<()> {
    match scan_by_ioctl(pagemap, range.clone(), kind, &mut on_run) {
        // A kernel without the ioctl. `on_run` was not called yet.
        Err(error) if error.raw_os_error() == Some(Errno::ENOTTY as i32) => {
            scan_entries(pagemap, range, kind, &mut on_run)
        }
        scanned => scanned,
    }
}

/// Checks that the process still has its memory. If so, every page that was missing before that never existed.
///
/// # Errors
/// `UnexpectedEof`: it has none any more. Otherwise the error of pread(2).
pub fn check_memory(pagemap: &File) -> io::Result<()> {
    // Of torn down memory there are no entries.
    match pagemap.read_at(&mut [0; 8], 0)? {
        8 => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn scan_by_ioctl(
    pagemap: &File,
    range: Range<u64>,
    kind: PageKind,
    on_run: &mut impl FnMut(Range<u64>),
) -> io::Result<()> {
    let mut regions = [PageRegion::default(); 512];
    let mut start = range.start;
    while start < range.end {
        let mut argument = PmScanArg {
            size: size_of::<PmScanArg>() as u64,
            start,
            end: range.end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            category_inverted: kind.excluded(),
            category_mask: kind.excluded(),
            category_anyof_mask: PRESENT_OR_SWAPPED,
            return_mask: PRESENT_OR_SWAPPED,
            ..PmScanArg::default()
        };
        // SAFETY: the kernel reads and writes one pm_scan_arg, and writes at most vec_len regions to vec. Both outlive the call.
        let count = unsafe { ioctl::pagemap_scan(pagemap.as_raw_fd(), &raw mut argument) }?;
        let count = usize::try_from(count).unwrap_or(0);
        regions.iter().take(count).for_each(|region| on_run(region.start..region.end));
        if argument.walk_end <= start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        start = argument.walk_end;
    }
    Ok(())
}

fn scan_entries(
    pagemap: &File,
    range: Range<u64>,
    kind: PageKind,
    on_run: &mut impl FnMut(Range<u64>),
) -> io::Result<()> {
    const ENTRY: u64 = size_of::<u64>() as u64;
    let size = page_size();
    let mut entries = [0; 64 * 1024];
    let mut run: Option<Range<u64>> = None;
    let mut page = range.start / size;
    while page < range.end / size {
        let remaining = usize::try_from((range.end / size - page) * ENTRY).unwrap_or(usize::MAX);
        let wanted = entries.len().min(remaining);
        let count = pagemap.read_at(&mut entries[..wanted], page * ENTRY)?;
        let (entries, _) = entries[..count].as_chunks::<8>();
        if entries.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for entry in entries {
            let is_wanted = kind.has(u64::from_le_bytes(*entry));
            match &mut run {
                Some(run) if is_wanted => run.end += size,
                Some(_) => on_run(run.take().unwrap_or_default()),
                None if is_wanted => run = Some(page * size..(page + 1) * size),
                None => {}
            }
            page += 1;
        }
    }
    if let Some(run) = run {
        on_run(run);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_pages_are_found_by_ioctl_and_in_the_entries() {
        let size = usize::try_from(page_size()).unwrap();
        let memory = vec![0_u8; 64 << 20];
        let begin = (memory.as_ptr() as u64).next_multiple_of(page_size());
        let memory = std::hint::black_box(memory);
        let range = begin..begin + (63 << 20);
        let offset = usize::try_from(begin - memory.as_ptr() as u64).unwrap();
        // A vector of zeros is not touched before the first write.
        let mut memory = memory;
        for page in [3, 4, 5, 700, 16000] {
            memory[offset + page * size] = 1;
        }
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let mut old: Vec<u64> = Vec::new();
        scan_entries(&pagemap, range.clone(), PageKind::Populated, &mut |run| {
            old.extend((run.start..run.end).step_by(size));
        })
        .unwrap();
        let touched = |page: &u64| (page - begin) / page_size();
        assert!([3, 4, 5, 700, 16000].iter().all(|page| old.iter().any(|found| touched(found) == *page)));
        assert!(old.len() < 16000, "most of it was never touched");
        let mut new: Vec<u64> = Vec::new();
        match scan_by_ioctl(&pagemap, range, PageKind::Populated, &mut |run| {
            new.extend((run.start..run.end).step_by(size));
        }) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOTTY as i32) => {
                eprintln!("SKIPPED: the kernel has no PAGEMAP_SCAN (Linux 6.7)");
            }
            Err(error) => panic!("{error}"),
            Ok(()) => assert_eq!(new, old),
        }
        drop(memory);
    }

    #[test]
    fn a_process_without_memory_is_an_error_and_not_a_hole() {
        // A kernel thread has none.
        let Ok(pagemap) = File::open("/proc/2/pagemap") else { return };
        assert!(for_each_run(&pagemap, 0x1000..0x9000, PageKind::Populated, |_| {}).is_err());
    }
}
