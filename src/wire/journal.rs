//! The journal's native protocol (systemd's JOURNAL_NATIVE_PROTOCOL.md): how the daemon writes an entry down,
//! and how the shim makes sure that what it sends as root is about a crash and nothing else.

/// No entry is longer: it fits in a datagram whatever net.core.wmem_max is, and in a message to the shim.
pub const MAX_ENTRY: usize = 48 * 1024;

/// Adds `NAME=value` to an entry. A value with a newline is written with its length in front of it.
pub fn push_field(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

/// Whether every field of `entry` is one that an entry about a crash may have.
///
/// The journal believes what root says about other units (`OBJECT_PID=`, `UNIT=`, `COREDUMP_UNIT=`), so the shim lends
/// its uid only to `COREDUMP_*`, `COREWARD_*` and the four fields that every message has.
pub fn is_about_a_crash(entry: &[u8]) -> bool {
    if entry.len() > MAX_ENTRY {
        return false;
    }
    let mut rest = entry;
    while !rest.is_empty() {
        let Some((name, after)) = next_field(rest) else { return false };
        let plain = matches!(name, b"MESSAGE" | b"MESSAGE_ID" | b"PRIORITY" | b"SYSLOG_IDENTIFIER");
        let ours = name.starts_with(b"COREDUMP_") || name.starts_with(b"COREWARD_");
        let legal = name.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_');
        if !(plain || ours) || !legal {
            return false;
        }
        rest = after;
    }
    true
}

/// The first field's name, and what comes after the field.
fn next_field(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = entry.iter().position(|byte| matches!(byte, b'=' | b'\n'))?;
    let (name, rest) = entry.split_at(end);
    let (separator, rest) = rest.split_first()?;
    if *separator == b'=' {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        return Some((name, &rest[end + 1..]));
    }
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let rest = rest.get(length..)?;
    Some((name, rest.strip_prefix(b"\n")?))
}
