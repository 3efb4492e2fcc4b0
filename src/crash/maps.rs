//! The text of `/proc/PID/maps`.

/// A line of `/proc/PID/maps` (proc_pid_maps(5)): `begin-end permissions offset device inode name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapsLine<'a> {
    /// The first address.
    pub start: u64,
    /// The address behind the last one.
    pub end: u64,
    /// What may be done there: `r-xp`.
    pub permissions: &'a str,
    /// Where it begins in the file; `None` if the line does not have it.
    pub offset: Option<u64>,
    /// The path of the file with newlines escaped, or what the kernel calls memory without a file (`[heap]`). Empty if it has no name.
    pub name: &'a str,
}

impl<'a> MapsLine<'a> {
    /// Parses a line, which may be cut off behind the permissions. `None` if it is something else.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?;
        let offset = fields.next().and_then(hex);
        let name = fields.nth(2).unwrap_or_default().trim_start();
        Some(Self { start: hex(start)?, end: hex(end)?, permissions, offset, name })
    }
}

#[cfg(test)]
mod tests {
    use super::MapsLine;

    #[test]
    fn lines_of_the_kernel_are_read_and_others_are_not() {
        let line = MapsLine::parse("7f00-8f00 r-xp 00001000 08:01 77   /opt/a b (deleted)").unwrap();
        let (permissions, name) = ("r-xp", "/opt/a b (deleted)");
        assert_eq!(line, MapsLine { start: 0x7f00, end: 0x8f00, permissions, offset: Some(0x1000), name });
        assert_eq!(MapsLine::parse("10-20 rw-p 00000000 00:00 0 ").unwrap().name, "");
        assert_eq!(MapsLine::parse("10-20 rw-p").unwrap().offset, None);
        for line in ["", "...", "10-20", "10 rw-p", "x-20 rw-p 0"] {
            assert_eq!(MapsLine::parse(line), None, "{line}");
        }
    }
}
