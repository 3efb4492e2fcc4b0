//! Which pages of a process exist: `PAGEMAP_SCAN` (Linux 6.7), and `/proc/PID/pagemap` read word by word before it
//! (Documentation/admin-guide/mm/pagemap.rst).

use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Bytes of a page. The two architectures that cores are read of here use no other on servers.
pub const PAGE: u64 = 4096;

/// Swapped out counts as there: it is read back in.
const PRESENT_OR_SWAPPED: u64 = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
/// `_IOWR('f', 16, struct pm_scan_arg)` (include/uapi/linux/fs.h).
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610_u32 as libc::Ioctl;

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Scan {
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

/// Calls `found` with each run of pages in `range` (addresses, whole pages) that may hold something else than zeros, in
/// order. Pages that were never touched, and those that are the kernel's page of zeros, are left out.
///
/// # Errors
/// What ioctl(2) or pread(2) say; `UnexpectedEof` where the process has no memory any more.
pub fn runs(pagemap: &File, range: Range<u64>, mut found: impl FnMut(Range<u64>)) -> io::Result<()> {
    match scan(pagemap, range.clone(), &mut found) {
        // Older kernels: ENOTTY. Nothing was found yet.
        Err(error) if error.raw_os_error() == Some(Errno::ENOTTY as i32) => walk(pagemap, range, &mut found),
        // The ioctl finds no pages, and no fault, in a process whose memory is gone.
        other => other.and_then(|()| check_memory(pagemap, range.start)),
    }
}

/// Reads one entry of the page map, which the kernel refuses once the process' memory is being torn down. All pages that are
/// missing before that were never there.
fn check_memory(pagemap: &File, address: u64) -> io::Result<()> {
    match pagemap.read_at(&mut [0; 8], address / PAGE * 8)? {
        8 => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn scan(pagemap: &File, range: Range<u64>, found: &mut impl FnMut(Range<u64>)) -> io::Result<()> {
    let mut regions = [Region::default(); 512];
    let mut start = range.start;
    while start < range.end {
        let mut arguments = Scan {
            size: size_of::<Scan>() as u64,
            start,
            end: range.end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            category_inverted: PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_PFNZERO,
            category_anyof_mask: PRESENT_OR_SWAPPED,
            return_mask: PRESENT_OR_SWAPPED,
            ..Scan::default()
        };
        // SAFETY: the kernel reads and writes one pm_scan_arg, and writes at most vec_len regions; both live through the call.
        let count = Errno::result(unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arguments) })?;
        regions.iter().take(count as usize).for_each(|region| found(region.start..region.end));
        if arguments.walk_end <= start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        start = arguments.walk_end;
    }
    Ok(())
}

fn walk(pagemap: &File, range: Range<u64>, found: &mut impl FnMut(Range<u64>)) -> io::Result<()> {
    let mut words = [0; 64 * 1024];
    let mut run: Option<Range<u64>> = None;
    let mut page = range.start / PAGE;
    while page < range.end / PAGE {
        let left = usize::try_from((range.end / PAGE - page) * 8).unwrap_or(usize::MAX);
        let wanted = words.len().min(left);
        let count = pagemap.read_at(&mut words[..wanted], page * 8)?;
        if count < 8 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for word in words[..count].as_chunks::<8>().0 {
            // Bit 63: present; bit 62: swapped.
            let there = u64::from_le_bytes(*word) >> 62 != 0;
            match &mut run {
                Some(run) if there => run.end += PAGE,
                Some(_) => found(run.take().unwrap_or_default()),
                None if there => run = Some(page * PAGE..(page + 1) * PAGE),
                None => {}
            }
            page += 1;
        }
    }
    if let Some(run) = run {
        found(run);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_pages_are_found_the_new_way_and_the_old() {
        let memory = vec![0_u8; 64 << 20];
        let begin = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let memory = std::hint::black_box(memory);
        let range = begin..begin + (63 << 20);
        let offset = usize::try_from(begin - memory.as_ptr() as u64).unwrap();
        // A vector that is allocated as zeros is not touched until somebody writes.
        let mut memory = memory;
        for page in [3, 4, 5, 700, 16000] {
            memory[offset + page * PAGE as usize] = 1;
        }
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let mut old: Vec<u64> = Vec::new();
        walk(&pagemap, range.clone(), &mut |run| old.extend((run.start..run.end).step_by(PAGE as usize))).unwrap();
        let touched = |page: &u64| (page - begin) / PAGE;
        assert!([3, 4, 5, 700, 16000].iter().all(|page| old.iter().any(|found| touched(found) == *page)));
        assert!(old.len() < 16000, "most of it was never touched");
        let mut new: Vec<u64> = Vec::new();
        match scan(&pagemap, range, &mut |run| new.extend((run.start..run.end).step_by(PAGE as usize))) {
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
        // It has none after it was killed, although the descriptor stays open.
        let mut process = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pagemap = File::open(format!("/proc/{}/pagemap", process.id())).unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(runs(&pagemap, 0x1000..0x9000, |_| {}).is_err());
    }
}
