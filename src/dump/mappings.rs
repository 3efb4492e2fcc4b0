//! Which memory of a process is in its core (`coredump_filter`, core(5); vma_dump_size in fs/coredump.c), from `/proc/PID/smaps`
//! (proc_pid_smaps(5)).

use crate::crash::MapsLine;
use crate::elf::{MappedFile, Segment};

/// `coredump_filter` of a process that did not change it.
pub(super) const DEFAULT_FILTER: u64 = 0x33;

const ANONYMOUS_PRIVATE: u64 = 1;
const ANONYMOUS_SHARED: u64 = 1 << 1;
const FILE_PRIVATE: u64 = 1 << 2;
const FILE_SHARED: u64 = 1 << 3;
const ELF_HEADERS: u64 = 1 << 4;
const HUGE_PRIVATE: u64 = 1 << 5;
const HUGE_SHARED: u64 = 1 << 6;

const PAGE: u64 = 4096;

/// The mappings of a process, and the files in them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mappings {
    pub(super) segments: Vec<Segment>,
    pub(super) files: Vec<MappedFile>,
}

/// What smaps says of one mapping.
struct Mapping<'a> {
    line: MapsLine<'a>,
    /// It has pages of its own: it was written to.
    is_written: bool,
    /// The letters of `VmFlags`.
    flags: &'a str,
}

/// Reads the text of smaps.
pub(super) fn parse(smaps: &str, filter: u64) -> Mappings {
    let mut found = Mappings::default();
    let mut current: Option<Mapping<'_>> = None;
    for text in smaps.lines() {
        if let Some((name, value)) = text.split_once(':').filter(|(name, _)| !name.contains([' ', '-'])) {
            let Some(mapping) = &mut current else { continue };
            match name {
                "Anonymous" | "Swap" => mapping.is_written |= !value.trim().starts_with("0 "),
                "VmFlags" => {
                    mapping.flags = value;
                    current.take().iter().for_each(|mapping| found.push(mapping, filter));
                }
                _ => {}
            }
        } else if let Some(line) = MapsLine::parse(text) {
            // Every kernel since 3.8 ends a mapping with VmFlags; one that does not has none.
            current
                .replace(Mapping { line, is_written: false, flags: "" })
                .iter()
                .for_each(|last| found.push(last, filter));
        }
    }
    current.iter().for_each(|last| found.push(last, filter));
    found
}

impl Mappings {
    fn push(&mut self, mapping: &Mapping<'_>, filter: u64) {
        let MapsLine { start, end, permissions, offset, name } = mapping.line;
        let Some(length) = end.checked_sub(start) else { return };
        let flag = |letter, flag| if permissions.contains(letter) { flag } else { 0 };
        // PF_R, PF_W and PF_X.
        let flags = flag('r', 4) | flag('w', 2) | flag('x', 1);
        self.segments.push(Segment { address: start, length, stored: mapping.stored(length, filter), flags });
        if mapping.has_file() {
            let path = name.replace("\\012", "\n");
            self.files.push(MappedFile { start, end, offset: offset.unwrap_or(0), path });
        }
    }
}

