//! Entries in the journal's native protocol (systemd, docs/JOURNAL_NATIVE_PROTOCOL.md): the daemon writes an entry, and the
//! shim checks that what it sends as root is about a crash and nothing else.

/// Longest entry in bytes. It fits into a datagram with any value of net.core.wmem_max, and into a message to the shim.
pub const MAX_ENTRY: usize = 48 * 1024;
/// `SD_MESSAGE_COREDUMP` (sd-messages.h), "Process PID (COMM) of user UID dumped core": the only kind of entry that the shim
/// sends.
pub const MESSAGE_ID: &str = "fc2e22bc6ee647b6b90729ab34a250b1";
/// `LOG_CRIT` (syslog(3)).
pub const PRIORITY: &str = "2";
/// Coreward's own kind of entry for a process that root had dumped, and that goes on: whoever is alerted of [`MESSAGE_ID`] is not alerted of it.
pub const DUMP_MESSAGE_ID: &str = "6c4e1f0a52d94f7e9b1f7f0c3de8a417";
/// `LOG_NOTICE`.
pub const DUMP_PRIORITY: &str = "5";
/// `SYSLOG_IDENTIFIER` of every entry.
pub const IDENTIFIER: &str = "coreward";

/// Appends `NAME=value` to an entry. A value that is not one line of text is written with its length (`u64`) in front of it.
pub fn push_field(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    if value.iter().any(|byte| matches!(byte, b'\n' | b'\0')) {
        entry.push(b'\n');
        let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
        entry.extend_from_slice(&length.to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

/// The names and values of an entry, in order. `None` where the entry is malformed; nothing follows it.
pub fn fields(entry: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    let mut rest = entry;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((name, value, after)) = split_first_field(rest) else {
            rest = &[];
            return Some(None);
        };
        rest = after;
        Some(Some((name, value)))
    })
}

/// Whether `entry` is about a crash, under Coreward's own name.
///
/// journald believes what root sends, also about other units (`OBJECT_PID=`, `UNIT=`) and other programs
/// (`SYSLOG_IDENTIFIER=`). An entry may therefore only have fields named `COREDUMP_*`, `COREWARD_*` and `MESSAGE`, and
/// [`MESSAGE_ID`], [`PRIORITY`] and [`IDENTIFIER`] with exactly these values.
#[must_use]
pub fn is_about_a_crash(entry: &[u8]) -> bool {
    is_of_kind(entry, MESSAGE_ID, PRIORITY)
}

/// Whether `entry` is about a process that was dumped and goes on, under the same rules.
#[must_use]
pub fn is_about_a_dump(entry: &[u8]) -> bool {
    is_of_kind(entry, DUMP_MESSAGE_ID, DUMP_PRIORITY)
}

fn is_of_kind(entry: &[u8], message_id: &str, priority: &str) -> bool {
    if entry.len() > MAX_ENTRY {
        return false;
    }
    let mut has_message_id = false;
    for field in fields(entry) {
        let Some((name, value)) = field else { return false };
        let is_valid_name = name.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_');
        let is_allowed = match name {
            b"MESSAGE_ID" => value == message_id.as_bytes(),
            b"PRIORITY" => value == priority.as_bytes(),
            b"SYSLOG_IDENTIFIER" => value == IDENTIFIER.as_bytes(),
            b"MESSAGE" => true,
            _ => name.starts_with(b"COREDUMP_") || name.starts_with(b"COREWARD_"),
        };
        if !is_allowed || !is_valid_name {
            return false;
        }
        has_message_id |= name == b"MESSAGE_ID";
    }
    has_message_id
}

/// The name and value of the first field, and the bytes after it.
fn split_first_field(entry: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let end = entry.iter().position(|byte| matches!(byte, b'=' | b'\n'))?;
    let (name, rest) = entry.split_at_checked(end)?;
    let (separator, rest) = rest.split_first()?;
    if *separator == b'=' {
        let mut parts = rest.splitn(2, |byte| *byte == b'\n');
        return Some((name, parts.next()?, parts.next()?));
    }
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some((name, value, rest.strip_prefix(b"\n")?))
}
