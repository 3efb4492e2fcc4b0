//! Which mapping an address is in: the `PROCMAP_QUERY` ioctl on `/proc/PID/maps` (Linux 6.11, include/uapi/linux/fs.h), or the
//! file's text on older kernels (proc_pid_maps(5)).

use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// What a mapping is backed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its addresses.
    pub range: Range<u64>,
    /// Major number of the file system's device; 0 for one without a block device, and without a file.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// The file; 0 without one, but also that of the first System V shared memory segment.
    pub inode: u64,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Whether what is written to it is for all that have it mapped (MAP_SHARED).
    pub is_shared: bool,
    /// Whether the process may write to it.
    pub is_writable: bool,
    /// The name that maps shows, up to the first space; empty without one, and where nobody asked for it.
    pub name: String,
}

impl Mapping {
    /// Whether it is memory without a file. No file system has the device 0:0 (`get_anon_bdev`, fs/super.c); some have files with the
    /// number 0.
    #[must_use]
    pub fn has_no_file(&self) -> bool {
        (self.major, self.minor) == (0, 0)
    }
}

/// Room for any name (PATH_MAX).
const NAME_ROOM: usize = 4096;

/// `PROCMAP_QUERY_VMA_WRITABLE`, `PROCMAP_QUERY_VMA_SHARED`, `PROCMAP_QUERY_COVERING_OR_NEXT_VMA` and `PROCMAP_QUERY_FILE_BACKED_VMA`
/// (include/uapi/linux/fs.h).
const WRITABLE: u64 = 0x02;
const SHARED: u64 = 0x08;
const COVERING_OR_NEXT: u64 = 0x10;
const FILE_BACKED: u64 = 0x20;

/// `struct procmap_query` (include/uapi/linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct ProcmapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

mod ioctl {
    nix::ioctl_readwrite!(procmap_query, b'f', 17, super::ProcmapQuery);
}

/// The mapping that has `address`, or else the next one; `None` if there is none. `maps` is an open `/proc/PID/maps`. Memory without a file
/// that the process may write to comes without its name (`[heap]`, `[stack]`): nobody needs it, and a process may have many thousand.
///
/// # Errors
/// The error of ioctl(2). `ENOTTY`: the kernel has no such request, and [`parse`] is what is left.
pub fn mapping_from(maps: &File, address: u64) -> nix::Result<Option<Mapping>> {
    match query(maps, address, COVERING_OR_NEXT, &mut [])? {
        Some(mapping) if !mapping.has_no_file() || !mapping.is_writable => {
            query(maps, mapping.range.start, COVERING_OR_NEXT, &mut [0; NAME_ROOM])
        }
        mapping => Ok(mapping),
    }
}

/// The mapping of a file that has `address`, or else the next one; `None` if there is none. `maps` is an open `/proc/PID/maps`.
///
/// # Errors
/// As [`mapping_from`].
pub fn next_file_mapping(maps: &File, address: u64) -> nix::Result<Option<Mapping>> {
    query(maps, address, COVERING_OR_NEXT | FILE_BACKED, &mut [0; NAME_ROOM])
}

/// Asks for a mapping, and for its name if there is room for one.
fn query(maps: &File, address: u64, flags: u64, name: &mut [u8]) -> nix::Result<Option<Mapping>> {
    let mut query = ProcmapQuery {
        size: size_of::<ProcmapQuery>() as u64,
        query_flags: flags,
        query_addr: address,
        vma_name_size: u32::try_from(name.len()).unwrap_or(0),
        vma_name_addr: if name.is_empty() { 0 } else { name.as_mut_ptr().expose_provenance() as u64 },
        ..ProcmapQuery::default()
    };
    // SAFETY: the kernel reads and writes one procmap_query, and at most `vma_name_size` bytes of `name`; both outlive the call.
    // Without a buffer for a build ID (its size is 0) it writes nowhere else.
    match unsafe { ioctl::procmap_query(maps.as_raw_fd(), &raw mut query) } {
        Ok(_) => Ok(Some(Mapping {
            range: query.vma_start..query.vma_end,
            major: query.dev_major,
            minor: query.dev_minor,
            inode: query.inode,
            offset: query.vma_offset,
            is_shared: query.vma_flags & SHARED != 0,
            is_writable: query.vma_flags & WRITABLE != 0,
            name: first_word(name),
        })),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What stands before the first space or the end of a NUL-terminated text.
fn first_word(text: &[u8]) -> String {
    let word = text.split(|byte| *byte == 0 || byte.is_ascii_whitespace()).next();
    String::from_utf8_lossy(word.unwrap_or_default()).into_owned()
}

/// The mapping that a line of `/proc/PID/maps` describes: `begin-end perms offset major:minor inode path`.
#[must_use]
pub fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (begin, end) = fields.next()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (permissions, offset) = (fields.next()?, hex(fields.next()?)?);
    let (major, minor) = fields.next()?.split_once(':')?;
    let hex32 = |text: &str| u32::from_str_radix(text, 16).ok();
    Some(Mapping {
        range: hex(begin)?..hex(end)?,
        major: hex32(major)?,
        minor: hex32(minor)?,
        inode: fields.next()?.parse().ok()?,
        offset,
        is_shared: permissions.ends_with('s'),
        is_writable: permissions.contains('w'),
        name: fields.next().unwrap_or_default().to_owned(),
    })
}

/// Whether a file is an open `/proc/PID/maps` that answers [`mapping_from`].
///
/// # Errors
/// The error of ioctl(2), other than that there is no such request.
pub fn is_supported(maps: &File) -> io::Result<bool> {
    match mapping_from(maps, 0) {
        Err(Errno::ENOTTY) => Ok(false),
        Err(errno) => Err(errno.into()),
        Ok(_) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_and_the_text_agree_about_every_mapping() {
        let maps = File::open("/proc/self/maps").unwrap();
        let text = std::fs::read_to_string("/proc/self/maps").unwrap();
        let here = std::ptr::from_ref(&text).addr() as u64;
        let parsed: Vec<Mapping> = text.lines().map(|line| parse(line).unwrap()).collect();
        assert!(parsed.iter().any(|mapping| mapping.range.contains(&here)));
        assert!(parsed.iter().any(|mapping| mapping.inode != 0));
        if !is_supported(&maps).unwrap() {
            println!("SKIPPED: the kernel has no PROCMAP_QUERY (Linux 6.11); its text was parsed");
            return;
        }
        // The heap may grow while this runs.
        let fixed = parsed.iter().filter(|mapping| mapping.inode != 0);
        for mapping in fixed {
            assert_eq!(mapping_from(&maps, mapping.range.start).unwrap().as_ref(), Some(mapping));
            assert_eq!(mapping_from(&maps, mapping.range.end - 1).unwrap().as_ref(), Some(mapping));
        }
        let stack = std::ptr::from_ref(&maps).addr() as u64;
        let found = mapping_from(&maps, stack).unwrap().unwrap();
        assert!(found.range.contains(&stack) && found.has_no_file() && found.is_writable && !found.is_shared);
        assert!(mapping_from(&maps, 0).unwrap().unwrap().range.start > 0, "the first one");
        let mut walked = Vec::new();
        let mut address = 0;
        while let Some(mapping) = next_file_mapping(&maps, address).unwrap() {
            address = mapping.range.end;
            walked.push(mapping);
        }
        assert!(parsed.iter().filter(|mapping| !mapping.has_no_file()).eq(&walked), "{walked:?}");
    }
}