impl Mapping<'_> {
    /// Bytes that are in the core.
    fn stored(&self, length: u64, filter: u64) -> u64 {
        let has = |flag: &str| self.flags.split_ascii_whitespace().any(|found| found == flag);
        let whole_if = |wanted: u64| if filter & wanted != 0 { length } else { 0 };
        let is_shared = has("sh");
        let pages_of_kernel =
            ["[vdso]", "[vsyscall]", "[vvar]", "[vvar_vclock]", "[sigpage]", "[vectors]", "[uprobes]"];
        if pages_of_kernel.contains(&self.line.name) {
            return length;
        }
        if has("dd") {
            return 0;
        }
        if has("ht") {
            return whole_if(if is_shared { HUGE_SHARED } else { HUGE_PRIVATE });
        }
        if has("io") {
            return 0;
        }
        if is_shared {
            return whole_if(if self.line.name.ends_with(" (deleted)") { ANONYMOUS_SHARED } else { FILE_SHARED });
        }
        if self.is_written && filter & ANONYMOUS_PRIVATE != 0 {
            return length;
        }
        if !self.has_file() {
            return 0;
        }
        if filter & FILE_PRIVATE != 0 {
            return length;
        }
        // The kernel looks whether the page is that of an ELF file. Here that would be to wait for whoever has the file.
        let is_first = self.line.offset == Some(0) && self.line.permissions.starts_with('r');
        if filter & ELF_HEADERS != 0 && is_first { length.min(PAGE) } else { 0 }
    }

    /// Whether a file is mapped: what else has a name has it in brackets.
    fn has_file(&self) -> bool {
        !self.line.name.is_empty() && !self.line.name.starts_with('[')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mapping of smaps, as Linux 6.12 has it.
    fn mapping(line: &str, anonymous: u64, flags: &str) -> String {
        format!(
            "{line}\nSize:                 12 kB\nAnonymous:        {anonymous:>8} kB\nSwap:                  0 kB\nVmFlags: {flags} \n"
        )
    }

    #[test]
    fn the_filter_decides_as_the_kernel_does() {
        let stored = |line: &str, anonymous: u64, flags: &str, filter: u64| {
            let found = parse(&mapping(line, anonymous, flags), filter);
            assert_eq!(found.segments.len(), 1);
            found.segments[0].stored
        };
        let code = "1000-4000 r-xp 00000000 08:01 77                        /usr/lib/a.so";
        let data = "1000-4000 rw-p 00002000 08:01 77                        /usr/lib/a.so";
        let heap = "1000-4000 rw-p 00000000 00:00 0                         [heap]";
        let plain = "1000-4000 rw-p 00000000 00:00 0 ";
        let shared = "1000-4000 rw-s 00000000 00:01 9                         /dev/zero (deleted)";
        let file = "1000-4000 rw-s 00000000 08:01 9                         /var/db";
        assert_eq!(stored(code, 0, "rd ex mr mw me", DEFAULT_FILTER), 4096, "its first page");
        assert_eq!(stored(code, 0, "rd ex mr mw me", 0x23), 0);
        assert_eq!(stored(code, 0, "rd ex mr mw me", 0x37), 0x3000);
        assert_eq!(stored(data, 0, "rd wr mr", DEFAULT_FILTER), 0, "never written to");
        assert_eq!(stored(data, 4, "rd wr mr", DEFAULT_FILTER), 0x3000);
        for memory in [heap, plain] {
            assert_eq!(stored(memory, 4, "rd wr mr mw me ac", DEFAULT_FILTER), 0x3000);
            assert_eq!(stored(memory, 4, "rd wr mr mw me ac", 0x32), 0);
            assert_eq!(stored(memory, 4, "rd wr mr mw me dd ac", 0x7f), 0, "MADV_DONTDUMP");
            assert_eq!(stored(memory, 0, "rd wr mr mw me ac", DEFAULT_FILTER), 0, "never touched");
        }
        assert_eq!(stored(shared, 0, "rd wr sh mr", DEFAULT_FILTER), 0x3000);
        assert_eq!(stored(shared, 0, "rd wr sh mr", 0x31), 0);
        assert_eq!(stored(file, 0, "rd wr sh mr", DEFAULT_FILTER), 0);
        assert_eq!(stored(file, 0, "rd wr sh mr", 0x3b), 0x3000);
        assert_eq!(stored(plain, 0, "rd wr ht", DEFAULT_FILTER), 0x3000);
        assert_eq!(stored(shared, 0, "rd wr sh ht", DEFAULT_FILTER), 0);
        assert_eq!(stored(file, 0, "rd wr sh io pf", 0x7f), 0, "a device");
        assert_eq!(stored("1000-4000 r--p 0 00:00 0 [vvar]", 0, "rd io de dd", 0), 0x3000);
        assert_eq!(stored("1000-4000 r-xp 0 00:00 0 [vdso]", 0, "rd ex de", 0), 0x3000);
    }

    #[test]
    fn names_cannot_pose_as_lines_and_files_are_listed() {
        let text = [
            mapping("1000-2000 r--p 00000000 08:01 77 /tmp/VmFlags: dd\\012Anonymous: 4 kB", 0, "rd mr"),
            mapping("2000-3000 rw-p 00000000 00:00 0 [anon: x]", 8, "rd wr"),
            mapping("3000-4000 r-xp 00001000 08:01 77 /usr/bin/a (deleted)", 0, "rd ex"),
        ];
        let found = parse(&text.concat(), DEFAULT_FILTER);
        let stored: Vec<u64> = found.segments.iter().map(|segment| segment.stored).collect();
        assert_eq!(stored, [4096, 4096, 0]);
        let files: Vec<(u64, u64, &str)> =
            found.files.iter().map(|file| (file.start, file.offset, file.path.as_str())).collect();
        assert_eq!(files, [(0x1000, 0, "/tmp/VmFlags: dd\nAnonymous: 4 kB"), (0x3000, 0x1000, "/usr/bin/a (deleted)")]);
        assert_eq!(parse("", DEFAULT_FILTER), Mappings::default());
    }
}
