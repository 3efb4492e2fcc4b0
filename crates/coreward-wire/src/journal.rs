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

/// "Process PID (COMM) of user UID dumped core" (sd-messages.h), the only kind of entry that the shim sends.
pub const MESSAGE_ID: &str = "fc2e22bc6ee647b6b90729ab34a250b1";
/// Critical, as every crash of a service is to somebody (syslog(3)).
pub const PRIORITY: &str = "2";
/// The name under which Coreward speaks.
pub const IDENTIFIER: &str = "coreward";

/// Whether `entry` is one about a crash, under Coreward's own name.
///
/// The journal believes what root says: about other units (`OBJECT_PID=`, `UNIT=`), or as another program
/// (`SYSLOG_IDENTIFIER=`). So the shim lends its uid only to `COREDUMP_*`, `COREWARD_*`, a `MESSAGE` and these three values.
pub fn is_about_a_crash(entry: &[u8]) -> bool {
    if entry.len() > MAX_ENTRY {
        return false;
    }
    let mut rest = entry;
    let mut is_crash = false;
    while !rest.is_empty() {
        let Some((name, value, after)) = next_field(rest) else { return false };
        let legal = name.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_');
        let allowed = match name {
            b"MESSAGE_ID" => value == MESSAGE_ID.as_bytes(),
            b"PRIORITY" => value == PRIORITY.as_bytes(),
            b"SYSLOG_IDENTIFIER" => value == IDENTIFIER.as_bytes(),
            b"MESSAGE" => true,
            _ => name.starts_with(b"COREDUMP_") || name.starts_with(b"COREWARD_"),
        };
        if !allowed || !legal {
            return false;
        }
        is_crash |= name == b"MESSAGE_ID";
        rest = after;
    }
    is_crash
}

/// The first field's name and value, and what comes after the field.
fn next_field(entry: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let end = entry.iter().position(|byte| matches!(byte, b'=' | b'\n'))?;
    let (name, rest) = entry.split_at(end);
    let (separator, rest) = rest.split_first()?;
    if *separator == b'=' {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        return Some((name, &rest[..end], &rest[end + 1..]));
    }
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some((name, value, rest.strip_prefix(b"\n")?))
}
